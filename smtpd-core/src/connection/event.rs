//! The values that a connection returns.

use std::{error::Error, fmt, sync::Arc};

use bytes::Bytes;

use super::{
    answered::Answered,
    subject::{AuthRequest, CommandLine, MailCommand, RcptCommand},
    wire::WireLine,
};
use crate::{
    envelope::Envelope,
    helo::Helo,
    proxied::{Forwarded, XClient},
    reply::{Code, Reply, Status},
    sasl::{Identity, Secret},
};

/// What [`Connection::poll`](super::Connection::poll) found in the input, or must report.
#[derive(Debug)]
pub(super) enum Event {
    Connect,
    XClient(Box<XClient>),
    Helo(Helo),
    Auth(AuthRequest),
    Authenticated(Identity),
    Mail(MailCommand),
    Rcpt(RcptCommand),
    StartTls,
    Data,
    Chunk(Bytes),
    ChunkEnd,
    MessageEnd(Result<(), MessageError>),
    Command(Box<CommandLine>),
    Reset(Option<Arc<Envelope>>),
    XForward(Box<Forwarded>),
    Overdue(Overdue),
    Line(WireLine),
    Answered(Box<Answered>),
}

/// Why the connection itself answered a deferred question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overdue {
    /// The service did not become ready in time: 451 4.3.2, or 454 4.7.0 to AUTH.
    NotReady,
    /// The answer did not come in time: 451 4.3.0, or 454 4.7.0 to AUTH. If it was a message, the client sends it again, so make
    /// the work end before the timeout, or make it possible to undo it.
    Unanswered,
}

/// The answer to [`Step::Auth`](super::Step::Auth).
///
/// The guide of smtpd-tower has [services for all
/// mechanisms](https://docs.rs/smtpd-tower/latest/smtpd_tower/guide/authentication/).
///
/// ```
/// use smtpd_core::{
///     Reply,
///     connection::AuthOutcome,
///     sasl::{Identity, Secret},
/// };
///
/// fn outcome(known: Option<&str>) -> AuthOutcome {
///     match known {
///         // The mechanism verifies it.
///         Some(password) => Secret::password(password).into(),
///         None => Reply::auth_failed().into(),
///     }
/// }
/// assert!(matches!(outcome(None), AuthOutcome::Refuse(_)));
/// assert!(matches!(
///     AuthOutcome::from(Identity::new("alice")),
///     AuthOutcome::Accept(_)
/// ));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum AuthOutcome {
    /// The client is accepted under this identity.
    Accept(Identity),
    /// The client is refused. 535 5.7.8 is the usual reply. A 4yz other than 421, 432 and 454 is sent as 454 4.7.0, with the same
    /// text, so that the client does not ask its user for another password (RFC 4954 section 6).
    Refuse(Reply),
    /// The stored secret of the user: the mechanism compares it with what the client presented. Mechanisms that never reveal the
    /// password, such as CRAM-MD5, work only in this way. The comparison is fast unless there is a
    /// [derivation](crate::sasl::Credentials::derivation): `Server` of smtpd-tower runs it in a separate thread, and a driver of
    /// smtpd-core has to do so itself.
    Verify(Secret),
}

impl From<Reply> for AuthOutcome {
    fn from(reply: Reply) -> Self {
        Self::Refuse(reply)
    }
}

impl From<Identity> for AuthOutcome {
    fn from(identity: Identity) -> Self {
        Self::Accept(identity)
    }
}

impl From<Secret> for AuthOutcome {
    fn from(secret: Secret) -> Self {
        Self::Verify(secret)
    }
}

/// Why a message cannot be accepted although all of it was received.
///
/// ```
/// use smtpd_core::connection::MessageError;
///
/// assert_eq!(MessageError::TooLarge.reply().code().as_u16(), 552);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageError {
    /// It has more octets than the limit: 552 5.3.4 (RFC 1870 section 6.3).
    TooLarge,
    /// Its header section exceeds [`Limits::header_section`](crate::Limits::header_section) or
    /// [`header_lines`](crate::Limits::header_lines): 552 5.3.4, like any message that is too large for this system.
    HeadTooLarge,
    /// It contains a CR without LF, or an LF without CR: 550 5.6.11 (RFC 5321 section 2.3.8).
    BareNewline,
    /// It contains a NUL, and was not declared with `BODY=BINARYMIME`: 554 5.6.1 (RFC 2045 section 2.8).
    NulByte,
}

impl MessageError {
    /// Returns whether nothing that follows in the message can take precedence over it, except the size of the message. Which of
    /// several errors counts must not depend on how the input was split.
    pub(super) fn is_final(self) -> bool {
        !matches!(self, Self::HeadTooLarge | Self::NulByte)
    }

    /// Returns the reply that rejects the message.
    pub const fn reply(self) -> Reply {
        match self {
            Self::TooLarge => Reply::too_large(),
            Self::HeadTooLarge => Reply::fixed(
                Code::EXCEEDED_STORAGE,
                Status::MESSAGE_TOO_BIG,
                "Message header too large",
            ),
            Self::BareNewline => Reply::fixed(
                Code::MAILBOX_UNAVAILABLE,
                Status::BAD_LINE_ENDING,
                "Message holds a bare CR or LF; lines must end with CRLF",
            ),
            Self::NulByte => Reply::fixed(
                Code::TRANSACTION_FAILED,
                Status::MEDIA_NOT_SUPPORTED,
                "Message holds a NUL byte",
            ),
        }
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "message too large",
            Self::HeadTooLarge => "message header too large",
            Self::BareNewline => "message holds a bare CR or LF",
            Self::NulByte => "message holds a NUL byte",
        })
    }
}

impl Error for MessageError {}

/// Why the protocol has closed a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client sent QUIT.
    Quit,
    /// The caller refused the client at the greeting, or sent a reply that closes.
    Refused,
    /// The client was too slow, or the session too long.
    Timeout,
    /// The client exceeded a limit on errors, failed authentications, commands or messages.
    Limit,
    /// The client violated the protocol in a way that leaves no safe way to continue.
    Violation,
    /// The server is shutting down.
    Shutdown,
    /// The TLS handshake failed.
    TlsFailed,
    /// The client disconnected, or closed its sending side without QUIT. What it had sent before was answered if possible.
    Lost,
}

impl CloseReason {
    /// Returns a word for logs, such as `quit`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Violation => "violation",
            Self::Shutdown => "shutdown",
            Self::TlsFailed => "tls failed",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
