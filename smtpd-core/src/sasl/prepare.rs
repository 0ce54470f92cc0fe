//! SASLprep (RFC 4013), the profile of stringprep (RFC 3454) for user names and passwords.

use std::borrow::Cow;

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// Prepares a user name with SASLprep (RFC 4013), so that names that look the same are the same: compatibility forms and
/// different encodings of accents become one form, and invisible characters are dropped. Returns `None` if the result is empty or
/// contains a forbidden character.
///
/// [`Credentials`](super::Credentials) contain prepared names, whatever the mechanism. Also prepare the names among which you
/// look them up. The name is prepared as a query, so it may contain characters that Unicode 3.2 does not have (RFC 3454 section
/// 7).
///
/// Passwords are prepared in the same way before they are hashed, so it does not matter how a client encodes accents.
///
/// ```
/// use smtpd_core::sasl::prepare_name;
///
/// assert_eq!(prepare_name("mu\u{308}ller").as_deref(), Some("müller"));
/// assert_eq!(prepare_name("al\u{202e}ice"), None);
/// ```
pub fn prepare_name(name: &str) -> Option<Cow<'_, str>> {
    prepare(name, true)
}

/// Prepares a password as a stored string, which must not contain unassigned characters (RFC 5802 section 2.2). Returns `None` if
/// it is invalid.
pub(super) fn password(password: &str) -> Option<Zeroizing<String>> {
    prepare(password, false).map(|prepared| Zeroizing::new(prepared.into_owned()))
}

fn prepare(text: &str, allows_unassigned: bool) -> Option<Cow<'_, str>> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Some(Cow::Borrowed(text)).filter(|text| !text.is_empty());
    }
    // RFC 4013 sections 2.1 and 2.2. Allocated once: a string that grows would leave copies of the password behind.
    let mut prepared = Zeroizing::new(String::with_capacity(MAX_GROWTH * text.len()));
    prepared.extend(
        text.chars()
            .map(|c| match tables::non_ascii_space_character(c) {
                true => ' ',
                false => c,
            })
            .filter(|&c| !tables::commonly_mapped_to_nothing(c))
            .nfkc(),
    );
    let forbidden = |c| is_prohibited(c) || !allows_unassigned && tables::unassigned_code_point(c);
    let is_good = !prepared.is_empty() && !prepared.contains(forbidden) && is_one_way(&prepared);
    is_good.then(|| Cow::Owned(std::mem::take(&mut *prepared)))
}

/// Normalization multiplies the length of UTF-8 text by at most this factor (UAX 15 section 12.1 has the worst case: U+FDFA).
const MAX_GROWTH: usize = 11;

/// RFC 4013 section 2.3.
fn is_prohibited(c: char) -> bool {
    tables::non_ascii_space_character(c)
        || tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::surrogate_code(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
}

/// RFC 3454 section 6: right-to-left text begins and ends with a right-to-left character, and contains no left-to-right ones.
fn is_one_way(text: &str) -> bool {
    let is_rtl = tables::bidi_r_or_al;
    !text.contains(is_rtl)
        || !text.contains(tables::bidi_l) && text.starts_with(is_rtl) && text.ends_with(is_rtl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Option<String> {
        super::password(text).map(|prepared| prepared.to_string())
    }

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
            ("a\u{a0}b", Some("a b")),
            ("mu\u{308}ller", Some("m\u{fc}ller")),
            ("\u{fb01}x", Some("fix")),
            ("\u{ff41}lice", Some("alice")),
            ("\u{627}1\u{628}", Some("\u{627}1\u{628}")),
            ("\u{627}a\u{628}", None),
        ] {
            assert_eq!(prepare_name(text).as_deref(), want, "{text:?}");
            assert_eq!(password(text).as_deref(), want, "{text:?}");
        }
        assert_eq!(prepare_name("\u{1f600}").as_deref(), Some("\u{1f600}"));
        assert_eq!(password("\u{1f600}"), None);
    }

    /// RFC 3454 section 7: a query may contain unassigned characters, and nothing else that is forbidden.
    #[test]
    fn an_unassigned_character_lets_nothing_else_pass() {
        for (name, want) in [
            ("al\u{202e}ice\u{221}", None),
            ("\u{e000}\u{221}", None),
            ("\u{7}\u{221}", None),
            ("a\u{627}\u{221}", None),
            ("I\u{ad}X\u{221}", Some("IX\u{221}")),
            ("mu\u{308}ller\u{1f600}", Some("m\u{fc}ller\u{1f600}")),
            ("\u{ff41}\u{221}", Some("a\u{221}")),
        ] {
            assert_eq!(prepare_name(name).as_deref(), want, "{name:?}");
        }
    }

    #[test]
    fn no_password_outgrows_its_buffer() {
        let most = ('\u{80}'..=char::MAX)
            .map(|c| (c.nfkd().map(char::len_utf8).sum::<usize>(), c.len_utf8()))
            .map(|(prepared, text)| prepared.div_ceil(text))
            .max();
        assert!(most.unwrap() <= MAX_GROWTH, "{most:?}");
    }

    #[test]
    fn it_agrees_with_the_crate_and_with_itself() {
        for c in ('\0'..='\u{2fff}').chain('\u{f900}'..='\u{ffff}') {
            for text in [
                format!("{c}"),
                format!("a{c}b"),
                format!("\u{627}{c}\u{628}"),
            ] {
                let want = stringprep::saslprep(&text)
                    .ok()
                    .filter(|text| !text.is_empty());
                assert_eq!(password(&text).as_deref(), want.as_deref(), "{text:?}");
                if let Some(name) = prepare_name(&text) {
                    assert_eq!(prepare_name(&name), Some(Cow::Borrowed(&*name)));
                }
            }
        }
    }
}
