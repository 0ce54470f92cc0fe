//! Untrusted text in a form that can neither end a line or word of a header nor open a comment.

use smtpd_core::address::Domain;

/// The longest name that is kept, in characters: the limit of a domain (RFC 5321 section 4.5.3.1.2).
const NAME_LIMIT: usize = 255;

/// Returns a host name: characters that are not allowed in one become `?`.
pub(crate) fn host_name(text: &str) -> String {
    replace(text, is_host_name)
}

/// Returns a host name or an address literal, as clients and servers identify themselves. Brackets and colons are kept only if
/// the whole text is a literal.
pub(crate) fn domain_or_literal(text: &str) -> String {
    match is_literal(text) {
        true => text.to_owned(),
        false => host_name(text),
    }
}

/// Returns whether the text is an address literal (RFC 5321 section 4.1.3).
pub(crate) fn is_literal(text: &str) -> bool {
    text.starts_with('[') && text.parse().is_ok_and(|domain: Domain| domain.is_literal())
}

/// Returns the text of a comment: no parentheses, no backslash (RFC 5322 section 3.2.2).
pub(crate) fn comment(text: &str) -> String {
    replace(text, |c| {
        (c == ' ' || c.is_ascii_graphic()) && !matches!(c, '(' | ')' | '\\')
    })
}

fn is_host_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn replace(text: &str, is_allowed: impl Fn(char) -> bool) -> String {
    text.chars()
        .take(NAME_LIMIT)
        .map(|c| if is_allowed(c) { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_break_a_header_is_replaced() {
        let hostile = "a_b-1.c\r\n\t [d:e](f)\\\"<g@h>;\0é";
        assert_eq!(host_name(hostile), "a_b-1.c?????d?e??f????g?h????");
        assert_eq!(domain_or_literal(hostile), host_name(hostile));
        assert_eq!(comment(hostile), "a_b-1.c??? [d:e]?f??\"<g@h>;??");
    }

    #[test]
    fn brackets_stay_only_around_an_address() {
        for literal in ["[192.0.2.1]", "[IPv6:2001:db8::1]"] {
            assert_eq!(domain_or_literal(literal), literal);
        }
        for (name, cleaned) in [
            ("[192.0.2.1", "?192.0.2.1"),
            ("192.0.2.1]", "192.0.2.1?"),
            ("[192.0.2.256]", "?192.0.2.256?"),
            ("[[192.0.2.1]]", "??192.0.2.1??"),
            ("[192.0.2.1].example", "?192.0.2.1?.example"),
            ("[]", "??"),
            ("[tag:text]", "?tag?text?"),
            ("IPv6:2001:db8::1", "IPv6?2001?db8??1"),
            ("]:[", "???"),
        ] {
            assert_eq!(domain_or_literal(name), cleaned);
        }
    }

    #[test]
    fn a_long_name_cannot_make_a_long_line() {
        assert_eq!(host_name(&"a".repeat(5_000)).len(), 255);
    }
}
