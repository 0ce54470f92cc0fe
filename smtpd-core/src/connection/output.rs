//! The bytes waiting to be sent to the client.

use crate::time::{Moment, Nanos};

/// Replies that wait to be written. An idle session keeps only a few bytes of space for them.
#[derive(Debug, Default)]
pub(super) struct Output {
    octets: Vec<u8>,
    sent: usize,
    /// When the client's time to receive them began, moved later by the time gained by receiving some.
    since: Option<Moment>,
}

impl Output {
    /// The capacity that an idle session may keep.
    const KEPT: usize = 128;

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.octets[self.sent..]
    }

    pub(super) fn unsent(&self) -> usize {
        self.octets.len() - self.sent
    }

    /// Notes what was written. The client gains no more time from it than the minimum rate gives: otherwise, one that receives a
    /// byte now and then would never be given up.
    pub(super) fn wrote(&mut self, written: usize, least_rate: u32, now: impl FnOnce() -> Moment) {
        debug_assert!(written <= self.unsent(), "more was written than there was");
        self.sent = (self.sent + written).min(self.octets.len());
        if self.sent == self.octets.len() {
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
        if self.octets.capacity() > Self::KEPT {
            self.octets = Vec::new();
        } else {
            self.octets.clear();
        }
    }

    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.octets.capacity() == 0 {
            // It would grow by doubling from the first reply, one allocation after the other.
            self.octets.reserve(Self::KEPT);
        }
        &mut self.octets
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
        assert_eq!((output.unsent(), output.octets.capacity()), (0, 0));
    }
}
