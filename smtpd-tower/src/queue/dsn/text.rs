//! Text of others in a form in which it can end nothing.

use std::fmt::Write;

use crate::header;

/// The longest text of a reply that is repeated, in characters.
const LONGEST: usize = 2000;
/// The longest line that is written where lines can be broken.
const LINE: usize = 76;

/// Returns visible characters and single spaces only; in ASCII, unless UTF-8 is allowed.
pub(super) fn clean(text: &str, utf8: bool) -> String {
    let clean = |c: char| match c {
        ' '..='~' => c,
        c if c.is_control() || c.is_whitespace() => ' ',
        c if utf8 && !is_invisible(c) => c,
        _ => '?',
    };
    text.chars().take(LONGEST).map(clean).collect()
}

/// Controls of the writing direction and other characters that would make a text show what it does not say.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Returns an address of type `utf-8` in ASCII (RFC 6533 section 3).
pub(super) fn unitext(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '+' | '=' => {
                let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
            }
            '!'..='~' => out.push(c),
            c => {
                let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
            }
        }
    }
    out
}

/// Appends a header field.
pub(super) fn field(name: &str, value: &str, out: &mut Vec<u8>) {
    // The names are those of this module.
    out.extend_from_slice(&header::field(name, value.as_bytes()).unwrap_or_default());
}

/// Appends a paragraph in lines, each after some spaces.
pub(super) fn paragraph(text: &str, indent: usize, out: &mut Vec<u8>) {
    let mut length = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut rest = word;
        while !rest.is_empty() {
            let most = rest.char_indices().nth(LINE - indent - 1);
            let (now, later) = rest.split_at(most.map_or(rest.len(), |(at, _)| at));
            let width = now.chars().count();
            if length > 0 && length + 1 + width > LINE {
                out.extend_from_slice(b"\r\n");
                length = 0;
            }
            match length {
                0 => out.extend(std::iter::repeat_n(b' ', indent)),
                _ => out.push(b' '),
            }
            length += width + if length == 0 { indent } else { 1 };
            out.extend_from_slice(now.as_bytes());
            rest = later;
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_can_end_no_line_and_turn_none_around() {
        let hostile = "a\r\n.\r\nb\0\u{85}c\u{202e}d\u{200b}é";
        assert_eq!(clean(hostile, false), "a  .  b  c?d??");
        assert_eq!(clean(hostile, true), "a  .  b  c?d?é");
        assert_eq!(clean(&"x".repeat(9999), true).len(), LONGEST);
        assert_eq!(
            unitext("gr\u{e5}+\\ @x"),
            "gr\\x{E5}\\x{2B}\\x{5C}\\x{20}@x"
        );
    }

    #[test]
    fn a_long_word_makes_no_long_line() {
        let mut out = Vec::new();
        let text = format!(
            "{} {} é{}",
            "a ".repeat(60),
            "b".repeat(200),
            "é".repeat(100)
        );
        paragraph(&text, 4, &mut out);
        let out = String::from_utf8(out).unwrap();
        assert!(out.ends_with("\r\n"));
        for line in out.lines() {
            assert!(
                line.chars().count() <= LINE && line.starts_with("    "),
                "{line}"
            );
        }
        let count = |c| out.chars().filter(|one| *one == c).count();
        assert_eq!((count('a'), count('b'), count('é')), (60, 200, 101));
    }
}
