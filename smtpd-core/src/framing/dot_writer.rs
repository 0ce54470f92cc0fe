use bytes::{Bytes, BytesMut};

use super::{BareNewline, NulByte, TextFilter, scan};

/// Stuffs the dots of a message for DATA, and ends it (RFC 5321 section 4.5.2), so that [`DotReader`](super::DotReader) gives back
/// the same bytes however the message was split. A dot is added only at the beginning and after CRLF, and CRLF at the end only if
/// the message does not end with it.
#[derive(Debug)]
pub(crate) struct DotWriter {
    filter: TextFilter,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    LineStart,
    AfterCr,
    Within,
}

/// The message has a bare CR or LF, which the policy rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HasBareNewline;

impl DotWriter {
    pub(crate) fn new(policy: BareNewline) -> Self {
        Self {
            filter: TextFilter::new(policy, NulByte::PassThrough),
            place: Place::LineStart,
        }
    }

    /// Appends a piece of the message to `out`.
    pub(crate) fn push(&mut self, piece: Bytes, out: &mut BytesMut) -> Result<(), HasBareNewline> {
        let flaws = self.filter.flaws_of(&piece);
        let piece = self.filter.apply(piece, flaws);
        if self.filter.refuses_newline() {
            return Err(HasBareNewline);
        }
        self.stuff(&piece, out);
        Ok(())
    }

    /// Appends the end of the message to `out`.
    pub(crate) fn finish(&mut self, out: &mut BytesMut) -> Result<(), HasBareNewline> {
        let last = self.filter.finish();
        if self.filter.refuses_newline() {
            return Err(HasBareNewline);
        }
        self.stuff(&last.unwrap_or_default(), out);
        out.extend_from_slice(match self.place {
            Place::LineStart => b".\r\n",
            Place::AfterCr | Place::Within => b"\r\n.\r\n",
        });
        Ok(())
    }

    fn stuff(&mut self, piece: &[u8], out: &mut BytesMut) {
        let mut rest = piece;
        if let (Place::AfterCr, [b'\n', after @ ..]) = (self.place, rest) {
            out.extend_from_slice(b"\n");
            (self.place, rest) = (Place::LineStart, after);
        }
        if rest.is_empty() {
            return;
        }
        if self.place == Place::LineStart && rest[0] == b'.' {
            out.extend_from_slice(b".");
        }
        self.place = match rest {
            [.., b'\r', b'\n'] => Place::LineStart,
            [.., b'\r'] => Place::AfterCr,
            _ => Place::Within,
        };
        while let Some(found) = scan::DOT_LINE.find(rest) {
            let (line, after) = rest.split_at(found + 2);
            out.extend_from_slice(line);
            out.extend_from_slice(b".");
            rest = after;
        }
        out.extend_from_slice(rest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::{
        super::{DotReader, Piece},
        *,
    };

    fn encode(policy: BareNewline, message: &[u8], step: usize) -> Result<Vec<u8>, HasBareNewline> {
        let (mut writer, mut out) = (DotWriter::new(policy), BytesMut::new());
        for piece in message.chunks(step.max(1)) {
            writer.push(Bytes::copy_from_slice(piece), &mut out)?;
        }
        writer.finish(&mut out)?;
        Ok(out.to_vec())
    }

    fn decode(sent: &[u8]) -> (Vec<u8>, usize) {
        let (mut reader, mut text) = (DotReader::new(), Vec::new());
        let mut input = BytesMut::from(sent);
        while let Some(piece) = reader.poll(&mut input) {
            match piece {
                Piece::Text { bytes, .. } => text.extend_from_slice(&bytes),
                Piece::End => break,
            }
        }
        (text, input.len())
    }

    /// The rule itself, byte by byte.
    fn reference(message: &[u8]) -> Vec<u8> {
        let mut sent: Vec<u8> = Vec::new();
        for (at, &byte) in message.iter().enumerate() {
            if byte == b'.' && (at == 0 || message[..at].ends_with(b"\r\n")) {
                sent.push(b'.');
            }
            sent.push(byte);
        }
        if !message.is_empty() && !message.ends_with(b"\r\n") {
            sent.extend_from_slice(b"\r\n");
        }
        sent.extend_from_slice(b".\r\n");
        sent
    }

    #[test]
    fn dots_are_stuffed_at_the_start_and_after_crlf_alone() {
        let cases: [(&[u8], &[u8]); 8] = [
            (b"", b".\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a\r\n\r\n", b"a\r\n\r\n.\r\n"),
            (b"a\r\n.\r\n..b.\r\n", b"a\r\n..\r\n...b.\r\n.\r\n"),
            (b"\r\n.", b"\r\n..\r\n.\r\n"),
        ];
        for (message, sent) in cases {
            for step in 1..=message.len().max(1) {
                let shown = message.escape_ascii();
                assert_eq!(
                    encode(BareNewline::Reject, message, step),
                    Ok(sent.to_vec()),
                    "{shown}"
                );
            }
        }
    }

    /// Tries every message of up to six relevant bytes, in pieces of every length.
    #[test]
    fn no_message_has_an_end_within_it() {
        const ALPHABET: [u8; 4] = *b"\r\n.a";
        for len in 0..=6_u32 {
            for n in 0..ALPHABET.len().pow(len) {
                let at = |i| ALPHABET[n / ALPHABET.len().pow(i) % ALPHABET.len()];
                let message: Vec<u8> = (0..len).map(at).collect();
                let shown = message.escape_ascii();
                let bare = has_bare_newline(&message);
                for step in 1..=message.len().max(1) {
                    let passed = encode(BareNewline::PassThrough, &message, step).unwrap();
                    assert_eq!(passed, reference(&message), "{shown} by {step}");
                    let rejected = encode(BareNewline::Reject, &message, step);
                    assert_eq!(
                        rejected,
                        (!bare).then_some(passed).ok_or(HasBareNewline),
                        "{shown}"
                    );
                    let clean = encode(BareNewline::Normalize, &message, step).unwrap();
                    assert!(!has_bare_newline(&clean), "{shown}");
                    // No server can see an end of it before the true one, whatever it takes for a line end.
                    let lines = clean.split(|byte| matches!(byte, b'\r' | b'\n'));
                    assert_eq!(lines.filter(|line| line == b".").count(), 1, "{shown}");
                }
            }
        }
    }

    fn has_bare_newline(message: &[u8]) -> bool {
        let text = String::from_utf8_lossy(message).replace("\r\n", "");
        text.contains(['\r', '\n'])
    }

    const PARTS: &[&[u8]] = &[b"\r\n.", b"\r\n", b".", b"\r", b"\n", b"\0"];

    fn parts() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            vec(any::<u8>(), 0..40),
            select(PARTS).prop_map(<[u8]>::to_vec)
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_it_was(parts in vec(parts(), 0..20), step in 1..60_usize) {
            let message = parts.concat();
            let sent = encode(BareNewline::PassThrough, &message, step).unwrap();
            let mut expected = message.clone();
            if !message.is_empty() && !message.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(decode(&sent), (expected, 0));
        }
    }
}
