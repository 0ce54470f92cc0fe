use std::hash::{Hash, Hasher};

use super::Text;

/// The word `Postmaster`, the only recipient that needs no domain, in any letter case (RFC 5321 section 4.1.1.3). All values are
/// equal.
#[derive(Clone, Debug)]
pub struct Postmaster(Text);

impl Postmaster {
    pub(super) const NAME: &str = "Postmaster";

    /// Returns the word in the case in which it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn at_front(bytes: &[u8]) -> Option<Self> {
        let word = bytes.get(..Self::NAME.len())?;
        if !word.eq_ignore_ascii_case(Self::NAME.as_bytes()) {
            return None;
        }
        Text::from_utf8(word).ok().map(Self)
    }
}

impl Default for Postmaster {
    fn default() -> Self {
        Self(Self::NAME.into())
    }
}

impl PartialEq for Postmaster {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Postmaster {}

impl Hash for Postmaster {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
