//! Delivery status notifications (RFC 3461 section 4).

use super::{Parameter, ParameterError, unitext, xtext};

/// `RET=` on MAIL: how much of the message a failure report shall return (RFC 3461 section 4.3).
///
/// ```
/// use smtpd_core::{Parameters, Ret};
///
/// assert_eq!(Parameters::of([("RET", Some("HDRS"))]).get(), Some(Ret::Headers));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its headers only.
    Headers,
}

impl Parameter for Ret {
    const KEYWORD: &'static str = "RET";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        match value {
            Some(v) if v.eq_ignore_ascii_case("FULL") => Ok(Self::Full),
            Some(v) if v.eq_ignore_ascii_case("HDRS") => Ok(Self::Headers),
            _ => Err(ParameterError::Malformed),
        }
    }
}

/// `ENVID=` on MAIL: the sender's name for this transaction, decoded from xtext (RFC 3461 section 4.4).
///
/// ```
/// use smtpd_core::{EnvelopeId, Parameters};
///
/// let parameters = Parameters::of([("ENVID", Some("QQ314159+2B"))]);
/// assert_eq!(parameters.get(), Some(EnvelopeId("QQ314159+".into())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EnvelopeId(pub String);

impl Parameter for EnvelopeId {
    const KEYWORD: &'static str = "ENVID";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        let text = value
            .filter(|v| v.len() <= 100)
            .ok_or(ParameterError::Malformed)?;
        printable(xtext::decode(text)?).map(Self)
    }
}

/// `NOTIFY=` on RCPT: of what the sender wants to hear (RFC 3461 section 4.1). All three false is `NEVER`.
///
/// ```
/// use smtpd_core::{Notify, Parameters};
///
/// let parameters = Parameters::of([("NOTIFY", Some("SUCCESS,DELAY"))]);
/// let notify = parameters.get::<Notify>().unwrap();
/// assert!(notify.success && notify.delay && !notify.failure);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notify {
    /// The message was delivered.
    pub success: bool,
    /// It could not be delivered.
    pub failure: bool,
    /// It is late.
    pub delay: bool,
}

impl Parameter for Notify {
    const KEYWORD: &'static str = "NOTIFY";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        let value = value.ok_or(ParameterError::Malformed)?;
        let mut notify = Self::default();
        // NEVER stands alone.
        if value.eq_ignore_ascii_case("NEVER") {
            return Ok(notify);
        }
        for word in value.split(',') {
            let flag = match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => &mut notify.success,
                "FAILURE" => &mut notify.failure,
                "DELAY" => &mut notify.delay,
                _ => return Err(ParameterError::Malformed),
            };
            *flag = true;
        }
        Ok(notify)
    }
}

/// `ORCPT=` on RCPT: the recipient as the sender first wrote it (RFC 3461 section 4.2, RFC 6533 section 3).
///
/// ```
/// use smtpd_core::{OriginalRecipient, Parameters};
///
/// let parameters = Parameters::of([("ORCPT", Some("rfc822;list+2Bowner@example.org"))]);
/// let original = parameters.get::<OriginalRecipient>().unwrap();
/// assert_eq!((original.address_type(), original.address()), ("rfc822", "list+owner@example.org"));
///
/// let parameters = Parameters::of([("ORCPT", Some(r"utf-8;gr\x{E5}@example.org"))]);
/// let original = parameters.get::<OriginalRecipient>().unwrap();
/// assert_eq!((original.address_type(), original.address()), ("utf-8", "grå@example.org"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginalRecipient {
    address_type: String,
    address: String,
}

impl OriginalRecipient {
    /// The type of the address as it was sent, mostly `rfc822` or `utf-8`, in any case.
    pub fn address_type(&self) -> &str {
        &self.address_type
    }

    /// The address, decoded from xtext, or from the forms of RFC 6533 section 3 if the type is `utf-8`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Parameter for OriginalRecipient {
    const KEYWORD: &'static str = "ORCPT";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        // RFC 3461 section 4.2: up to 500 octets.
        let (kind, text) = value
            .filter(|v| v.len() <= 500)
            .and_then(|v| v.split_once(';'))
            .ok_or(ParameterError::Malformed)?;
        if kind.is_empty()
            || text.is_empty()
            || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            return Err(ParameterError::Malformed);
        }
        let address = if kind.eq_ignore_ascii_case("utf-8") {
            unitext::decode(text)?
        } else {
            xtext::decode(text)?
        };
        Ok(Self {
            address_type: kind.to_owned(),
            address: printable(address)?,
        })
    }
}

/// RFC 3461 section 4: what xtext stands for here is printable, so that it can never end a line of a report.
fn printable(decoded: String) -> Result<String, ParameterError> {
    if decoded.contains(char::is_control) {
        Err(ParameterError::Malformed)
    } else {
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notify_lists() {
        let some = |success, failure, delay| {
            Some(Notify {
                success,
                failure,
                delay,
            })
        };
        let cases = [
            ("NEVER", some(false, false, false)),
            ("SUCCESS", some(true, false, false)),
            ("notify", None),
            ("delay,FAILURE,success", some(true, true, true)),
            ("NEVER,SUCCESS", None),
            ("FAILURE,NEVER", None),
            ("SUCCESS,,DELAY", None),
            ("SUCCESS,", None),
            ("", None),
        ];
        for (value, expected) in cases {
            assert_eq!(Notify::parse(Some(value)).ok(), expected, "{value:?}");
        }
        assert!(Notify::parse(None).is_err());
    }

    #[test]
    fn original_recipients_have_a_type() {
        let good = OriginalRecipient::parse(Some("rfc822;a+2Bb@example.org")).unwrap();
        assert_eq!(
            (good.address_type(), good.address()),
            ("rfc822", "a+b@example.org")
        );
        for bad in [
            "user@example.org",
            ";user@example.org",
            "rfc822;",
            "",
            "rfc822;a+0D+0AX-Injected:+20yes",
        ] {
            assert!(OriginalRecipient::parse(Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn original_recipients_of_type_utf8_are_not_refused() {
        for value in [
            "utf-8;å+2Bb@example.org",
            "UTF-8;+c3+a5+2bb@example.org",
            r"utf-8;\x{E5}\x{2B}b@example.org",
        ] {
            let good = OriginalRecipient::parse(Some(value)).unwrap();
            assert_eq!(good.address(), "å+b@example.org", "{value}");
        }
        for bad in [
            "rfc822;å@example.org",
            r"utf-8;a\x{0A}b@example.org",
            r"utf-8;a\x{85}b@example.org",
            "utf-8;a+0Ab@example.org",
            r"utf-8;a\b@example.org",
            "utf-8;",
        ] {
            assert!(OriginalRecipient::parse(Some(bad)).is_err(), "{bad:?}");
        }
        // In any other type a backslash is a backslash.
        let other = OriginalRecipient::parse(Some(r"rfc822;\x{E5}@example.org")).unwrap();
        assert_eq!(other.address(), r"\x{E5}@example.org");
    }

    #[test]
    fn envelope_ids_and_ret() {
        assert_eq!(EnvelopeId::parse(Some("a+2Bb")).unwrap().0, "a+b");
        assert!(EnvelopeId::parse(Some(&"e".repeat(100))).is_ok());
        assert!(EnvelopeId::parse(Some("a+0Ab")).is_err() && EnvelopeId::parse(None).is_err());
        assert_eq!(Ret::parse(Some("hdrs")), Ok(Ret::Headers));
        assert!(
            ["BODY", "", "FULLX"]
                .iter()
                .all(|bad| Ret::parse(Some(bad)).is_err())
        );
    }
}
