use std::{fmt, sync::Arc};

use super::{key_hash::KeyHash, pace::Share, table::Table};

/// Events that a key may cause, and that are not counted yet.
///
/// Until it is [committed](Self::commit), a reservation keeps its events from all others, so that many at once cannot exceed the
/// limit together. If it is dropped instead, as in a future that is canceled or panics, the events are given back as if they had
/// never been reserved.
///
/// ```
/// use std::num::NonZeroU32;
///
/// use smtpd_tower::limiter::{Rate, RateLimiter};
///
/// let limiter = RateLimiter::new(Rate::per_hour(1)?);
/// let sending = limiter.reserve("alice", NonZeroU32::MIN)?;
/// assert!(limiter.reserve("alice", NonZeroU32::MIN).is_err());
/// drop(sending); // It has failed.
/// limiter.reserve("alice", NonZeroU32::MIN)?.commit();
/// assert!(limiter.reserve("alice", NonZeroU32::MIN).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a reservation that is dropped is given back"]
pub struct Reservation {
    table: Arc<Table>,
    key: KeyHash,
    share: Share,
    /// 0 when it has ended.
    events: u32,
}

impl Reservation {
    pub(super) const fn new(table: Arc<Table>, key: KeyHash, share: Share, events: u32) -> Self {
        Self {
            table,
            key,
            share,
            events,
        }
    }

    /// Returns how many events are reserved.
    #[must_use]
    pub const fn events(&self) -> u32 {
        self.events
    }

    /// Counts the events as of now.
    pub fn commit(self) {
        let events = self.events;
        self.commit_n(events);
    }

    /// Counts `events` events as of now, whatever was reserved: for what is only known afterwards, such as the size of a message.
    ///
    /// With fewer, the rest is given back. With more, the key owes them even beyond its burst, and waits accordingly.
    pub fn commit_n(mut self, events: u32) {
        let held = std::mem::take(&mut self.events);
        self.table.settle(self.key, self.share, held, events);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.events > 0 {
            self.table.settle(self.key, self.share, self.events, 0);
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}
