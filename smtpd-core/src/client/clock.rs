//! The deadlines of a session.

use std::time::{Duration, Instant};

use crate::time::Nanos;

/// A poll that is late by no more than this counts as on time.
const PUNCTUAL: Duration = Duration::from_millis(10);

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Write,
    Read,
    Handshake,
    Ready,
    Body,
}

/// Measures the current wait. It begins anew when the session waits for something else, or when something has happened for which it
/// waited; bytes of a reply that is not complete do not count.
#[derive(Debug, Default)]
pub(super) struct Clock {
    wait: Option<Wait>,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    need: Need,
    since: Instant,
    /// Whether the driver was notified once that it is late.
    late: bool,
}

impl Clock {
    /// Returns the deadline of the wait, or `None` if it has passed. A driver that is late gets another moment once, because what
    /// was awaited may have arrived in time.
    pub(super) fn deadline(
        &mut self,
        need: Need,
        limit: Duration,
        now: Instant,
    ) -> Option<Instant> {
        let limit = Nanos::of(limit).duration();
        let is_same = |wait: &Wait| wait.need == need;
        let mut wait = self.wait.filter(is_same).unwrap_or(Wait {
            need,
            since: now,
            late: false,
        });
        let mut until = wait.since + limit;
        if until <= now && now - until > PUNCTUAL && !wait.late {
            let late = now - until + PUNCTUAL;
            (wait.late, wait.since) = (true, wait.since + late);
            until += late;
        }
        self.wait = Some(wait);
        (until > now).then_some(until)
    }

    /// Begins the wait anew.
    pub(super) const fn restart(&mut self) {
        self.wait = None;
    }

    /// Notes that the server has received some bytes. It gains no more time from it than the minimum rate gives.
    pub(super) fn wrote(&mut self, written: usize, least_rate: u32, now: Instant) {
        if let Some(wait) = &mut self.wait {
            let earned = Nanos::earned(written as u64, least_rate).duration();
            wait.since = (wait.since + earned).min(now.max(wait.since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_wait_goes_on_until_something_happens() {
        let (mut clock, start) = (Clock::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in [0, 4, 9] {
            assert_eq!(clock.deadline(Need::Read, LIMIT, at(seconds)), Some(at(10)));
        }
        assert_eq!(clock.deadline(Need::Read, LIMIT, at(10)), None);
        assert_eq!(clock.deadline(Need::Body, LIMIT, at(10)), Some(at(20)));
        clock.restart();
        assert_eq!(clock.deadline(Need::Body, LIMIT, at(15)), Some(at(25)));
        assert!(clock.deadline(Need::Body, Duration::MAX, at(15)).is_some());
    }

    #[test]
    fn a_server_that_takes_a_byte_now_and_then_is_given_up() {
        let (mut clock, start) = (Clock::default(), Instant::now());
        let mut now = start;
        let mut written = 0;
        while clock.deadline(Need::Write, LIMIT, now).is_some() {
            now += Duration::from_secs(1);
            clock.wrote(1, 500, now);
            written += 1;
        }
        assert!(written <= 12, "{written}");
        clock.restart();
        assert!(clock.deadline(Need::Write, LIMIT, now).is_some());
        clock.wrote(1 << 30, 500, now + LIMIT);
        let until = clock.deadline(Need::Write, LIMIT, now + LIMIT);
        assert_eq!(until, Some(now + LIMIT + LIMIT));
    }

    #[test]
    fn a_late_driver_may_look_once_more() {
        let (mut clock, start) = (Clock::default(), Instant::now());
        clock.deadline(Need::Read, LIMIT, start);
        let late = start + LIMIT + LIMIT;
        assert_eq!(
            clock.deadline(Need::Read, LIMIT, late),
            Some(late + PUNCTUAL)
        );
        assert_eq!(clock.deadline(Need::Read, LIMIT, late + PUNCTUAL), None);
        assert_eq!(clock.deadline(Need::Read, LIMIT, late + LIMIT), None);
    }
}
