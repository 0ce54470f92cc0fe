//! SASLprep (RFC 4013), as RFC 5802 wants it.

use std::borrow::Cow;

use stringprep::{saslprep, tables};

/// A name, which is a query: what Unicode 3.2 does not know is let pass, as it is (RFC 5802 section 5.1). `None` if it
/// must be refused.
pub(super) fn name(name: &str) -> Option<Cow<'_, str>> {
    if name.contains(tables::unassigned_code_point) {
        return Some(Cow::Borrowed(name));
    }
    saslprep(name).ok().filter(|name| !name.is_empty())
}

/// A password, which is a stored string, so that it may hold nothing unassigned (RFC 5802 section 2.2). `None` if it
/// cannot be one.
pub(super) fn password(password: &str) -> Option<Cow<'_, str>> {
    saslprep(password)
        .ok()
        .filter(|password| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_4013() {
        for (text, want) in [
            ("I\u{ad}X", Some("IX")),
            ("user", Some("user")),
            ("USER", Some("USER")),
            ("\u{aa}", Some("a")),
            ("\u{2168}", Some("IX")),
            ("\u{7}", None),
            ("\u{627}1", None),
            ("\u{ad}", None),
            ("", None),
        ] {
            assert_eq!(name(text).as_deref(), want, "{text:?}");
            assert_eq!(password(text).as_deref(), want, "{text:?}");
        }
        assert_eq!(name("\u{1f600}").as_deref(), Some("\u{1f600}"));
        assert_eq!(password("\u{1f600}"), None);
    }
}
