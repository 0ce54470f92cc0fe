use std::{error, fmt};

use crate::reply::{Code, Reply, Status};

/// Why an exchange ended before the credentials could be judged.
///
/// [`reply`](Self::reply) returns the SMTP reply to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SaslError {
    /// The response is not strict base64 (RFC 4954 section 4).
    Base64,
    /// The decoded response breaks the grammar of the mechanism, is not UTF-8, or a name in it contains control characters.
    Malformed,
    /// The user name or the password is empty, which is always rejected (RFC 4616 section 2).
    Empty,
    /// SASLprep forbids the user name or the identity to act as (RFC 4013 section 2.3), or leaves nothing of it: there is no such
    /// user.
    Prohibited,
    /// The client cancelled the exchange with `*` (RFC 4954 section 4).
    Cancelled,
    /// An initial response was sent for a mechanism in which the server speaks first (RFC 4954 section 4).
    UnexpectedInitial,
    /// The response line is longer than [`MAX_RESPONSE_LINE`](super::MAX_RESPONSE_LINE) (RFC 4954 section 4).
    TooLong,
    /// A method was called that the exchange does not expect, which is a fault of the caller.
    OutOfSequence,
}

impl SaslError {
    /// Returns the reply to the client (RFC 4954 sections 4 and 6).
    pub fn reply(self) -> Reply {
        let (code, status) = match self {
            Self::Base64 | Self::Malformed => (Code::PARAMETER_ERROR, Status::SYNTAX_ERROR),
            Self::Cancelled | Self::UnexpectedInitial => (Code::PARAMETER_ERROR, Status::POLICY),
            Self::Empty | Self::Prohibited => return Reply::auth_failed(),
            Self::TooLong => (Code::SYNTAX_ERROR, Status::EXCHANGE_TOO_LONG),
            Self::OutOfSequence => (Code::BAD_SEQUENCE, Status::INVALID_COMMAND),
        };
        Reply::new(code, status, self.to_string())
    }
}

impl fmt::Display for SaslError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base64 => "Invalid base64",
            Self::Malformed => "Malformed authentication response",
            Self::Empty => "Empty user name or password",
            Self::Prohibited => "User name with forbidden characters",
            Self::Cancelled => "Authentication cancelled",
            Self::UnexpectedInitial => "This mechanism takes no initial response",
            Self::TooLong => "Authentication response too long",
            Self::OutOfSequence => "Authentication step out of sequence",
        })
    }
}

impl error::Error for SaslError {}
