use bytes::Bytes;

use super::Flaws;

/// What to do with a CR without LF, or an LF without CR, in the text of a message.
///
/// Under no policy does either of them end a line or the message: only CRLF and CRLF.CRLF do (RFC 5321 sections 2.3.8 and
/// 4.1.1.4). The next server may treat them differently, which is why they are rejected by default.
///
/// The policy does not apply to a message declared with `BODY=BINARYMIME` (RFC 3030 section 3).
///
/// ```
/// use smtpd_core::{Config, config::BareNewline};
///
/// let config = Config::new("mx.example.org").bare_newline(BareNewline::Normalize);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BareNewline {
    /// Reject the message with 550 5.6.11 once its true end is reached.
    #[default]
    Reject,
    /// Replace each with CRLF.
    Normalize,
    /// Pass them on unchanged. This can deceive a downstream system that treats them as line ends about where a message ends:
    /// choose this only if messages are not relayed.
    PassThrough,
}

/// Applies a [`BareNewline`] policy to the pieces of a message.
#[derive(Debug)]
pub(super) struct NewlineFilter {
    policy: BareNewline,
    after_cr: bool,
    found: bool,
}

impl NewlineFilter {
    pub(super) fn new(policy: BareNewline) -> Self {
        Self {
            policy,
            after_cr: false,
            found: false,
        }
    }

    /// Returns whether the policy leaves everything unchanged.
    pub(super) fn passes_all(&self) -> bool {
        self.policy == BareNewline::PassThrough
    }

    /// Returns whether there was a bare CR or LF.
    pub(super) fn has_found(&self) -> bool {
        self.found
    }

    /// Returns whether the message must be rejected.
    pub(super) fn refuses(&self) -> bool {
        self.found && self.policy == BareNewline::Reject
    }

    /// Returns the piece as it is passed on.
    pub(super) fn apply(&mut self, piece: Bytes, flaws: Flaws) -> Bytes {
        let (Some(first), Some(last)) = (piece.first(), piece.last()) else {
            return piece;
        };
        if self.passes_all() {
            return piece;
        }
        let after_cr = std::mem::replace(&mut self.after_cr, *last == b'\r');
        let parted = after_cr != (*first == b'\n');
        if !parted && !flaws.has_bare_newline() {
            return piece;
        }
        self.found = true;
        match self.policy {
            BareNewline::Normalize => normalize(&piece, after_cr),
            _ => piece,
        }
    }

    /// Returns what must follow the last piece.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        if !std::mem::take(&mut self.after_cr) {
            return None;
        }
        self.found = true;
        (self.policy == BareNewline::Normalize).then(|| Bytes::from_static(b"\n"))
    }
}

fn normalize(piece: &[u8], mut after_cr: bool) -> Bytes {
    let mut out = Vec::with_capacity(piece.len() + piece.len() / 16 + 2);
    for &byte in piece {
        match (after_cr, byte) {
            (true, b'\n') => {}
            (true, _) => out.push(b'\n'),
            (false, b'\n') => out.push(b'\r'),
            (false, _) => {}
        }
        out.push(byte);
        after_cr = byte == b'\r';
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::scan::find_flaws;

    fn run(policy: BareNewline, input: &[u8], step: usize) -> (Vec<u8>, bool) {
        let mut filter = NewlineFilter::new(policy);
        let mut out = Vec::new();
        for piece in input.chunks(step) {
            let flaws = find_flaws(piece);
            out.extend_from_slice(&filter.apply(Bytes::copy_from_slice(piece), flaws));
        }
        out.extend_from_slice(&filter.finish().unwrap_or_default());
        (out, filter.refuses())
    }

    #[test]
    fn bare_newlines_under_each_policy_however_they_are_split() {
        let cases: [(&[u8], &[u8], bool); 10] = [
            (b"a\r\nb\r\n", b"a\r\nb\r\n", false),
            (b"", b"", false),
            (b"a\nb", b"a\r\nb", true),
            (b"a\rb", b"a\r\nb", true),
            (b"\n", b"\r\n", true),
            (b"\r", b"\r\n", true),
            (b"\r\r\n", b"\r\n\r\n", true),
            (b"\r\n\n", b"\r\n\r\n", true),
            (b"\n.\n", b"\r\n.\r\n", true),
            (b"a\r.\r\nb", b"a\r\n.\r\nb", true),
        ];
        for (input, normalized, bare) in cases {
            for step in 1..=input.len().max(1) {
                let shown = input.escape_ascii();
                assert_eq!(
                    run(BareNewline::Reject, input, step),
                    (input.to_vec(), bare),
                    "{shown}"
                );
                assert_eq!(
                    run(BareNewline::Normalize, input, step),
                    (normalized.to_vec(), false),
                    "{shown}"
                );
                assert_eq!(
                    run(BareNewline::PassThrough, input, step),
                    (input.to_vec(), false),
                    "{shown}"
                );
            }
        }
    }

    #[test]
    fn clean_text_is_not_copied() {
        let piece = Bytes::from_static(b"one\r\ntwo\r\n");
        let mut filter = NewlineFilter::new(BareNewline::Normalize);
        let out = filter.apply(piece.clone(), Flaws::default());
        assert_eq!(out.as_ptr(), piece.as_ptr());
    }
}
