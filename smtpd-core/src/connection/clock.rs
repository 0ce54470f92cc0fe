//! The clock of a session.

use std::time::Instant;

use crate::time::{Moment, Nanos};

/// Measures the time spent waiting for the client. The time that a service takes is not charged to the client.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// The last time that the caller passed, and the moment of the session that it stands for.
    seen_at: Option<Instant>,
    moment: Moment,
    /// The time since which nothing has been received; `None` while the session does not wait for the client.
    waiting: Option<Moment>,
    /// The total of earlier waits for the same line.
    waited: Nanos,
    /// The size of the input when the wait began. A `usize` would make every session larger, for more than 4 GiB of input.
    seen: u32,
    /// When the answer to a deferred question, or the handshake, is due.
    due: Option<Moment>,
    /// Whether the driver was notified once that it is late for a deadline that has passed.
    late: bool,
}

impl Clock {
    /// Returns the session's time, which begins at the first call.
    pub(super) fn moment(&mut self, now: Instant) -> Moment {
        // Usually the session is polled several times with the same time.
        if self.seen_at != Some(now) {
            self.advance(now);
        }
        self.moment
    }

    /// If the caller's clock goes back, the session's clock stands still.
    fn advance(&mut self, now: Instant) {
        let before = *self.seen_at.get_or_insert(now);
        if now > before {
            self.seen_at = Some(now);
            self.moment = self.moment.plus(Nanos::of(now - before));
        }
    }

    /// Converts a moment to the caller's time.
    pub(super) fn instant(&self, moment: Moment) -> Instant {
        let now = self.seen_at.unwrap_or_else(Instant::now);
        now + moment.since(self.moment).duration()
    }

    /// Returns the caller's time after so much more time has passed.
    pub(super) fn instant_in(&self, limit: Nanos) -> Instant {
        self.seen_at.unwrap_or_else(Instant::now) + limit.duration()
    }

    /// Notes that input may have been received. Returns how long the session waited for it.
    pub(super) fn arrived(&mut self, now: Moment, input: usize) -> Nanos {
        if len(input) == self.seen {
            return Nanos::ZERO;
        }
        let since = self.waiting.take();
        since.map_or(Nanos::ZERO, |since| now.since(since))
    }

    /// Counts a wait for a line.
    pub(super) fn count(&mut self, waited: Nanos) {
        self.waited = self.waited.plus(waited);
    }

    /// Notes that the client must continue.
    pub(super) fn wait(&mut self, now: Moment, input: usize) {
        self.seen = len(input);
        if self.waiting.is_none() {
            self.waiting = Some(now);
            self.late = false;
        }
    }

    /// Returns the deadline of a wait. Returns `None` if it has passed, except that a late driver is notified once.
    pub(super) fn read_deadline(&mut self, until: Moment, now: Moment) -> Option<Moment> {
        if until > now {
            return Some(until);
        }
        let late = now.lateness(until, &mut self.late)?;
        self.postpone(late);
        Some(until.plus(late))
    }

    /// Returns when a handshake or an answer is due. Returns `None` if that has passed, except that a late driver is notified
    /// once.
    pub(super) fn due_in(&mut self, limit: Nanos, now: Moment) -> Option<Moment> {
        let Some(due) = self.due else {
            self.late = false;
            self.due = Some(now.plus(limit));
            return self.due.filter(|due| *due > now);
        };
        if due <= now {
            let late = now.lateness(due, &mut self.late)?;
            self.due = Some(due.plus(late));
        }
        self.due
    }

    /// Measures the time for an answer, or a handshake, anew from the next poll.
    pub(super) const fn forget_due(&mut self) {
        self.due = None;
    }

    /// Moves the start of the wait later by `late`.
    pub(super) fn postpone(&mut self, late: Nanos) {
        self.waiting = self.waiting.map(|since| since.plus(late));
    }

    /// Moves the due time later by `late`.
    pub(super) fn postpone_due(&mut self, late: Nanos) {
        self.due = self.due.map(|due| due.plus(late));
    }

    /// Notes that the session does not wait for the client. Returns how long it has waited until now.
    pub(super) fn pause(&mut self, now: Moment) -> Nanos {
        self.seen = 0;
        let since = self.waiting.take();
        since.map_or(Nanos::ZERO, |since| now.since(since))
    }

    /// Begins a new line.
    pub(super) const fn begin_line(&mut self) {
        self.waited = Nanos::ZERO;
    }

    pub(super) fn waiting_since(&self, now: Moment) -> Moment {
        self.waiting.unwrap_or(now)
    }

    pub(super) const fn left_of_line(&self, limit: Nanos) -> Nanos {
        limit.less(self.waited)
    }
}

fn len(input: usize) -> u32 {
    u32::try_from(input).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const fn seconds(n: u64) -> Nanos {
        Nanos::from_millis(1000 * n)
    }

    fn at(n: u64) -> Moment {
        Moment::START.plus(seconds(n))
    }

    #[test]
    fn waits_for_the_same_line_add_up() {
        let mut clock = Clock::default();
        for n in 1..4 {
            clock.wait(at(n), n as usize);
            let waited = clock.arrived(at(2 * n), n as usize + 1);
            assert_eq!(waited, seconds(n));
            clock.count(waited);
        }
        assert_eq!(clock.left_of_line(seconds(8)), seconds(2));
        clock.begin_line();
        assert_eq!(clock.left_of_line(seconds(8)), seconds(8));
    }

    #[test]
    fn a_poll_without_input_ends_no_wait() {
        let mut clock = Clock::default();
        clock.wait(at(0), 3);
        assert_eq!(clock.arrived(at(1), 3), Nanos::ZERO);
        clock.wait(at(1), 3);
        assert_eq!(clock.waiting_since(at(1)), at(0));
    }

    #[test]
    fn a_moment_is_the_instant_that_it_was_made_of() {
        let start = Instant::now();
        let mut clock = Clock::default();
        assert_eq!(clock.moment(start), Moment::START);
        let later = start + Duration::new(3600, 7);
        let moment = clock.moment(later);
        assert_eq!(clock.instant(moment), later);
        assert_eq!(clock.moment(start), moment, "the clock has gone back");
    }

    #[test]
    fn no_limit_leads_to_no_overflow() {
        let clock = Clock::default();
        let end = (0..100).fold(Moment::START, |moment, _| moment.plus(Nanos::MAX));
        assert!(clock.instant(end) > Instant::now());
    }
}
