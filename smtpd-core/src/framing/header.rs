use memchr::memchr_iter;

use super::BareNewline;

/// Measures the header section of a message: everything up to the first empty line (RFC 5322 section 2.1). A message that does not
/// begin with a header field has none: scripts and devices send text alone.
#[derive(Debug)]
pub(crate) struct HeaderMeter {
    size: u64,
    lines: u32,
    place: Place,
    /// The beginning of the message, while it is unknown whether that is a header field.
    beginning: Option<Beginning>,
    /// Whether a bare LF may end a line: in a message that is passed through.
    bare: bool,
}

/// What has been seen of the first line.
#[derive(Debug, Default)]
struct Beginning {
    mark: Mark,
    len: u16,
}

#[derive(Clone, Copy, Debug, Default)]
enum Mark {
    /// After any `>`.
    #[default]
    Start,
    /// After any `>`, and this many bytes of `From`, with which the line of an mbox begins.
    From(u8),
    Name,
    /// White space after a name; before a colon, it is obsolete, but valid (RFC 5322 section 4.5).
    Blanks,
    /// White space after `From`.
    FromBlanks,
}

/// Where the measured bytes end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    LineStart,
    /// After a CR that begins a line.
    Cr,
    Line,
    /// After the empty line.
    Body,
}

impl HeaderMeter {
    pub(crate) fn new(newline: BareNewline) -> Self {
        Self {
            size: 0,
            lines: 0,
            place: Place::default(),
            beginning: Some(Beginning::default()),
            bare: newline == BareNewline::PassThrough,
        }
    }

    /// Measures the next piece of the message.
    #[inline]
    pub(crate) fn measure(&mut self, piece: &[u8]) {
        if self.place != Place::Body && !piece.is_empty() {
            self.measure_header(piece);
        }
    }

    fn measure_header(&mut self, piece: &[u8]) {
        if let Some(beginning) = &mut self.beginning {
            match beginning.is_header(piece) {
                Some(false) => {
                    (self.size, self.place) = (0, Place::Body);
                    return;
                }
                Some(true) => self.beginning = None,
                None => {}
            }
        }
        let (lines, end) = self.lines_of(piece);
        let (len, place) = match end {
            Some(end) => (end, Place::Body),
            None => (piece.len(), after(self.place, piece)),
        };
        self.lines = self.lines.saturating_add(lines);
        self.size = self.size.saturating_add(len as u64);
        self.place = place;
    }

    /// Returns how many lines end within this piece before the empty line, and where that ends, if it does so within this piece.
    fn lines_of(&self, piece: &[u8]) -> (u32, Option<usize>) {
        match (self.place, piece) {
            (Place::Cr, [b'\n', ..]) => return (0, Some(1)),
            (Place::LineStart, [b'\n', ..]) if self.bare => return (0, Some(1)),
            (Place::LineStart, [b'\r', b'\n', ..]) => return (0, Some(2)),
            _ => {}
        }
        let mut lines = 0_u32;
        for newline in memchr_iter(b'\n', piece) {
            lines = lines.saturating_add(1);
            let start = newline + 1;
            match &piece[start..] {
                [b'\r', b'\n', ..] => return (lines, Some(start + 2)),
                [b'\n', ..] if self.bare => return (lines, Some(start + 1)),
                _ => {}
            }
        }
        (lines, None)
    }

    /// Returns the number of bytes so far, including the empty line. 0 while it is unknown whether there is a header.
    pub(crate) const fn size(&self) -> u64 {
        match self.beginning {
            Some(_) => 0,
            None => self.size,
        }
    }

    /// Returns the number of complete lines so far, without the empty line.
    pub(crate) const fn lines(&self) -> u32 {
        self.lines
    }
}

impl Beginning {
    /// The longest line of a message (RFC 5322 section 2.1.1). Longer field names are not looked for.
    const LONGEST: u16 = 998;

    /// Returns whether the message begins with a header field, an empty line or the line of an mbox, once that is known.
    fn is_header(&mut self, piece: &[u8]) -> Option<bool> {
        if self.len == 0
            && let Some(is_header) = begins_with_field(piece)
        {
            return Some(is_header);
        }
        piece.iter().find_map(|&byte| self.step(byte))
    }

    fn step(&mut self, byte: u8) -> Option<bool> {
        const FROM: &[u8] = b"From";
        self.mark = match (self.mark, byte) {
            (Mark::Start, b'\r' | b'\n') if self.len == 0 => return Some(true),
            (Mark::FromBlanks, byte) if byte != b' ' && byte != b'\t' => return Some(true),
            (_, b':') => return Some(self.len > 0),
            (Mark::Start, b'>') => Mark::Start,
            (Mark::Start, b'F') => Mark::From(1),
            (Mark::From(len), byte) if FROM.get(usize::from(len)) == Some(&byte) => {
                Mark::From(len + 1)
            }
            (Mark::Start | Mark::From(_) | Mark::Name, byte) if is_of_name(byte) => Mark::Name,
            (Mark::From(4) | Mark::FromBlanks, b' ' | b'\t') => Mark::FromBlanks,
            (_, b' ' | b'\t') if self.len > 0 => Mark::Blanks,
            _ => return Some(false),
        };
        self.len += 1;
        (self.len >= Self::LONGEST).then_some(false)
    }
}

/// Returns whether the piece begins with a header field, if that is easy to tell: most messages begin with a whole name, and text
/// with a word.
fn begins_with_field(piece: &[u8]) -> Option<bool> {
    let name = piece.iter().position(|&byte| !is_of_name(byte))?;
    match (piece, &piece[name..]) {
        (_, [b':', ..]) if name > 0 => Some(name < Beginning::LONGEST.into()),
        // An mbox begins with a line `From `, or `>From `.
        ([b'F' | b'>', ..], _) => None,
        (_, [b' ', byte, ..]) if name > 0 && !matches!(byte, b' ' | b'\t' | b':') => Some(false),
        _ => None,
    }
}

/// Returns whether the byte may be part of the name of a header field (RFC 5322 section 2.2).
const fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b':'
}

/// Returns where a piece without an empty line ends.
fn after(place: Place, piece: &[u8]) -> Place {
    match (place, piece) {
        (_, [.., b'\n']) => Place::LineStart,
        (_, [.., b'\n', b'\r']) | (Place::LineStart, b"\r") => Place::Cr,
        _ => Place::Line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(message: &[u8], step: usize) -> (u64, u32) {
        let mut meter = HeaderMeter::new(BareNewline::PassThrough);
        message.chunks(step).for_each(|piece| meter.measure(piece));
        (meter.size(), meter.lines())
    }

    #[test]
    fn the_section_ends_with_the_first_empty_line_however_it_is_split() {
        let cases: [(&[u8], u64, u32); 12] = [
            (b"", 0, 0),
            (b"\r\n", 2, 0),
            (b"\r\ntext\r\n\r\n", 2, 0),
            (b"\ntext\n\n", 1, 0),
            (b"A: 1\r\n\r\ntext\r\n\r\nmore\r\n", 8, 1),
            (b"A: 1\r\nB: 2\r\n 3\r\n\r\ntext", 18, 3),
            (b"A: 1\nB: 2\n\ntext\r\n\r\n", 11, 2),
            (b"A: 1\n\r\n\n", 7, 1),
            (b"A: 1\n\n\r\n", 6, 1),
            (b"Subject: a\r\nno empty line\r\n", 27, 2),
            (b"A: 1\r\n\r", 7, 1),
            (b"A: 1\r\n\rB\r\n\r\n", 12, 2),
        ];
        for (message, size, lines) in cases {
            for step in 1..=message.len().max(1) {
                let shown = message.escape_ascii();
                assert_eq!(measured(message, step), (size, lines), "{shown} by {step}");
            }
        }
    }

    #[test]
    fn text_without_a_header_is_measured_as_one() {
        let long = [&[b'a'; 998][..], b": 1\r\n"].concat();
        let texts: [&[u8]; 9] = [
            b"Hello, world: 1\r\n",
            b"Hello\r\nA: 1\r\n",
            b": 1\r\n",
            b" A: 1\r\n",
            b"A\x01: 1\r\n",
            b"Gr\xc3\xbc\xc3\x9fe: 1\r\n",
            b"Frog pond\r\n",
            b">Fro m\r\n",
            &long,
        ];
        for text in texts {
            for step in 1..=text.len() {
                let shown = text.escape_ascii();
                assert_eq!(measured(text, step), (0, 0), "{shown} by {step}");
            }
        }
        let headers: [&[u8]; 7] = [
            b"A: 1\r\n",
            b"A \t: 1\r\n",
            b"From: 1\r\n",
            b"From : 1\r\n",
            b"From a@example.com Tue\r\n",
            b">From a@example.com Tue\r\n",
            &long[1..],
        ];
        for header in headers {
            for step in 1..=header.len() {
                let shown = header.escape_ascii();
                let whole = (header.len() as u64, 1);
                assert_eq!(measured(header, step), whole, "{shown} by {step}");
            }
        }
    }
}
