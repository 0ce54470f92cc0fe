//! What [`Connection::poll`] returns.

use std::{fmt, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};

use super::{
    Connection,
    ask::{self, Ask},
    event::{
        AuthRequest, CloseReason, CommandLine, Event, MailCommand, MessageError, Overdue,
        RcptCommand,
    },
    question::Asked,
    receiving::Receiving,
    session::{Mode, drop_all},
    wire::WireLine,
};
use crate::{
    envelope::Envelope,
    helo::Helo,
    proxied::{Forwarded, XClient},
    sasl::{ChannelBindings, Identity},
    time::Moment,
};

/// What has to be done next: wait for something, answer a question, or take news. [`Connection`] explains the three kinds.
///
/// Within the `match` on a step, the session is borrowed by every step. Take the `Arc<Config>` and whatever else is needed out
/// of it before.
///
/// The enum is exhaustive on purpose: a driver that does not know a wait would spin on it.
#[derive(Debug)]
#[must_use = "the session goes on only when the step is taken"]
pub enum Step<'c> {
    /// Wait until bytes can be written, and write them. Read nothing meanwhile; a question that is deferred may be answered.
    Write(Writing<'c>),
    /// Wait for bytes from the client, and append them to the input.
    Read(Reading<'c>),
    /// Wait for the TLS handshake: nothing is left to be written in plaintext.
    Handshake(Handshaking<'c>),
    /// Wait for the answer to a question that was deferred.
    Answer(Answering<'c>),
    /// The session is over and everything is written: close the connection. Comes again however often the session is polled.
    ///
    /// To close a TCP connection while input is unread resets it, which can cost the client the last reply. Shut the sending
    /// side down first, then read and drop what still comes until the client closes, for [`Timeouts::linger`] at most.
    ///
    /// [`Timeouts::linger`]: crate::config::Timeouts::linger
    Closed(CloseReason),

    /// A client is there. Accepting it sends the greeting. If it is refused with 4yz, or the question is dropped, the client
    /// receives 421 and the session is over. If it is refused with 5yz, the client receives that and may only QUIT (RFC 5321
    /// section 3.1).
    Connect(Ask<'c, ask::Connect>),
    /// XCLIENT: the peer speaks for another client, and the session starts anew. The attributes are all that it has said of
    /// that client so far. Accepting the client sends the greeting.
    XClient(Box<XClient>, Ask<'c, ask::Connect>),
    /// HELO, EHLO or LHLO. Accepting it ends a transaction that is open; if it is refused, everything stays as it was
    /// (RFC 5321 section 4.1.4).
    Helo(Helo, Ask<'c, ask::Helo>),
    /// The client wants to authenticate.
    Auth(AuthRequest, Ask<'c, ask::Auth>),
    /// MAIL.
    Mail(MailCommand, Ask<'c, ask::Mail>),
    /// RCPT.
    Rcpt(RcptCommand, Ask<'c, ask::Rcpt>),
    /// VRFY, EXPN, HELP, ETRN or an unknown verb, if [`Config::custom_commands`](crate::Config::custom_commands) is on.
    Command(CommandLine, Ask<'c, ask::Command>),
    /// STARTTLS. Accepting it leads to [`Handshake`](Self::Handshake). If TLS is not available now, refuse it with 454 4.7.0
    /// (RFC 3207 section 4).
    StartTls(Ask<'c, ask::StartTls>),
    /// DATA, or the first BDAT of a message. Begin a new message here: the one before may have ended without
    /// [`Message`](Self::Message), by RSET or EHLO between two chunks or because the client was lost.
    Data(Ask<'c, ask::Data>),
    /// A BDAT chunk has ended, but not the message (RFC 3030 section 2). The reply to it says that its bytes were taken.
    ChunkEnd(Ask<'c, ask::Chunk>),
    /// The message has ended. If it is an error, the message has to be refused, and a positive reply becomes
    /// [the error's](MessageError::reply); forget what came of it.
    ///
    /// Its envelope is `ask.connection().envelope()`, which is never `None` here. Take it before answering: the answer ends the
    /// transaction.
    Message(Result<(), MessageError>, Ask<'c, ask::Message>),

    /// Bytes of the message, without the dots that were added for transparency. The message may be held up or answered here,
    /// before its end; to go on, ignore the second value.
    Chunk(Bytes, Receiving<'c>),
    /// The client has authenticated, and was told so.
    Authenticated(Identity),
    /// RSET: what had come of a transaction is void. `None` if no transaction was open. EHLO, STARTTLS and a lost client end a
    /// transaction without this step.
    Reset(Option<Arc<Envelope>>),
    /// XFORWARD: where the next message comes from, all that was said of it so far. It holds until that message's transaction
    /// ends.
    XForward(Box<Forwarded>),
    /// A deferred question was not answered in time. The connection has answered it with 451, or AUTH with 454.
    Overdue(Overdue),
    /// A line of the session, if [`Config::log_wire`](crate::Config::log_wire) is on. Secrets and messages are not in it.
    Line(WireLine),
}

/// What [`Connection::poll`] has found.
#[derive(Debug)]
pub(super) enum Found {
    Event(Event),
    Wait(Wait),
}

/// Nothing is left to be decided.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    Until(Need, Moment),
    Closed(CloseReason),
}

/// What has to be waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need {
    Write,
    Read,
    Handshake,
    Answer,
}

impl<'c> Step<'c> {
    #[inline]
    pub(super) fn of_wait(connection: &'c mut Connection, wait: Wait) -> Self {
        let (need, until) = match wait {
            Wait::Until(need, until) => (need, until),
            Wait::Closed(reason) => return Self::Closed(reason),
        };
        match need {
            Need::Write => Self::Write(Writing { connection, until }),
            Need::Read => Self::Read(Reading { connection, until }),
            Need::Handshake => Self::Handshake(Handshaking { connection, until }),
            Need::Answer => Self::Answer(Answering { connection, until }),
        }
    }

    #[inline]
    pub(super) fn of_event(connection: &'c mut Connection, event: Event) -> Self {
        match event {
            Event::Connect => Self::Connect(Ask::new(connection)),
            Event::XClient(client) => Self::XClient(client, Ask::new(connection)),
            Event::Helo(helo) => Self::Helo(helo, Ask::new(connection)),
            Event::Auth(request) => Self::Auth(request, Ask::new(connection)),
            Event::Mail(mail) => Self::Mail(mail, Ask::new(connection)),
            Event::Rcpt(rcpt) => Self::Rcpt(rcpt, Ask::new(connection)),
            Event::Command(line) => Self::Command(line, Ask::new(connection)),
            Event::StartTls => Self::StartTls(Ask::new(connection)),
            Event::Data => Self::Data(Ask::new(connection)),
            Event::ChunkEnd => Self::ChunkEnd(Ask::new(connection)),
            Event::MessageEnd(result) => Self::Message(result, Ask::new(connection)),
            Event::Chunk(bytes) => Self::Chunk(bytes, Receiving::new(connection)),
            Event::Authenticated(identity) => Self::Authenticated(identity),
            Event::Reset(envelope) => Self::Reset(envelope),
            Event::XForward(forwarded) => Self::XForward(forwarded),
            Event::Overdue(overdue) => Self::Overdue(overdue),
            Event::Line(line) => Self::Line(line),
        }
    }
}

/// Bytes that have to be written, at the latest by [`until`](Self::until).
pub struct Writing<'c> {
    connection: &'c mut Connection,
    until: Moment,
}

impl<'c> Writing<'c> {
    /// The bytes that have to be written; never empty when the step is returned.
    pub fn bytes(&self) -> &[u8] {
        self.connection.session.replies.unsent()
    }

    /// Notes that so many of the bytes were written at that time. More than there were are ignored.
    ///
    /// # Panics
    ///
    /// In debug builds, if that is more than there were.
    #[inline]
    pub fn wrote(&mut self, written: usize, now: Instant) {
        self.connection.wrote(written, now);
    }

    /// When the client has taken too long. Poll then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Gives the session back, to tell it what has happened meanwhile: that the client is lost, or that the server shuts down.
    pub const fn into_connection(self) -> &'c mut Connection {
        self.connection
    }
}

/// Bytes are needed from the client, at the latest by [`until`](Self::until).
pub struct Reading<'c> {
    connection: &'c mut Connection,
    until: Moment,
}

impl<'c> Reading<'c> {
    /// When the client has taken too long. Poll then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Whether what is awaited belongs to a message.
    pub fn is_message(&self) -> bool {
        self.connection.session.reading == Mode::Message
    }

    /// Gives the session back, to tell it what has happened meanwhile: that the client sends nothing more or is lost, or that the server shuts down.
    pub const fn into_connection(self) -> &'c mut Connection {
        self.connection
    }
}

/// The answer to a deferred question is needed, at the latest by [`until`](Self::until).
pub struct Answering<'c> {
    connection: &'c mut Connection,
    until: Moment,
}

impl<'c> Answering<'c> {
    /// When the question is answered with 451, or AUTH with 454. Poll then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Whether the answer still matters once the client is gone: a message that was received whole is to be delivered even
    /// though nobody waits for the reply (RFC 5321 section 6.1).
    pub fn outlives_client(&self) -> bool {
        self.connection.session.is_delivering()
    }

    /// Gives the session back, to [resume](Connection::resume) the question, or to tell it what has happened meanwhile.
    pub const fn into_connection(self) -> &'c mut Connection {
        self.connection
    }
}

/// What the TLS handshake has brought.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TlsFacts {
    /// What the -PLUS forms of SCRAM can bind to (RFC 5802 section 6). They are offered only if this is not empty.
    pub bindings: ChannelBindings,
    /// Whether the client has shown a certificate that was verified. EXTERNAL is offered only then (RFC 4422 appendix A).
    pub client_certificate: bool,
}

/// A TLS handshake is needed, at the latest by [`until`](Self::until).
pub struct Handshaking<'c> {
    connection: &'c mut Connection,
    until: Moment,
}

impl<'c> Handshaking<'c> {
    /// When the handshake has taken too long. Poll then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Notes that the connection is encrypted. `input` is emptied, so that nothing sent in plaintext can pass for a command
    /// under TLS, and the session starts anew: what the client said before is forgotten (RFC 3207 section 4.2). Only what
    /// XCLIENT said stays: otherwise a client whose proxy hands it through after XCLIENT could get rid of its own address.
    pub fn done(self, input: &mut BytesMut, facts: TlsFacts) {
        drop_all(input);
        let connection = self.connection;
        connection.clock.forget_due();
        let session = &mut connection.session;
        session.encrypted(facts);
        if session.question.is_first() {
            session.question.ask(Asked::Connect, Event::Connect);
        }
    }

    /// Notes that the handshake has failed. The session is over: it never goes on in plaintext.
    pub fn failed(self) {
        self.connection.session.close(CloseReason::TlsFailed);
    }

    /// Gives the session back, to tell it what has happened meanwhile: that the client sends nothing more or is lost, or that the server shuts down.
    pub const fn into_connection(self) -> &'c mut Connection {
        self.connection
    }
}

macro_rules! debug {
    ($($wait:ident)*) => { $(
        impl fmt::Debug for $wait<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut shown = f.debug_struct(stringify!($wait));
                shown.field("until", &self.until()).finish_non_exhaustive()
            }
        }
    )* };
}

debug!(Writing Reading Answering Handshaking);
