//! Time as a session measures it.
//!
//! Each poll makes several comparisons. As integers, times are compared in one instruction each, and take half the space of an
//! [`Instant`](std::time::Instant) in every session.

use std::{num::NonZeroU64, time::Duration};

/// A duration in nanoseconds. None is longer than [`MAX`](Self::MAX).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nanos(u64);

/// A point in time: the time since the first poll of the session plus one nanosecond, so that `Option` takes no space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(NonZeroU64);

const SECOND: u64 = 1_000_000_000;

/// A poll that is late by no more than this counts as on time.
const PUNCTUAL: Nanos = Nanos::from_millis(10);

impl Nanos {
    pub(crate) const ZERO: Self = Self(0);
    /// 30 years, which stands for "forever". Not every platform can add much more to an `Instant`.
    pub(crate) const MAX: Self = Self(30 * 365 * 24 * 3600 * SECOND);

    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    pub(crate) const fn of(duration: Duration) -> Self {
        if duration.as_secs() >= Self::MAX.0 / SECOND {
            return Self::MAX;
        }
        Self(duration.as_secs() * SECOND + duration.subsec_nanos() as u64)
    }

    /// Returns the time that a transfer of `bytes` may take.
    pub(crate) fn earned(bytes: u64, least_rate: u32) -> Self {
        if bytes == 0 {
            return Self::ZERO;
        }
        let rate = u64::from(least_rate.max(1));
        let whole = (bytes / rate).saturating_mul(SECOND);
        Self(whole.saturating_add(bytes % rate * SECOND / rate)).min(Self::MAX)
    }

    pub(crate) const fn duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0).min(Self::MAX)
    }

    /// Returns the time left after `other`.
    pub(crate) const fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Moment {
    /// The first poll of the session.
    pub(crate) const START: Self = Self(NonZeroU64::MIN);

    pub(crate) const fn plus(self, span: Nanos) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// Returns the time from `earlier` to this.
    pub(crate) fn since(self, earlier: Self) -> Nanos {
        Nanos(self.0.get().saturating_sub(earlier.0.get())).min(Nanos::MAX)
    }

    /// Returns by how much to postpone a deadline that was missed at this moment, once per wait. A driver that is late was too
    /// busy to look at its socket, where the awaited input may have arrived in time. This gives it a moment to find out.
    pub(crate) fn lateness(self, deadline: Self, was_late: &mut bool) -> Option<Nanos> {
        let late = self.since(deadline);
        (late > PUNCTUAL && !std::mem::replace(was_late, true)).then(|| late.plus(PUNCTUAL))
    }
}

impl Default for Moment {
    fn default() -> Self {
        Self::START
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_earn_time() {
        assert_eq!(Nanos::earned(1250, 500), Nanos::from_millis(2500));
        assert_eq!(Nanos::earned(0, 0), Nanos::ZERO);
        assert_eq!(Nanos::earned(u64::MAX, 0), Nanos::MAX);
    }

    #[test]
    fn no_limit_leads_to_no_overflow() {
        assert_eq!(Nanos::of(Duration::MAX), Nanos::MAX);
        assert_eq!(Nanos::MAX.plus(Nanos::MAX), Nanos::MAX);
    }
}
