//! The client side of SMTP (RFC 5321) and LMTP (RFC 2033), without any I/O. Needs the feature `client`.
//!
//! [`Client`] is the state machine of one session with a server, the counterpart of [`Connection`](crate::connection::Connection):
//! [`Client::poll`] returns a [`Step`], which a driver performs. [`guide::client`](crate::guide::client) shows how to write one.
//!
//! | part | types |
//! |---|---|
//! | settings | [`ClientConfig`], [`StartTls`], [`ClientTimeouts`], [`ClientLimits`], [`Account`] |
//! | waits | [`Writing`], [`Reading`], [`Handshaking`] with [`TlsFacts`], [`Ready`], [`Sending`] |
//! | what a server offers | [`Capabilities`] |
//! | a message and what became of it | [`Transaction`], [`Report`], [`Outcome`], [`Unsupported`] |
//! | commands of your own | [`CommandError`] |
//! | the end | [`CloseReason`], [`Fault`] with a [`Stage`], [`ProtocolFault`] |

mod capabilities;
mod clock;
mod command;
mod config;
mod content;
mod fault;
mod login;
mod opening;
mod output;
mod plan;
mod raw_reply;
mod report;
mod run;
mod session;
mod step;
mod timeouts;
mod unsupported;
mod waiting;
mod wire;

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};

use self::{clock::Clock, session::Session, step::Found};
use crate::reply::Reply;

pub use self::{
    capabilities::Capabilities,
    command::CommandError,
    config::{ClientConfig, StartTls},
    fault::{CloseReason, Fault, ProtocolFault, Stage},
    plan::Transaction,
    report::{Outcome, Report},
    step::Step,
    timeouts::{ClientLimits, ClientTimeouts},
    unsupported::Unsupported,
    waiting::{Handshaking, Reading, Ready, Sending, TlsFacts, Writing},
};
pub use crate::sasl::client::{Account, AccountError};

/// One session with a server of SMTP or LMTP, without any I/O: its input is bytes, time and messages, its output is bytes,
/// deadlines and reports.
///
/// A driver calls [`poll`](Self::poll) in a loop and does what the returned [`Step`] says. The client reads the greeting, sends
/// EHLO, begins TLS and authenticates as its [`ClientConfig`] says. The session is then [`Ready`](Step::Ready) for any number of
/// messages, one after the other:
///
/// | step | what to do | deadline ([`ClientTimeouts`]) |
/// |---|---|---|
/// | [`Write`](Step::Write) | write the bytes | `write` with `min_rate` |
/// | [`Read`](Step::Read) | append what the server sends to the input | `greeting`, `command`, `mail`, `rcpt`, `data_start`, `message`, `quit` |
/// | [`Handshake`](Step::Handshake) | perform a TLS handshake | `handshake` |
/// | [`Ready`](Step::Ready) | [`send`](Ready::send) a message, [`quit`](Ready::quit), or wait | `idle`, then QUIT |
/// | [`Body`](Step::Body) | [`send`](Sending::send) bytes of the message, and [`end`](Sending::end) it | `body` |
/// | [`Done`](Step::Done) | note what became of the message | |
/// | [`Replied`](Step::Replied) | note the reply to a [command](Ready::command) of your own | |
/// | [`Closed`](Step::Closed) | close the connection | |
///
/// Each wait has a deadline; poll again when it has passed, or when what was awaited has happened. Every message that is begun
/// ends with exactly one [`Report`], whatever happens to the session. When [`Body`](Step::Body) is first returned, the server has
/// accepted at least one recipient, and waits for the message. If nobody can get it, the report comes without this step.
///
/// If the server offers PIPELINING, the commands MAIL, RCPT and DATA of a message leave in one write (RFC 2920). If it offers
/// CHUNKING, the message is sent by BDAT, which passes on every byte; otherwise by DATA, which passes on every byte of a message
/// that consists of lines. Nothing that a server sends makes the session keep more than [`ClientLimits`] say.
///
/// ```
/// use std::{sync::Arc, time::Instant};
///
/// use smtpd_core::{
///     Envelope,
///     bytes::BytesMut,
///     client::{Client, ClientConfig, Outcome, Step, Transaction},
/// };
///
/// let config = ClientConfig::new("client.example".parse()?);
/// let mut client = Client::new(Arc::new(config));
/// let envelope = Envelope::new("a@example.com".parse()?)
///     .with_recipient("b@example.org".parse()?)
///     .with_recipient("nobody@example.org".parse()?);
/// let mut message = Some(Transaction::new(Arc::new(envelope)));
///
/// // What the server sends, each time that the client waits for it.
/// let mut server = [
///     "220 mx.example.org ESMTP\r\n",
///     "250-mx.example.org\r\n250 PIPELINING\r\n",
///     "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n550 5.1.1 Who?\r\n354 Go on\r\n",
///     "250 2.0.0 Queued as 4F2A\r\n",
///     "221 2.0.0 Bye\r\n",
/// ]
/// .into_iter();
/// let (mut input, mut sent, mut outcomes) =
///     (BytesMut::new(), String::new(), Vec::new());
/// loop {
///     match client.poll(Instant::now(), &mut input) {
///         // A real driver waits for its socket until the deadline.
///         Step::Write(mut writing) => {
///             sent.push_str(std::str::from_utf8(writing.bytes())?);
///             writing.wrote(writing.bytes().len(), Instant::now());
///         }
///         Step::Read(reading) => match server.next() {
///             Some(replies) => input.extend_from_slice(replies.as_bytes()),
///             None => reading.into_client().handle_lost(),
///         },
///         Step::Handshake(wait) => wait.failed(), // STARTTLS is not offered.
///         Step::Ready(ready) => match message.take() {
///             Some(transaction) => ready.send(transaction),
///             None => ready.quit(),
///         },
///         Step::Body(mut sending) => {
///             sending.send("Subject: Hello\r\n\r\n.dot\r\n");
///             sending.end();
///         }
///         Step::Done(report) => {
///             let replies = report.outcomes().iter().map(Outcome::reply);
///             outcomes.extend(replies.map(|reply| reply.to_string()));
///         }
///         Step::Replied(_) => {} // No command is sent.
///         Step::Closed(reason) => break assert_eq!(reason.fault(), None),
///     }
/// }
/// assert_eq!(outcomes, ["250 2.0.0 Queued as 4F2A", "550 5.1.1 Who?"]);
/// assert!(sent.contains(
///     "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n\
///      RCPT TO:<nobody@example.org>\r\nDATA\r\n\
///      Subject: Hello\r\n\r\n..dot\r\n.\r\nQUIT\r\n"
/// ));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Client {
    session: Session,
    clock: Clock,
    is_lost: bool,
}

impl Client {
    /// Creates a session that begins in plaintext.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self::of(Session::new(config, false))
    }

    /// Creates a session over a connection that is encrypted from its first byte (RFC 8314 section 3.3). Its first step is the
    /// [`Handshake`](Step::Handshake).
    pub fn with_tls(config: Arc<ClientConfig>) -> Self {
        Self::of(Session::new(config, true))
    }

    fn of(session: Session) -> Self {
        Self {
            session,
            clock: Clock::default(),
            is_lost: false,
        }
    }

    /// Returns what must be done next.
    ///
    /// Takes whole lines from the front of `input`, and leaves the rest there. Append what you read to it. `now` is the current
    /// time: `poll` acts on deadlines that have passed, after it has used the input. If a deadline passed more than 10 ms before
    /// this call, the wait is returned once more for 10 ms, so that input already in the socket can be read.
    pub fn poll(&mut self, now: Instant, input: &mut BytesMut) -> Step<'_> {
        let found = self.find(now, input);
        Step::of(self, found)
    }

    fn find(&mut self, now: Instant, input: &mut BytesMut) -> Found {
        if self.session.read(input) {
            self.clock.restart();
        }
        loop {
            self.session.advance();
            if self.is_lost {
                self.session.lose();
            }
            if let Some(report) = self.session.take_report() {
                return Found::Done(report);
            }
            if let Some(reply) = self.session.take_replied() {
                return Found::Replied(reply);
            }
            if let Some(reason) = self.session.closed() {
                return Found::Closed(reason.clone());
            }
            let (need, limit) = self.session.need();
            match self.clock.deadline(need, limit, now) {
                Some(until) => return Found::Wait(need, until),
                None => self.session.expire(need),
            }
            self.clock.restart();
        }
    }

    /// Sends QUIT as soon as no message is under way. The effect is permanent.
    pub fn quit(&mut self) {
        self.session.leave();
    }

    /// Ends the session at once, without QUIT.
    pub fn abort(&mut self) {
        if self.session.closed().is_none() {
            self.session.fail(Fault::Aborted, None);
        }
    }

    /// Notes that the server closed the connection, or that it broke: nothing more can be read or written. The replies in the input
    /// still count.
    pub fn handle_lost(&mut self) {
        self.is_lost = true;
    }

    /// Returns what the server offers; nothing before the reply to EHLO, and after the beginning of TLS until the next one.
    pub const fn capabilities(&self) -> &Capabilities {
        self.session.opening.offers()
    }

    /// Returns the greeting of the server.
    pub const fn greeting(&self) -> Option<&Reply> {
        self.session.opening.greeting()
    }

    /// Returns whether the session runs over TLS.
    pub const fn is_tls(&self) -> bool {
        self.session.opening.is_tls()
    }

    /// Returns whether the client has authenticated.
    pub const fn is_authenticated(&self) -> bool {
        self.session.opening.is_authenticated()
    }

    /// Returns the settings of the session.
    pub const fn config(&self) -> &Arc<ClientConfig> {
        &self.session.config
    }

    fn wrote(&mut self, written: usize, now: Instant) {
        let min_rate = self.session.config.timeouts.min_rate;
        self.session.wire.output.wrote(written);
        match self.session.wire.is_written() {
            true => self.clock.restart(),
            false => self.clock.wrote(written, min_rate, now),
        }
    }

    fn send(&mut self, bytes: Bytes) {
        self.clock.restart();
        self.session.push(bytes);
    }

    fn end(&mut self) {
        self.clock.restart();
        self.session.end_message();
    }
}

#[cfg(test)]
mod tests;
