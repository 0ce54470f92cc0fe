use super::{Parameter, ParameterError, no_value, xtext};
use crate::address::{Charset, Leniency, Mailbox, PathOptions};

/// `SIZE=`: how many octets the message will have, as its sender declares it (RFC 1870 section 6).
///
/// ```
/// use smtpd_core::{Parameters, Size};
///
/// let parameters = Parameters::of([("SIZE", Some("1000"))]);
/// assert_eq!(parameters.get::<Size>(), Some(Size(1000)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl Parameter for Size {
    const KEYWORD: &'static str = "SIZE";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        // RFC 1870 section 4: 1*20DIGIT, so a value may pass 64 bits; it is then as large as can be.
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

/// `BODY=`: what octets the message holds (RFC 6152 section 2, RFC 3030 section 3).
///
/// ```
/// use smtpd_core::{BodyType, Parameters};
///
/// let parameters = Parameters::of([("BODY", Some("8bitmime"))]);
/// assert_eq!(parameters.get(), Some(BodyType::EightBitMime));
/// assert_eq!(Parameters::default().get::<BodyType>().unwrap_or_default(), BodyType::SevenBit);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyType {
    /// `7BIT`: lines of US-ASCII.
    #[default]
    SevenBit,
    /// `8BITMIME`: lines of octets.
    EightBitMime,
    /// `BINARYMIME`: octets without any line structure.
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

/// `SMTPUTF8`: addresses and header fields may hold UTF-8 (RFC 6531 section 3.4). It has no value.
///
/// ```
/// use smtpd_core::{Parameters, SmtpUtf8};
///
/// assert!(Parameters::of([("SMTPUTF8", None)]).get::<SmtpUtf8>().is_some());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SmtpUtf8;

impl Parameter for SmtpUtf8 {
    const KEYWORD: &'static str = "SMTPUTF8";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        no_value(value).map(|()| Self)
    }
}

/// `AUTH=` on MAIL: who submitted the message first, as a trusted client says (RFC 4954 section 5).
///
/// It is a mailbox, decoded from xtext. `None` is `AUTH=<>`: not known, or not to be trusted. Believe it only
/// of clients that you trust.
///
/// A session takes the mailboxes that its [`Leniency`] allows on MAIL, so [`parse`](Parameter::parse) accepts
/// those of any leniency.
///
/// ```
/// use smtpd_core::{MailAuth, Parameters};
///
/// let parameters = Parameters::of([("AUTH", Some("e+3Dmc2@example.com"))]);
/// assert_eq!(parameters.get(), Some(MailAuth(Some("e=mc2@example.com".into()))));
/// assert_eq!(Parameters::of([("AUTH", Some("<>"))]).get(), Some(MailAuth(None)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MailAuth(pub Option<String>);

impl MailAuth {
    pub(crate) fn is_named(keyword: &str) -> bool {
        keyword.eq_ignore_ascii_case(Self::KEYWORD)
    }

    /// Reads the value, with a mailbox in which these faults are overlooked.
    pub(crate) fn parse_with(
        value: Option<&str>,
        leniency: Leniency,
    ) -> Result<Self, ParameterError> {
        let identity = xtext::decode(value.ok_or(ParameterError::Malformed)?)?;
        if identity.is_empty() || identity.contains(char::is_control) {
            return Err(ParameterError::Malformed);
        }
        // RFC 4954 section 5: a mailbox or `<>`, either of them in xtext. Dovecot's submission relay sends the bare name of a user;
        // a server may take an identity that it does not trust for `<>`, and mail is not to be lost over it.
        let options = PathOptions::new(leniency, Charset::Utf8);
        let mailbox = Mailbox::parse(identity.as_bytes(), options).ok();
        Ok(Self(mailbox.map(|mailbox| mailbox.as_str().to_owned())))
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
        Self::parse_with(value, ANY)
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
            assert_eq!(Size::parse(value).ok().map(|s| s.0), expected, "{value:?}");
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

    #[test]
    fn mail_auth() {
        assert_eq!(MailAuth::parse(Some("<>")), Ok(MailAuth(None)));
        assert_eq!(
            MailAuth::parse(Some("e+3Dmc2@example.com")),
            Ok(MailAuth(Some("e=mc2@example.com".into())))
        );
        assert_eq!(
            MailAuth::parse(Some("u+2btag@example.com")),
            Ok(MailAuth(Some("u+tag@example.com".into())))
        );
        for bad in [None, Some("a+0D+0Ab@example.com"), Some("a+3@b"), Some("")] {
            assert!(MailAuth::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mail_auth_overlooks_no_more_than_it_is_told_to() {
        let value = Some("a..b@c_d.example.");
        let strict = MailAuth::parse_with(value, Leniency::STRICT);
        assert_eq!(strict, Ok(MailAuth(None)));
        let common = MailAuth::parse_with(Some("a..b@c.example"), Leniency::COMMON);
        assert_eq!(common, Ok(MailAuth(Some("a..b@c.example".into()))));
        let any = MailAuth::parse(value);
        assert_eq!(any, Ok(MailAuth(Some("a..b@c_d.example".into()))));
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
            assert_eq!(parsed, Ok(MailAuth(None)), "{nobody}");
        }
    }
}
