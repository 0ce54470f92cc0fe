//! Reports of the replies that refuse.

use std::{collections::VecDeque, time::Duration};

use super::redact;
use crate::{
    command::Verb,
    reply::{Origin, Reply},
    sasl::{MechanismName, Mechanisms},
    time::Moment,
};

/// A reply that refuses, and what it answers.
///
/// It reports every 4yz and 5yz that is sent, whoever has produced it. A 2yz or 3yz is plain success or only a step, such as the
/// challenges of AUTH and the 354 to DATA, and is not reported. Where each recipient of a message receives its own reply, each
/// that refuses is reported.
///
/// Text of the client is without secrets, as in a [`WireLine`](super::WireLine). What could end a line of a log, or make it show
/// what it does not say, is escaped.
///
/// ```
/// use std::time::Instant;
///
/// use smtpd_core::{
///     Config, Connection, Reply, Step, bytes::BytesMut, config::DriverConfig,
///     reply::Origin,
/// };
///
/// let config = Config::new("mx.example.org");
/// let config = DriverConfig::new(config).report_replies(true);
/// let mut connection = Connection::new(config.into());
/// let mut input =
///     BytesMut::from("HELO client.example\r\nMAIL FROM:<spam@example.com>\r\n");
/// let answered = loop {
///     match connection.poll(Instant::now(), &mut input) {
///         Step::Connect(ask) => ask.accept(),
///         Step::Helo(_, ask) => ask.accept(),
///         Step::Mail(_, ask) => ask.refuse(Reply::rejected("Not you")),
///         Step::Answered(answered) => break answered,
///         step => panic!("{step:?}"),
///     }
/// };
/// assert_eq!(answered.command(), Some("MAIL"));
/// assert_eq!(answered.address(), Some("spam@example.com"));
/// assert_eq!(answered.reply().code().as_u16(), 554);
/// assert_eq!(answered.origin(), Origin::Service);
/// ```
#[derive(Clone, Debug)]
pub struct Answered {
    subject: Subject,
    argument: Argument,
    user: Option<String>,
    reply: Reply,
    origin: Origin,
    latency: Duration,
}

/// The argument of a command, as it may be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Argument {
    #[default]
    Unknown,
    Address(String),
    Other(String),
}

/// What a reply answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Subject {
    /// That a client has connected, or was named by XCLIENT.
    #[default]
    Greeting,
    Command(&'static str),
    /// A command with a verb that is not known.
    Unknown,
    /// Nothing that the client has sent: the session ends.
    Nothing,
}

impl Answered {
    /// Returns the verb of the command that the reply answers, in upper case; for a whole message, that is DATA or BDAT. It is
    /// `[unknown command]` for any other verb, because what a client sends after a refused AUTH may be a password. `None` if the
    /// reply is sent instead of the greeting, or ends a session that was waiting for a command.
    pub fn command(&self) -> Option<&'static str> {
        match self.subject {
            Subject::Command(verb) => Some(verb),
            Subject::Unknown => Some(redact::UNKNOWN),
            Subject::Greeting | Subject::Nothing => None,
        }
    }

    /// Returns whether the reply is sent instead of the greeting.
    pub fn is_greeting(&self) -> bool {
        self.subject == Subject::Greeting
    }

    /// Returns the argument of the command: the [address](Self::address) alone if there is one, the mechanism of AUTH, the name in
    /// HELO, and otherwise what the client has sent.
    pub fn argument(&self) -> &str {
        match &self.argument {
            Argument::Unknown => "",
            Argument::Address(text) | Argument::Other(text) => text,
        }
    }

    /// Returns the address that the reply is about: that of a MAIL or RCPT that the session has not refused by itself or, if each
    /// recipient of a message receives its own reply, the recipient's. The null path is an empty address.
    pub fn address(&self) -> Option<&str> {
        match &self.argument {
            Argument::Address(address) => Some(address),
            Argument::Unknown | Argument::Other(_) => None,
        }
    }

    /// Returns the user name that the client has claimed at AUTH, if the exchange has come that far.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Returns the reply as it is sent.
    pub const fn reply(&self) -> &Reply {
        &self.reply
    }

    /// Returns who has produced the reply.
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Returns the time from the arrival of the command, or of the end of the message, to the reply.
    pub const fn latency(&self) -> Duration {
        self.latency
    }
}

/// Replies to be returned, and the command that is being answered.
#[derive(Debug, Default)]
pub(super) struct AnsweredLog {
    waiting: VecDeque<Answered>,
    subject: Subject,
    argument: Argument,
    user: Option<String>,
    /// Whether the reply to the command is held back.
    is_held: bool,
    /// When the command arrived.
    since: Moment,
    now: Moment,
}

impl AnsweredLog {
    /// Returns the next reply. Notes the time, which becomes that of the next command.
    #[inline]
    pub(super) fn pop(&mut self, now: Moment) -> Option<Box<Answered>> {
        self.now = now;
        if self.waiting.is_empty() {
            return None;
        }
        let mut answered = self.waiting.pop_front()?;
        answered.latency = now.since(self.since).duration();
        Some(Box::new(answered))
    }

    /// Notes a command, whose reply follows.
    #[inline]
    pub(super) fn begin(&mut self, verb: Option<Verb>) {
        self.restart(verb.map_or(Subject::Unknown, |verb| Subject::Command(verb.as_str())));
    }

    /// Notes that the reply to the command is sent later.
    pub(super) const fn hold(&mut self) {
        self.is_held = true;
    }

    /// Notes the line of a command that was answered at once, or whose reply is held back. Only a line whose reply refuses is
    /// looked at.
    #[inline]
    pub(super) fn complete(&mut self, line: &[u8], mechanisms: &Mechanisms) {
        if self.is_held && self.argument == Argument::Unknown {
            self.argument = Argument::Other(redact::argument(line, mechanisms));
        }
        for answered in &mut self.waiting {
            if answered.argument == Argument::Unknown {
                answered.argument = Argument::Other(redact::argument(line, mechanisms));
            }
        }
    }

    /// Notes that the session greets a client.
    pub(super) fn begin_greeting(&mut self) {
        self.restart(Subject::Greeting);
    }

    /// Notes that the next reply answers no command.
    pub(super) fn begin_nothing(&mut self) {
        self.restart(Subject::Nothing);
    }

    /// Measures from now on: the client has sent what was still missing.
    pub(super) const fn arrived(&mut self) {
        self.since = self.now;
    }

    #[inline]
    fn restart(&mut self, subject: Subject) {
        self.subject = subject;
        self.argument = Argument::Unknown;
        self.user = None;
        self.is_held = false;
        self.arrived();
    }

    /// Notes the address that the next replies are about.
    pub(super) fn about_address(&mut self, address: &str) {
        self.argument = Argument::Address(redact::visible(address));
    }

    /// Notes the argument of a command that is answered later.
    pub(super) fn about(&mut self, argument: &str) {
        self.argument = Argument::Other(redact::visible(argument));
    }

    /// Notes an exchange of AUTH, and the user name once the client has claimed one.
    pub(super) fn authenticates(&mut self, mechanism: MechanismName, user: Option<&str>) {
        self.argument = Argument::Other(mechanism.as_str().to_owned());
        self.user = user.map(redact::visible);
    }

    /// Notes a reply.
    pub(super) fn refused(&mut self, reply: &Reply) {
        self.waiting.push_back(Answered {
            subject: self.subject,
            argument: self.argument.clone(),
            user: self.user.clone(),
            origin: reply.origin().unwrap_or(Origin::Protocol),
            reply: reply.clone(),
            latency: Duration::ZERO,
        });
    }
}
