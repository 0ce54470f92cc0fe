//! The values that a connection returns.

use std::{error::Error, fmt, sync::Arc};

use bytes::Bytes;

use super::{redact, wire::WireLine};
use crate::{
    address::{ForwardPath, ReversePath},
    envelope::{Envelope, Recipient},
    helo::Helo,
    parameter::Parameters,
    proxied::{Forwarded, XClient},
    reply::{Code, Reply, Status},
    sasl::{Credentials, Identity, MechanismName, Secret},
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
    Command(CommandLine),
    Reset(Option<Arc<Envelope>>),
    XForward(Box<Forwarded>),
    Overdue(Overdue),
    Line(WireLine),
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

/// A client's request to authenticate.
#[derive(Debug)]
#[non_exhaustive]
pub struct AuthRequest {
    /// The SASL mechanism, such as `PLAIN`.
    pub mechanism: MechanismName,
    /// The credentials that the client presented.
    pub credentials: Credentials,
}

/// A MAIL command (RFC 5321 section 4.1.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MailCommand {
    /// The address to which delivery failures are reported.
    pub sender: ReversePath,
    /// The parameters of the command.
    pub parameters: Parameters,
}

impl MailCommand {
    pub(super) fn of(envelope: &Envelope) -> Self {
        Self {
            sender: envelope.sender().clone(),
            parameters: envelope.parameters().clone(),
        }
    }
}

/// A RCPT command (RFC 5321 section 4.1.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RcptCommand {
    /// The recipient of the message.
    pub recipient: ForwardPath,
    /// The parameters of the command.
    pub parameters: Parameters,
}

impl RcptCommand {
    pub(super) fn of(recipient: &Recipient) -> Self {
        Self {
            recipient: recipient.path().clone(),
            parameters: recipient.parameters().clone(),
        }
    }
}

/// A command that has no meaning for the session itself.
///
/// Its `Debug` form shows neither verb nor argument of an unknown command: a client whose AUTH was refused may continue with user
/// names and passwords.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandLine {
    /// The first word, in upper case.
    pub verb: String,
    /// The rest of the line. Anything that is not UTF-8 has been replaced.
    pub argument: String,
    /// The reply that the connection would send by itself, such as 500 to an unknown verb.
    pub default_reply: Reply,
}

impl CommandLine {
    /// Returns whether a command with this verb, in upper case, may be shown. Any other may contain a user name or a password of
    /// a client whose AUTH was refused. `Debug` follows this rule.
    pub fn may_be_shown(verb: &str) -> bool {
        redact::is_asked_about(verb)
    }
}

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, argument) = match Self::may_be_shown(&self.verb) {
            true => (&*self.verb, &*self.argument),
            false => (redact::REDACTED, redact::REDACTED),
        };
        f.debug_struct("CommandLine")
            .field("verb", &verb)
            .field("argument", &argument)
            .field("default_reply", &self.default_reply)
            .finish()
    }
}

/// The answer to [`Step::Auth`](super::Step::Auth).
///
/// ```
/// use smtpd_core::{
///     AuthOutcome, Reply,
///     sasl::{Identity, Secret},
/// };
///
/// fn outcome(known: Option<&str>) -> AuthOutcome {
///     match known {
///         // The mechanism verifies it.
///         Some(password) => Secret::plain(password).into(),
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
    /// The client is refused. 535 5.7.8 is the usual reply. A local error (451 4.3.z) is sent as 454 4.7.0, with the same text,
    /// so that the client does not ask its user for another password (RFC 4954 section 6).
    Refuse(Reply),
    /// The stored secret of the user: the mechanism compares it with what the client presented. Mechanisms that never reveal the
    /// password, such as CRAM-MD5, work only in this way. The comparison is fast unless there is a
    /// [derivation](Credentials::derivation): `Server` of smtpd-tower runs it in a separate thread, and a driver of smtpd-core
    /// has to do so itself.
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
/// use smtpd_core::MessageError;
///
/// assert_eq!(MessageError::TooLarge.reply().code().as_u16(), 552);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageError {
    /// It has more octets than the limit: 552 5.3.4 (RFC 1870 section 6.3).
    TooLarge,
    /// It contains a CR without LF, or an LF without CR: 550 5.6.11 (RFC 5321 section 2.3.8).
    BareNewline,
    /// It contains a NUL, and was not declared with `BODY=BINARYMIME`: 554 5.6.1 (RFC 2045 section 2.8).
    NulByte,
}

impl MessageError {
    /// Returns the reply that rejects the message.
    pub const fn reply(self) -> Reply {
        match self {
            Self::TooLarge => Reply::too_large(),
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
            Self::BareNewline => "message holds a bare CR or LF",
            Self::NulByte => "message holds a NUL byte",
        })
    }
}

impl Error for MessageError {}

/// Why a session has ended.
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
