//! Header fields with values that others supply.

use std::{error::Error, fmt};

/// The longest line that a message should have, without its CRLF (RFC 5322 section 2.1.1). Longer lines are folded.
const FOLD_AT: usize = 78;

/// The longest line that a message may have, without its CRLF (RFC 5322 section 2.1.1).
const LINE_LIMIT: usize = 998;

/// The longest name that fits into a folded line with its colon.
const NAME_LIMIT: usize = FOLD_AT - 1;

/// A text that cannot be the name of a header field: 1 to 77 printable US-ASCII characters without a colon (RFC 5322 section
/// 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldNameError(());

impl fmt::Display for FieldNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a header field must be 1 to 77 printable US-ASCII characters without a colon")
    }
}

impl Error for FieldNameError {}

/// Returns a field with its CRLF at the end. Whatever the value contains, the result is this one field: line ends in it become
/// folding, other controls become `?`, and lines that are too long are folded.
pub(crate) fn field(name: &str, value: &[u8]) -> Result<Vec<u8>, FieldNameError> {
    let is_name = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(is_name) {
        return Err(FieldNameError(()));
    }
    let mut field = Vec::with_capacity(name.len() + value.len() + 4);
    field.extend_from_slice(name.as_bytes());
    field.push(b':');
    // The length of what is before the first line's value on its line.
    let mut before = field.len();
    for line in lines(value) {
        if !line.first().is_some_and(is_blank) {
            field.push(b' ');
            before += 1;
        }
        fold(line, before, &mut field);
        field.extend_from_slice(b"\r\n");
        before = 0;
    }
    if before > 0 {
        field.extend_from_slice(b"\r\n");
    }
    Ok(field)
}

/// Returns the lines of a value. Blank lines are dropped: some readers take one for the end of the header section.
fn lines(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = value.split(|byte| matches!(byte, b'\r' | b'\n'));
    lines
        .map(<[u8]>::trim_ascii_end)
        .filter(|line| !line.is_empty())
}

/// Appends a line, folded before white space where it is too long. `before` is the length of what is on its line already.
fn fold(line: &[u8], mut before: usize, field: &mut Vec<u8>) {
    let mut rest = line;
    while before + rest.len() > FOLD_AT {
        let (end, at_blank) = match break_at(rest, FOLD_AT.saturating_sub(before)) {
            Some(end) if before + end <= LINE_LIMIT => (end, true),
            // A word that does not fit into any line, or the rest of a line that may have more than 78 characters.
            _ if before + rest.len() > LINE_LIMIT => (cut_at(rest, LINE_LIMIT - before), false),
            _ => break,
        };
        let (first, second) = rest.split_at(end);
        extend_cleaned(first, field);
        field.extend_from_slice(b"\r\n");
        before = 0;
        if !at_blank {
            field.push(b' ');
            before = 1;
        }
        rest = second;
    }
    extend_cleaned(rest, field);
}

/// Returns where a line can be folded: before the last white space within `room` bytes, or else before the first one after. Each
/// of the two lines has a word.
fn break_at(line: &[u8], room: usize) -> Option<usize> {
    let word = line.iter().position(|byte| !is_blank(byte))?;
    let is_break = |at: usize| {
        let (before, after) = (line.get(at.wrapping_sub(1)), line.get(at));
        before.is_some_and(|byte| !is_blank(byte)) && after.is_some_and(is_blank)
    };
    let room = room.min(line.len());
    let last = (word + 1..=room).rev().find(|&at| is_break(at));
    last.or_else(|| (room.max(word) + 1..line.len()).find(|&at| is_break(at)))
}

/// Returns where a word is cut that is too long: not within a character.
fn cut_at(line: &[u8], limit: usize) -> usize {
    let is_start = |at: &usize| line.get(*at).is_none_or(|byte| byte & 0xc0 != 0x80);
    (limit - 3..=limit).rev().find(is_start).unwrap_or(limit)
}

fn extend_cleaned(text: &[u8], field: &mut Vec<u8>) {
    let clean = |&byte: &u8| match byte {
        b'\t' => byte,
        byte if byte.is_ascii_control() => b'?',
        byte => byte,
    };
    field.extend(text.iter().map(clean));
}

const fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str, value: &[u8]) -> String {
        String::from_utf8(field(name, value).unwrap()).unwrap()
    }

    #[test]
    fn a_value_never_becomes_another_field_or_the_body() {
        let table = [
            ("", "A:\r\n"),
            ("  ", "A:\r\n"),
            ("1", "A: 1\r\n"),
            (" 1", "A: 1\r\n"),
            ("\t1", "A:\t1\r\n"),
            ("1\r\nB: 2", "A: 1\r\n B: 2\r\n"),
            ("1\nB: 2\rC: 3", "A: 1\r\n B: 2\r\n C: 3\r\n"),
            ("1\r\n\r\nbody", "A: 1\r\n body\r\n"),
            ("1\r\n \t\r\n2", "A: 1\r\n 2\r\n"),
            ("1\0\x1b\x7f2", "A: 1???2\r\n"),
            ("1\r\n", "A: 1\r\n"),
            ("1\r\n\t2", "A: 1\r\n\t2\r\n"),
            ("\r\n 1", "A: 1\r\n"),
            ("grå", "A: grå\r\n"),
        ];
        for (value, expected) in table {
            assert_eq!(shown("A", value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let long = "A".repeat(78);
        for name in ["", "A B", "A:", "å", "A\r\nB", "A\0", &long] {
            assert!(field(name, b"1").is_err(), "{name:?}");
        }
        assert!(field(&long[1..], b"1").is_ok());
    }

    /// Without the folding, and with one space for each cut of a word.
    fn unfolded(field: &str) -> String {
        field.replace("\r\n", "")
    }

    #[test]
    fn long_values_are_folded_at_white_space_and_keep_their_text() {
        for word in [1, 7, 70, 77, 100, 900] {
            let value = vec!["x".repeat(word); 30].join(" ");
            let folded = shown("Subject", value.as_bytes());
            assert_eq!(unfolded(&folded), format!("Subject: {value}"));
            let longest = folded.lines().map(str::len).max().unwrap();
            assert!(longest <= 78.max(word + 9), "{word}: {longest}");
        }
        let spaces = shown("A", format!("1{}2", " ".repeat(200)).as_bytes());
        assert_eq!(spaces.trim_end().lines().count(), 2, "{spaces:?}");
        assert!(spaces.lines().all(|line| !line.trim().is_empty()));
    }

    #[test]
    fn a_word_that_fits_into_no_line_is_cut_between_characters() {
        for text in ["x", "å", "\u{1f4e7}"] {
            for lead in 0..8 {
                let value = format!("{}{}", "y".repeat(lead), text.repeat(3_000));
                let folded = shown("A", value.as_bytes());
                assert!(folded.lines().all(|line| line.len() <= 998), "{text}");
                assert_eq!(
                    folded.replace("\r\n ", ""),
                    format!("A: {value}\r\n").replace("\r\n", "") + "\r\n"
                );
            }
        }
    }

    #[test]
    fn whatever_the_bytes_the_result_is_one_field_of_short_lines() {
        let alphabet = [b' ', b'\t', b'\r', b'\n', b'x', b':', 0xc3];
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            let mut next = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) as usize
            };
            let len = next() % 300;
            let value: Vec<u8> = (0..len).map(|_| alphabet[next() % 7]).collect();
            let field = field("Name", &value).unwrap();
            let lines: Vec<_> = field
                .strip_suffix(b"\r\n")
                .unwrap()
                .split(|byte| *byte == b'\n')
                .collect();
            for (number, line) in lines.iter().enumerate() {
                let last = number + 1 == lines.len();
                let line = line.strip_suffix(b"\r").unwrap_or_else(|| {
                    assert!(last);
                    line
                });
                assert!(line.len() <= 998 && !line.contains(&b'\r'));
                assert!(number == 0 || is_blank(&line[0]), "{value:?}");
                assert!(!line.trim_ascii().is_empty(), "{value:?}");
            }
        }
    }
}
