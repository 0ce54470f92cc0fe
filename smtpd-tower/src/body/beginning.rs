//! How a message begins.

/// The longest line of a message (RFC 5322 section 2.1.1). A longer name of a field is not looked for.
pub(super) const LONGEST_NAME: usize = 998;

/// Tells whether a message begins with a header field or an empty line. It takes the message in pieces, looks at each byte
/// once, and keeps none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beginning {
    at: Place,
    /// How many bytes it has looked at.
    seen: usize,
}

/// Where the next byte stands.
#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Start,
    /// After a CR with which the message begins.
    EmptyLine,
    Name,
    /// RFC 5322 section 4.5: white space before the colon is obsolete, but understood.
    Blanks,
    Decided(bool),
}

impl Beginning {
    /// Takes the next piece; `None` while the answer cannot be told.
    pub(crate) fn look(&mut self, piece: &[u8]) -> Option<bool> {
        for &byte in piece {
            if let Place::Decided(_) = self.at {
                break;
            }
            self.seen += 1;
            self.at = match self.at.after(byte) {
                Place::Name | Place::Blanks if self.seen == LONGEST_NAME => Place::Decided(false),
                place => place,
            };
        }
        match self.at {
            Place::Decided(known) => Some(known),
            _ => None,
        }
    }

    #[cfg(test)]
    pub(crate) const fn steps(&self) -> usize {
        self.seen
    }
}

impl Place {
    const fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Decided(_), _) => self,
            (Self::Start, b'\r') => Self::EmptyLine,
            (Self::EmptyLine, byte) => Self::Decided(byte == b'\n'),
            (Self::Start, b':') => Self::Decided(false),
            (Self::Name | Self::Blanks, b':') => Self::Decided(true),
            (Self::Name | Self::Blanks, b' ' | b'\t') => Self::Blanks,
            // RFC 5322 sections 2.2 and 3.6.8: printable US-ASCII without the colon.
            (Self::Start | Self::Name, byte) if byte.is_ascii_graphic() => Self::Name,
            _ => Self::Decided(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_first_line_is_looked_at_once_wherever_it_is_cut() {
        for first in ["x", " "] {
            let line = format!("A{}", first.repeat(3 * LONGEST_NAME));
            for size in [1, 7, LONGEST_NAME, line.len()] {
                let mut beginning = Beginning::default();
                let told = line.as_bytes().chunks(size).map(|p| beginning.look(p));
                assert_eq!(told.last(), Some(Some(false)), "{size}");
                assert_eq!(beginning.steps(), LONGEST_NAME, "{size}");
            }
        }
    }

    #[test]
    fn a_name_may_be_as_long_as_a_line() {
        for (name, is_field) in [(LONGEST_NAME - 1, true), (LONGEST_NAME, false)] {
            let line = format!("{}: x", "n".repeat(name));
            assert_eq!(Beginning::default().look(line.as_bytes()), Some(is_field));
        }
    }
}
