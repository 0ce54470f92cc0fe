use std::{fmt, sync::Arc};

/// The name under which a client is authenticated (its authorization identity, RFC 4954 section 4).
///
/// It contains no control characters, so it can be logged or written into a header. A clone shares the text.
///
/// ```
/// use smtpd_core::sasl::Identity;
///
/// assert_eq!(Identity::new("alice").as_str(), "alice");
/// assert_eq!(Identity::new("a\r\nX: b").to_string(), "a??X: b");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(Arc<str>);

impl Identity {
    /// Creates an identity with this name. Each control character in it becomes `?`.
    ///
    /// An empty one can be created but is never authenticated: an [`Exchange`](super::Exchange) fails on it.
    pub fn new(name: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        if name.contains(char::is_control) {
            return Self(name.replace(char::is_control, "?").into());
        }
        Self(name.into())
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Identity {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Identity {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<&String> for Identity {
    fn from(name: &String) -> Self {
        Self::new(name.as_str())
    }
}

impl From<String> for Identity {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_never_get_into_an_identity() {
        for (name, want) in [
            ("alice", "alice"),
            ("ålice ö", "ålice ö"),
            ("a\r\nb", "a??b"),
            ("\0\u{7f}\u{85}", "???"),
            ("", ""),
        ] {
            assert_eq!(Identity::new(name).as_str(), want);
            assert_eq!(Identity::from(name).to_string(), want);
        }
    }
}
