use super::{Parameter, ParameterError, no_value, xtext};
use crate::address::{Charset, Leniency, Mailbox, PathOptions};

/// `SIZE=` on MAIL: the size of the message in bytes, as the client declares it (RFC 1870 section 6). It may be an estimate.
///
/// ```
/// use smtpd_core::parameter::{Parameters, Size};
///
/// let parameters: Parameters = "SIZE=1000".parse()?;
/// assert_eq!(parameters.get::<Size>().map(Size::bytes), Some(1000));
/// # Ok::<(), smtpd_core::parameter::ParameterError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

impl Size {
    /// Creates the parameter for a message of this many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the declared number of bytes. A number that does not fit into 64 bits becomes [`u64::MAX`].
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Parameter for Size {
    const KEYWORD: &'static str = "SIZE";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        // RFC 1870 section 4: 1*20DIGIT, so a value may exceed 64 bits.
        match value {
            Some(digits)
                if (1..=20).contains(&digits.len())
                    && digits.bytes().all(|b| b.is_ascii_digit()) =>
            {
                Ok(Self(digits.parse().unwrap_or(u64::MAX)))
            }
            _ => Err(ParameterError::Malformed),
        }
    }
}

/// `BODY=` on MAIL: the kind of data in the message (RFC 6152 section 2, RFC 3030 section 3).
///
/// ```
/// use smtpd_core::parameter::{BodyType, Parameters};
///
/// let parameters: Parameters = "BODY=8bitmime".parse()?;
/// assert_eq!(parameters.get(), Some(BodyType::EightBitMime));
/// assert_eq!(
///     Parameters::default().get::<BodyType>().unwrap_or_default(),
///     BodyType::SevenBit
/// );
/// # Ok::<(), smtpd_core::parameter::ParameterError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyType {
    /// `7BIT`: lines of US-ASCII.
    #[default]
    SevenBit,
    /// `8BITMIME`: lines of any bytes.
    EightBitMime,
    /// `BINARYMIME`: bytes without line structure.
    BinaryMime,
}

impl BodyType {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
            Self::BinaryMime => "BINARYMIME",
        }
    }
}

impl Parameter for BodyType {
    const KEYWORD: &'static str = "BODY";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        let value = value.ok_or(ParameterError::Malformed)?;
        [Self::SevenBit, Self::EightBitMime, Self::BinaryMime]
            .into_iter()
            .find(|body| body.as_str().eq_ignore_ascii_case(value))
            .ok_or(ParameterError::Malformed)
    }
}

/// `SMTPUTF8` on MAIL: addresses and header fields may contain UTF-8 (RFC 6531 section 3.4). It has no value.
///
/// ```
/// use smtpd_core::parameter::{Parameters, SmtpUtf8};
///
/// let parameters: Parameters = "SMTPUTF8".parse()?;
/// assert_eq!(parameters.get(), Some(SmtpUtf8));
/// # Ok::<(), smtpd_core::parameter::ParameterError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SmtpUtf8;

impl Parameter for SmtpUtf8 {
    const KEYWORD: &'static str = "SMTPUTF8";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        no_value(value).map(|()| Self)
    }
}

/// `AUTH=` on MAIL: the mailbox of the user who first submitted the message, as the client says (RFC 4954 section 5).
///
/// It is unknown if the client sends `<>` or anything else that is not a mailbox: some clients send only the name of a user.
/// Trust it only from clients that you trust.
///
/// Every fault that a [`Leniency`] can allow is accepted in the mailbox, whatever the server's own is: the server may have
/// accepted the same mailbox as the sender, and even a strict one need not reject mail for a value that few services read.
///
/// ```
/// use smtpd_core::parameter::{MailAuth, Parameters};
///
/// let parameters: Parameters = "AUTH=e+3Dmc2@example.com".parse()?;
/// assert_eq!(parameters.get(), Some(MailAuth::new("e=mc2@example.com".parse()?)));
/// for unknown in ["AUTH=<>", "AUTH=carol"] {
///     let parameters: Parameters = unknown.parse()?;
///     assert_eq!(parameters.get(), Some(MailAuth::UNKNOWN));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MailAuth(Option<Mailbox>);

impl MailAuth {
    /// `AUTH=<>`: the user is not known, or not trusted.
    pub const UNKNOWN: Self = Self(None);

    /// Creates the parameter for a message that the user of this mailbox submitted.
    pub const fn new(mailbox: Mailbox) -> Self {
        Self(Some(mailbox))
    }

    /// Returns the mailbox, decoded from xtext; `None` if it is unknown.
    pub const fn mailbox(&self) -> Option<&Mailbox> {
        self.0.as_ref()
    }
}

impl Parameter for MailAuth {
    const KEYWORD: &'static str = "AUTH";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        const ANY: Leniency = Leniency::STRICT
            .allow_long_local_part(true)
            .allow_stray_dots_in_local_part(true)
            .allow_underscore_in_domain(true)
            .allow_trailing_dot_in_domain(true);
        let identity = xtext::decode(value.ok_or(ParameterError::Malformed)?)?;
        if identity.is_empty() || identity.contains(char::is_control) {
            return Err(ParameterError::Malformed);
        }
        // RFC 4954 section 5: a mailbox or `<>`, either of them in xtext. Dovecot's submission relay sends only the name of a
        // user. A server may treat an identity that it does not trust as `<>`, and mail should not be lost over it.
        let options = PathOptions::new(ANY, Charset::Utf8);
        Ok(Self(Mailbox::parse(identity.as_bytes(), options).ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (Some("0"), Some(0)),
            (Some("1048576"), Some(1_048_576)),
            (Some("18446744073709551615"), Some(u64::MAX)),
            (Some("18446744073709551626"), Some(u64::MAX)),
            (Some("99999999999999999999"), Some(u64::MAX)),
            (Some("100000000000000000000"), None),
            (Some(""), None),
            (Some("-1"), None),
            (Some("+1"), None),
            (Some("1.5"), None),
            (Some("0x10"), None),
            (None, None),
        ];
        for (value, expected) in cases {
            assert_eq!(
                Size::parse(value).ok().map(Size::bytes),
                expected,
                "{value:?}"
            );
        }
    }

    #[test]
    fn body_types_in_any_case() {
        assert_eq!(
            BodyType::parse(Some("8bitmime")),
            Ok(BodyType::EightBitMime)
        );
        assert_eq!(BodyType::parse(Some("7BIT")), Ok(BodyType::SevenBit));
        assert_eq!(
            BodyType::parse(Some("BinaryMIME")),
            Ok(BodyType::BinaryMime)
        );
        assert!(BodyType::parse(Some("NONSENSE")).is_err() && BodyType::parse(None).is_err());
    }

    fn mailbox(auth: Result<MailAuth, ParameterError>) -> Option<String> {
        let auth = auth.expect("well-formed");
        auth.mailbox().map(|mailbox| mailbox.as_str().to_owned())
    }

    #[test]
    fn mail_auth() {
        for (value, expected) in [
            ("<>", None),
            ("e+3Dmc2@example.com", Some("e=mc2@example.com")),
            ("u+2btag@example.com", Some("u+tag@example.com")),
        ] {
            let found = mailbox(MailAuth::parse(Some(value)));
            assert_eq!(found.as_deref(), expected, "{value}");
        }
        for bad in [None, Some("a+0D+0Ab@example.com"), Some("a+3@b"), Some("")] {
            assert!(MailAuth::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mail_auth_is_a_mailbox_with_any_fault_that_can_be_overlooked() {
        let long = format!("{}@example.com", "a".repeat(65));
        for (value, expected) in [
            ("a..b@example.com", "a..b@example.com"),
            ("a@c_d.example", "a@c_d.example"),
            ("a@example.com.", "a@example.com"),
            (&long, &long),
        ] {
            let parsed = mailbox(MailAuth::parse(Some(value)));
            assert_eq!(parsed.as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn mail_auth_is_a_mailbox_or_nobody() {
        for nobody in [
            "<>",
            "+3C+3E",
            "+3c>",
            "carol",
            "<a@example.com>",
            "a@",
            "a@example.com,b@example.com",
            "a+20b@example.com",
            "<",
        ] {
            let parsed = MailAuth::parse(Some(nobody));
            assert_eq!(parsed, Ok(MailAuth::UNKNOWN), "{nobody}");
        }
    }
}
