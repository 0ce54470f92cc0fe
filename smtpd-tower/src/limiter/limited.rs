use std::{error::Error, fmt, time::Duration};

/// The error of an event that is over the rate of its key: it must not happen, and was not counted.
///
/// It is shown for a person, in a unit that fits and rounded up: as "try again in 40 seconds".
///
/// ```
/// use std::num::NonZeroU32;
///
/// use smtpd_tower::limiter::{Rate, RateLimiter};
///
/// let limiter = RateLimiter::new(Rate::per_day(1)?);
/// limiter.check("alice")?;
/// let limited = limiter.check("alice").unwrap_err();
/// assert!(limited.retry_after().is_some());
/// assert_eq!(limited.to_string(), "try again in 24 hours");
///
/// let two = NonZeroU32::MIN.saturating_add(1);
/// let never = limiter.check_n("bob", two).unwrap_err();
/// assert_eq!(never.retry_after(), None);
/// assert_eq!(never.to_string(), "more than is ever allowed at once");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited(pub(super) Option<Duration>);

impl Limited {
    /// Returns the time until the event is allowed, if the key causes no others before. Never zero. `None` if it is never
    /// allowed, because it needs more than a whole [burst](super::Rate::burst).
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        self.0
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(wait) = self.0 else {
            return f.write_str("more than is ever allowed at once");
        };
        let seconds = wait.as_nanos().div_ceil(1_000_000_000);
        let (count, unit) = match seconds {
            ..120 => (seconds, "second"),
            120..7200 => (seconds.div_ceil(60), "minute"),
            7200..172_800 => (seconds.div_ceil(3600), "hour"),
            _ => (seconds.div_ceil(86_400), "day"),
        };
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "try again in {count} {unit}{plural}")
    }
}

impl Error for Limited {}

/// What a key has used of its rate, from [`RateLimiter::usage`](super::RateLimiter::usage).
///
/// ```
/// use std::num::NonZeroU32;
///
/// use smtpd_tower::limiter::{Rate, RateLimiter};
///
/// let limiter = RateLimiter::new(Rate::per_hour(2)?);
/// let sending = limiter.reserve("alice", NonZeroU32::MIN)?;
/// limiter.check("alice")?;
///
/// let usage = limiter.usage("alice");
/// assert_eq!((usage.counted(), usage.reserved(), usage.limit()), (1, 1, 2));
/// assert!(!usage.retry_after().is_zero());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub(super) counted: u64,
    pub(super) reserved: u64,
    pub(super) limit: u32,
    pub(super) wait: Duration,
}

impl Usage {
    /// Returns how many events are counted and not regained yet, rounded up.
    #[must_use]
    pub const fn counted(self) -> u64 {
        self.counted
    }

    /// Returns how many events are [reserved](super::Reservation).
    #[must_use]
    pub const fn reserved(self) -> u64 {
        self.reserved
    }

    /// Returns how many of both there may be: the [burst](super::Rate::burst) of the rate, or the
    /// [events](super::Rate::events) of a period if the rate is [strict](super::Rate::strict).
    #[must_use]
    pub const fn limit(self) -> u32 {
        self.limit
    }

    /// Returns the time until the next event is allowed. Zero if it is allowed now.
    #[must_use]
    pub const fn retry_after(self) -> Duration {
        self.wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_a_unit_that_fits_and_never_too_short() {
        for (nanos, shown) in [
            (1, "1 second"),
            (1_000_000_000, "1 second"),
            (39_000_000_001, "40 seconds"),
            (119_000_000_000, "119 seconds"),
            (120_000_000_000, "2 minutes"),
            (3_600_000_000_001, "61 minutes"),
            (7_200_000_000_001, "3 hours"),
            (172_800_000_000_000, "2 days"),
            (u64::MAX, "213504 days"),
        ] {
            let limited = Limited(Some(Duration::from_nanos(nanos)));
            assert_eq!(limited.to_string(), format!("try again in {shown}"));
        }
        let longest = Limited(Some(Duration::MAX)).to_string();
        assert!(longest.ends_with(" days"), "{longest}");
    }
}
