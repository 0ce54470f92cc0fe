//! What others wrote, in a form that can be shown.

/// The most characters of it that a reply has.
const IN_REPLY: usize = 200;

/// The most bytes of it that a log has.
const IN_LOG: usize = 1000;

/// Returns the first line that is not blank as the text of a reply. What is not printable ASCII becomes `?`.
pub(super) fn in_reply(bytes: &[u8]) -> Option<String> {
    let mut lines = bytes.split(|byte| matches!(byte, b'\r' | b'\n'));
    let line = lines.find(|line| !line.trim_ascii().is_empty())?;
    let text = String::from_utf8_lossy(line.trim_ascii());
    let shown = |c: char| match c {
        ' '..='~' => c,
        _ => '?',
    };
    Some(text.chars().take(IN_REPLY).map(shown).collect())
}

/// Returns the beginning, escaped.
pub(super) fn in_log(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii_end();
    bytes[..bytes.len().min(IN_LOG)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_has_one_line_and_a_limit() {
        let hostile = b"\r\n  \n 250 ok\x1b[2J\x00 \xff\xc3\xa9 \r\n550 second\r\n";
        assert_eq!(in_reply(hostile).unwrap(), "250 ok?[2J? ??");
        assert_eq!(in_reply(b"  \r\n\n"), None);
        assert_eq!(in_reply(&[b'x'; 4000]).unwrap().len(), IN_REPLY);
        assert_eq!(in_log(b"a\x1b\n\n"), "a\\x1b");
        assert_eq!(in_log(&[0; 4000]).len(), 4 * IN_LOG);
    }
}
