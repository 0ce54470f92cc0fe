use std::{fmt, sync::Arc};

use crate::header::clean;

/// The name that the DNS has for the address of a client (its PTR record).
///
/// [`ReverseDnsLayer`](crate::layer::ReverseDnsLayer) keeps it in the state of the session. The owner of the address chose the
/// name, so it proves nothing unless the resolver has looked up the name too and found the address again.
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
pub struct ReverseName(Arc<str>);

impl ReverseName {
    /// Creates a name without its final dot, truncated to 255 characters. Returns `None` if nothing is left.
    pub fn new(name: impl AsRef<str>) -> Option<Self> {
        let name = name.as_ref();
        let name = name.strip_suffix('.').unwrap_or(name);
        (!name.is_empty()).then(|| Self(clean::host_name(name).into()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
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
