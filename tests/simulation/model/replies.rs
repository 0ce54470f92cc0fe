//! Replies, cut from what the server writes (RFC 5321 section 4.2).

/// Puts the lines of replies together.
#[derive(Default)]
pub struct ReplyReader {
    buffer: Vec<u8>,
    /// The code of a reply of which more lines are to come.
    open: Option<u16>,
}

impl ReplyReader {
    /// The next byte; the reply that it ends, by its code and last line.
    pub fn push(&mut self, byte: u8) -> Result<Option<(u16, String)>, String> {
        self.buffer.push(byte);
        if !self.buffer.ends_with(b"\r\n") {
            return match self.buffer.len() {
                0..=512 => Ok(None),
                _ => Err(format!("a line of more than 512 bytes: {}", self.show())),
            };
        }
        let line = self.show();
        self.buffer.clear();
        let wrong = || format!("no reply: {line:?}");
        let code: u16 = line
            .get(..3)
            .and_then(|code| code.parse().ok())
            .ok_or_else(wrong)?;
        let known = (200..600).contains(&code) && self.open.is_none_or(|open| open == code);
        let more = match line.as_bytes().get(3) {
            Some(b'-') => true,
            Some(b' ') => false,
            _ => return Err(wrong()),
        };
        if !known {
            return Err(wrong());
        }
        self.open = more.then_some(code);
        Ok((!more).then_some((code, line)))
    }

    fn show(&self) -> String {
        let text = self.buffer.strip_suffix(b"\r\n").unwrap_or(&self.buffer);
        String::from_utf8_lossy(text).into_owned()
    }
}
