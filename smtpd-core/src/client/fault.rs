//! Why a session with a server ended early.

use std::{error::Error, fmt};

use crate::reply::{Code, Reply, ReplyError, Status};

/// Where in a session something happened.
///
/// ```
/// use smtpd_core::client::Stage;
///
/// assert_eq!(Stage::Rcpt.to_string(), "RCPT");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// The greeting.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// The TLS handshake.
    Handshake,
    /// AUTH.
    Auth,
    /// RSET.
    Reset,
    /// NOOP, or a command of the caller.
    Command,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The message, before its end.
    Body,
    /// The reply to the message.
    Message,
    /// Between two messages.
    Idle,
    /// QUIT.
    Quit,
}

impl Stage {
    /// Returns the name of the stage, which is the command where there is one.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Hello => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Handshake => "TLS handshake",
            Self::Auth => "AUTH",
            Self::Reset => "RSET",
            Self::Command => "command",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Body => "message",
            Self::Message => "end of message",
            Self::Idle => "idle",
            Self::Quit => "QUIT",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a session ended, other than by QUIT.
///
/// ```
/// use smtpd_core::client::{Fault, Stage};
///
/// let fault = Fault::Timeout(Stage::Mail);
/// assert_eq!(fault.to_string(), "no reply in time at MAIL");
/// assert_eq!(
///     fault.reply().to_string(),
///     "451 4.4.2 Next server: no reply in time at MAIL"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The server refused what the session cannot do without: its greeting, EHLO, AUTH or RSET.
    Refused {
        /// What was refused.
        stage: Stage,
        /// The reply to it.
        reply: Reply,
    },
    /// The server closes the session, with 421 or 521 (RFC 5321 section 3.8).
    Closing(Reply),
    /// A deadline has passed.
    Timeout(Stage),
    /// The server closed the connection, or it broke.
    Lost(Stage),
    /// The server does not keep to the protocol.
    Protocol(ProtocolFault),
    /// TLS is required, and the server does not offer it.
    NoTls,
    /// The TLS handshake failed.
    TlsFailed,
    /// There is no mechanism that the account, the server and the connection have in common. Secrets in plaintext need TLS.
    NoMechanism,
    /// The server's challenge is malformed, or the server has not proved that it knows the password (RFC 5802 section 3).
    BadChallenge,
    /// The caller ended the session, or stopped in the middle of a message.
    Aborted,
}

impl Fault {
    /// Returns the reply to the client whose message could not be passed on for this reason. A message that the server refused
    /// before its end has the server's reply. What is about the session is a reason to try again, or to try another server, so it
    /// is 451 with the text of the server, or 451 4.4.2 and its like; only 521, by which a server says that it never accepts mail
    /// (RFC 7504), is permanent.
    pub fn reply(&self) -> Reply {
        let status = match self {
            Self::Refused {
                stage: Stage::Body,
                reply,
            } => return reply.clone(),
            // A 421 of the next server would end the session of our own client.
            Self::Refused { reply, .. } | Self::Closing(reply) => {
                return reply.clone().with_code(match reply.code().as_u16() {
                    521 => Code::TRANSACTION_FAILED,
                    _ => Code::LOCAL_ERROR,
                });
            }
            Self::NoTls | Self::TlsFailed => Status::ENCRYPTION_REQUIRED,
            Self::NoMechanism | Self::BadChallenge => Status::POLICY,
            Self::Aborted => Status::MAIL_SYSTEM,
            Self::Timeout(_) | Self::Lost(_) | Self::Protocol(_) => Status::BAD_CONNECTION,
        };
        Reply::new(Code::LOCAL_ERROR, status, format!("Next server: {self}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { stage, reply } => write!(f, "{stage} refused: {reply}"),
            Self::Closing(reply) => write!(f, "session closed by the server: {reply}"),
            Self::Timeout(stage @ (Stage::Body | Stage::Handshake)) => {
                write!(f, "no progress in time at {stage}")
            }
            Self::Timeout(stage) => write!(f, "no reply in time at {stage}"),
            Self::Lost(stage) => write!(f, "connection lost at {stage}"),
            Self::Protocol(fault) => fault.fmt(f),
            Self::NoTls => f.write_str("TLS is required but not offered"),
            Self::TlsFailed => f.write_str("TLS handshake failed"),
            Self::NoMechanism => f.write_str("no usable mechanism of authentication"),
            Self::BadChallenge => f.write_str("the server did not prove who it is"),
            Self::Aborted => f.write_str("aborted"),
        }
    }
}

impl Error for Fault {}

/// How a server broke the protocol. The session ends: after that, nothing shows which reply is the one to which command.
///
/// ```
/// use smtpd_core::client::{Fault, ProtocolFault};
///
/// let fault = Fault::Protocol(ProtocolFault::Injected);
/// assert_eq!(fault.to_string(), "plaintext after the reply to STARTTLS");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolFault {
    /// What was received is no reply.
    Malformed(ReplyError),
    /// A line of a reply exceeds [`ClientLimits::line`](super::ClientLimits::line).
    LineTooLong,
    /// A reply has more lines than [`ClientLimits::lines`](super::ClientLimits::lines).
    TooManyLines,
    /// A reply exceeds [`ClientLimits::bytes`](super::ClientLimits::bytes).
    ReplyTooLong,
    /// A reply came although no command waits for one, or before the whole command was sent.
    Unexpected(Reply),
    /// The code of a reply is none that the command can have.
    WrongCode {
        /// The command.
        stage: Stage,
        /// The reply to it.
        reply: Reply,
    },
    /// Something was received in plaintext after the reply to STARTTLS. It may have been put there by somebody who wants it to
    /// count as sent within TLS.
    Injected,
}

impl fmt::Display for ProtocolFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "malformed reply: {error}"),
            Self::LineTooLong => f.write_str("line of a reply too long"),
            Self::TooManyLines => f.write_str("reply with too many lines"),
            Self::ReplyTooLong => f.write_str("reply too long"),
            Self::Unexpected(reply) => write!(f, "unexpected reply: {reply}"),
            Self::WrongCode { stage, reply } => write!(f, "impossible reply to {stage}: {reply}"),
            Self::Injected => f.write_str("plaintext after the reply to STARTTLS"),
        }
    }
}

impl Error for ProtocolFault {}

impl From<ReplyError> for ProtocolFault {
    fn from(error: ReplyError) -> Self {
        Self::Malformed(error)
    }
}

impl From<ProtocolFault> for Fault {
    fn from(fault: ProtocolFault) -> Self {
        Self::Protocol(fault)
    }
}

/// How a session with a server ended.
///
/// ```
/// use smtpd_core::client::{CloseReason, Fault};
///
/// let reason = CloseReason::Fault(Fault::TlsFailed);
/// assert_eq!(reason.fault(), Some(&Fault::TlsFailed));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// By QUIT, when the caller wanted it or nothing was left to send.
    Quit,
    /// By a fault.
    Fault(Fault),
}

impl CloseReason {
    /// Returns the fault, if it was one.
    pub const fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Quit => None,
            Self::Fault(fault) => Some(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_next_session_does_not_end_ours() {
        let closing = |text: &str| Fault::Closing(text.parse().unwrap()).reply().to_string();
        assert_eq!(closing("421 4.3.2 Bye"), "451 4.3.2 Bye");
        assert_eq!(closing("521 5.3.2 No mail"), "554 5.3.2 No mail");
    }

    #[test]
    fn credentials_of_ours_that_are_refused_do_not_bounce_the_mail_of_others() {
        let refused = |stage, text: &str| {
            let reply = text.parse().unwrap();
            Fault::Refused { stage, reply }.reply().to_string()
        };
        assert_eq!(refused(Stage::Auth, "535 5.7.8 No"), "451 4.7.8 No");
        assert_eq!(refused(Stage::Greeting, "554 5.7.1 No"), "451 4.7.1 No");
        assert_eq!(refused(Stage::Greeting, "521 5.3.2 No"), "554 5.3.2 No");
        assert_eq!(refused(Stage::Body, "552 5.3.4 Big"), "552 5.3.4 Big");
    }
}
