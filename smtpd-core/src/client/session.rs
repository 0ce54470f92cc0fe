//! The state of a session with a server.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};

use super::{
    capabilities::Capabilities,
    clock::Need,
    config::{ClientConfig, StartTls},
    fault::{CloseReason, Fault, ProtocolFault, Stage},
    login::Login,
    plan::{Circumstances, Plan, Transaction},
    raw_reply::RawReply,
    report::{Outcome, Report},
    run::Run,
    unsupported::Unsupported,
    waiting::TlsFacts,
    wire::{Answer, Awaited, Wire},
};
use crate::{helo::Greeting, protocol::Protocol, reply::Reply};

#[derive(Debug)]
pub(super) struct Session {
    pub(super) config: Arc<ClientConfig>,
    pub(super) wire: Wire,
    state: State,
    tls: Option<TlsFacts>,
    /// Whether the server refused STARTTLS.
    is_tls_refused: bool,
    greeting: Option<Reply>,
    offers: Capabilities,
    login: Login,
    run: Option<Run>,
    report: Option<Box<Report>>,
    /// The reply to a command of the caller.
    replied: Option<Reply>,
    /// Whether the server may have an open transaction that RSET must end.
    is_open: bool,
    /// Why QUIT is to be sent, or was.
    leaving: Option<CloseReason>,
    closed: Option<CloseReason>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Handshake,
    /// The greeting, EHLO, STARTTLS or AUTH.
    Opening,
    /// Messages.
    Open,
    /// The reply to QUIT.
    Quitting,
}

impl Session {
    /// Creates a session that begins with a TLS handshake, or with the greeting.
    pub(super) fn new(config: Arc<ClientConfig>, with_tls: bool) -> Self {
        let mut session = Self {
            config,
            wire: Wire::default(),
            state: State::Handshake,
            tls: None,
            is_tls_refused: false,
            greeting: None,
            offers: Capabilities::default(),
            login: Login::default(),
            run: None,
            report: None,
            replied: None,
            is_open: false,
            leaving: None,
            closed: None,
        };
        if !with_tls {
            session.await_greeting();
        }
        session
    }

    pub(super) const fn closed(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    pub(super) const fn greeting(&self) -> Option<&Reply> {
        self.greeting.as_ref()
    }

    pub(super) const fn offers(&self) -> &Capabilities {
        &self.offers
    }

    pub(super) const fn tls(&self) -> Option<&TlsFacts> {
        self.tls.as_ref()
    }

    pub(super) const fn is_authenticated(&self) -> bool {
        self.login.is_done()
    }

    pub(super) const fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    pub(super) fn take_report(&mut self) -> Option<Box<Report>> {
        self.report.take()
    }

    pub(super) fn take_replied(&mut self) -> Option<Reply> {
        self.replied.take()
    }

    /// Returns whether there is nothing that the caller must know of.
    const fn is_silent(&self) -> bool {
        self.closed.is_none() && self.report.is_none() && self.replied.is_none()
    }

    /// Processes the replies in the input, up to the first that the caller must know of. Returns whether there was one.
    pub(super) fn read(&mut self, input: &mut BytesMut) -> bool {
        let mut has_read = false;
        while self.is_silent() {
            if self.state == State::Handshake {
                if !input.is_empty() {
                    self.fail(ProtocolFault::Injected.into(), None);
                }
                break;
            }
            match self.wire.poll(input, &self.config.limits) {
                Ok(None) => break,
                Ok(Some(answer)) => self.answered(answer),
                Err(fault) => self.fail(fault.into(), None),
            }
            has_read = true;
            self.advance();
        }
        if self.closed.is_some() {
            input.clear();
        }
        has_read
    }

    /// Sends what can be sent now.
    pub(super) fn advance(&mut self) {
        if self.closed.is_some() {
            return;
        }
        if let Some(run) = &mut self.run {
            run.advance(&mut self.wire);
            if run.is_over() {
                self.finish_run();
            }
        }
        if self.is_ready() && self.leaving.is_some() {
            self.send_quit();
        }
    }

    fn finish_run(&mut self) {
        if let Some(run) = self.run.take() {
            self.is_open |= run.is_open();
            self.report = Some(Box::new(run.into_report()));
        }
    }

    /// Returns whether the next message can begin.
    fn is_ready(&self) -> bool {
        let is_idle = self.run.is_none() && self.wire.outstanding() == 0;
        self.state == State::Open && is_idle && self.closed.is_none()
    }

    /// Returns what the session waits for, and for how long.
    pub(super) fn need(&self) -> (Need, Duration) {
        let timeouts = &self.config.timeouts;
        let wants_body = |run: &Run| run.wants_body(&self.wire);
        if self.run.as_ref().is_some_and(wants_body) {
            return (Need::Body, timeouts.body);
        }
        if !self.wire.is_written() {
            return (Need::Write, timeouts.write);
        }
        if self.state == State::Handshake {
            return (Need::Handshake, timeouts.handshake);
        }
        if self.is_ready() {
            return (Need::Ready, timeouts.idle);
        }
        let limit = match self.wire.next_awaited().map(Awaited::stage) {
            Some(Stage::Greeting) => timeouts.greeting,
            Some(Stage::Mail) => timeouts.mail,
            Some(Stage::Rcpt) => timeouts.rcpt,
            Some(Stage::Data) => timeouts.data_start,
            Some(Stage::Body | Stage::Message) => timeouts.message,
            Some(Stage::Quit) => timeouts.quit,
            _ => timeouts.command,
        };
        (Need::Read, limit)
    }

    /// Notes that a deadline has passed.
    pub(super) fn expire(&mut self, need: Need) {
        match need {
            Need::Ready => self.leave(),
            _ => self.fail(Fault::Timeout(self.stage()), None),
        }
    }

    /// Returns where the session is.
    fn stage(&self) -> Stage {
        if self.state == State::Handshake {
            return Stage::Handshake;
        }
        let awaited = self.wire.next_awaited();
        match (awaited.map(Awaited::stage), &self.run) {
            (Some(stage), _) => stage,
            (None, Some(_)) => Stage::Body,
            (None, None) => Stage::Idle,
        }
    }

    /// Sends QUIT as soon as no message is under way.
    pub(super) fn leave(&mut self) {
        self.leaving.get_or_insert(CloseReason::Quit);
        self.advance();
    }

    /// Sends QUIT because of a fault.
    fn leave_for(&mut self, fault: Fault) {
        self.leaving = Some(CloseReason::Fault(fault));
        self.send_quit();
    }

    fn send_quit(&mut self) {
        self.wire.send("QUIT", Awaited::Quit);
        self.state = State::Quitting;
    }

    /// Notes that nothing more can be read or written.
    pub(super) fn lose(&mut self) {
        if self.is_silent() {
            self.fail(Fault::Lost(self.stage()), None);
        }
    }

    /// Ends the session at once. `answered` is the command whose reply ends it.
    pub(super) fn fail(&mut self, fault: Fault, answered: Option<Awaited>) {
        if let Some(run) = &mut self.run {
            run.fail(&fault, answered, &self.wire);
            self.finish_run();
        }
        let reason = match self.state {
            // Whoever wants to leave does not care how.
            State::Quitting => self.leaving.take(),
            _ => None,
        };
        self.close(reason.unwrap_or(CloseReason::Fault(fault)));
    }

    fn close(&mut self, reason: CloseReason) {
        self.wire.output.clear();
        self.closed.get_or_insert(reason);
    }

    fn answered(&mut self, answer: Answer) {
        let Answer {
            to,
            reply,
            is_early,
        } = answer;
        let closes = reply.code().closes();
        match to {
            Some(Awaited::Quit) if !is_early => {
                let reason = self.leaving.take().unwrap_or(CloseReason::Quit);
                self.close(reason);
            }
            Some(Awaited::Greeting) => self.greeted(&reply),
            _ if closes => self.fail(Fault::Closing(reply.to_reply()), to),
            Some(to) if !is_early => self.answered_in_time(to, &reply),
            _ => self.unexpected(reply.to_reply()),
        }
    }

    fn answered_in_time(&mut self, to: Awaited, raw: &RawReply) {
        let reply = || raw.to_reply();
        let is_positive = raw.code().is_positive() && !raw.code().is_intermediate();
        match to {
            Awaited::Hello(greeting) => self.hello_answered(greeting, raw),
            Awaited::StartTls if is_positive => self.state = State::Handshake,
            Awaited::StartTls => self.start_tls_refused(reply()),
            Awaited::Auth => self.auth_answered(raw),
            Awaited::Reset if !is_positive => {
                let (stage, reply) = (Stage::Reset, reply());
                self.fail(Fault::Refused { stage, reply }, None);
            }
            Awaited::Reset | Awaited::Noop => {}
            Awaited::Command => self.replied = Some(reply()),
            Awaited::XClient => self.xclient_answered(reply(), is_positive),
            _ => {
                let Some(run) = &mut self.run else {
                    return; // The message was given up.
                };
                if let Err(fault) = run.answered(to, reply(), &mut self.wire) {
                    self.fail(fault, None);
                }
            }
        }
    }

    /// A server that refuses a message before its end can do so only once: what follows would be taken for commands.
    fn unexpected(&mut self, reply: Reply) {
        match &mut self.run {
            Some(run) if !reply.is_positive() => {
                let stage = Stage::Body;
                run.refuse(stage, &reply);
                self.fail(Fault::Refused { stage, reply }, None);
            }
            _ => self.fail(ProtocolFault::Unexpected(reply).into(), None),
        }
    }

    fn await_greeting(&mut self) {
        self.state = State::Opening;
        self.wire.await_reply(Awaited::Greeting);
    }

    fn greeted(&mut self, raw: &RawReply) {
        let reply = raw.to_reply();
        self.greeting = Some(reply.clone());
        let (closes, stage) = (raw.code().closes(), Stage::Greeting);
        match raw.code().as_u16() {
            200..300 => self.send_hello(),
            _ if closes => self.fail(Fault::Refused { stage, reply }, None),
            400..600 => self.leave_for(Fault::Refused { stage, reply }),
            _ => self.fail(ProtocolFault::WrongCode { stage, reply }.into(), None),
        }
    }

    fn send_hello(&mut self) {
        self.send_hello_as(match self.config.protocol {
            Protocol::Lmtp => Greeting::Lhlo,
            Protocol::Smtp => Greeting::Ehlo,
        });
    }

    fn send_hello_as(&mut self, greeting: Greeting) {
        let verb = match greeting {
            Greeting::Helo => "HELO",
            Greeting::Ehlo => "EHLO",
            Greeting::Lhlo => "LHLO",
        };
        let line = format!("{verb} {}", self.config.name);
        self.wire.send(&line, Awaited::Hello(greeting));
    }

    fn hello_answered(&mut self, greeting: Greeting, raw: &RawReply) {
        let stage = Stage::Hello;
        match raw.code().as_u16() {
            200..300 => {
                self.offers = Capabilities::of(greeting, raw);
                self.proceed();
            }
            // RFC 5321 section 3.2: an old server does not know EHLO.
            500..600 if greeting == Greeting::Ehlo => self.send_hello_as(Greeting::Helo),
            400..600 => self.leave_for(Fault::Refused {
                stage,
                reply: raw.to_reply(),
            }),
            _ => {
                let reply = raw.to_reply();
                self.fail(ProtocolFault::WrongCode { stage, reply }.into(), None);
            }
        }
    }

    /// Takes the next step to an open session.
    fn proceed(&mut self) {
        let wants_tls = self.tls.is_none() && self.config.start_tls != StartTls::Never;
        let is_required = self.config.start_tls == StartTls::Require;
        if wants_tls && self.offers.has("STARTTLS") && !self.is_tls_refused {
            return self.wire.send("STARTTLS", Awaited::StartTls);
        }
        if wants_tls && is_required {
            return self.leave_for(Fault::NoTls);
        }
        if self.config.account.is_some() && !self.login.is_done() {
            return self.authenticate();
        }
        self.state = State::Open;
    }

    fn start_tls_refused(&mut self, reply: Reply) {
        if self.config.start_tls == StartTls::Require {
            let stage = Stage::StartTls;
            return self.leave_for(Fault::Refused { stage, reply });
        }
        self.is_tls_refused = true;
        self.proceed();
    }

    /// Notes that the connection is encrypted.
    pub(super) fn encrypted(&mut self, facts: TlsFacts, input: &mut BytesMut) {
        if self.state != State::Handshake || self.closed.is_some() {
            return;
        }
        // The server says nothing before the handshake has begun.
        if !input.is_empty() {
            input.clear();
            return self.fail(ProtocolFault::Injected.into(), None);
        }
        self.tls = Some(facts);
        // RFC 3207 section 4.2
        self.offers = Capabilities::default();
        if self.greeting.is_none() {
            return self.await_greeting();
        }
        self.state = State::Opening;
        self.send_hello();
    }

    fn authenticate(&mut self) {
        let result = self.login.begin(
            &self.config,
            &self.offers,
            self.tls.as_ref(),
            &mut self.wire,
        );
        if let Err(fault) = result {
            self.leave_for(fault);
        }
    }

    fn auth_answered(&mut self, raw: &RawReply) {
        match self.login.answered(raw, &mut self.wire) {
            Ok(()) if self.login.is_done() => self.proceed(),
            Ok(()) => {}
            Err(fault @ Fault::Protocol(_)) => self.fail(fault, None),
            Err(fault) => self.leave_for(fault),
        }
    }

    /// Begins a message.
    pub(super) fn begin(&mut self, transaction: Transaction) {
        let plan = Plan::new(
            &transaction,
            Circumstances {
                config: &self.config,
                offers: &self.offers,
                is_verified: self.tls.as_ref().is_some_and(|facts| facts.verified),
                is_authenticated: self.login.is_done(),
            },
        );
        match plan {
            Err(reason) => self.report = Some(Box::new(Run::unsupported(&transaction, &reason))),
            Ok(plan) => {
                if std::mem::take(&mut self.is_open) {
                    self.wire.send("RSET", Awaited::Reset);
                }
                let is_pipelined = self.config.pipelining && self.offers.has("PIPELINING");
                self.run = Some(Run::new(transaction, plan, &self.config, is_pipelined));
                self.advance();
            }
        }
    }

    /// Sends a command of the caller.
    pub(super) fn send_command(&mut self, line: &str, awaited: Awaited) {
        self.wire.send(line, awaited);
    }

    /// After XCLIENT, the session starts anew with this reply as its greeting.
    fn xclient_answered(&mut self, reply: Reply, is_positive: bool) {
        if is_positive {
            self.greeting = Some(reply.clone());
            self.offers = Capabilities::default();
            self.login = Login::default();
            self.state = State::Opening;
            self.send_hello();
        }
        self.replied = Some(reply);
    }

    /// Finds out whether the server is still there.
    pub(super) fn send_noop(&mut self) {
        self.wire.send("NOOP", Awaited::Noop);
    }

    /// Appends bytes to the message.
    pub(super) fn push(&mut self, bytes: Bytes) {
        let wire = &mut self.wire;
        let result = self.run.as_mut().map(|run| run.push(bytes, wire));
        self.check(result);
    }

    /// Ends the message.
    pub(super) fn end_message(&mut self) {
        let wire = &mut self.wire;
        let result = self.run.as_mut().map(|run| run.end(wire));
        self.check(result);
    }

    fn check(&mut self, result: Option<Result<(), Unsupported>>) {
        if let Some(Err(reason)) = result {
            self.stop(&Outcome::Unsupported(reason));
        }
    }

    /// Ends the message before it is complete. Only one in chunks can be taken back; DATA ends with the connection.
    pub(super) fn stop(&mut self, outcome: &Outcome) {
        let can_go_on = self.run.as_mut().is_some_and(|run| run.abort(outcome));
        self.finish_run();
        if !can_go_on {
            self.fail(Fault::Aborted, None);
        }
    }
}
