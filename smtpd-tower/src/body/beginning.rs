//! How a message begins.

/// The longest line of a message (RFC 5322 section 2.1.1). Longer field names are not looked for.
pub(super) const LONGEST_NAME: usize = 998;

/// The field that an mbox `From ` line becomes.
pub(super) const MAILBOX_FIELD: &[u8] = b"X-Mailbox-Line: ";

/// The longest mbox line that still fits into one line as a field.
const LONGEST_MAILBOX_LINE: usize = LONGEST_NAME - MAILBOX_FIELD.len();

/// How a message begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    /// With a header field or an empty line.
    Header,
    /// With an mbox `From ` line, followed by a header field.
    MailboxLine,
    /// With anything else: the message has no header section.
    Text,
}

/// Finds out how a message begins. It takes the message in chunks, looks at each byte once, and keeps none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beginning {
    at: Place,
    /// The number of bytes of the line looked at so far.
    seen: usize,
    /// Whether an mbox line came before this one.
    is_second_line: bool,
    #[cfg(test)]
    steps: usize,
}

/// The position of the next byte.
#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Start,
    /// After a CR at the start of the message.
    EmptyLine,
    /// After any `>`, and this many bytes of `From`.
    From(usize),
    Name,
    /// RFC 5322 section 4.5: white space before the colon is obsolete, but valid.
    Blanks,
    /// White space after `From`.
    FromBlanks,
    MailboxLine,
    /// After a CR in an mbox line.
    MailboxLineEnd,
    SecondLine,
    Decided(Begins),
}

impl Beginning {
    /// Takes the next chunk. Returns `None` while the result is still open.
    pub(crate) fn look(&mut self, chunk: &[u8]) -> Option<Begins> {
        for &byte in chunk {
            if let Place::Decided(_) = self.at {
                break;
            }
            self.step(byte);
        }
        match self.at {
            Place::Decided(known) => Some(known),
            _ => None,
        }
    }

    fn step(&mut self, byte: u8) {
        #[cfg(test)]
        {
            self.steps += 1;
        }
        self.seen += 1;
        self.at = match self.at.after(byte) {
            Place::SecondLine => {
                self.seen = 0;
                self.is_second_line = true;
                Place::Start
            }
            // A text may also begin with `From ` and an empty line. Only one such line is skipped.
            Place::EmptyLine | Place::MailboxLine if self.is_second_line => {
                Place::Decided(Begins::Text)
            }
            Place::Decided(Begins::Header) if self.is_second_line => {
                Place::Decided(Begins::MailboxLine)
            }
            place @ Place::Decided(_) => place,
            // Includes the end of the line.
            Place::MailboxLine | Place::MailboxLineEnd if self.seen >= LONGEST_MAILBOX_LINE + 2 => {
                Place::Decided(Begins::Text)
            }
            _ if self.seen == LONGEST_NAME => Place::Decided(Begins::Text),
            place => place,
        };
    }

    #[cfg(test)]
    pub(crate) const fn steps(&self) -> usize {
        self.steps
    }
}

impl Place {
    fn after(self, byte: u8) -> Self {
        const FROM: &[u8] = b"From";
        match (self, byte) {
            (Self::Decided(_), _) => self,
            (Self::Start, b'\r') => Self::EmptyLine,
            (Self::EmptyLine, b'\n') => Self::Decided(Begins::Header),
            (Self::EmptyLine, _) | (Self::Start, b':') => Self::Decided(Begins::Text),
            (Self::MailboxLine | Self::MailboxLineEnd, b'\r') => Self::MailboxLineEnd,
            (Self::MailboxLineEnd, b'\n') => Self::SecondLine,
            (Self::MailboxLine | Self::MailboxLineEnd, _) => Self::MailboxLine,
            (Self::From(_) | Self::Name | Self::Blanks | Self::FromBlanks, b':') => {
                Self::Decided(Begins::Header)
            }
            (Self::From(len), b' ') if len == FROM.len() => Self::FromBlanks,
            (Self::FromBlanks, b' ' | b'\t') => Self::FromBlanks,
            (Self::FromBlanks, byte) if byte.is_ascii_graphic() => Self::MailboxLine,
            (Self::From(_) | Self::Name | Self::Blanks, b' ' | b'\t') => Self::Blanks,
            (Self::Start | Self::From(0), b'>') => Self::From(0),
            (Self::Start, b'F') => Self::From(1),
            (Self::From(len), byte) if FROM.get(len) == Some(&byte) => Self::From(len + 1),
            // RFC 5322 sections 2.2 and 3.6.8: printable US-ASCII without the colon.
            (Self::Start | Self::From(_) | Self::Name, byte) if byte.is_ascii_graphic() => {
                Self::Name
            }
            _ => Self::Decided(Begins::Text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_first_line_is_looked_at_once_wherever_it_is_cut() {
        for (start, rest, longest) in [
            ("A", "x", LONGEST_NAME),
            ("A", " ", LONGEST_NAME),
            (">", ">", LONGEST_NAME),
            ("From ", "x", LONGEST_MAILBOX_LINE + 2),
        ] {
            let line = format!("{start}{}", rest.repeat(3 * LONGEST_NAME));
            for size in [1, 7, LONGEST_NAME, line.len()] {
                let mut beginning = Beginning::default();
                let told = line.as_bytes().chunks(size).map(|p| beginning.look(p));
                assert_eq!(told.last(), Some(Some(Begins::Text)), "{size}");
                assert_eq!(beginning.steps(), longest, "{size}");
            }
        }
    }

    #[test]
    fn a_line_of_an_mbox_is_not_longer_than_a_line_may_be_once_it_is_a_field() {
        for (blanks, len, begins) in [
            (1, LONGEST_MAILBOX_LINE, Begins::MailboxLine),
            (1, LONGEST_MAILBOX_LINE + 1, Begins::Text),
            (LONGEST_MAILBOX_LINE, LONGEST_MAILBOX_LINE + 5, Begins::Text),
        ] {
            let line = format!("From{}", " ".repeat(blanks));
            let line = format!("{line:x<len$}\r\nA: 1\r\n");
            assert_eq!(Beginning::default().look(line.as_bytes()), Some(begins));
        }
        assert_eq!(MAILBOX_FIELD.len() + LONGEST_MAILBOX_LINE, 998);
    }

    #[test]
    fn a_name_may_be_as_long_as_a_line() {
        for (name, begins) in [
            (LONGEST_NAME - 1, Begins::Header),
            (LONGEST_NAME, Begins::Text),
        ] {
            let line = format!("{}: x", "n".repeat(name));
            assert_eq!(Beginning::default().look(line.as_bytes()), Some(begins));
        }
    }
}
