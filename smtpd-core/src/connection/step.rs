//! The steps that [`Connection::poll`] returns.

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

/// What must be done next: wait for something, answer a question, or handle a notification. [`Connection`] explains the three
/// kinds.
///
/// Every step borrows the session for the whole `match` on it. Get the `Arc<Config>` and whatever else you need from the session
/// before.
///
/// The enum is intentionally exhaustive: a driver that does not know a wait would spin on it.
#[derive(Debug)]
#[must_use = "the session continues only if the step is handled"]
pub enum Step<'c> {
    /// Wait until bytes can be written, and write them. Read nothing meanwhile; a deferred question may be answered.
    Write(Writing<'c>),
    /// Wait for bytes from the client, and append them to the input.
    Read(Reading<'c>),
    /// Wait for the TLS handshake: nothing is left to be written in plaintext.
    Handshake(Handshaking<'c>),
    /// Wait for the answer to a deferred question.
    Answer(Answering<'c>),
    /// The session is over and everything is written: close the connection. Every later poll returns this step again.
    ///
    /// Closing a TCP connection with unread input resets it, which can cost the client the last reply. Shut the sending side down
    /// first, then read and drop further input until the client closes, for [`Timeouts::linger`] at most.
    ///
    /// [`Timeouts::linger`]: crate::config::Timeouts::linger
    Closed(CloseReason),

    /// A client has connected. Accepting it sends the greeting. If it is deferred with 4yz, or the question is dropped, the
    /// client receives 421 and the session ends. If it is rejected with 5yz, the client receives that reply and may only send
    /// QUIT (RFC 5321 section 3.1).
    Connect(Ask<'c, ask::Connect>),
    /// XCLIENT: the peer speaks for another client, and the session starts anew. The attributes are all that it has reported of
    /// that client so far. Accepting the client sends the greeting.
    XClient(Box<XClient>, Ask<'c, ask::Connect>),
    /// HELO, EHLO or LHLO. Accepting it ends an open transaction; if it is refused, nothing changes (RFC 5321 section 4.1.4).
    Helo(Helo, Ask<'c, ask::Helo>),
    /// The client wants to authenticate.
    Auth(AuthRequest, Ask<'c, ask::Auth>),
    /// MAIL.
    Mail(MailCommand, Ask<'c, ask::Mail>),
    /// RCPT.
    Rcpt(RcptCommand, Ask<'c, ask::Rcpt>),
    /// VRFY, EXPN, HELP, ETRN or an unknown verb, if [`Config::custom_commands`](crate::Config::custom_commands) is on.
    Command(CommandLine, Ask<'c, ask::Command>),
    /// STARTTLS. Accepting it leads to [`Handshake`](Self::Handshake). If TLS is not available now, defer it with 454 4.7.0 (RFC
    /// 3207 section 4).
    StartTls(Ask<'c, ask::StartTls>),
    /// DATA, or the first BDAT of a message. Begin a new message here: the previous one may have ended without
    /// [`Message`](Self::Message), by RSET or EHLO between two chunks or because the client was lost.
    Data(Ask<'c, ask::Data>),
    /// A BDAT chunk has ended, but not the message (RFC 3030 section 2). A positive reply says that its bytes were accepted.
    ChunkEnd(Ask<'c, ask::Chunk>),
    /// The message has ended. If it is an error, the message must be rejected, and a positive reply becomes [the
    /// error's](MessageError::reply); discard what was received of it.
    ///
    /// Its envelope is `ask.connection().envelope()`, which is never `None` here. Get it before answering: the answer ends the
    /// transaction.
    Message(Result<(), MessageError>, Ask<'c, ask::Message>),

    /// Bytes of the message, without the dots that were added for transparency. The second value can put the message on hold or
    /// answer it before its end; to continue, ignore it.
    Chunk(Bytes, Receiving<'c>),
    /// The client has authenticated, and has received the reply.
    Authenticated(Identity),
    /// RSET: the transaction was discarded. `None` if no transaction was open. EHLO, STARTTLS and a lost client end a transaction
    /// without this step.
    Reset(Option<Arc<Envelope>>),
    /// XFORWARD: the origin of the next message, with everything reported so far. It applies until that message's transaction
    /// ends.
    XForward(Box<Forwarded>),
    /// A deferred question was not answered in time. The connection has replied with 451, or 454 to AUTH.
    Overdue(Overdue),
    /// A line of the session, if [`Config::log_wire`](crate::Config::log_wire) is on. It contains no secrets and no message text.
    Line(WireLine),
}

/// What [`Connection::poll`] found.
#[derive(Debug)]
pub(super) enum Found {
    Event(Event),
    Wait(Wait),
}

/// Nothing is left to decide.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    Until(Need, Moment),
    Closed(CloseReason),
}

/// What to wait for.
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

/// Bytes that must be written, at the latest by [`until`](Self::until).
pub struct Writing<'c> {
    connection: &'c mut Connection,
    until: Moment,
}

impl<'c> Writing<'c> {
    /// Returns the bytes that must be written; never empty when the step is returned.
    pub fn bytes(&self) -> &[u8] {
        self.connection.session.replies.unsent()
    }

    /// Notes that `written` of the bytes were written at `now`. Any excess is ignored.
    ///
    /// # Panics
    ///
    /// In debug builds, if `written` exceeds the number of bytes.
    #[inline]
    pub fn wrote(&mut self, written: usize, now: Instant) {
        self.connection.wrote(written, now);
    }

    /// Returns when the client's time is over. Poll then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Returns the session, to notify it of an event: that the client is lost, or that the server is shutting down.
    pub const fn into_connection(self) -> &'c mut Connection {
        self.connection
    }
}

/// Bytes from the client are needed, at the latest by [`until`](Self::until).
pub struct Reading<'c> {
    connection: &'c mut Connection,
    until: Moment,
}

impl<'c> Reading<'c> {
    /// Returns when the client's time is over. Poll then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Returns whether the awaited bytes belong to a message.
    pub fn is_message(&self) -> bool {
        self.connection.session.reading == Mode::Message
    }

    /// Returns the session, to notify it of an event: that the client sends nothing more or is lost, or that the server is
    /// shutting down.
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
    /// Returns when the connection itself replies with 451, or 454 to AUTH. Poll then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Returns whether the answer still matters after the client is gone: a completely received message must be delivered even
    /// though nobody waits for the reply (RFC 5321 section 6.1).
    pub fn outlives_client(&self) -> bool {
        self.connection.session.is_delivering()
    }

    /// Returns the session, to [resume](Connection::resume) the question, or to notify it of an event.
    pub const fn into_connection(self) -> &'c mut Connection {
        self.connection
    }
}

/// The results of the TLS handshake.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TlsFacts {
    /// The channel bindings for the -PLUS forms of SCRAM (RFC 5802 section 6). They are offered only if this is not empty.
    pub bindings: ChannelBindings,
    /// Whether the client presented a verified certificate. EXTERNAL is offered only then (RFC 4422 appendix A).
    pub client_certificate: bool,
}

/// A TLS handshake is needed, at the latest by [`until`](Self::until).
pub struct Handshaking<'c> {
    connection: &'c mut Connection,
    until: Moment,
}

impl<'c> Handshaking<'c> {
    /// Returns when the time for the handshake is over. Poll then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Notes that the connection is encrypted. `input` is emptied, so that nothing sent in plaintext can become a command under
    /// TLS, and the session starts anew: what the client said before is forgotten (RFC 3207 section 4.2). Only the attributes of
    /// XCLIENT are kept: otherwise, a client whose proxy passes it through after XCLIENT could get rid of its own address.
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

    /// Notes that the handshake has failed. The session ends: it never continues in plaintext.
    pub fn failed(self) {
        self.connection.session.close(CloseReason::TlsFailed);
    }

    /// Returns the session, to notify it of an event: that the client sends nothing more or is lost, or that the server is
    /// shutting down.
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
