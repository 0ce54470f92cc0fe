//! The steps that [`Connection::poll`] returns.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Connection,
    answered::Answered,
    ask::Ask,
    ask_kind,
    event::{CloseReason, Event, MessageError, Overdue},
    receiving::Receiving,
    subject::{AuthRequest, CommandLine, MailCommand, RcptCommand},
    waiting::{Answering, Handshaking, Need, Reading, Wait, Writing},
    wire::WireLine,
};
use crate::{
    envelope::Envelope,
    helo::Helo,
    proxied::{Forwarded, XClient},
    sasl::Identity,
};

/// What must be done next: wait for something, answer a question, or handle a notification. [`Connection`] explains the three
/// kinds.
///
/// Every step borrows the session for the whole `match` on it. Get the `Arc<DriverConfig>` and whatever else you need from the
/// session before.
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
    /// Wait for the answer to a deferred question, or for the time at which a reply is sent that is held back after [many
    /// refusals](crate::Limits::prompt_refusals). Read nothing meanwhile, except to find out whether the client is lost.
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
    Connect(Ask<'c, ask_kind::Connect>),
    /// XCLIENT: the peer speaks for another client, and the session starts anew. The attributes are all that it has reported of
    /// that client so far. Accepting the client sends the greeting.
    XClient(Box<XClient>, Ask<'c, ask_kind::Connect>),
    /// HELO, EHLO or LHLO. Accepting it ends an open transaction; if it is refused, nothing changes (RFC 5321 section 4.1.4).
    Helo(Helo, Ask<'c, ask_kind::Helo>),
    /// The client wants to authenticate.
    Auth(AuthRequest, Ask<'c, ask_kind::Auth>),
    /// MAIL.
    Mail(MailCommand, Ask<'c, ask_kind::Mail>),
    /// RCPT.
    Rcpt(RcptCommand, Ask<'c, ask_kind::Rcpt>),
    /// VRFY, EXPN, HELP, ETRN or an unknown verb, if
    /// [`DriverConfig::custom_commands`](crate::config::DriverConfig::custom_commands) is on.
    Command(CommandLine, Ask<'c, ask_kind::Command>),
    /// STARTTLS. Accepting it leads to [`Handshake`](Self::Handshake). If TLS is not available now, defer it with 454 4.7.0 (RFC
    /// 3207 section 4).
    StartTls(Ask<'c, ask_kind::StartTls>),
    /// DATA, or the first BDAT of a message. Begin a new message here: the previous one may have ended without
    /// [`Message`](Self::Message), by RSET or EHLO between two chunks or because the client was lost.
    Data(Ask<'c, ask_kind::Data>),
    /// A BDAT chunk has ended, but not the message (RFC 3030 section 2). A positive reply says that its bytes were accepted.
    ChunkEnd(Ask<'c, ask_kind::Chunk>),
    /// The message has ended. If it is an error, the message must be rejected, and a positive reply becomes [the
    /// error's](MessageError::reply); discard what was received of it.
    ///
    /// Its envelope is `ask.connection().envelope()`, which is never `None` here. Get it before answering: the answer ends the
    /// transaction.
    Message(Result<(), MessageError>, Ask<'c, ask_kind::Message>),

    /// Bytes of the message, without the dots that were added for transparency. The second value can put the message on hold or
    /// answer it before its end; to continue, ignore it.
    Chunk(Bytes, Receiving<'c>),
    /// The client has authenticated, and has received the reply.
    Authenticated(Identity),
    /// RSET, or a HELO, EHLO or LHLO in a transaction: the transaction was discarded. `None` if RSET came without one. XCLIENT
    /// and the end of the session discard a transaction without this step.
    Reset(Option<Arc<Envelope>>),
    /// XFORWARD: the origin of the next message, with everything reported so far. It applies until that message's transaction
    /// ends.
    XForward(Box<Forwarded>),
    /// A deferred question was not answered in time. The connection has replied with 451, or 454 to AUTH.
    Overdue(Overdue),
    /// A line of the session, if [`DriverConfig::log_wire`](crate::config::DriverConfig::log_wire) is on. It contains no secrets
    /// and no message text.
    Line(WireLine),
    /// A reply that refuses, if [`DriverConfig::report_replies`](crate::config::DriverConfig::report_replies) is on. It is returned
    /// before anything else is read, and before the end of the session.
    Answered(Box<Answered>),
}

/// What [`Connection::poll`] found.
#[derive(Debug)]
pub(super) enum Found {
    Event(Event),
    Wait(Wait),
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
            Event::Command(line) => Self::Command(*line, Ask::new(connection)),
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
            Event::Answered(answered) => Self::Answered(answered),
        }
    }
}
