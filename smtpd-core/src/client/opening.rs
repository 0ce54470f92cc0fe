//! From the greeting to an open session.

use super::{
    capabilities::Capabilities,
    config::{ClientConfig, StartTls},
    fault::{Fault, ProtocolFault, Stage},
    login::Login,
    raw_reply::RawReply,
    waiting::TlsFacts,
    wire::{Awaited, Wire},
};
use crate::{helo::Greeting, protocol::Protocol, reply::Reply};

/// What client and server know of each other: the greeting, EHLO, STARTTLS and AUTH.
#[derive(Debug, Default)]
pub(super) struct Opening {
    tls: Option<TlsFacts>,
    /// Whether the server refused STARTTLS.
    is_tls_refused: bool,
    greeting: Option<Reply>,
    offers: Capabilities,
    login: Login,
}

/// What follows a reply.
#[derive(Debug)]
pub(super) enum Next {
    /// The reply to what was sent.
    Wait,
    Handshake,
    /// Messages.
    Open,
    /// QUIT, because of this.
    Leave(Fault),
    /// The end, because of this.
    Fail(Fault),
}

impl Opening {
    pub(super) const fn greeting(&self) -> Option<&Reply> {
        self.greeting.as_ref()
    }

    pub(super) const fn offers(&self) -> &Capabilities {
        &self.offers
    }

    pub(super) const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns whether the session runs over TLS with a verified certificate.
    pub(super) fn is_verified(&self) -> bool {
        self.tls.as_ref().is_some_and(|facts| facts.verified)
    }

    pub(super) const fn is_authenticated(&self) -> bool {
        self.login.is_done()
    }

    /// Continues with the reply to what was sent last.
    pub(super) fn answered(
        &mut self,
        to: Awaited,
        raw: &RawReply,
        config: &ClientConfig,
        wire: &mut Wire,
    ) -> Next {
        let is_positive = raw.code().is_positive() && !raw.code().is_intermediate();
        match to {
            Awaited::Greeting => self.greeted(raw, config, wire),
            Awaited::Hello(greeting) => self.hello_answered(greeting, raw, config, wire),
            Awaited::StartTls if is_positive => Next::Handshake,
            Awaited::StartTls if config.start_tls == StartTls::Require => {
                Next::Leave(refused(Stage::StartTls, raw))
            }
            Awaited::StartTls => {
                self.is_tls_refused = true;
                self.proceed(config, wire)
            }
            _ => match self.login.answered(raw, wire) {
                Ok(()) if self.login.is_done() => self.proceed(config, wire),
                Ok(()) => Next::Wait,
                Err(fault @ Fault::Protocol(_)) => Next::Fail(fault),
                Err(fault) => Next::Leave(fault),
            },
        }
    }

    fn greeted(&mut self, raw: &RawReply, config: &ClientConfig, wire: &mut Wire) -> Next {
        self.greeting = Some(raw.to_reply());
        match raw.code().as_u16() {
            200..300 => send_hello(config, wire),
            421 | 521 => Next::Fail(refused(Stage::Greeting, raw)),
            400..600 => Next::Leave(refused(Stage::Greeting, raw)),
            _ => Next::Fail(impossible(Stage::Greeting, raw)),
        }
    }

    fn hello_answered(
        &mut self,
        greeting: Greeting,
        raw: &RawReply,
        config: &ClientConfig,
        wire: &mut Wire,
    ) -> Next {
        match raw.code().as_u16() {
            200..300 => {
                self.offers = Capabilities::of(greeting, raw);
                self.proceed(config, wire)
            }
            // RFC 5321 section 3.2: an old server does not know EHLO.
            500..600 if greeting == Greeting::Ehlo => send_hello_as(Greeting::Helo, config, wire),
            400..600 => Next::Leave(refused(Stage::Hello, raw)),
            _ => Next::Fail(impossible(Stage::Hello, raw)),
        }
    }

    /// Takes the next step to an open session.
    fn proceed(&mut self, config: &ClientConfig, wire: &mut Wire) -> Next {
        let wants_tls = self.tls.is_none() && config.start_tls != StartTls::Never;
        if wants_tls && self.offers.has("STARTTLS") && !self.is_tls_refused {
            wire.send("STARTTLS", Awaited::StartTls);
            return Next::Wait;
        }
        if wants_tls && config.start_tls == StartTls::Require {
            return Next::Leave(Fault::NoTls);
        }
        if config.account.is_none() || self.login.is_done() {
            return Next::Open;
        }
        let tls = self.tls.as_ref();
        match self.login.begin(config, &self.offers, tls, wire) {
            Ok(()) => Next::Wait,
            Err(fault) => Next::Leave(fault),
        }
    }

    /// Notes that the connection is encrypted.
    pub(super) fn encrypted(
        &mut self,
        facts: TlsFacts,
        config: &ClientConfig,
        wire: &mut Wire,
    ) -> Next {
        self.tls = Some(facts);
        // RFC 3207 section 4.2
        self.offers = Capabilities::default();
        if self.greeting.is_none() {
            wire.await_reply(Awaited::Greeting);
            return Next::Wait;
        }
        send_hello(config, wire)
    }

    /// Begins anew after XCLIENT, with the reply to it as the greeting.
    pub(super) fn restart(
        &mut self,
        raw: &RawReply,
        config: &ClientConfig,
        wire: &mut Wire,
    ) -> Next {
        self.offers = Capabilities::default();
        self.login = Login::default();
        self.greeted(raw, config, wire)
    }
}

fn send_hello(config: &ClientConfig, wire: &mut Wire) -> Next {
    let greeting = match config.protocol {
        Protocol::Lmtp => Greeting::Lhlo,
        Protocol::Smtp => Greeting::Ehlo,
    };
    send_hello_as(greeting, config, wire)
}

fn send_hello_as(greeting: Greeting, config: &ClientConfig, wire: &mut Wire) -> Next {
    let verb = match greeting {
        Greeting::Helo => "HELO",
        Greeting::Ehlo => "EHLO",
        Greeting::Lhlo => "LHLO",
    };
    let line = format!("{verb} {}", config.name);
    wire.send(&line, Awaited::Hello(greeting));
    Next::Wait
}

fn refused(stage: Stage, raw: &RawReply) -> Fault {
    let reply = raw.to_reply();
    Fault::Refused { stage, reply }
}

fn impossible(stage: Stage, raw: &RawReply) -> Fault {
    let reply = raw.to_reply();
    ProtocolFault::WrongCode { stage, reply }.into()
}
