use std::{fmt, sync::Arc};

use crate::header::clean;

/// The name that the DNS has for the address of a client (its PTR record).
///
/// [`ReverseDnsLayer`](crate::layer::ReverseDnsLayer) keeps it in the state of the session. The owner of the address chose the
/// name, so it proves nothing unless it [is confirmed](Self::is_confirmed): the name was looked up too, and led back to the
/// address. Decide who may do what by confirmed names only.
///
/// It contains only letters, digits, `.`, `-` and `_`: every other character becomes `?`.
///
/// ```
/// use smtpd_tower::layer::ReverseName;
///
/// let name = |text| ReverseName::new(text).map(|name| name.to_string());
/// assert_eq!(name("mx.example.org."), Some("mx.example.org".to_owned()));
/// assert_eq!(name("a\r\nb (c)"), Some("a??b??c?".to_owned()));
/// assert_eq!(name("."), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReverseName {
    name: Arc<str>,
    is_confirmed: bool,
}

impl ReverseName {
    /// Creates a name without its final dot, truncated to 255 characters, that is not confirmed. Returns `None` if nothing is
    /// left.
    pub fn new(name: impl AsRef<str>) -> Option<Self> {
        let name = name.as_ref();
        let name = name.strip_suffix('.').unwrap_or(name);
        (!name.is_empty()).then(|| Self {
            name: clean::host_name(name).into(),
            is_confirmed: false,
        })
    }

    /// Returns this name as one that [is confirmed](Self::is_confirmed), or is not.
    #[must_use]
    pub fn with_confirmed(self, is_confirmed: bool) -> Self {
        Self {
            is_confirmed,
            ..self
        }
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Returns whether the name leads back to the address (RFC 8601 section 2.7.3). That of XCLIENT is confirmed, because a proxy
    /// that is trusted has sent it: Postfix sends only names that it has verified.
    pub const fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }
}

impl AsRef<str> for ReverseName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for ReverseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
