//! Enhanced status codes: the subject and detail that follow the class of a reply.

use std::{error::Error, fmt, str::FromStr};

/// The subject and detail of an enhanced status code, such as the `1.1` of `5.1.1` (RFC 3463 section 2).
///
/// The class, which is the first of the three numbers, is not part of it. A [`Reply`](crate::Reply) takes the class from its
/// code, so that the two always agree (RFC 2034 section 4).
///
/// ```
/// use smtpd_core::{Code, Reply, Status};
///
/// let reply = Reply::new(
///     Code::MAILBOX_UNAVAILABLE,
///     Status::BAD_MAILBOX,
///     "No such user",
/// );
/// assert_eq!(reply.to_string(), "550 5.1.1 No such user");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Status {
    subject: u16,
    detail: u16,
}

impl Status {
    /// Creates a status, or returns `None` if one of the numbers has more than three digits (RFC 3463 section 2).
    pub const fn new(subject: u16, detail: u16) -> Option<Self> {
        if subject > 999 || detail > 999 {
            None
        } else {
            Some(Self { subject, detail })
        }
    }

    /// Returns the second number: the part of the mail system that the status is about.
    pub const fn subject(self) -> u16 {
        self.subject
    }

    /// Returns the third number: what happened there.
    pub const fn detail(self) -> u16 {
        self.detail
    }
}

/// Writes `subject.detail`, such as `1.1`.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.subject, self.detail)
    }
}

/// Parses `subject.detail`, each of one to three digits without leading zeros (RFC 3463 section 2).
impl FromStr for Status {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        let (subject, detail) = text.split_once('.').ok_or(StatusError(()))?;
        let (subject, detail) = (number(subject)?, number(detail)?);
        Self::new(subject, detail).ok_or(StatusError(()))
    }
}

fn number(digits: &str) -> Result<u16, StatusError> {
    let is_plain = digits == "0" || !digits.starts_with(['0', '+']);
    let number = digits.parse().ok().filter(|_| is_plain);
    number.ok_or(StatusError(()))
}

/// An error for a text that is not a [`Status`]: not two numbers of at most three digits with a dot between them.
///
/// ```
/// use smtpd_core::Status;
///
/// assert_eq!("7.1".parse(), Ok(Status::DENIED));
/// let error = "5.7.1".parse::<Status>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "not the subject and detail of an enhanced status code"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatusError(());

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the subject and detail of an enhanced status code")
    }
}

impl Error for StatusError {}

macro_rules! statuses {
    ($($name:ident = $subject:literal . $detail:literal, $rfc:literal;)*) => {
        impl Status {
            $(
                #[doc = concat!("X.", $subject, ".", $detail, " (", $rfc, ").")]
                pub const $name: Self = Self { subject: $subject, detail: $detail };
            )*
        }
    };
}

// The registry of RFC 5248; the names are those of the defining documents, shortened.
statuses! {
    UNDEFINED = 0 . 0, "other undefined status, RFC 3463 section 3.1";
    ADDRESS = 1 . 0, "other address status, RFC 3463 section 3.2";
    BAD_MAILBOX = 1 . 1, "bad destination mailbox address, RFC 3463 section 3.2";
    BAD_SYSTEM = 1 . 2, "bad destination system address, RFC 3463 section 3.2";
    BAD_MAILBOX_SYNTAX = 1 . 3, "bad destination mailbox address syntax, RFC 3463 section 3.2";
    MAILBOX_VALID = 1 . 5, "destination address valid, RFC 3463 section 3.2";
    BAD_SENDER_SYNTAX = 1 . 7, "bad sender's mailbox address syntax, RFC 3463 section 3.2";
    BAD_SENDER_SYSTEM = 1 . 8, "bad sender's system address, RFC 3463 section 3.2";
    MAILBOX_DISABLED = 2 . 1, "mailbox disabled, not accepting messages, RFC 3463 section 3.3";
    MAILBOX_FULL = 2 . 2, "mailbox full, RFC 3463 section 3.3";
    MAIL_SYSTEM = 3 . 0, "other or undefined mail system status, RFC 3463 section 3.4";
    SYSTEM_FULL = 3 . 1, "mail system full, RFC 3463 section 3.4";
    SYSTEM_BUSY = 3 . 2, "system not accepting network messages, RFC 3463 section 3.4";
    NOT_CAPABLE = 3 . 3, "system not capable of selected features, RFC 3463 section 3.4";
    MESSAGE_TOO_BIG = 3 . 4, "message too big for system, RFC 3463 section 3.4";
    MISCONFIGURED = 3 . 5, "system incorrectly configured, RFC 3463 section 3.4";
    BAD_CONNECTION = 4 . 2, "bad connection, RFC 3463 section 3.5";
    ROUTING_LOOP = 4 . 6, "routing loop detected, RFC 3463 section 3.5";
    INVALID_COMMAND = 5 . 1, "invalid command, RFC 3463 section 3.6";
    SYNTAX_ERROR = 5 . 2, "syntax error, RFC 3463 section 3.6";
    TOO_MANY_RECIPIENTS = 5 . 3, "too many recipients, RFC 3463 section 3.6";
    INVALID_PARAMETERS = 5 . 4, "invalid command arguments, RFC 3463 section 3.6";
    EXCHANGE_TOO_LONG = 5 . 6, "authentication exchange line is too long, RFC 4954 section 6";
    MEDIA = 6 . 0, "other or undefined media error, RFC 3463 section 3.7";
    MEDIA_NOT_SUPPORTED = 6 . 1, "media not supported, RFC 3463 section 3.7";
    CONVERSION_NEEDED = 6 . 3, "conversion required but not supported, RFC 3463 section 3.7";
    NON_ASCII_ADDRESS = 6 . 7, "non-ASCII addresses not permitted for that sender or recipient, RFC 6531 section 3.5";
    BAD_LINE_ENDING = 6 . 11, "invalid characters such as a bare CR or LF; in wide use, though not in the registry of RFC 5248";
    POLICY = 7 . 0, "other or undefined security status, RFC 3463 section 3.8";
    DENIED = 7 . 1, "delivery not authorized, message refused, RFC 3463 section 3.8";
    CREDENTIALS_INVALID = 7 . 8, "authentication credentials invalid, RFC 4954 section 6";
    MECHANISM_TOO_WEAK = 7 . 9, "authentication mechanism is too weak, RFC 4954 section 6";
    ENCRYPTION_REQUIRED = 7 . 10, "encryption needed, RFC 8689 section 4.2.1";
    ENCRYPTION_NEEDED = 7 . 11, "encryption required for requested authentication mechanism, RFC 4954 section 6";
    REQUIRE_TLS_NEEDED = 7 . 30, "REQUIRETLS support required, RFC 8689 section 4.2.1";
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn numbers_have_at_most_three_digits() {
        assert_eq!(Status::new(1, 1), Some(Status::BAD_MAILBOX));
        assert_eq!(
            Status::new(999, 999).map(|s| s.to_string()).as_deref(),
            Some("999.999")
        );
        assert_eq!(Status::new(1000, 0), None);
        assert_eq!(Status::new(0, 1000), None);
    }

    #[test]
    fn a_status_is_read_from_its_text() {
        for subject in 0..1000 {
            let status = Status::new(subject, 999 - subject).unwrap();
            assert_eq!(status.to_string().parse(), Ok(status));
        }
        for text in [
            "",
            ".",
            "1",
            "1.",
            ".1",
            "1.1.1",
            "01.1",
            "1.00",
            "1000.1",
            "+1.1",
            "1.-1",
            "1.1 ",
            "\u{661}.1",
        ] {
            assert!(text.parse::<Status>().is_err(), "{text:?}");
        }
    }
}
