//! The parameters of MAIL and RCPT: an open, typed set (RFC 5321 section 4.1.2, `Mail-parameters` and `Rcpt-parameters`).
//!
//! [`Parameters`] are those of one command. Each type that implements [`Parameter`] parses one of them, and a [`ParameterRule`]
//! makes the server accept it. [`ParameterError`] says why a parameter is rejected.
//!
//! | type | parameter | of | defined by |
//! |---|---|---|---|
//! | [`Size`] | `SIZE` | MAIL | RFC 1870 |
//! | [`BodyType`] | `BODY` | MAIL | RFC 6152, RFC 3030 |
//! | [`SmtpUtf8`] | `SMTPUTF8` | MAIL | RFC 6531 |
//! | [`MailAuth`] | `AUTH` | MAIL | RFC 4954 |
//! | [`Ret`], [`EnvelopeId`] | `RET`, `ENVID` | MAIL | RFC 3461 |
//! | [`Notify`], [`OriginalRecipient`] | `NOTIFY`, `ORCPT` | RCPT | RFC 3461 |
//! | [`By`], with a [`ByMode`] | `BY` | MAIL | RFC 2852 |
//! | [`HoldFor`], [`HoldUntil`] | `HOLDFOR`, `HOLDUNTIL` | MAIL | RFC 4865 |
//! | [`Priority`] | `MT-PRIORITY` | MAIL | RFC 6710 |
//! | [`Solicit`] | `SOLICIT` | MAIL | RFC 3865 |
//! | [`ValidSince`], with a [`NoSupport`] | `RRVS` | RCPT | RFC 7293 |
//!
//! [`DateTime`] is the point in time that some of them contain.

mod builtin;
mod date_time;
mod deliver_by;
mod dsn;
mod future_release;
mod priority;
mod solicit;
mod unitext;
mod valid_since;
pub(crate) mod xtext;

use std::{error::Error, fmt, str::FromStr, sync::Arc};

pub use builtin::{BodyType, MailAuth, Size, SmtpUtf8};
pub use date_time::{DateTime, DateTimeError};
pub use deliver_by::{By, ByMode};
pub use dsn::{EnvelopeId, Notify, OriginalRecipient, Ret};
pub use future_release::{HoldFor, HoldUntil};
pub use priority::Priority;
pub use solicit::Solicit;
pub(crate) use solicit::is_solicitation;
pub use valid_since::{NoSupport, ValidSince};

use crate::reply::{Code, Reply, Status};

/// A type that is parsed from the value of a parameter.
///
/// Your own types work like those of this module: let an [`Extension`](crate::extension::Extension) accept the parameter with
/// [`ParameterRule::of`], and read it with [`Parameters::get`].
///
/// ```
/// use smtpd_core::parameter::{Parameter, ParameterError};
///
/// #[derive(Debug, PartialEq)]
/// struct Color(String);
///
/// impl Parameter for Color {
///     const KEYWORD: &'static str = "XCOLOR";
///
///     fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
///         value.map(|v| Self(v.to_owned())).ok_or(ParameterError::Malformed)
///     }
/// }
/// assert_eq!(Color::parse(Some("red")), Ok(Color("red".into())));
/// ```
pub trait Parameter: Sized {
    /// The keyword, in upper case. It is matched in any letter case (RFC 5321 section 2.4).
    const KEYWORD: &'static str;

    /// Parses the value, which is `None` if the parameter has no `=`.
    ///
    /// # Errors
    ///
    /// [`ParameterError::Malformed`] if the grammar of the parameter does not allow the value.
    fn parse(value: Option<&str>) -> Result<Self, ParameterError>;
}

/// A keyword and a check of its values: a parameter that an extension accepts on MAIL or RCPT.
///
/// Two extensions may accept the same keyword, each with its own values: a value is accepted if one of them accepts it.
///
/// ```
/// use smtpd_core::parameter::{ParameterError, ParameterRule, Size};
///
/// const TYPED: ParameterRule = ParameterRule::of::<Size>();
/// const FLAG: ParameterRule = ParameterRule::new("XURGENT", |value| match value {
///     None => Ok(()),
///     Some(_) => Err(ParameterError::Malformed),
/// });
/// assert_eq!((TYPED.keyword(), FLAG.keyword()), ("SIZE", "XURGENT"));
/// ```
#[derive(Clone, Copy)]
pub struct ParameterRule {
    keyword: &'static str,
    check: fn(Option<&str>) -> Result<(), ParameterError>,
}

impl ParameterRule {
    /// Creates the rule for a typed parameter.
    pub const fn of<P: Parameter>() -> Self {
        Self {
            keyword: P::KEYWORD,
            check: |value| P::parse(value).map(drop),
        }
    }

    /// Creates a rule from a keyword and a check of its values.
    pub const fn new(
        keyword: &'static str,
        check: fn(Option<&str>) -> Result<(), ParameterError>,
    ) -> Self {
        Self { keyword, check }
    }

    /// Returns the keyword.
    pub const fn keyword(&self) -> &'static str {
        self.keyword
    }
}

impl fmt::Debug for ParameterRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ParameterRule").field(&self.keyword).finish()
    }
}

/// Why the parameters of a command are rejected.
///
/// ```
/// use smtpd_core::parameter::{Parameter, ParameterError, Size};
///
/// assert_eq!(Size::parse(Some("many")), Err(ParameterError::Malformed));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ParameterError {
    /// The text is not a parameter, or the parameter does not allow the value: 501 5.5.4.
    Malformed,
    /// A keyword is given twice: 501 5.5.4.
    Duplicate,
    /// No extension that is on accepts the keyword on this command: 555 5.5.4 (RFC 5321 section 4.1.1.11).
    Unknown,
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed parameter",
            Self::Duplicate => "parameter given twice",
            Self::Unknown => "parameter not recognized or not implemented",
        })
    }
}

impl Error for ParameterError {}

/// The parameters of one MAIL or RCPT, each of them well-formed and present once.
///
/// In a session, an enabled extension has accepted each of them. Parse others from text, as after a path in a command:
///
/// ```
/// use smtpd_core::parameter::{ParameterError, Parameters, Size};
///
/// let parameters: Parameters = "SIZE=1000 XOWN".parse()?;
/// assert_eq!(parameters.get::<Size>(), Some(Size::new(1000)));
/// assert!(parameters.contains("xown"));
/// assert_eq!(
///     "SIZE=1 SIZE=2".parse::<Parameters>(),
///     Err(ParameterError::Duplicate)
/// );
/// # Ok::<(), ParameterError>(())
/// ```
// The words as they were sent, with spaces between them. An empty set, the most common by far, allocates nothing.
#[derive(Clone, Default)]
pub struct Parameters(Option<Arc<str>>);

impl Parameters {
    /// Returns the parameter of type `P`, if it is present and `P` accepts its value.
    pub fn get<P: Parameter>(&self) -> Option<P> {
        P::parse(self.find(P::KEYWORD)?).ok()
    }

    /// Returns whether the keyword is present, in any letter case.
    pub fn contains(&self, keyword: &str) -> bool {
        self.find(keyword).is_some()
    }

    /// Returns whether there are no parameters.
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether everything is ASCII, as required without SMTPUTF8 (RFC 6531 section 3.3).
    pub(crate) fn is_ascii(&self) -> bool {
        self.0.as_deref().is_none_or(str::is_ascii)
    }

    /// Returns the keywords and values as they were sent, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        words(self.0.as_deref().unwrap_or_default()).map(halves)
    }

    /// Parses what follows the path of a MAIL or RCPT command. `check` returns whether a keyword is known and has a valid value.
    pub(crate) fn parse(
        text: &[u8],
        check: impl Fn(&str, Option<&str>) -> Result<(), ParameterError>,
    ) -> Result<Self, ParameterError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let text = std::str::from_utf8(text).map_err(|_| ParameterError::Malformed)?;
        for (number, word) in words(text).enumerate() {
            let (keyword, value) = well_formed(word)?;
            let mut before = words(text).take(number);
            if before.any(|one| halves(one).0.eq_ignore_ascii_case(keyword)) {
                return Err(ParameterError::Duplicate);
            }
            check(keyword, value)?;
        }
        Ok(Self::of_text(text))
    }

    fn of_text(text: &str) -> Self {
        let text = text.trim_matches(' ');
        Self((!text.is_empty()).then(|| text.into()))
    }

    /// Returns the value of a keyword if it is present.
    fn find(&self, keyword: &str) -> Option<Option<&str>> {
        let text = self.0.as_deref()?;
        // Byte by byte: every command looks for some that are not present.
        let is_it = |word: &&[u8]| match word.split_at_checked(keyword.len()) {
            Some((own, [] | [b'=', ..])) => own.eq_ignore_ascii_case(keyword.as_bytes()),
            _ => false,
        };
        let word = text.as_bytes().split(|&byte| byte == b' ').find(is_it)?;
        let value = word.get(keyword.len() + 1..);
        Some(value.and_then(|value| std::str::from_utf8(value).ok()))
    }
}

/// Parses the parameters as they follow the path in a command. Unknown keywords are accepted, with any value.
impl FromStr for Parameters {
    type Err = ParameterError;

    fn from_str(text: &str) -> Result<Self, ParameterError> {
        Self::parse(text.as_bytes(), |_, _| Ok(()))
    }
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Parameters {}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(' ');
        let end = rest.bytes().position(|byte| byte == b' ');
        let (word, left) = rest.split_at(end.unwrap_or(rest.len()));
        rest = left;
        (!word.is_empty()).then_some(word)
    })
}

fn halves(word: &str) -> (&str, Option<&str>) {
    // Byte by byte: words are so short that a search costs more than it saves.
    match word.bytes().position(|byte| byte == b'=') {
        Some(end) => (&word[..end], Some(&word[end + 1..])),
        None => (word, None),
    }
}

/// Checks a parameter that has no value.
pub(crate) fn no_value(value: Option<&str>) -> Result<(), ParameterError> {
    value.map_or(Ok(()), |_| Err(ParameterError::Malformed))
}

/// 501 5.5.4: the parameters are malformed.
pub(crate) const fn malformed(text: &'static str) -> Reply {
    Reply::fixed(Code::PARAMETER_ERROR, Status::INVALID_PARAMETERS, text)
}

/// RFC 5321 section 4.1.2: `esmtp-keyword ["=" esmtp-value]`; UTF-8 in values by RFC 6531 section 3.3.
fn well_formed(word: &str) -> Result<(&str, Option<&str>), ParameterError> {
    let (keyword, value) = halves(word);
    let keyword_ok = keyword.starts_with(|c: char| c.is_ascii_alphanumeric())
        && keyword
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if keyword_ok && value.is_none_or(is_value) {
        Ok((keyword, value))
    } else {
        Err(ParameterError::Malformed)
    }
}

fn is_value(value: &str) -> bool {
    let is_text = |byte: u8| byte != b'=' && !byte.is_ascii_control();
    !value.is_empty()
        && value.bytes().all(is_text)
        && (value.is_ascii() || !value.contains(char::is_control))
}

/// Returns whether one of the rules knows the keyword and accepts the value.
pub(crate) fn check<'r>(
    rules: impl Iterator<Item = &'r ParameterRule>,
    keyword: &str,
    value: Option<&str>,
) -> Result<(), ParameterError> {
    let mut outcome = Err(ParameterError::Unknown);
    for rule in rules.filter(|rule| rule.keyword.eq_ignore_ascii_case(keyword)) {
        outcome = (rule.check)(value);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [ParameterRule; 3] = [
        ParameterRule::of::<Size>(),
        ParameterRule::of::<SmtpUtf8>(),
        ParameterRule::new("X-ONE", |_| Ok(())),
    ];

    fn parse(text: &str) -> Result<Parameters, ParameterError> {
        Parameters::parse(text.as_bytes(), |keyword, value| {
            check(RULES.iter(), keyword, value)
        })
    }

    #[test]
    fn parameters_are_known_well_formed_and_given_once() {
        use ParameterError::*;
        let cases = [
            ("", Ok(0)),
            ("   ", Ok(0)),
            ("SIZE=10", Ok(1)),
            ("size=10  x-one=a,b SMTPUTF8 ", Ok(3)),
            ("SIZE=10 Size=20", Err(Duplicate)),
            ("SIZE", Err(Malformed)),
            ("SIZE=", Err(Malformed)),
            ("X-ONE=a=b", Err(Malformed)),
            ("=a", Err(Malformed)),
            ("-A=1", Err(Malformed)),
            ("X_ONE=1", Err(Malformed)),
            ("SMTPUTF8=yes", Err(Malformed)),
            ("FROBNICATE=1", Err(Unknown)),
            ("FROBNICATE", Err(Unknown)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).map(|p| p.iter().count()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_value_is_good_when_one_of_two_rules_takes_it() {
        const ONLY_A: ParameterRule = ParameterRule::new("K", |v| {
            if v == Some("a") {
                Ok(())
            } else {
                Err(ParameterError::Malformed)
            }
        });
        const ONLY_B: ParameterRule = ParameterRule::new("K", |v| {
            if v == Some("b") {
                Ok(())
            } else {
                Err(ParameterError::Malformed)
            }
        });
        static BOTH: [ParameterRule; 2] = [ONLY_A, ONLY_B];
        let parse =
            |text: &str| Parameters::parse(text.as_bytes(), |k, v| check(BOTH.iter(), k, v));
        assert!(parse("K=a").is_ok() && parse("K=b").is_ok());
        assert_eq!(parse("K=c"), Err(ParameterError::Malformed));
    }
}
