use super::{Parameter, ParameterError};

/// `SOLICIT=` on MAIL: the classes of advertising to which the message belongs, as the client says (RFC 3865 section 2.3).
///
/// ```
/// use smtpd_core::parameter::{Parameter, Solicit};
///
/// let solicit = Solicit::parse(Some("net.example:ADV,org.example:ADV:ADLT"))?;
/// assert!(solicit.keywords().eq(["net.example:ADV", "org.example:ADV:ADLT"]));
/// # Ok::<(), smtpd_core::parameter::ParameterError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Solicit(String);

impl Solicit {
    /// Returns the solicitation class keywords, as they were sent.
    pub fn keywords(&self) -> impl Iterator<Item = &str> {
        self.0.split(',')
    }
}

impl Parameter for Solicit {
    const KEYWORD: &'static str = "SOLICIT";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        value
            .filter(|v| is_solicitation(v))
            .map(|v| Self(v.to_owned()))
            .ok_or(ParameterError::Malformed)
    }
}

/// Returns whether this is `Solicitation-keywords` (RFC 3865 section 2.2).
pub(crate) fn is_solicitation(text: &str) -> bool {
    let is_char = |b: u8| b.is_ascii_alphanumeric() || b".-_:".contains(&b);
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.bytes().all(is_char)
    };
    text.len() <= 1000 && text.split(',').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let (longest, longer) = ("a".repeat(1000), "a".repeat(1001));
        for good in ["a", "net.example:ADV", "a,B-1,c_d.e:f", &longest] {
            assert!(Solicit::parse(Some(good)).is_ok(), "{good:?}");
        }
        for bad in [
            "", ",", "a,", ",a", "a,,b", "1a", ":a", "a b", "a;b", "ä", &longer,
        ] {
            assert!(Solicit::parse(Some(bad)).is_err(), "{bad:?}");
        }
        assert!(Solicit::parse(None).is_err());
    }
}
