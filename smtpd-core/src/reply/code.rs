use std::{error::Error, fmt, str::FromStr};

/// The three digits of a reply, 200 to 599 (RFC 5321 section 4.2.1).
///
/// ```
/// use smtpd_core::Code;
///
/// assert_eq!(Code::new(550), Some(Code::MAILBOX_UNAVAILABLE));
/// assert_eq!(Code::new(99), None);
/// assert_eq!("550".parse(), Ok(Code::MAILBOX_UNAVAILABLE));
/// assert!(Code::OK.is_positive() && !Code::OK.is_transient());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u16);

impl Code {
    /// Creates a code, or returns `None` if the number is not from 200 to 599.
    pub const fn new(number: u16) -> Option<Self> {
        if 200 <= number && number <= 599 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Returns the number.
    pub const fn as_u16(self) -> u16 {
        self.0
    }

    /// Returns whether this is 2yz or 3yz: the command is accepted.
    pub const fn is_positive(self) -> bool {
        self.0 < 400
    }

    /// Returns whether this is 3yz: the client must continue with a message or a SASL response.
    pub const fn is_intermediate(self) -> bool {
        300 <= self.0 && self.0 < 400
    }

    /// Returns whether this is 4yz: the command is deferred, and the client may try again.
    pub const fn is_transient(self) -> bool {
        400 <= self.0 && self.0 < 500
    }

    /// Returns whether this is 5yz: the command is rejected.
    pub const fn is_permanent(self) -> bool {
        500 <= self.0
    }

    /// Returns whether the server closes the connection after the reply, as after 421 (RFC 5321 section 3.8) and 521 (RFC 7504
    /// section 3).
    pub const fn closes(self) -> bool {
        self.0 == 421 || self.0 == 521
    }

    /// Returns the first digit, which is also the class of the enhanced status code (RFC 2034 section 4).
    pub(crate) const fn class(self) -> u16 {
        self.0 / 100
    }

    pub(crate) const fn digits(self) -> [u8; 3] {
        [
            b'0' + (self.0 / 100) as u8,
            b'0' + (self.0 / 10 % 10) as u8,
            b'0' + (self.0 % 10) as u8,
        ]
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Like [`Code::new`], but returns an error for a number outside of 200 to 599.
impl TryFrom<u16> for Code {
    type Error = CodeError;

    fn try_from(number: u16) -> Result<Self, CodeError> {
        Self::new(number).ok_or(CodeError(()))
    }
}

impl From<Code> for u16 {
    fn from(code: Code) -> Self {
        code.0
    }
}

/// Parses a code, which must be exactly three digits.
impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let digits = match text.as_bytes() {
            [a, b, c] if text.bytes().all(|b| b.is_ascii_digit()) => [a, b, c],
            _ => return Err(CodeError(())),
        };
        let add = |number, digit: &u8| number * 10 + u16::from(digit - b'0');
        digits.into_iter().fold(0, add).try_into()
    }
}

/// An error for a number or a text that is not a [`Code`]: not three digits, or not from 200 to 599.
///
/// ```
/// use smtpd_core::Code;
///
/// assert_eq!(
///     Code::try_from(199).unwrap_err().to_string(),
///     "not a reply code from 200 to 599"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeError(());

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a reply code from 200 to 599")
    }
}

impl Error for CodeError {}

macro_rules! codes {
    ($($name:ident = $number:literal, $doc:literal;)*) => {
        impl Code {
            $(
                #[doc = concat!($number, ": ", $doc, ".")]
                pub const $name: Self = Self($number);
            )*
        }
    };
}

// RFC 5321 section 4.2.3, RFC 4954 section 6, RFC 7504 section 3, RFC 1985 section 5.1, draft-hall-prdr-00 section 4.
codes! {
    HELP = 214, "help message";
    READY = 220, "service ready";
    CLOSING = 221, "service closing the connection";
    AUTHENTICATED = 235, "authentication succeeded";
    OK = 250, "requested mail action okay, completed";
    WILL_FORWARD = 251, "user not local, will forward";
    CANNOT_VERIFY = 252, "cannot verify the user, but will accept the message";
    CHALLENGE = 334, "a SASL challenge";
    EACH_RECIPIENT = 353, "a reply for each recipient follows";
    START_MAIL = 354, "start mail input";
    SERVICE_UNAVAILABLE = 421, "service not available, closing the connection";
    PASSWORD_TRANSITION = 432, "a password transition is needed";
    MAILBOX_BUSY = 450, "mailbox unavailable for now";
    LOCAL_ERROR = 451, "local error in processing";
    INSUFFICIENT_STORAGE = 452, "insufficient system storage, or too many recipients";
    TLS_UNAVAILABLE = 454, "TLS or authentication not available for a temporary reason";
    QUEUE_UNAVAILABLE = 458, "unable to queue messages for the node";
    SYNTAX_ERROR = 500, "syntax error, command unrecognized";
    PARAMETER_ERROR = 501, "syntax error in parameters or arguments";
    NOT_IMPLEMENTED = 502, "command not implemented";
    BAD_SEQUENCE = 503, "bad sequence of commands";
    PARAMETER_NOT_IMPLEMENTED = 504, "command parameter not implemented";
    NO_MAIL = 521, "host does not accept mail";
    AUTH_REQUIRED = 530, "authentication or encryption required";
    AUTH_FAILED = 535, "authentication credentials invalid";
    ENCRYPTION_REQUIRED = 538, "encryption required for the requested mechanism";
    MAILBOX_UNAVAILABLE = 550, "mailbox unavailable, not found, or refused by policy";
    EXCEEDED_STORAGE = 552, "exceeded storage allocation, message too big";
    MAILBOX_NAME = 553, "mailbox name not allowed";
    TRANSACTION_FAILED = 554, "transaction failed, or no service here";
    PARAMETERS_UNKNOWN = 555, "MAIL or RCPT parameters not recognized or not implemented";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_from_its_text_and_nothing_else_is() {
        for number in 0..=1000 {
            let code = Code::new(number);
            assert_eq!(code.is_some(), (200..600).contains(&number));
            assert_eq!(number.to_string().parse().ok(), code, "{number}");
            assert_eq!(Code::try_from(number).ok(), code, "{number}");
            assert!(code.is_none_or(|code| u16::from(code) == number));
        }
        for text in [
            "",
            "25",
            "2500",
            "+25",
            " 250",
            "250 ",
            "0250",
            "25\u{664}",
            "two",
        ] {
            assert!(text.parse::<Code>().is_err(), "{text:?}");
        }
    }
}
