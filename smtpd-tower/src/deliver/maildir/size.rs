/// The size of a message, as names of files in a maildir tell it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    bytes: u64,
    /// How many line ends are an LF alone, if they are counted.
    bare_newlines: u64,
    last: u8,
}

impl Size {
    /// Adds the next bytes of the message. Counting line ends takes another look at each byte.
    pub(super) fn add(&mut self, bytes: &[u8], counts_lines: bool) {
        self.bytes += bytes.len() as u64;
        if counts_lines {
            let bare = memchr::memchr_iter(b'\n', bytes).filter(|&at| {
                let before = at.checked_sub(1).and_then(|before| bytes.get(before));
                before.copied().unwrap_or(self.last) != b'\r'
            });
            self.bare_newlines += bare.count() as u64;
        }
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    /// Returns the size of the file.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the size if each line ended with CRLF, which is what IMAP calls the size of a message.
    pub(super) const fn with_crlf(&self) -> u64 {
        self.bytes + self.bare_newlines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_counted_wherever_a_message_is_cut() {
        for (message, expected) in [
            ("", 0),
            ("A: 1\r\n\r\nHello\r\n", 15),
            ("A: 1\n\nHello\r\n", 15),
            ("\n", 2),
            ("\r\n\n\r", 5),
        ] {
            for cut in 0..=message.len() {
                let (first, second) = message.as_bytes().split_at(cut);
                let mut size = Size::default();
                size.add(first, true);
                size.add(second, true);
                let sizes = (size.bytes(), size.with_crlf());
                assert_eq!(sizes, (message.len() as u64, expected), "{message:?}");
            }
        }
    }
}
