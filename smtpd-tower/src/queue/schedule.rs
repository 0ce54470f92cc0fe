use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use crate::session::QueueId;

/// When a message that could not be delivered is tried again, and for how long (RFC 5321 section 4.5.4.1).
///
/// By default, the second attempt is due five minutes after the first, and each wait is twice as long as the one before, up to four
/// hours; after four hours the sender is told that the message is late, and after five days it is given up. Each wait is up to a
/// tenth shorter or longer, so that messages that failed together are not tried together.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_tower::queue::Schedule;
///
/// let hour = Duration::from_secs(3600);
/// let schedule = Schedule::default().first(hour / 4).longest(2 * hour);
/// assert_eq!(schedule.wait(1), hour / 4);
/// assert_eq!(schedule.wait(3), hour);
/// assert_eq!(schedule.wait(9), 2 * hour);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    first: Duration,
    longest: Duration,
    lifetime: Duration,
    warn_after: Option<Duration>,
}

impl Default for Schedule {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            first: Duration::from_secs(300),
            longest: HOUR.saturating_mul(4),
            lifetime: HOUR.saturating_mul(5 * 24),
            warn_after: Some(HOUR.saturating_mul(4)),
        }
    }
}

impl Schedule {
    /// Sets the wait after the first attempt. Less than a second counts as one. Default: 5 minutes.
    #[must_use]
    pub fn first(self, first: Duration) -> Self {
        let first = first.max(Duration::from_secs(1));
        Self { first, ..self }
    }

    /// Sets the longest wait. Default: 4 hours.
    #[must_use]
    pub fn longest(self, longest: Duration) -> Self {
        Self { longest, ..self }
    }

    /// Sets after which time a message is given up, counted from its arrival or, if it was to be held, from its release. There is
    /// one more attempt at that time. Default: 5 days.
    #[must_use]
    pub fn lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// Sets after which time the sender is told that a message is late, counted in the same way; `None` for never. He is told
    /// once, with the first attempt that fails after that time. Default: 4 hours.
    #[must_use]
    pub fn warn_after(self, warn_after: impl Into<Option<Duration>>) -> Self {
        Self {
            warn_after: warn_after.into(),
            ..self
        }
    }

    /// Returns how long to wait after so many attempts, without the random part.
    pub fn wait(&self, tries: u32) -> Duration {
        let doublings = tries.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings);
        wait.min(self.longest.max(self.first))
    }

    /// Returns how long to wait for a certain message.
    pub(super) fn wait_of(&self, id: &QueueId, tries: u32) -> Duration {
        jittered(self.wait(tries), (id, tries))
    }

    pub(super) const fn get_lifetime(&self) -> Duration {
        self.lifetime
    }

    pub(super) const fn get_warn_after(&self) -> Option<Duration> {
        self.warn_after
    }
}

/// Returns a time that is up to a tenth shorter or longer, always by the same part for the same key.
pub(super) fn jittered(time: Duration, key: impl Hash) -> Duration {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let thousandths = u32::try_from(hasher.finish() % 201).unwrap_or_default();
    (time / 1000).saturating_mul(900 + thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_doubles_up_to_the_longest() {
        let schedule = Schedule::default();
        let minutes = |tries| schedule.wait(tries).as_secs() / 60;
        let waits: Vec<_> = (0..=9).map(minutes).collect();
        assert_eq!(waits, [5, 5, 10, 20, 40, 80, 160, 240, 240, 240]);
        assert_eq!(minutes(u32::MAX), 240);
        let odd = schedule.first(Duration::ZERO).longest(Duration::ZERO);
        assert_eq!(odd.wait(5), Duration::from_secs(1));
    }

    #[test]
    fn messages_that_failed_together_are_not_tried_together() {
        let schedule = Schedule::default();
        let all = (0..1000).map(|_| schedule.wait_of(&QueueId::unique(), 1).as_millis());
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        assert!(all[0] >= 270_000 && all[999] <= 330_000);
        assert!(all[100] < 285_000 && all[900] > 315_000);
        all.dedup();
        assert!(all.len() > 150);
    }
}
