//! Transcripts: whole sessions, written line by line, for tests. Feature `test`.
//!
//! There is one syntax, which this page defines, and one parser, [`Transcript`]. A transcript is run by a player: the tests of
//! this crate play theirs on a [`Connection`](crate::Connection), `smtpd_tower::test::transcript` plays them on a server.
//!
//! ```
//! use smtpd_core::test::{Line, Transcript};
//!
//! let transcript: Transcript = r"
//!     ## The client may send several commands at once (RFC 2920).
//!     S: 220 mx.example.org *
//!     C: EHLO client.example
//!     S: 250-mx.example.org
//!     S: 250-...
//!     C| NOOP\r\nQU
//!     C| IT\r\n
//!     S: 250 2.0.0 OK
//!     S: 221 *
//!     S: [closed]
//! ".parse()?;
//!
//! let sent = transcript.lines().filter_map(|(_, line)| match line {
//!     Line::Client(bytes) => Some(bytes.as_slice()),
//!     _ => None,
//! });
//! assert_eq!(
//!     sent.collect::<Vec<_>>().concat(),
//!     b"EHLO client.example\r\nNOOP\r\nQUIT\r\n"
//! );
//! # Ok::<(), smtpd_core::test::SyntaxError>(())
//! ```
//!
//! | line | what it stands for |
//! |---|---|
//! | `C: text` | The client sends the text and CRLF. Lines of the client that follow each other are sent at once, as a group. |
//! | `C\| text` | The client sends exactly this text, with escapes. |
//! | `S: text` | The server sends the text and CRLF. With `*` at the end, the line only has to begin like that. |
//! | `S: 250-...` | The server sends the lines up to the end of a reply with that code, at least one: for example the rest of the reply to EHLO. |
//! | `S: [closed]` | The server closes the connection in order. |
//! | `S: [reset]` | The server resets the connection. |
//! | `S\| text` | The server sends exactly this text, with escapes. |
//! | `E: text` | An event that is reported to the program behind the server. |
//! | `! text` | An instruction to the player, for example about the configuration of the server. |
//! | `# text` | A comment. |
//!
//! Blank lines are skipped, and white space before a line does not count. One space after the mark is not part of the text.
//! Escapes are `\r`, `\n`, `\t`, `\\`, `\xHH` for the byte with that hexadecimal number, and `\*N` to repeat the byte before it
//! so that there are N of them, at most 1,000,000.
//!
//! A player says which events and instructions it knows, and fails if it meets another; a comment never has an effect.

use std::{error::Error, fmt, str::FromStr};

/// A parsed transcript; the [module](self) describes the syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    lines: Vec<(usize, Line)>,
}

/// A line of a [`Transcript`].
///
/// The set is exhaustive: a player that skipped a line that it does not know would not notice what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The client sends these bytes.
    Client(Vec<u8>),
    /// The server sends this.
    Server(Expected),
    /// This event is reported to the program behind the server.
    Event(String),
    /// An instruction to the player.
    Instruction(String),
}

/// What the server is expected to send.
///
/// `Display` shows it as in the transcript, without its mark. The set is exhaustive for the same reason as [`Line`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One line that ends with CRLF, or several.
    Line(LinePattern),
    /// These bytes.
    Bytes(Vec<u8>),
    /// An orderly end of the connection.
    Closed,
    /// A reset of the connection.
    Reset,
}

/// A pattern for the lines of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinePattern(String);

/// The result of [`LinePattern::compare`]. The set is exhaustive for the same reason as [`Line`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The line matches, and the pattern ends with it.
    Matches,
    /// The line matches, and the pattern continues with the next one.
    Continues,
    /// The line does not match.
    Differs,
}

impl Transcript {
    /// Returns the lines in order, each with its number in the text, from 1. Blank lines and comments are left out.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines.iter().map(|(number, line)| (*number, line))
    }
}

impl FromStr for Transcript {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        let mut lines = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let parsed = Line::parse(line).map_err(|expected| SyntaxError {
                line: at + 1,
                text: line.to_owned(),
                expected,
            })?;
            lines.extend(parsed.map(|parsed| (at + 1, parsed)));
        }
        Ok(Self { lines })
    }
}

impl Line {
    /// Parses a line. Returns `None` for a comment, or else what is expected instead.
    fn parse(line: &str) -> Result<Option<Self>, &'static str> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let text = |mark: &str| {
            let text = line.strip_prefix(mark)?;
            Some(text.strip_prefix(' ').unwrap_or(text))
        };
        Ok(Some(if let Some(text) = text("C:") {
            Self::Client([text.as_bytes(), b"\r\n"].concat())
        } else if let Some(text) = text("C|") {
            Self::Client(unescape(text)?)
        } else if let Some(text) = text("S:") {
            Self::Server(Expected::of(text))
        } else if let Some(text) = text("S|") {
            Self::Server(Expected::Bytes(unescape(text)?))
        } else if let Some(text) = text("E:") {
            Self::Event(text.to_owned())
        } else if let Some(text) = text("!") {
            Self::Instruction(text.to_owned())
        } else {
            return Err("a line that begins with C:, C|, S:, S|, E:, ! or #");
        }))
    }
}

impl Expected {
    const CLOSED: &str = "[closed]";
    const RESET: &str = "[reset]";

    fn of(text: &str) -> Self {
        match text {
            Self::CLOSED => Self::Closed,
            Self::RESET => Self::Reset,
            line => Self::Line(LinePattern(line.to_owned())),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(pattern) => f.write_str(&pattern.0),
            Self::Bytes(bytes) => bytes.escape_ascii().fmt(f),
            Self::Closed => f.write_str(Self::CLOSED),
            Self::Reset => f.write_str(Self::RESET),
        }
    }
}

impl LinePattern {
    /// The end of a pattern for the lines up to the end of a reply.
    const REST: &str = "-...";

    /// Compares the pattern with the next line, without its CRLF.
    pub fn compare(&self, line: &str) -> Comparison {
        let (code, rest) = line.split_at_checked(3).unwrap_or((line, ""));
        let is_like_it = match (self.0.strip_suffix(Self::REST), self.0.strip_suffix('*')) {
            (Some(expected), _) if expected == code && rest.starts_with('-') => {
                return Comparison::Continues;
            }
            (Some(expected), _) => expected == code && (rest.is_empty() || rest.starts_with(' ')),
            (None, Some(start)) => line.starts_with(start),
            (None, None) => line == self.0,
        };
        if is_like_it {
            Comparison::Matches
        } else {
            Comparison::Differs
        }
    }
}

/// The error for a text that is not a [`Transcript`].
///
/// ```
/// use smtpd_core::test::Transcript;
///
/// let error = "C: NOOP\nR: 250 *".parse::<Transcript>().unwrap_err();
/// assert_eq!(error.line(), 2);
/// let text = error.to_string();
/// assert!(text.starts_with("line 2 of the transcript, `R: 250 *`, is not a"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    line: usize,
    text: String,
    expected: &'static str,
}

impl SyntaxError {
    /// Returns the number of the line, from 1.
    pub const fn line(&self) -> usize {
        self.line
    }

    /// Returns the line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns what was expected instead.
    pub const fn expected(&self) -> &'static str {
        self.expected
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {} of the transcript, `{}`, is not {}",
            self.line,
            self.text.escape_debug(),
            self.expected
        )
    }
}

impl Error for SyntaxError {}

/// The most of one byte that `\*N` makes.
const MOST_REPEATED: usize = 1_000_000;

/// Decodes a text with escapes. Returns what is expected instead if one is malformed.
fn unescape(text: &str) -> Result<Vec<u8>, &'static str> {
    const ESCAPE: &str = "a text with the escapes \\r, \\n, \\t, \\\\, \\xHH and \\*N";
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let (kind, after) = escape.split_at_checked(1).ok_or(ESCAPE)?;
        rest = after;
        match kind {
            "r" => bytes.push(b'\r'),
            "n" => bytes.push(b'\n'),
            "t" => bytes.push(b'\t'),
            "\\" => bytes.push(b'\\'),
            "x" => {
                let (digits, after) = rest.split_at_checked(2).ok_or(ESCAPE)?;
                // `from_str_radix` would accept a sign.
                let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                let byte = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex);
                bytes.push(byte.ok_or(ESCAPE)?);
                rest = after;
            }
            "*" => {
                let end = rest.find(|c: char| !c.is_ascii_digit());
                let (digits, after) = rest.split_at(end.unwrap_or(rest.len()));
                let last = bytes.pop().ok_or(ESCAPE)?;
                let times = digits.parse().ok().filter(|times| *times <= MOST_REPEATED);
                bytes.extend(std::iter::repeat_n(last, times.ok_or(ESCAPE)?));
                rest = after;
            }
            _ => return Err(ESCAPE),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        let transcript: Transcript = text.parse().unwrap();
        let lines: Vec<_> = transcript.lines().map(|(_, line)| line.clone()).collect();
        <[Line; 1]>::try_from(lines).unwrap()[0].clone()
    }

    #[test]
    fn each_mark_has_its_line() {
        for (text, expected) in [
            ("C: NOOP", Line::Client(b"NOOP\r\n".into())),
            ("  C:", Line::Client(b"\r\n".into())),
            ("C:  two", Line::Client(b" two\r\n".into())),
            (r"C| a\r\\\x00\*3", Line::Client(b"a\r\\\0\0\0".into())),
            (r"C| x\*0", Line::Client(b"".into())),
            ("S| 334 ", Line::Server(Expected::Bytes(b"334 ".into()))),
            ("S: [closed]", Line::Server(Expected::Closed)),
            ("S: [reset]", Line::Server(Expected::Reset)),
            ("E: mail a@b {}", Line::Event("mail a@b {}".into())),
            ("! tls", Line::Instruction("tls".into())),
        ] {
            assert_eq!(line(text), expected, "{text}");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_not_taken_for_a_comment() {
        for (text, at) in [
            ("X: NOOP", 1),
            ("# a comment\n\nNOOP", 3),
            ("C; NOOP", 1),
            (r"C| \q", 1),
            ("C| \\", 1),
            (r"S| \x0", 1),
            (r"S| \xzz", 1),
            (r"S| \x+f", 1),
            (r"C| \*3", 1),
            (r"C| a\*", 1),
            (r"C| a\*1000001", 1),
            ("C| \\é", 1),
        ] {
            let error = text.parse::<Transcript>().unwrap_err();
            assert_eq!(error.line(), at, "{error}");
        }
    }

    #[test]
    fn patterns_are_compared_with_lines() {
        use Comparison::{Continues, Differs, Matches};
        for (pattern, line, expected) in [
            ("250 OK", "250 OK", Matches),
            ("250 OK", "250 OK.", Differs),
            ("250 *", "250 OK", Matches),
            ("250 *", "250-OK", Differs),
            ("250-...", "250-mx.test", Continues),
            ("250-...", "250 mx.test", Matches),
            ("250-...", "250", Matches),
            ("250-...", "2500", Differs),
            ("250-...", "251 mx.test", Differs),
            ("250-...", "", Differs),
        ] {
            let compared = LinePattern(pattern.to_owned()).compare(line);
            assert_eq!(compared, expected, "{pattern} {line}");
        }
    }
}
