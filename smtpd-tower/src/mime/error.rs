use std::{error::Error, fmt};

use smtpd_core::reply::{Code, Reply, Status};

use crate::{
    body::BodyError,
    reply::{Internal, IntoReply},
};

/// Why a message was not parsed. The message is always the cause, never a fault on this side.
///
/// In a handler that returns a [`BodyError`], `?` converts it, which rejects the message with its [`reply`](Self::reply).
///
/// ```
/// use smtpd_tower::{BodyError, mime::{MimeError, Parsed}};
///
/// let error = Parsed::new("no header\r\n").message().unwrap_err();
/// assert_eq!(error, MimeError::NotAMessage);
/// assert_eq!(error.reply().to_string(), "554 5.6.0 Not a message");
/// assert_eq!(BodyError::from(error).reply(), error.reply());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MimeError {
    /// It has neither a header field nor the empty line before a text.
    NotAMessage,
    /// Messages or multiparts in it are nested deeper than
    /// [`Parsed::with_max_nesting`](super::Parsed::with_max_nesting) permits.
    TooDeep,
    /// It has more parts than [`Parsed::with_max_parts`](super::Parsed::with_max_parts) permits.
    TooManyParts,
    /// It would take too much time or memory to parse, because of its header sections, missing boundaries, or messages within an
    /// encoded one, which RFC 2046 section 5.2.1 forbids.
    TooComplex,
}

impl MimeError {
    /// Returns the reply that rejects the message: 554 5.6.0.
    pub fn reply(&self) -> Reply {
        Reply::new(Code::TRANSACTION_FAILED, Status::MEDIA, self.text())
    }

    const fn text(self) -> &'static str {
        match self {
            Self::NotAMessage => "Not a message",
            Self::TooDeep => "Message parts nested too deep",
            Self::TooManyParts => "Too many message parts",
            Self::TooComplex => "Message too complex",
        }
    }
}

impl fmt::Display for MimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAMessage => "not a message",
            Self::TooDeep => "message parts nested too deep",
            Self::TooManyParts => "too many message parts",
            Self::TooComplex => "message too complex",
        })
    }
}

impl Error for MimeError {}

impl From<MimeError> for Reply {
    fn from(error: MimeError) -> Self {
        error.reply()
    }
}

impl From<MimeError> for BodyError {
    fn from(error: MimeError) -> Self {
        Self::refused(error.reply())
    }
}

impl<R: From<Reply>> IntoReply<R> for MimeError {
    fn into_reply(self) -> R {
        self.reply().into()
    }

    fn has_faults(_: Internal) -> bool {
        false
    }
}
