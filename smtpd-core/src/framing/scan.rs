//! Searches for the flaws in the text of a message, many bytes at a time.
//!
//! The loops have no branches, so that the compiler turns them into vector instructions, as wide as the processor supports, which
//! is detected at run time.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use multiversion::multiversion;

/// The number of bytes that are checked together. A block with a flaw or a dot that begins a line is checked a second time.
const BLOCK: usize = 512;

/// Finds a dot that begins a line. Some messages have thousands of them, so it is prepared once.
pub(super) static DOT_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n."));

/// Text up to a dot that begins a line, or all of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) len: usize,
    /// Whether a dot that begins a line follows (RFC 5321 section 4.5.2).
    pub(super) dot: bool,
    pub(super) flaws: Flaws,
}

/// What the text of a message must not contain. One byte, because it is passed on with each piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flaws(u8);

impl Flaws {
    const BARE: u8 = 1;
    const NUL: u8 = 2;

    const fn new(bare: bool, nul: bool) -> Self {
        Self((bare as u8 * Self::BARE) | (nul as u8 * Self::NUL))
    }

    /// Returns whether a CR is not followed by LF, or an LF does not follow a CR. A CR or LF at either end is not judged.
    pub(super) const fn has_bare_newline(self) -> bool {
        self.0 & Self::BARE != 0
    }

    pub(super) const fn has_nul(self) -> bool {
        self.0 & Self::NUL != 0
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Finds the first CRLF that is followed by a dot, and notes bare CR and LF and NUL on the way.
pub(super) fn text_before_dot(input: &[u8]) -> Stretch {
    let (mut at, mut flaws) = (0, Flaws::default());
    loop {
        at += plain_text(&input[at..]);
        let block = &input[at..input.len().min(at + BLOCK + 1)];
        if block.len() < 2 {
            return Stretch {
                len: input.len(),
                dot: false,
                // A single byte is no pair.
                flaws: flaws.and(Flaws::new(false, block == [0])),
            };
        }
        // If an LF begins the block, the CR before it is the last byte of the previous block.
        let from = at.saturating_sub(1);
        let end = at + block.len();
        if let Some(found) = DOT_LINE.find(&input[from..end]) {
            let len = from + found + 2;
            return Stretch {
                len,
                dot: true,
                flaws: flaws.and(find_flaws(&input[at..len])),
            };
        }
        flaws = flaws.and(find_flaws(block));
        at = end - 1;
    }
}

/// Returns how much of the input is whole blocks with neither an LF before a dot nor a bare CR or LF nor a NUL.
#[multiversion(targets("x86_64+avx2"))]
fn plain_text(input: &[u8]) -> usize {
    let last = input.len().saturating_sub(1);
    let mut at = 0;
    while at < last {
        let end = last.min(at + BLOCK);
        let pairs = input[at..end].iter().zip(&input[at + 1..=end]);
        if pairs.fold(false, |found, (&a, &b)| {
            // Zero if the first byte is NUL, or an LF before a dot.
            let other = if a == b'\n' { b ^ b'.' } else { a };
            found | is_bare(a, b) | (other == 0)
        }) {
            return at;
        }
        at = end;
    }
    at
}

/// Finds everything that text must not contain.
pub(super) fn find_flaws(bytes: &[u8]) -> Flaws {
    match has_flaw(bytes) {
        true => Flaws::new(has_bare_newline(bytes), bytes.contains(&0)),
        false => Flaws::default(),
    }
}

/// Returns whether the text contains any of it.
#[multiversion(targets("x86_64+avx2"))]
fn has_flaw(bytes: &[u8]) -> bool {
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    let bare = pairs.fold(false, |found, (&a, &b)| found | is_bare(a, b));
    // The minimum of all takes one instruction for each vector; a comparison and its result would take two.
    let least = bytes.iter().fold(u8::MAX, |least, &byte| least.min(byte));
    bare | (least == 0)
}

/// Returns whether a CR is not followed by LF, or an LF does not follow a CR; a CR or LF at either end is not judged.
#[cold]
fn has_bare_newline(bytes: &[u8]) -> bool {
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    pairs.fold(false, |found, (&a, &b)| found | is_bare(a, b))
}

#[inline(always)]
fn is_bare(a: u8, b: u8) -> bool {
    (a == b'\r') != (b == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaws(input: &[u8]) -> Flaws {
        let mut pairs = input.windows(2);
        Flaws::new(
            pairs.any(|pair| is_bare(pair[0], pair[1])),
            input.contains(&0),
        )
    }

    /// The rule itself, byte by byte.
    fn reference(input: &[u8]) -> Stretch {
        let found = input.windows(3).position(|w| w == b"\r\n.");
        let len = found.map_or(input.len(), |found| found + 2);
        Stretch {
            len,
            dot: found.is_some(),
            flaws: flaws(&input[..len]),
        }
    }

    /// Tries every string of four relevant bytes, at every position around a block boundary.
    #[test]
    fn every_flaw_and_dot_is_found_at_every_position() {
        const ALPHABET: [u8; 5] = *b"\r\n.a\0";
        for n in 0..ALPHABET.len().pow(4) {
            let at = |i| ALPHABET[n / ALPHABET.len().pow(i) % ALPHABET.len()];
            let middle: Vec<u8> = (0..4).map(at).collect();
            for before in (0..4).chain(BLOCK - 6..BLOCK + 4).chain([2 * BLOCK - 2]) {
                for behind in [0, 1, 40] {
                    let input = [&vec![b'x'; before][..], &middle, &vec![b'y'; behind]].concat();
                    let shown = middle.escape_ascii();
                    assert_eq!(
                        (text_before_dot(&input), find_flaws(&input)),
                        (reference(&input), flaws(&input)),
                        "{shown} between {before} and {behind} others"
                    );
                }
            }
        }
    }

    #[test]
    fn a_dot_is_found_after_any_number_of_bare_line_feeds_with_dots() {
        for decoys in [1, BLOCK / 3, BLOCK] {
            let input = [&b"x\n.".repeat(decoys)[..], b"\r\n.\r\n..\r\n"].concat();
            assert_eq!(text_before_dot(&input), reference(&input), "{decoys}");
        }
    }
}
