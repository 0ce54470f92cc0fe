//! What a message needs, and a server lacks.

use std::{error::Error, fmt};

use crate::reply::{Code, Reply, Status};

/// What a message needs, and the server lacks. The message was not sent: it is never changed, or sent without what it asks for.
///
/// ```
/// use smtpd_core::client::Unsupported;
///
/// assert_eq!(
///     Unsupported::SmtpUtf8.reply().to_string(),
///     "553 5.6.7 The next server does not support SMTPUTF8"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unsupported {
    /// `BODY=8BITMIME`: 554 5.6.3 (RFC 6152 section 3).
    EightBitMime,
    /// `BODY=BINARYMIME`, or CHUNKING to send it: 554 5.6.3 (RFC 3030 section 3).
    BinaryMime,
    /// SMTPUTF8, for an address or because the message requests it: 553 5.6.7 (RFC 6531 section 3.5).
    SmtpUtf8,
    /// REQUIRETLS: 550 5.7.30 (RFC 8689 section 4.2.1).
    RequireTls,
    /// The message requires TLS with a verified certificate: 550 5.7.10 (RFC 8689 section 4.2.1).
    VerifiedTls,
    /// A message of that size: 552 5.3.4 (RFC 1870 section 6.1).
    Size {
        /// The maximum size of the server, in bytes.
        limit: u64,
    },
    /// DELIVERBY, for a message that must be returned if it is late (RFC 2852 section 4.1.4.1): 550 5.3.3.
    DeliverBy,
    /// RRVS, for a recipient with `;R` (RFC 7293 section 3.1): 550 5.3.3.
    ValidSince,
    /// The parameter with this keyword, without which the message must not be sent: 550 5.3.3.
    Parameter(String),
    /// A way to send the bare CR or LF in the message safely, which is BDAT: 554 5.6.11. The connection has to be closed, because
    /// DATA cannot be cancelled.
    BareNewline,
}

impl Unsupported {
    /// Returns the reply to a client whose message cannot be passed on for this reason.
    pub fn reply(&self) -> Reply {
        let (code, status) = match self {
            Self::EightBitMime | Self::BinaryMime => {
                (Code::TRANSACTION_FAILED, Status::CONVERSION_NEEDED)
            }
            Self::SmtpUtf8 => (Code::MAILBOX_NAME, Status::NON_ASCII_ADDRESS),
            Self::RequireTls => (Code::MAILBOX_UNAVAILABLE, Status::REQUIRE_TLS_NEEDED),
            Self::VerifiedTls => (Code::MAILBOX_UNAVAILABLE, Status::ENCRYPTION_REQUIRED),
            Self::Size { .. } => (Code::EXCEEDED_STORAGE, Status::MESSAGE_TOO_BIG),
            Self::DeliverBy | Self::ValidSince | Self::Parameter(_) => {
                (Code::MAILBOX_UNAVAILABLE, Status::NOT_CAPABLE)
            }
            Self::BareNewline => (Code::TRANSACTION_FAILED, Status::BAD_LINE_ENDING),
        };
        Reply::new(code, status, format!("The next server {self}"))
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keyword = match self {
            Self::EightBitMime => "8BITMIME",
            Self::BinaryMime => "BINARYMIME",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::RequireTls => "REQUIRETLS",
            Self::VerifiedTls => return f.write_str("has no verified TLS"),
            Self::Size { limit } => return write!(f, "accepts at most {limit} bytes"),
            Self::DeliverBy => "DELIVERBY",
            Self::ValidSince => "RRVS",
            Self::Parameter(keyword) => keyword,
            Self::BareNewline => return f.write_str("has no safe way to receive a bare CR or LF"),
        };
        write!(f, "does not support {keyword}")
    }
}

impl Error for Unsupported {}
