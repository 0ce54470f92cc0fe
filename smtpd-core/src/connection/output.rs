use super::Connection;
use crate::{Reply, reply::Form};

/// Replies that wait to be written. An idle session owns no more than a few octets of room for them.
#[derive(Debug, Default)]
pub(super) struct Output {
    octets: Vec<u8>,
    sent: usize,
}

impl Output {
    /// What an idle session may keep.
    const KEPT: usize = 128;

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.octets[self.sent..]
    }

    pub(super) fn unsent(&self) -> usize {
        self.octets.len() - self.sent
    }

    pub(super) fn advance(&mut self, written: usize) {
        self.sent = (self.sent + written).min(self.octets.len());
        if self.sent == self.octets.len() {
            self.sent = 0;
            if self.octets.capacity() > Self::KEPT {
                self.octets = Vec::new();
            } else {
                self.octets.clear();
            }
        }
    }

    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.octets.capacity() == 0 {
            // It would grow by doubling from the first reply on, one allocation after the other.
            self.octets.reserve(Self::KEPT);
        }
        &mut self.octets
    }
}

impl Connection {
    /// Appends a reply in the form that the session has come to.
    pub(super) fn put(&mut self, reply: &Reply) {
        // RFC 2034 section 4 asks for them from EHLO's answer on. They are sent before it too: to a client that does not know
        // them they are text.
        let status = self.config.extensions.known().status_codes;
        self.put_as(
            reply,
            Form {
                status,
                utf8: self.transaction.utf8,
            },
        );
    }

    pub(super) fn put_as(&mut self, reply: &Reply, form: Form) {
        let buffer = self.output.buffer();
        let start = buffer.len();
        reply.encode(form, buffer);
        self.log_sent(start);
    }

    /// Appends octets that are a whole reply already.
    pub(super) fn put_raw(&mut self, octets: &[u8]) {
        let buffer = self.output.buffer();
        let start = buffer.len();
        buffer.extend_from_slice(octets);
        self.log_sent(start);
    }

    fn log_sent(&mut self, start: usize) {
        if let Some(wire) = &mut self.wire {
            wire.sent(&self.output.buffer()[start..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_keeps_no_large_buffer() {
        let mut output = Output::default();
        output.buffer().extend_from_slice(&[b'x'; 1000]);
        output.advance(400);
        assert_eq!(output.unsent(), 600);
        output.advance(600);
        assert_eq!((output.unsent(), output.octets.capacity()), (0, 0));
    }
}
