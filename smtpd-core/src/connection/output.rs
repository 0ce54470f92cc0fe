//! The bytes waiting to be sent to the client.

use crate::time::{Moment, Nanos};

/// Replies that wait to be written. An idle session keeps only a few bytes of space for them.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    sent: usize,
    /// When the client's time to receive them began, moved later by the time gained by receiving some.
    since: Option<Moment>,
}

impl Output {
    /// The capacity that an idle session may keep.
    const KEPT: usize = 128;

    /// What a large buffer grows by, since doubling it would take twice what the replies do.
    const STEP: usize = 4 << 10;

    /// No usual reply has more bytes (RFC 5321 section 4.5.3.1.5).
    const USUAL: usize = 512;

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub(super) fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Notes what was written. The client gains no more time from it than the minimum rate gives: otherwise, one that receives a
    /// byte now and then would never be given up.
    pub(super) fn wrote(&mut self, written: usize, least_rate: u32, now: impl FnOnce() -> Moment) {
        debug_assert!(written <= self.unsent(), "more was written than there was");
        self.sent = (self.sent + written).min(self.bytes.len());
        if self.sent == self.bytes.len() {
            return self.clear();
        }
        if let Some(since) = self.since {
            let later = since.plus(Nanos::earned(written as u64, least_rate));
            self.since = Some(later.min(now()));
        }
    }

    /// Returns since when the client has had replies to receive, and whether that is new.
    pub(super) fn waiting_since(&mut self, now: Moment) -> (Moment, bool) {
        let is_new = self.since.is_none();
        (*self.since.get_or_insert(now), is_new)
    }

    /// Moves the start of the wait later by `late`.
    pub(super) fn postpone(&mut self, late: Nanos) {
        self.since = self.since.map(|since| since.plus(late));
    }

    /// Measures the time that the client may take anew from now.
    pub(super) const fn restart(&mut self) {
        self.since = None;
    }

    pub(super) fn clear(&mut self) {
        (self.sent, self.since) = (0, None);
        if self.bytes.capacity() > Self::KEPT {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
    }

    #[inline]
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 || self.bytes.len() >= Self::STEP || self.sent > 0 {
            self.make_room();
        }
        &mut self.bytes
    }

    #[cold]
    fn make_room(&mut self) {
        // A client that reads some of its replies before each of its commands would otherwise make it grow without end.
        self.bytes.drain(..self.sent);
        self.sent = 0;
        let len = self.bytes.len();
        if len >= Self::STEP && self.bytes.capacity() - len < Self::USUAL {
            self.bytes.reserve_exact(Self::STEP);
        } else if self.bytes.capacity() == 0 {
            // It would grow by doubling from the first reply, one allocation after the other.
            self.bytes.reserve(Self::KEPT);
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
        output.wrote(400, 500, || Moment::START);
        assert_eq!(output.unsent(), 600);
        output.wrote(600, 500, || Moment::START);
        assert_eq!((output.unsent(), output.bytes.capacity()), (0, 0));
    }

    #[test]
    fn replies_that_were_written_take_memory_until_all_are() {
        let mut output = Output::default();
        let mut most = 0;
        for _ in 0..100_000 {
            while output.unsent() < 16 << 10 {
                output.buffer().extend_from_slice(b"250 2.0.0 OK\r\n");
            }
            most = most.max(output.bytes.capacity());
            output.wrote(1000, 500, || Moment::START);
        }
        assert!(most <= (16 << 10) + Output::STEP, "{most}");
        let expected = b"250 2.0.0 OK\r\n".iter().cycle().skip(100_000 * 1000 % 14);
        assert!(output.as_slice().iter().eq(expected.take(output.unsent())));
    }
}
