use bytes::{Buf, Bytes, BytesMut};

use super::{Flaws, scan};

/// Removes the stuffed dots from a message sent with DATA (RFC 5321 section 4.5.2).
///
/// Only CRLF.CRLF ends the message (RFC 5321 section 4.1.1.4), or .CRLF as its very first line. Nothing is copied: a piece is a
/// slice of the input, from one stuffed dot to the next.
#[derive(Debug)]
pub(crate) struct DotReader {
    at_line_start: bool,
}

/// The result of [`DotReader::poll`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes of the message, and the flaws within them; a CR or LF at either end is not judged.
    Text { bytes: Bytes, flaws: Flaws },
    /// The line that consists of a single dot.
    End,
}

impl DotReader {
    pub(crate) fn new() -> Self {
        Self {
            at_line_start: true,
        }
    }

    /// Returns the next piece, or `None` if more input is needed; up to two bytes then stay in `input`.
    pub(crate) fn poll(&mut self, input: &mut BytesMut) -> Option<Piece> {
        if self.at_line_start {
            match input.as_ref() {
                [] | b"." | b".\r" => return None,
                [b'.', b'\r', b'\n', ..] => {
                    input.advance(3);
                    return Some(Piece::End);
                }
                [b'.', ..] => input.advance(1),
                _ => {}
            }
            self.at_line_start = false;
        }
        let text = scan::text_before_dot(input);
        let (len, at_line_start) = match input.as_ref() {
            _ if text.dot => (text.len, true),
            [.., b'\r', b'\n'] => (text.len, true),
            [] | [b'\r'] => return None,
            // Holds back a final CR: only the next byte shows whether it ends a line.
            [.., b'\r'] => (text.len - 1, false),
            _ => (text.len, false),
        };
        self.at_line_start = at_line_start;
        Some(Piece::Text {
            bytes: input.split_to(len).freeze(),
            flaws: text.flaws,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the decoded message, and what follows its end.
    pub(super) fn decode(input: &[u8], step: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        let (mut reader, mut buffer, mut text) = (DotReader::new(), BytesMut::new(), Vec::new());
        let mut parts = input.chunks(step);
        loop {
            match reader.poll(&mut buffer) {
                Some(Piece::Text { bytes, .. }) => text.extend_from_slice(&bytes),
                Some(Piece::End) => {
                    let rest = parts.flatten().copied();
                    return (text, Some(buffer.into_iter().chain(rest).collect()));
                }
                None => match parts.next() {
                    Some(part) => buffer.extend_from_slice(part),
                    None => return (text, None),
                },
            }
        }
    }

    /// The rule itself, byte by byte, as a reference for the reader.
    fn reference(input: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
        let (mut text, mut line_start, mut i) = (Vec::new(), true, 0);
        while i < input.len() {
            if line_start && input[i..].starts_with(b".\r\n") {
                return (text, Some(input[i + 3..].to_vec()));
            }
            if line_start && input[i] == b'.' {
                if matches!(&input[i..], b"." | b".\r") {
                    return (text, None);
                }
                i += 1;
            }
            if i + 1 == input.len() && input[i] == b'\r' {
                return (text, None);
            }
            line_start =
                input[i] == b'\n' && i > 0 && input[i - 1] == b'\r' && text.last() == Some(&b'\r');
            text.push(input[i]);
            i += 1;
        }
        (text, None)
    }

    #[test]
    fn dots_are_undone() {
        let cases: [(&[u8], &[u8]); 9] = [
            (b".\r\n", b""),
            (b"\r\n.\r\n", b"\r\n"),
            (b"hi\r\n.\r\n", b"hi\r\n"),
            (b"..x\r\n.\r\n", b".x\r\n"),
            (b"a\r\n..\r\n...\r\n.\r\n", b"a\r\n.\r\n..\r\n"),
            (b"a\r\n.b\r\n.\r\n", b"a\r\nb\r\n"),
            (b"a\r\n. \r\n.\r\n", b"a\r\n \r\n"),
            (b"a.\r\n.\r\n", b"a.\r\n"),
            (b"a\r\n.\r\r\nb\r\n.\r\n", b"a\r\n\r\r\nb\r\n"),
        ];
        for (input, expected) in cases {
            for step in 1..=input.len() {
                let expected = (expected.to_vec(), Some(Vec::new()));
                assert_eq!(
                    decode(input, step),
                    expected,
                    "{} in steps of {step}",
                    input.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn input_after_the_end_is_left_alone() {
        assert_eq!(
            decode(b"x\r\n.\r\nQUIT\r\n", 100),
            (b"x\r\n".to_vec(), Some(b"QUIT\r\n".to_vec()))
        );
    }

    /// Tries the endings that have been used to smuggle mail past other servers, and every other string over that alphabet.
    #[test]
    fn only_crlf_dot_crlf_ends_a_message() {
        const ALPHABET: [u8; 5] = [b'\r', b'\n', b'.', 0, b'a'];
        for len in 0..=5_u32 {
            for n in 0..ALPHABET.len().pow(len) {
                let middle = (0..len).map(|i| ALPHABET[n / ALPHABET.len().pow(i) % ALPHABET.len()]);
                let input: Vec<u8> = b"one"
                    .iter()
                    .copied()
                    .chain(middle)
                    .chain(*b"two\r\n.\r\n")
                    .collect();
                let expected = reference(&input);
                for step in [1, 2, 3, input.len()] {
                    assert_eq!(
                        decode(&input, step),
                        expected,
                        "{} in steps of {step}",
                        input.escape_ascii()
                    );
                }
                let mut inner = input.windows(5).filter(|w| w == b"\r\n.\r\n").count();
                inner -= 1;
                let ended_early = expected.1.as_ref().is_some_and(|rest| !rest.is_empty());
                assert_eq!(ended_early, inner > 0, "{}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn every_byte_survives() {
        let text: Vec<u8> = (0..=255).filter(|&b| b != b'\r' && b != b'\n').collect();
        let input = [&b"x"[..], &text, b"\r\n.\r\n"].concat();
        assert_eq!(decode(&input, 7).0, [&b"x"[..], &text, b"\r\n"].concat());
    }

    #[test]
    fn pieces_are_slices_of_the_input() {
        let mut buffer = BytesMut::from(&b"line one\r\nline two\r\n..dot\r\n.\r\n"[..]);
        let start = buffer.as_ptr();
        let mut reader = DotReader::new();
        let Some(Piece::Text { bytes: first, .. }) = reader.poll(&mut buffer) else {
            panic!("no text")
        };
        assert_eq!(
            (first.as_ptr(), &first[..]),
            (start, &b"line one\r\nline two\r\n"[..])
        );
    }
}
