use std::{fmt, sync::Arc};

use super::{Login, MechanismFactory, Plain};

/// The mechanisms that a server offers, in the order in which EHLO lists them.
///
/// The default is PLAIN and LOGIN. [`CramMd5`](super::CramMd5) must be added explicitly, because it requires that the server
/// stores passwords in plaintext. Mechanisms that challenge the client, such as CRAM-MD5 and SCRAM, are offered only if
/// [`Config::entropy`](crate::Config::entropy) is set; [`Config::check`](crate::Config::check) reports if it is missing.
///
/// Mechanisms with settings have a constructor, such as `XOAuth2::new()`; the others are unit structs, such as `Plain`.
///
/// ```
/// use smtpd_core::sasl::{CramMd5, Login, Mechanisms};
///
/// let mechanisms = Mechanisms::default().with(CramMd5).without(Login);
/// let names: Vec<_> = mechanisms
///     .iter()
///     .map(|factory| factory.name().as_str())
///     .collect();
/// assert_eq!(names, ["PLAIN", "CRAM-MD5"]);
/// assert!(mechanisms.find(b"cram-md5").is_some());
/// ```
#[derive(Debug, Clone)]
pub struct Mechanisms(Vec<Arc<dyn MechanismFactory>>);

impl Mechanisms {
    /// Creates an empty set: AUTH is not offered.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Adds a mechanism at the end, or replaces the one with its name.
    #[must_use]
    pub fn with(mut self, factory: impl MechanismFactory + 'static) -> Self {
        let name = factory.name();
        match self.0.iter_mut().find(|known| known.name() == name) {
            Some(known) => *known = Arc::new(factory),
            None => self.0.push(Arc::new(factory)),
        }
        self
    }

    /// Removes a mechanism, whatever its settings: the one with the same name.
    #[must_use]
    pub fn without(mut self, factory: impl MechanismFactory) -> Self {
        let name = factory.name();
        self.0.retain(|known| known.name() != name);
        self
    }

    /// Returns the mechanism that a client named, in any letter case (RFC 5321 section 2.4).
    pub fn find(&self, name: &[u8]) -> Option<&dyn MechanismFactory> {
        self.iter().find(|factory| factory.name().matches(name))
    }

    /// Returns whether a mechanism of the same family, such as SCRAM, has a -PLUS form here. Its hash may differ: a client that
    /// supports binding would use it, unless somebody has removed it from the list (RFC 5802 section 6).
    pub(crate) fn has_plus_beside(&self, name: MechanismName) -> bool {
        let family = |name: MechanismName| name.as_str().split('-').next();
        self.iter().any(|factory| {
            factory.needs_channel_binding() && family(factory.name()) == family(name)
        })
    }

    /// Returns the mechanisms in order.
    pub fn iter(&self) -> impl Iterator<Item = &dyn MechanismFactory> {
        self.0.iter().map(|factory| &**factory)
    }

    /// Returns whether there are no mechanisms.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Mechanisms {
    fn default() -> Self {
        Self::none().with(Plain).with(Login)
    }
}

/// The name of a SASL mechanism: 1 to 20 of `A`-`Z`, `0`-`9`, `-` and `_` (RFC 4422 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MechanismName(&'static str);

impl MechanismName {
    /// Creates a name from the source code. In a constant, an invalid name does not compile:
    ///
    /// ```compile_fail
    /// use smtpd_core::sasl::MechanismName;
    ///
    /// const NAME: MechanismName = MechanismName::from_static("x token");
    /// # println!("{NAME}");
    /// ```
    ///
    /// # Panics
    /// If called at run time with a name that RFC 4422 section 3.1 does not allow.
    pub const fn from_static(name: &'static str) -> Self {
        assert!(
            is_mechanism_name(name.as_bytes()),
            "a SASL mechanism name is 1 to 20 of A-Z, 0-9, '-' and '_'"
        );
        Self(name)
    }

    /// Returns the name.
    pub fn as_str(self) -> &'static str {
        self.0
    }

    fn matches(self, name: &[u8]) -> bool {
        self.0.as_bytes().eq_ignore_ascii_case(name)
    }
}

impl fmt::Display for MechanismName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl AsRef<str> for MechanismName {
    fn as_ref(&self) -> &str {
        self.0
    }
}

/// RFC 4422 section 3.1: `sasl-mech = 1*20mech-char`.
const fn is_mechanism_name(mut name: &[u8]) -> bool {
    if name.is_empty() || name.len() > 20 {
        return false;
    }
    while let [byte, rest @ ..] = name {
        if !matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_') {
            return false;
        }
        name = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{super::CramMd5, *};

    fn names(mechanisms: &Mechanisms) -> Vec<&'static str> {
        mechanisms
            .iter()
            .map(|factory| factory.name().as_str())
            .collect()
    }

    #[test]
    fn the_set_keeps_its_order_and_has_each_name_once() {
        assert_eq!(names(&Mechanisms::none()), [""; 0]);
        assert!(Mechanisms::none().is_empty());
        assert_eq!(names(&Mechanisms::default()), ["PLAIN", "LOGIN"]);
        assert_eq!(
            names(&Mechanisms::none().with(CramMd5).with(Plain).with(CramMd5)),
            ["CRAM-MD5", "PLAIN"]
        );
        assert_eq!(names(&Mechanisms::default().without(Plain)), ["LOGIN"]);
        assert_eq!(
            names(&Mechanisms::default().without(CramMd5)),
            ["PLAIN", "LOGIN"]
        );
    }

    #[test]
    fn only_what_sends_the_password_needs_tls() {
        let plaintext: Vec<_> = Mechanisms::default()
            .with(CramMd5)
            .iter()
            .map(|f| f.is_plaintext())
            .collect();
        assert_eq!(plaintext, [true, true, false]);
    }

    #[test]
    fn names_are_found_in_any_case_but_whole() {
        let mechanisms = Mechanisms::default();
        for (name, want) in [
            (&b"PLAIN"[..], Some("PLAIN")),
            (b"pLaIn", Some("PLAIN")),
            (b"login", Some("LOGIN")),
            (b"CRAM-MD5", None),
            (b"PLAI", None),
            (b"PLAIN ", None),
            (b"", None),
            (b"\xff", None),
        ] {
            assert_eq!(
                mechanisms.find(name).map(|factory| factory.name().as_str()),
                want
            );
        }
    }

    #[test]
    fn mechanism_names() {
        for name in ["A", "SCRAM-SHA-256-PLUS", "X_1", "ABCDEFGHIJKLMNOPQRST"] {
            assert!(is_mechanism_name(name.as_bytes()), "{name}");
        }
        for name in ["", "plain", "X TOKEN", "X.1", "Ä", "ABCDEFGHIJKLMNOPQRSTU"] {
            assert!(!is_mechanism_name(name.as_bytes()), "{name}");
        }
    }

    #[cfg(feature = "scram")]
    #[test]
    fn a_plus_form_is_beside_those_of_its_family_only() {
        use crate::sasl::{CramMd5, Scram};

        let name = |factory: &dyn MechanismFactory| factory.name();
        let plain = Mechanisms::default().with(CramMd5).with(Scram::sha256());
        assert!(plain.iter().all(|m| !plain.has_plus_beside(name(m))));
        let with_plus = plain.with(Scram::sha1().plus());
        let beside: Vec<_> = with_plus
            .iter()
            .filter(|m| with_plus.has_plus_beside(name(*m)))
            .map(|m| m.name().as_str())
            .collect();
        assert_eq!(beside, ["SCRAM-SHA-256", "SCRAM-SHA-1-PLUS"]);
    }
}
