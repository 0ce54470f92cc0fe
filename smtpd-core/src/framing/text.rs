use bytes::Bytes;

use super::{BareNewline, Flaws, NulByte, newline::NewlineFilter, nul_byte, scan};

/// Applies the policies for bare newlines and NUL bytes to the pieces of a message.
#[derive(Debug)]
pub(crate) struct TextFilter {
    newlines: NewlineFilter,
    nul: NulByte,
    has_nul: bool,
}

impl TextFilter {
    pub(crate) fn new(newline: BareNewline, nul: NulByte) -> Self {
        Self {
            newlines: NewlineFilter::new(newline),
            nul,
            has_nul: false,
        }
    }

    /// Returns the flaws of a piece that has not been checked yet.
    pub(crate) fn flaws_of(&self, piece: &[u8]) -> Flaws {
        match self.newlines.passes_all() && self.nul == NulByte::PassThrough {
            true => Flaws::default(),
            false => scan::find_flaws(piece),
        }
    }

    /// Returns whether the message may have to be rejected.
    pub(crate) fn is_flawed(&self) -> bool {
        self.has_nul | self.newlines.has_found()
    }

    /// Returns whether the message must be rejected for a bare CR or LF.
    pub(crate) fn refuses_newline(&self) -> bool {
        self.newlines.refuses()
    }

    /// Returns whether the message must be rejected for a NUL.
    pub(crate) fn refuses_nul(&self) -> bool {
        self.has_nul
    }

    /// Returns the piece, which has these flaws, as it is passed on.
    pub(crate) fn apply(&mut self, piece: Bytes, flaws: Flaws) -> Bytes {
        // A NUL separates CR from LF even if it is removed: whether two bytes are one line end must not depend on the NUL policy.
        let text = self.newlines.apply(piece, flaws);
        match flaws.has_nul() {
            true => self.apply_to_nul(text),
            false => text,
        }
    }

    #[cold]
    fn apply_to_nul(&mut self, text: Bytes) -> Bytes {
        match self.nul {
            NulByte::PassThrough => return text,
            NulByte::Strip => return nul_byte::strip(text),
            NulByte::Reject => self.has_nul = true,
        }
        text
    }

    /// Returns what must follow the last piece.
    pub(crate) fn finish(&mut self) -> Option<Bytes> {
        self.newlines.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(newline: BareNewline, nul: NulByte, input: &[u8], step: usize) -> (Vec<u8>, [bool; 2]) {
        let mut filter = TextFilter::new(newline, nul);
        let mut out = Vec::new();
        for piece in input.chunks(step) {
            let flaws = filter.flaws_of(piece);
            out.extend_from_slice(&filter.apply(Bytes::copy_from_slice(piece), flaws));
        }
        out.extend_from_slice(&filter.finish().unwrap_or_default());
        (out, [filter.refuses_newline(), filter.refuses_nul()])
    }

    #[test]
    fn nul_under_each_policy_however_it_is_split() {
        use BareNewline::{Normalize, PassThrough, Reject};
        let cases: [(&[u8], &[u8], bool); 7] = [
            (b"a\r\n", b"a\r\n", false),
            (b"", b"", false),
            (b"\0", b"", false),
            (b"\0a\0\0b\0\r\n\0", b"ab\r\n", false),
            (b"a\r\0\n", b"a\r\n\r\n", true),
            (b"a\n\0", b"a\r\n", true),
            (b"\0\r", b"\r\n", true),
        ];
        for (input, clean, bare) in cases {
            let nul = input.contains(&0);
            for step in 1..=input.len().max(1) {
                let shown = input.escape_ascii();
                let rejected = run(Reject, NulByte::Reject, input, step);
                assert_eq!(rejected, (input.to_vec(), [bare, nul]), "{shown}");
                let clean = (clean.to_vec(), [false, false]);
                assert_eq!(
                    run(Normalize, NulByte::Strip, input, step),
                    clean,
                    "{shown}"
                );
                let passed = run(PassThrough, NulByte::PassThrough, input, step);
                assert_eq!(passed, (input.to_vec(), [false, false]), "{shown}");
                let (_, found) = run(PassThrough, NulByte::Reject, input, step);
                assert_eq!(found, [false, nul], "{shown}");
                let (_, found) = run(Reject, NulByte::PassThrough, input, step);
                assert_eq!(found, [bare, false], "{shown}");
            }
        }
    }

    #[test]
    fn text_without_nul_is_not_copied() {
        let piece = Bytes::from_static(b"one\r\ntwo\r\n");
        let mut filter = TextFilter::new(BareNewline::Normalize, NulByte::Strip);
        let out = filter.apply(piece.clone(), filter.flaws_of(&piece));
        assert_eq!(out.as_ptr(), piece.as_ptr());
    }
}
