//! The messages that a client has sent ahead of the replies.

use super::{Transaction, commands::Line, stream};
use crate::journal::Digest;

/// Looks through commands of which no reply is known, for the messages among them that are whole.
pub(super) struct Ahead {
    /// Whose message may be next: a MAIL may yet be refused.
    senders: Vec<String>,
    /// What the chunks have brought.
    content: Vec<u8>,
    /// Each whole message, with each sender that it may have.
    pub(super) found: Vec<(String, Digest)>,
}

impl Ahead {
    pub(super) fn new(transaction: &Transaction) -> Self {
        Self {
            senders: vec![transaction.sender.clone()],
            content: transaction.content.clone(),
            found: Vec::new(),
        }
    }

    pub(super) fn walk(&mut self, mut rest: &[u8]) {
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let (line, after) = rest.split_at(end + 2);
            rest = match stream::chunk_size(&line[..end]) {
                Some((size, last)) => match self.chunk(after, size, last) {
                    Some(left) => left,
                    None => return,
                },
                None => {
                    self.command(&Line::new(line), after);
                    after
                }
            };
        }
    }

    /// Skips a chunk, and returns what follows it, or `None` if the chunk is incomplete.
    fn chunk<'a>(&mut self, after: &'a [u8], size: usize, last: bool) -> Option<&'a [u8]> {
        let (chunk, left) = after.split_at_checked(size)?;
        self.content.extend_from_slice(chunk);
        if last {
            let content = std::mem::take(&mut self.content);
            self.find(&content);
        }
        Some(left)
    }

    fn command(&mut self, line: &Line, after: &[u8]) {
        match line.verb() {
            "MAIL" => self.senders.extend(line.path("FROM:").map(str::to_owned)),
            "RSET" | "HELO" | "EHLO" | "LHLO" => self.content.clear(),
            "DATA" => self.message(&after[..stream::message_end(after).unwrap_or(0)]),
            _ => {}
        }
    }

    /// A message by DATA, with its end; nothing where it is not whole.
    pub(super) fn message(&mut self, text: &[u8]) {
        if let Some(text) = text.strip_suffix(b".\r\n") {
            self.find(&stream::unstuffed(text));
        }
    }

    fn find(&mut self, content: &[u8]) {
        let digest = Digest::of(content);
        let found = self.senders.iter().map(|sender| (sender.clone(), digest));
        self.found.extend(found);
    }
}
