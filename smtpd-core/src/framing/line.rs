use bytes::{Buf, BytesMut};
use zeroize::Zeroize;

/// Splits the input into command lines. Only CRLF ends a line (RFC 5321 section 2.3.8); a bare LF or CR is an ordinary byte of
/// it.
#[derive(Debug, Default)]
pub(crate) struct LineReader {
    /// The length of the prefix of the buffer that is known to contain no CRLF, so that a slow client costs linear time. A
    /// `usize` would make every session larger, for lines of more than 4 GiB.
    scanned: u32,
    /// Whether the reader is within a line that has exceeded the limit.
    skipping: bool,
    /// Whether that line is an AUTH command.
    is_auth: bool,
    /// Whether a line has ended.
    begun: bool,
}

/// The result of [`LineReader::poll`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The buffer begins with a line of this many bytes before its CRLF.
    Complete(usize),
    /// A line longer than the limit was skipped; nothing of it is left in the buffer.
    TooLong {
        /// Whether it was an AUTH command, which means that its initial response was too long.
        is_auth: bool,
    },
}

impl LineReader {
    /// Returns the next line, or `None` if more input is needed. `limit` includes the CRLF (RFC 5321 section 4.5.3.1.4).
    pub(crate) fn poll(&mut self, input: &mut BytesMut, limit: usize) -> Option<Line> {
        let Some(end) = self.find_crlf(input) else {
            if self.skipping || input.len() > limit {
                self.skip(input);
            }
            return None;
        };
        self.scanned = 0;
        self.begun = true;
        let skipped = std::mem::take(&mut self.skipping);
        if skipped || end + 2 > limit {
            let is_auth = if skipped {
                self.is_auth
            } else {
                is_auth(input)
            };
            wipe_front(input, end + 2);
            return Some(Line::TooLong { is_auth });
        }
        Some(Line::Complete(end))
    }

    /// Returns whether a line had begun but not ended when more input was requested.
    pub(crate) fn is_within(&self) -> bool {
        self.skipping || self.scanned > 0
    }

    /// Returns whether nothing has been read yet: the next bytes are the first of a session.
    pub(crate) fn is_new(&self) -> bool {
        !self.begun && !self.is_within()
    }

    fn find_crlf(&mut self, input: &BytesMut) -> Option<usize> {
        let mut from = (self.scanned as usize).min(input.len());
        while let Some(found) = memchr::memchr(b'\n', &input[from..]) {
            let lf = from + found;
            if lf > 0 && input[lf - 1] == b'\r' {
                return Some(lf - 1);
            }
            from = lf + 1;
        }
        self.scanned = u32::try_from(input.len()).unwrap_or(u32::MAX);
        None
    }

    /// Drops everything that cannot be part of the line's end, so that an endless line costs no memory.
    fn skip(&mut self, input: &mut BytesMut) {
        if !self.skipping {
            self.is_auth = is_auth(input);
        }
        let keep = usize::from(input.last() == Some(&b'\r'));
        wipe_front(input, input.len() - keep);
        self.scanned = 0;
        self.skipping = true;
    }
}

/// Returns whether a line is an AUTH command with an argument. For most lines, the first byte is enough to tell.
#[inline]
pub(crate) fn is_auth(line: &[u8]) -> bool {
    matches!(line, [b'A' | b'a', ..])
        && line
            .get(..5)
            .is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "))
}

/// Drops and overwrites what may be part of a password or a token, so that it does not stay in the buffer.
pub(crate) fn wipe_front(input: &mut BytesMut, len: usize) {
    input[..len].zeroize();
    input.advance(len);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], step: usize, limit: usize) -> (Vec<Option<Vec<u8>>>, usize) {
        let (mut reader, mut buffer, mut got, mut most) =
            (LineReader::default(), BytesMut::new(), Vec::new(), 0);
        for part in input.chunks(step) {
            buffer.extend_from_slice(part);
            while let Some(line) = reader.poll(&mut buffer, limit) {
                got.push(match line {
                    Line::TooLong { .. } => None,
                    Line::Complete(len) => {
                        let text = buffer[..len].to_vec();
                        buffer.advance(len + 2);
                        Some(text)
                    }
                });
            }
            most = most.max(buffer.len());
        }
        (got, most)
    }

    #[test]
    fn only_crlf_ends_a_line_however_it_is_split() {
        let cases: [(&[u8], &[&[u8]]); 5] = [
            (b"NOOP\r\nQUIT\r\n", &[b"NOOP", b"QUIT"]),
            (b"a\nb\r\n", &[b"a\nb"]),
            (b"a\rb\r\n", &[b"a\rb"]),
            (b"a\r\r\n\n\r\n", &[b"a\r", b"\n"]),
            (b"\r\n", &[b""]),
        ];
        for (input, expected) in cases {
            for step in 1..=input.len() {
                let (got, _) = lines(input, step, 512);
                let expected: Vec<_> = expected.iter().map(|line| Some(line.to_vec())).collect();
                assert_eq!(got, expected, "{input:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_accepted_and_one_more_byte_is_not() {
        for step in [1, 3, 64] {
            assert!(lines(&[&[b'x'; 14][..], b"\r\n"].concat(), step, 16).0[0].is_some());
            let (got, _) = lines(&[&[b'x'; 15][..], b"\r\nNOOP\r\n"].concat(), step, 16);
            assert_eq!(got, [None, Some(b"NOOP".to_vec())]);
        }
    }

    #[test]
    fn an_endless_line_fills_no_memory() {
        let (mut reader, mut buffer) = (LineReader::default(), BytesMut::with_capacity(1 << 16));
        for _ in 0..(1 << 30) / (1 << 16) {
            buffer.resize(buffer.len() + (1 << 16) - 1, b'x');
            assert_eq!(reader.poll(&mut buffer, 2048), None);
            assert!(buffer.len() <= 1);
        }
        assert!(buffer.capacity() <= 1 << 17);
        buffer.extend_from_slice(b"\r\nNOOP\r\n");
        assert_eq!(
            reader.poll(&mut buffer, 2048),
            Some(Line::TooLong { is_auth: false })
        );
        assert_eq!(reader.poll(&mut buffer, 2048), Some(Line::Complete(4)));
    }

    #[test]
    fn a_crlf_split_after_the_limit_still_ends_the_line() {
        for step in 1..40 {
            let (got, most) = lines(&[&[b'x'; 40][..], b"\r\nRSET\r\n"].concat(), step, 16);
            assert_eq!(got, [None, Some(b"RSET".to_vec())], "steps of {step}");
            assert!(most <= 16 + step);
        }
    }
}
