use smtpd_core::{envelope::Envelope, parameter::BodyType};

/// How lines end where a message is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Newline {
    /// With CR and LF, as they are sent.
    #[default]
    CrLf,
    /// With LF alone, as in other files on Unix.
    Lf,
}

/// Turns the chunks of a message into what is delivered.
#[derive(Debug)]
pub(super) struct Lines {
    newline: Newline,
    /// A CR at the end of what has come, which may belong to a line end.
    held: bool,
}

impl Lines {
    /// Returns the lines of a message. In BINARYMIME, not every CR and LF is the end of a line (RFC 3030 section 3).
    pub(super) fn of(envelope: &Envelope, newline: Newline) -> Self {
        Self::new(match envelope.parameters().get::<BodyType>() {
            Some(BodyType::BinaryMime) => Newline::CrLf,
            _ => newline,
        })
    }

    pub(super) const fn new(newline: Newline) -> Self {
        Self {
            newline,
            held: false,
        }
    }

    /// Appends a chunk to `out`.
    pub(super) fn append(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let Some((first, _)) = chunk.split_first() else {
            return;
        };
        if self.newline == Newline::CrLf {
            return out.extend_from_slice(chunk);
        }
        if self.held && *first != b'\n' {
            out.push(b'\r');
        }
        let (chunk, held) = match chunk.strip_suffix(b"\r") {
            Some(chunk) => (chunk, true),
            None => (chunk, false),
        };
        self.held = held;
        let mut rest = chunk;
        while let Some(at) = memchr::memmem::find(rest, b"\r\n") {
            let (line, after) = rest.split_at(at);
            out.extend_from_slice(line);
            rest = after.strip_prefix(b"\r").unwrap_or_default();
        }
        out.extend_from_slice(rest);
    }

    /// Appends what is left at the end of the message.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.held) {
            out.push(b'\r');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(newline: Newline, chunks: &[&[u8]]) -> String {
        let (mut lines, mut out) = (Lines::new(newline), Vec::new());
        for chunk in chunks {
            lines.append(chunk, &mut out);
        }
        lines.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_end_is_cut_in_two_by_a_chunk() {
        for (text, expected) in [
            ("a\r\nb\r\n", "a\nb\n"),
            ("\r\n\r\n", "\n\n"),
            ("a\rb\r\r\nc", "a\rb\r\nc"),
            ("a\nb\r", "a\nb\r"),
            ("\r\r\r", "\r\r\r"),
            ("", ""),
        ] {
            for one in 0..=text.len() {
                for two in one..=text.len() {
                    let (first, rest) = text.as_bytes().split_at(one);
                    let (second, third) = rest.split_at(two - one);
                    let chunks = [first, second, b"", third];
                    assert_eq!(converted(Newline::Lf, &chunks), expected, "{one} {two}");
                    assert_eq!(converted(Newline::CrLf, &chunks), text);
                }
            }
        }
    }
}
