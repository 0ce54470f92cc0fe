use std::time::Duration;

use smtpd_core::{
    connection,
    reply::{Origin, Reply},
};

use super::Session;
use crate::{fault::quietly, phase_kind::PhaseKind};

/// A reply that refuses, and what it answers, as passed to [`Server::on_reply`](crate::server::Server::on_reply).
///
/// It reports every 4yz and 5yz of a session, whoever has produced it: the protocol, the guard, a layer, a service, a fault, a
/// timeout or the shutdown of the server. A 2yz or 3yz is plain success or only a step, such as the challenges of AUTH and the 354
/// to DATA, and is not reported, nor is what was to be sent to a client that is lost. In LMTP, each recipient for whom a message is
/// refused is reported. [The guide](crate::guide::hooks#who-has-refused) lists the refusals that have no session.
///
/// Text of the client is without secrets, and what could end a line of a log is escaped.
#[derive(Clone, Debug)]
pub struct Answered(Box<connection::Answered>);

const AUTH: &str = "AUTH";

impl Answered {
    pub(crate) const fn new(answered: Box<connection::Answered>) -> Self {
        Self(answered)
    }

    /// Returns the phase in which the client was refused, also if the session itself has refused and no service was called. `None`
    /// for commands without a service, such as RSET and STARTTLS, and for a reply that ends a session which was waiting for a
    /// command.
    pub fn phase(&self) -> Option<PhaseKind> {
        Some(match self.0.command() {
            None if self.0.is_greeting() => PhaseKind::Connect,
            Some("HELO" | "EHLO" | "LHLO") => PhaseKind::Helo,
            Some(AUTH) => PhaseKind::Auth,
            Some("MAIL") => PhaseKind::Mail,
            Some("RCPT") => PhaseKind::Rcpt,
            Some("DATA" | "BDAT") => PhaseKind::Data,
            None | Some("STARTTLS" | "RSET" | "NOOP" | "QUIT" | "XCLIENT" | "XFORWARD") => {
                return None;
            }
            Some(_) => PhaseKind::Command,
        })
    }

    /// Returns the verb of the command that the reply answers, in upper case; for a whole message, that is DATA or BDAT. It is
    /// `[unknown command]` for any other verb, because what a client sends after a refused AUTH may be a password. `None` if the
    /// reply is sent instead of the greeting, or ends a session that was waiting for a command.
    pub fn command(&self) -> Option<&'static str> {
        self.0.command()
    }

    /// Returns the argument of the command: the [address](Self::address) alone if there is one, the mechanism of AUTH, the name in
    /// HELO, and otherwise what the client has sent.
    pub fn argument(&self) -> &str {
        self.0.argument()
    }

    /// Returns the address that the reply is about: that of a MAIL or RCPT that a service has refused or, if each recipient of a
    /// message receives its own reply, the recipient's. The null path is an empty address.
    pub fn address(&self) -> Option<&str> {
        self.0.address()
    }

    /// Returns the user name that the client has claimed at AUTH, if the exchange has come that far.
    pub fn user(&self) -> Option<&str> {
        self.0.user()
    }

    /// Returns the reply as it is sent.
    pub fn reply(&self) -> &Reply {
        self.0.reply()
    }

    /// Returns who has produced the reply.
    pub fn origin(&self) -> Origin {
        self.0.origin()
    }

    /// Returns the time from the arrival of the command, or of the end of the message, to the reply.
    pub fn latency(&self) -> Duration {
        self.0.latency()
    }

    /// Returns whether the client has claimed to be a user, and has not proved it. A refusal because of a fault or a limit is no
    /// failure of the client.
    pub fn is_failed_login(&self) -> bool {
        // The last failure receives 421, because of a limit of the session.
        let is_last = self.reply().closes() && self.origin() == Origin::Protocol;
        let is_rejected = self.reply().code().is_permanent() && self.origin().is_decision();
        self.user().is_some() && (is_last || is_rejected)
    }

    /// Logs the reply.
    pub(crate) fn log(&self, session: &Session) {
        quietly(|| {
            if self.is_failed_login() {
                self.log_failed_login(session);
            } else {
                self.log_refusal(session);
            }
        });
    }

    fn log_failed_login(&self, session: &Session) {
        tracing::warn!(
            session = session.id(),
            listener = %session.listener_addr(),
            peer = %session.client_addr(),
            user = self.user(),
            mechanism = self.argument(),
            reply = &*self.shown_reply(),
            origin = self.origin().as_str(),
            "authentication failed"
        );
    }

    fn log_refusal(&self, session: &Session) {
        let phase = || self.phase().map(PhaseKind::as_str);
        tracing::info!(
            session = session.id(),
            listener = %session.listener_addr(),
            peer = %session.client_addr(),
            command = self.command().or_else(phase),
            argument = Some(self.argument()).filter(|argument| !argument.is_empty()),
            user = self.user(),
            reply = &*self.shown_reply(),
            origin = self.origin().as_str(),
            latency_ms = self.latency().as_micros() as f64 / 1_000.0,
            "refused"
        );
    }

    /// Returns the reply without invisible characters, which a service may have copied from the client.
    fn shown_reply(&self) -> String {
        let reply = self.reply().to_string();
        if reply
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic())
        {
            return reply;
        }
        let mut shown = String::with_capacity(reply.len());
        for c in reply.chars() {
            match c {
                ' '..='~' => shown.push(c),
                c => shown.extend(c.escape_debug()),
            }
        }
        shown
    }
}
