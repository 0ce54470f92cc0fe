//! The bytes that wait to be sent to the server.

use std::{collections::VecDeque, fmt};

use bytes::{Buf, Bytes, BytesMut};
use zeroize::Zeroize;

/// Commands and parts of messages that wait to be written, in order.
#[derive(Default)]
pub(super) struct Output {
    /// Never empty ones.
    parts: VecDeque<Bytes>,
    /// What follows the parts.
    tail: BytesMut,
    unsent: usize,
    /// All bytes that were ever written.
    written: u64,
    /// Whether the tail contains a secret.
    is_secret: bool,
}

impl Output {
    /// The capacity that a session may keep while nothing waits.
    const KEPT: usize = 4096;

    /// Returns the first bytes that wait, which are all of them unless a part of a message is among them.
    pub(super) fn bytes(&self) -> &[u8] {
        self.parts.front().map_or(&self.tail, |part| part)
    }

    pub(super) const fn unsent(&self) -> usize {
        self.unsent
    }

    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Returns how many bytes will have been written when everything that waits has been.
    pub(super) const fn end(&self) -> u64 {
        self.written + self.unsent as u64
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.unsent += bytes.len();
    }

    /// Appends what must not stay in memory.
    pub(super) fn push_secret(&mut self, bytes: &[u8]) {
        self.is_secret = true;
        // Grows before, because a copy would be left behind.
        if self.tail.capacity() - self.tail.len() < bytes.len() {
            let mut larger = BytesMut::with_capacity(self.tail.len() + bytes.len());
            larger.extend_from_slice(&self.tail);
            self.tail.zeroize();
            self.tail = larger;
        }
        self.push(bytes);
    }

    /// Appends a part of a message without copying it.
    pub(super) fn push_part(&mut self, part: Bytes) {
        if part.is_empty() {
            return;
        }
        self.unsent += part.len();
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            self.parts.push_back(tail);
        }
        self.parts.push_back(part);
    }

    /// Appends what `write` writes.
    pub(super) fn push_with(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        write(&mut self.tail);
        self.unsent += self.tail.len() - before;
    }

    pub(super) fn wrote(&mut self, written: usize) {
        debug_assert!(
            written <= self.bytes().len(),
            "more was written than there was"
        );
        let written = written.min(self.bytes().len());
        self.unsent -= written;
        self.written += written as u64;
        if let Some(part) = self.parts.front_mut() {
            part.advance(written);
            if part.is_empty() {
                self.parts.pop_front();
            }
            return;
        }
        if self.is_secret {
            self.tail[..written].zeroize();
        }
        self.tail.advance(written);
        if self.tail.is_empty() {
            self.is_secret = false;
            if self.tail.capacity() > Self::KEPT {
                self.tail = BytesMut::new();
            }
        }
    }

    /// Drops what waits: it will never be written.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        if self.is_secret {
            self.tail.zeroize();
        }
        self.tail = BytesMut::new();
        self.unsent = 0;
    }
}

/// Shows neither secrets nor messages.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("unsent", &self.unsent)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_parts_are_written_in_order_however_it_is_split() {
        for step in 1..20 {
            let (mut output, mut sent) = (Output::default(), Vec::new());
            output.push(b"BDAT 3\r\n");
            output.push_part(Bytes::from_static(b"abc"));
            output.push_part(Bytes::new());
            output.push(b"BDAT 0 LAST\r\n");
            output.push_with(|out| out.extend_from_slice(b"QUIT\r\n"));
            let end = output.end();
            while output.unsent() > 0 {
                let len = output.bytes().len().min(step);
                sent.extend_from_slice(&output.bytes()[..len]);
                output.wrote(len);
            }
            assert_eq!(sent, b"BDAT 3\r\nabcBDAT 0 LAST\r\nQUIT\r\n");
            assert_eq!((output.written(), output.end()), (end, end));
            assert!(output.bytes().is_empty());
        }
    }

    #[test]
    fn an_idle_session_keeps_no_large_buffer() {
        let mut output = Output::default();
        output.push(&[b'x'; 100_000]);
        output.wrote(100_000);
        assert_eq!((output.tail.capacity(), output.unsent()), (0, 0));
    }
}
