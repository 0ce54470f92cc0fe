//! Text of strangers in a form in which it can neither end a line or word of a header nor open a comment.

/// The longest name that is kept, in characters: the limit of a domain (RFC 5321 section 4.5.3.1.2).
const NAME_LIMIT: usize = 255;

/// A host name: what no host name holds becomes `?`.
pub(super) fn host_name(text: &str) -> String {
    replace(text, is_host_name)
}

/// A host name or an address literal, as clients and servers call themselves.
pub(super) fn domain_or_literal(text: &str) -> String {
    replace(text, |c| is_host_name(c) || matches!(c, '[' | ']' | ':'))
}

/// The text of a comment: no parentheses, no backslash (RFC 5322 section 3.2.2).
pub(super) fn comment(text: &str) -> String {
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
        assert_eq!(domain_or_literal(hostile), "a_b-1.c????[d:e]?f????g?h????");
        assert_eq!(comment(hostile), "a_b-1.c??? [d:e]?f??\"<g@h>;??");
    }

    #[test]
    fn a_long_name_cannot_make_a_long_line() {
        assert_eq!(host_name(&"a".repeat(5_000)).len(), 255);
    }
}
