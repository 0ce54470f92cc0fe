//! Delivery status notifications (RFC 3461 section 4).

use super::{Parameter, ParameterError, Parameters, unitext, xtext};

/// `RET=` on MAIL: how much of the message a failure report should return (RFC 3461 section 4.3).
///
/// ```
/// use smtpd_core::parameter::{Parameters, Ret};
///
/// let parameters: Parameters = "RET=HDRS".parse()?;
/// assert_eq!(parameters.get(), Some(Ret::Headers));
/// # Ok::<(), smtpd_core::parameter::ParameterError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// `FULL`: the whole message.
    Full,
    /// `HDRS`: only its header.
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

/// `ENVID=` on MAIL: the identifier that the sender has assigned to the transaction (RFC 3461 section 4.4).
///
/// ```
/// use smtpd_core::parameter::{EnvelopeId, Parameters};
///
/// let parameters: Parameters = "ENVID=QQ314159+2B".parse()?;
/// assert_eq!(parameters.get(), Some(EnvelopeId::new("QQ314159+")?));
/// # Ok::<(), smtpd_core::parameter::ParameterError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EnvelopeId(String);

impl EnvelopeId {
    /// The maximum number of characters of an identifier as xtext (RFC 3461 section 4.4).
    const MAX_LEN: usize = 100;

    /// Creates an identifier from `text`, which is not xtext.
    ///
    /// # Errors
    ///
    /// [`ParameterError::Malformed`] if it is empty, contains a control character, or has more than 100 characters as xtext, in
    /// which each byte that is not printable ASCII, and each `+` and `=`, takes three.
    pub fn new(text: impl Into<String>) -> Result<Self, ParameterError> {
        let text = printable(text.into())?;
        if text.is_empty() || xtext::encoded_len(&text) > Self::MAX_LEN {
            return Err(ParameterError::Malformed);
        }
        Ok(Self(text))
    }

    /// Returns the identifier, decoded from xtext.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Parameter for EnvelopeId {
    const KEYWORD: &'static str = "ENVID";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        let text = value
            .filter(|v| v.len() <= Self::MAX_LEN)
            .ok_or(ParameterError::Malformed)?;
        Self::new(xtext::decode(text)?)
    }
}

/// `NOTIFY=` on RCPT: the events about which the sender wants to be notified (RFC 3461 section 4.1).
///
/// A recipient without the parameter is treated like one with `NOTIFY=FAILURE`, or with `NOTIFY=FAILURE,DELAY`.
///
/// ```
/// use smtpd_core::parameter::{Notify, Parameters};
///
/// let parameters: Parameters = "NOTIFY=SUCCESS,DELAY".parse()?;
/// let notify = parameters.get::<Notify>().unwrap();
/// assert!(notify.has_success() && !notify.has_failure());
/// assert_eq!(notify, Notify::NEVER.with_success().with_delay());
/// # Ok::<(), smtpd_core::parameter::ParameterError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notify {
    success: bool,
    failure: bool,
    delay: bool,
}

impl Notify {
    /// `NOTIFY=NEVER`: no event.
    pub const NEVER: Self = Self {
        success: false,
        failure: false,
        delay: false,
    };

    /// Adds `SUCCESS`.
    #[must_use]
    pub const fn with_success(mut self) -> Self {
        self.success = true;
        self
    }

    /// Adds `FAILURE`.
    #[must_use]
    pub const fn with_failure(mut self) -> Self {
        self.failure = true;
        self
    }

    /// Adds `DELAY`.
    #[must_use]
    pub const fn with_delay(mut self) -> Self {
        self.delay = true;
        self
    }

    /// Returns whether the sender wants to know that the message was delivered.
    pub const fn has_success(self) -> bool {
        self.success
    }

    /// Returns whether the sender wants to know that the message could not be delivered.
    pub const fn has_failure(self) -> bool {
        self.failure
    }

    /// Returns whether the sender wants to know that the message is late.
    pub const fn has_delay(self) -> bool {
        self.delay
    }
}

impl Parameter for Notify {
    const KEYWORD: &'static str = "NOTIFY";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        let value = value.ok_or(ParameterError::Malformed)?;
        // NEVER stands alone.
        if value.eq_ignore_ascii_case("NEVER") {
            return Ok(Self::NEVER);
        }
        let add = |notify: Self, word: &str| match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => Ok(notify.with_success()),
            "FAILURE" => Ok(notify.with_failure()),
            "DELAY" => Ok(notify.with_delay()),
            _ => Err(ParameterError::Malformed),
        };
        value.split(',').try_fold(Self::NEVER, add)
    }
}

impl Parameters {
    /// The parameters for each of several recipients that replace one: without `SUCCESS` in `NOTIFY`.
    pub(crate) fn without_success(&self) -> Self {
        if !self.get::<Notify>().is_some_and(Notify::has_success) {
            return self.clone();
        }
        let mut text = String::new();
        for (keyword, value) in self.iter() {
            text.push_str(if text.is_empty() { "" } else { " " });
            text.push_str(keyword);
            if let Some(value) = value {
                text.push('=');
                match keyword.eq_ignore_ascii_case(Notify::KEYWORD) {
                    true => push_without_success(&mut text, value),
                    false => text.push_str(value),
                }
            }
        }
        Self::of_text(&text)
    }
}

fn push_without_success(text: &mut String, value: &str) {
    let others = value
        .split(',')
        .filter(|word| !word.eq_ignore_ascii_case("SUCCESS"));
    let others: Vec<_> = others.collect();
    match others.is_empty() {
        true => text.push_str("NEVER"),
        false => text.push_str(&others.join(",")),
    }
}

/// `ORCPT=` on RCPT: the original recipient, as the sender specified it (RFC 3461 section 4.2, RFC 6533 section 3).
///
/// ```
/// use smtpd_core::parameter::{OriginalRecipient, Parameters};
///
/// let parameters: Parameters = "ORCPT=rfc822;list+2Bowner@example.org".parse()?;
/// let original = parameters.get::<OriginalRecipient>().unwrap();
/// assert_eq!(
///     (original.address_type(), original.address()),
///     ("rfc822", "list+owner@example.org")
/// );
///
/// let parameters: Parameters = r"ORCPT=utf-8;gr\x{E5}@example.org".parse()?;
/// let original = parameters.get::<OriginalRecipient>().unwrap();
/// assert_eq!(
///     (original.address_type(), original.address()),
///     ("utf-8", "grå@example.org")
/// );
/// # Ok::<(), smtpd_core::parameter::ParameterError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginalRecipient {
    address_type: String,
    address: String,
}

impl OriginalRecipient {
    /// Returns the type of the address as it was sent, usually `rfc822` or `utf-8`, in any case.
    pub fn address_type(&self) -> &str {
        &self.address_type
    }

    /// Returns the address, decoded from xtext, or from the forms of RFC 6533 section 3 if the type is `utf-8`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Parameter for OriginalRecipient {
    const KEYWORD: &'static str = "ORCPT";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        // RFC 3461 section 4.2: up to 500 characters.
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

/// RFC 3461 section 4: xtext stands for printable text here, so that it can never end a line of a report.
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
        // In any other type, a backslash has no special meaning.
        let other = OriginalRecipient::parse(Some(r"rfc822;\x{E5}@example.org")).unwrap();
        assert_eq!(other.address(), r"\x{E5}@example.org");
    }

    #[test]
    fn an_envelope_id_that_no_client_could_send_cannot_be_made() {
        let (longest, longer) = ("e".repeat(100), "e".repeat(101));
        let (encoded, too_much) = ("+".repeat(33) + "e", "\u{e5}".repeat(17));
        for good in ["a b", "+=", "gr\u{e5}", &longest, &encoded] {
            assert_eq!(EnvelopeId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\nb", "a\u{85}b", &longer, &too_much] {
            let made = EnvelopeId::new(bad);
            assert_eq!(made, Err(ParameterError::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn envelope_ids_and_ret() {
        assert_eq!(EnvelopeId::parse(Some("a+2Bb")), EnvelopeId::new("a+b"));
        assert!(EnvelopeId::parse(Some(&"e".repeat(100))).is_ok());
        for bad in [
            None,
            Some(""),
            Some("a+0Ab"),
            Some("+"),
            Some(&*"e".repeat(101)),
        ] {
            assert!(EnvelopeId::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Ret::parse(Some("hdrs")), Ok(Ret::Headers));
        assert!(
            ["BODY", "", "FULLX"]
                .iter()
                .all(|bad| Ret::parse(Some(bad)).is_err())
        );
    }
}
