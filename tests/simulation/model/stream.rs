//! What a client has sent, cut into what the server has to answer.

use std::cell::Cell;

/// The bytes of a client, from the first that has no reply.
#[derive(Default)]
pub struct Stream {
    bytes: Vec<u8>,
    /// The position of the first that has no reply.
    at: usize,
    /// How many bytes were sent before `bytes`.
    base: u64,
    /// Up to where there is known to be no end of a message.
    searched: Cell<usize>,
}

impl Stream {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What has no reply yet, of the first `read` bytes that were ever sent.
    pub fn rest(&self, read: u64) -> &[u8] {
        let end = usize::try_from(read.saturating_sub(self.base)).unwrap_or(usize::MAX);
        &self.bytes[self.at..end.clamp(self.at, self.bytes.len())]
    }

    /// Marks a number of bytes as answered.
    pub fn advance(&mut self, count: usize) -> Vec<u8> {
        let taken = self.bytes[self.at..self.at + count].to_vec();
        self.at += count;
        self.searched.set(self.at);
        if self.at > 1 << 16 {
            self.bytes.drain(..self.at);
            self.base += self.at as u64;
            self.at = 0;
            self.searched.set(0);
        }
        taken
    }

    /// The length of the next line with its CRLF, if all of it has been sent.
    pub fn line(&self, read: u64) -> Option<usize> {
        let rest = self.rest(read);
        let mut from = 0;
        loop {
            let found = from + rest[from..].iter().position(|byte| *byte == b'\n')?;
            if found > 0 && rest[found - 1] == b'\r' {
                return Some(found + 1);
            }
            from = found + 1;
        }
    }

    /// The length of the message that DATA has begun, with the line that ends it (RFC 5321 section 4.1.1.4).
    pub fn message(&self, read: u64) -> Option<usize> {
        let rest = self.rest(read);
        if rest.starts_with(b".\r\n") {
            return Some(3);
        }
        let mut from = (self.searched.get().max(self.at) - self.at).saturating_sub(4);
        while let Some(found) = rest[from.min(rest.len())..]
            .iter()
            .position(|byte| *byte == b'.')
        {
            let dot = from + found;
            if rest[..dot].ends_with(b"\r\n") && rest[dot + 1..].starts_with(b"\r\n") {
                return Some(dot + 3);
            }
            from = dot + 1;
        }
        self.searched.set(self.at + rest.len());
        None
    }
}

/// The length of a message by DATA, with the line that ends it.
pub fn message_end(text: &[u8]) -> Option<usize> {
    let mut stream = Stream::default();
    stream.push(text);
    stream.message(u64::MAX)
}

/// The dots of DATA undone (RFC 5321 section 4.5.2).
pub fn unstuffed(text: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(text.len());
    let mut at_start = true;
    let mut rest = text;
    while let Some(newline) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(newline + 1);
        content.extend_from_slice(undotted(line, at_start));
        at_start = content.ends_with(b"\r\n");
        rest = after;
    }
    content.extend_from_slice(undotted(rest, at_start));
    content
}

fn undotted(line: &[u8], at_start: bool) -> &[u8] {
    match line {
        [b'.', rest @ ..] if at_start => rest,
        _ => line,
    }
}

/// The size of a chunk and whether it is the last, from the argument of BDAT (RFC 3030 section 2).
pub fn chunk_size(line: &[u8]) -> Option<(usize, bool)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    if !words.next()?.eq_ignore_ascii_case("BDAT") {
        return None;
    }
    let size = words.next()?.parse().ok()?;
    match (words.next(), words.next()) {
        (None, _) => Some((size, false)),
        (Some(last), None) if last.eq_ignore_ascii_case("LAST") => Some((size, true)),
        _ => None,
    }
}

/// Whether a CR or LF stands alone (RFC 5321 section 2.3.8).
pub fn has_bare_newline(content: &[u8]) -> bool {
    content.iter().enumerate().any(|(at, byte)| match byte {
        b'\n' => at == 0 || content[at - 1] != b'\r',
        b'\r' => content.get(at + 1) != Some(&b'\n'),
        _ => false,
    })
}
