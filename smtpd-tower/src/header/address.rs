//! Envelope addresses in a form that is safe in a header, whatever the client sent.

use smtpd_core::address::{ForwardPath, Mailbox};

/// Returns a recipient without brackets. Without `utf8`, each non-ASCII character becomes `?`.
pub(crate) fn of_recipient(path: &ForwardPath, utf8: bool) -> String {
    match path {
        ForwardPath::Postmaster(postmaster) => postmaster.as_str().to_owned(),
        ForwardPath::Mailbox(mailbox) => of_mailbox(mailbox, utf8),
    }
}

/// Returns a mailbox without brackets. Without `utf8`, each non-ASCII character becomes `?`.
pub(crate) fn of_mailbox(mailbox: &Mailbox, utf8: bool) -> String {
    let local = local_part(mailbox, utf8);
    let domain = filter(mailbox.domain().as_str(), |c| {
        c.is_ascii_alphanumeric() || ".-_:[]".contains(c) || is_utf8(c, utf8)
    });
    format!("{local}@{domain}")
}

/// Returns the local part, quoted again if it was quoted, so that nothing in it can end the quotes. Stray dots, which the server
/// may be configured to accept, must be quoted in a header (RFC 5322 section 3.4.1).
fn local_part(mailbox: &Mailbox, utf8: bool) -> String {
    let local = mailbox.local_part();
    let has_stray_dots = local.starts_with('.') || local.ends_with('.') || local.contains("..");
    if !mailbox.is_quoted() && !has_stray_dots {
        // RFC 5322 section 3.2.3, dot-atom.
        return filter(local, |c| {
            c.is_ascii_alphanumeric() || ".!#$%&'*+-/=?^_`{|}~".contains(c) || is_utf8(c, utf8)
        });
    }
    let text = filter(&mailbox.local_part_unquoted(), |c| {
        c == ' ' || c.is_ascii_graphic() || is_utf8(c, utf8)
    });
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}

fn filter(text: &str, is_allowed: impl Fn(char) -> bool) -> String {
    text.chars()
        .map(|c| if is_allowed(c) { c } else { '?' })
        .collect()
}

/// Returns whether a non-ASCII character is allowed in the header: only with SMTPUTF8, and only if it is visible. Line and
/// paragraph separators and the controls of writing direction would make the line show what it does not say, and two addresses
/// that differ only in other invisible characters would look the same. The joiners (U+200C and U+200D) are a part of how some
/// scripts are written.
fn is_utf8(c: char, utf8: bool) -> bool {
    let deceives = matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
    );
    utf8 && !c.is_ascii() && !c.is_control() && !deceives
}

#[cfg(test)]
mod tests {
    use smtpd_core::address::{Charset, Leniency, PathOptions};

    use super::*;

    #[test]
    fn a_recipient_cannot_leave_its_brackets() {
        let table = [
            ("user+tag@[IPv6:::1]", false, "user+tag@[IPv6:::1]"),
            (r#""a b"@example.org"#, false, r#""a b"@example.org"#),
            (
                r#""a\"b\\c>;("@example.org"#,
                false,
                r#""a\"b\\c>;("@example.org"#,
            ),
            (r#""\a\ "@example.org"#, false, r#""a "@example.org"#),
            ("grå@exämple.org", false, "gr?@ex?mple.org"),
            ("gr\u{2028}\u{202e}å@example.org", true, "gr??å@example.org"),
            ("\"å\u{2029}\"@example.org", true, "\"å?\"@example.org"),
            (
                "å\u{200b}\u{feff}b\u{ad}@example.org",
                true,
                "å??b?@example.org",
            ),
            (
                "\"å\u{e0001}\u{200e}\"@example.org",
                true,
                "\"å??\"@example.org",
            ),
            (
                "\u{915}\u{94d}\u{200d}\u{937}@example.org",
                true,
                "\u{915}\u{94d}\u{200d}\u{937}@example.org",
            ),
        ];
        for (address, utf8, shown) in table {
            let Ok(parsed) = address.parse() else {
                panic!("{address:?} is not an address");
            };
            assert_eq!(of_recipient(&parsed, utf8), shown);
        }
    }

    #[test]
    fn stray_dots_are_quoted() {
        let options = PathOptions::new(Leniency::COMMON, Charset::Utf8);
        for (sent, shown) in [
            ("<a..b@example.org>", r#""a..b"@example.org"#),
            ("<.a@example.org>", r#"".a"@example.org"#),
            ("<a.@example.org>", r#""a."@example.org"#),
            ("<a.b@example.org>", "a.b@example.org"),
        ] {
            let (parsed, _) = ForwardPath::parse(sent.as_bytes(), options).unwrap();
            assert_eq!(of_recipient(&parsed, false), shown);
        }
    }
}
