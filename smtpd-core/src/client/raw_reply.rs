//! Replies as they arrive (RFC 5321 section 4.2).

use std::{borrow::Cow, fmt::Write};

use bytes::{Buf, BytesMut};

use super::{fault::ProtocolFault, timeouts::ClientLimits};
use crate::reply::{Code, Reply, ReplyError, Status};

/// Takes replies from the front of the input, whatever way it was split. Nothing that a server sends makes it keep more than the
/// limits say.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    /// The length of the prefix of the input that is known to contain no LF.
    scanned: usize,
    /// The lines so far of a reply that is not complete.
    begun: Option<RawReply>,
    lines: u32,
}

/// A reply whose text is what the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawReply {
    code: Code,
    /// What follows the code and the separator in each line, with LF between them.
    text: Vec<u8>,
}

impl ReplyReader {
    /// Returns the next reply, or `None` if more input is needed.
    pub(super) fn poll(
        &mut self,
        input: &mut BytesMut,
        limits: &ClientLimits,
    ) -> Result<Option<RawReply>, ProtocolFault> {
        while let Some(len) = self.find_line(input, limits)? {
            let is_last = self.add_line(&input[..len], limits)?;
            input.advance(len + 2);
            if is_last {
                self.lines = 0;
                return Ok(self.begun.take());
            }
        }
        Ok(None)
    }

    /// Returns the length of the first line, without its CRLF.
    fn find_line(
        &mut self,
        input: &BytesMut,
        limits: &ClientLimits,
    ) -> Result<Option<usize>, ProtocolFault> {
        let from = self.scanned.min(input.len());
        let found = memchr::memchr(b'\n', &input[from..]).map(|at| from + at);
        let len = found.map_or(input.len(), |lf| lf.saturating_sub(1));
        // A CR that may end the line is not counted.
        let text = len - usize::from(found.is_none() && input.last() == Some(&b'\r'));
        if text > limits.line {
            return Err(ProtocolFault::LineTooLong);
        }
        let Some(lf) = found else {
            self.scanned = input.len();
            return Ok(None);
        };
        self.scanned = 0;
        // RFC 5321 section 2.3.8: only CRLF ends a line. Whoever reads a reply otherwise sees another number of replies.
        match lf.checked_sub(1).map(|cr| input[cr]) {
            Some(b'\r') => Ok(Some(len)),
            _ => Err(ReplyError::Control.into()),
        }
    }

    /// Returns whether it is the last line.
    fn add_line(&mut self, line: &[u8], limits: &ClientLimits) -> Result<bool, ProtocolFault> {
        let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::Code)?;
        let code = std::str::from_utf8(digits).ok();
        let code = code.and_then(|digits| digits.parse::<Code>().ok());
        let code = code.ok_or(ReplyError::Code)?;
        let (is_last, text) = match rest {
            [] => (true, rest),
            [b' ', text @ ..] => (true, text),
            [b'-', text @ ..] => (false, text),
            _ => return Err(ReplyError::Code.into()),
        };
        self.lines += 1;
        if self.lines > limits.lines {
            return Err(ProtocolFault::TooManyLines);
        }
        let begun = self.begun.get_or_insert_with(|| RawReply {
            code,
            text: Vec::new(),
        });
        if begun.code != code {
            return Err(ReplyError::OtherCode.into());
        }
        if begun.text.len() + text.len() >= limits.bytes {
            return Err(ProtocolFault::ReplyTooLong);
        }
        if self.lines > 1 {
            begun.text.push(b'\n');
        }
        begun.text.extend_from_slice(text);
        Ok(is_last)
    }
}

impl RawReply {
    pub(super) const fn code(&self) -> Code {
        self.code
    }

    /// Returns the text of each line.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|&byte| byte == b'\n')
    }

    /// Returns the reply in a form that is safe to log and to send on: bytes that are not UTF-8 are escaped as `\xNN`, and control
    /// characters become spaces. An enhanced status code that is missing, or wrong, counts as X.0.0.
    pub(super) fn to_reply(&self) -> Reply {
        let lines: Vec<_> = self.lines().map(shown).collect();
        let status = lines.first().and_then(|line| self.status(line));
        let texts = lines.iter().map(|line| match self.status(line) {
            found if found.is_some() && found == status => {
                let (_, text) = line.split_once(' ').unwrap_or_default();
                text.to_owned()
            }
            _ => line.clone().into_owned(),
        });
        Reply::multiline(self.code, status.unwrap_or_default(), texts)
    }

    /// Returns the enhanced status code that a line begins with, if its class fits (RFC 2034 section 4).
    fn status(&self, line: &str) -> Option<Status> {
        let word = line.split(' ').next().unwrap_or_default();
        let (class, status) = word.split_once('.')?;
        let fits = !self.code.is_intermediate() && class.as_bytes() == [self.code.digits()[0]];
        status.parse().ok().filter(|_| fits)
    }
}

fn shown(line: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(line) {
        return text.into();
    }
    let mut shown = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        shown.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02X}"); // never fails for a String
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = Result<Vec<String>, ProtocolFault>;

    fn read(input: &[u8], step: usize, limits: &ClientLimits) -> Read {
        let (mut reader, mut buffer, mut got) =
            (ReplyReader::default(), BytesMut::new(), Vec::new());
        for part in input.chunks(step) {
            buffer.extend_from_slice(part);
            while let Some(reply) = reader.poll(&mut buffer, limits)? {
                got.push(format!("{:#}", reply.to_reply()));
            }
            assert!(buffer.len() <= limits.line + 2 + step);
        }
        Ok(got)
    }

    #[test]
    fn replies_are_the_same_however_they_are_split() {
        let cases: [(&[u8], &[&str]); 9] = [
            (b"250 2.1.0 Ok\r\n", &["250 2.1.0 Ok"]),
            (b"250 Ok\r\n550\r\n", &["250 2.0.0 Ok", "550 5.0.0"]),
            (
                b"250-2.1.5 a\r\n250 2.1.5 b\r\n",
                &["250-2.1.5 a\r\n250 2.1.5 b"],
            ),
            (
                b"250-one\r\n250-\r\n250\r\n",
                &["250-2.0.0 one\r\n250-2.0.0\r\n250 2.0.0"],
            ),
            (
                b"550 4.1.1 wrong class\r\n",
                &["550 5.0.0 4.1.1 wrong class"],
            ),
            (b"550 5.1.1\r\n", &["550 5.1.1"]),
            (
                b"550 5.7.1 caf\xe9 \xc3\xa9 \x07!\r\n",
                &["550 5.7.1 caf\\xE9 \u{e9}  !"],
            ),
            (b"354 2.1.1 Go\r\n", &["354 2.1.1 Go"]),
            (b"250 a\r250 b\0\r\n", &["250 2.0.0 a 250 b "]),
        ];
        for (input, expected) in cases {
            for step in 1..=input.len() {
                let got = read(input, step, &ClientLimits::default());
                let expected = expected.iter().map(|&text| text.to_owned()).collect();
                assert_eq!(got, Ok(expected), "{} by {step}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn garbage_is_no_reply() {
        use ReplyError::{Code, Control, OtherCode};
        let cases: [(&[u8], ReplyError); 11] = [
            (b"\r\n", Code),
            (b"OK\r\n", Code),
            (b"HTTP/1.1 400 Bad Request\r\n", Code),
            (b"199 a\r\n", Code),
            (b"600 a\r\n", Code),
            (b"2500 a\r\n", Code),
            (b"\xff\xfe\0\r\n", Code),
            (b"250-a\r\n550 b\r\n", OtherCode),
            (b"250 a\n", Control),
            (b"250-a\n250 b\r\n", Control),
            (b"\n", Control),
        ];
        for (input, error) in cases {
            for step in 1..=input.len() {
                let got = read(input, step, &ClientLimits::default());
                assert_eq!(got, Err(error.into()), "{} by {step}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn an_endless_reply_ends() {
        let limits = ClientLimits {
            line: 20,
            lines: 4,
            bytes: 60,
            ..ClientLimits::default()
        };
        for step in [1, 7, 1 << 20] {
            let line = [b'2'; 1 << 10];
            assert_eq!(read(&line, step, &limits), Err(ProtocolFault::LineTooLong));
            let lines = b"250-\r\n".repeat(1000);
            assert_eq!(
                read(&lines, step, &limits),
                Err(ProtocolFault::TooManyLines)
            );
            let bytes = b"250-0123456789abcdef\r\n".repeat(1000);
            assert_eq!(
                read(&bytes, step, &limits),
                Err(ProtocolFault::ReplyTooLong)
            );
            let most = b"250 0123456789abcdef\r\n";
            assert_eq!(read(most, step, &limits).unwrap().len(), 1);
        }
    }
}
