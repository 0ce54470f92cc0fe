use std::error::Error;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// How often something may happen: `events` in each `period`, and up to `burst` of them at once.
///
/// After a pause, `burst` events are allowed at once (as many as `events`, unless [`with_burst`](Self::with_burst) is called),
/// then one every `period / events`. So at most `burst + events` are allowed in any one period.
///
/// `period / events` is rounded down to whole nanoseconds, but at least 1. The time in which a spent burst is regained is limited
/// to 292 years.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_tower::limiter::{Rate, RateError};
///
/// let rate = Rate::per_minute(100)?.with_burst(10)?;
/// assert_eq!(rate.burst(), 10);
///
/// let rate: Rate = "100/60".parse()?;
/// assert_eq!(rate, Rate::new(100, Duration::from_secs(60))?);
///
/// assert_eq!(Rate::per_hour(0), Err(RateError::ZeroEvents));
/// assert_eq!(Rate::per_day(500)?.period(), 24 * Rate::per_hour(1)?.period());
/// # Ok::<(), RateError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    events: NonZeroU32,
    period: Duration,
    burst: NonZeroU32,
}

impl Rate {
    /// Allows `events` events in each `period`, also all at once.
    ///
    /// # Errors
    ///
    /// Returns [`RateError::ZeroEvents`] or [`RateError::ZeroPeriod`] if one of them is zero.
    pub const fn new(events: u32, period: Duration) -> Result<Self, RateError> {
        let Some(events) = NonZeroU32::new(events) else {
            return Err(RateError::ZeroEvents);
        };
        if period.is_zero() {
            return Err(RateError::ZeroPeriod);
        }
        Ok(Self {
            events,
            period,
            burst: events,
        })
    }

    /// Allows `events` events in each second.
    ///
    /// # Errors
    ///
    /// Returns [`RateError::ZeroEvents`] if `events` is 0.
    pub const fn per_second(events: u32) -> Result<Self, RateError> {
        Self::new(events, Duration::from_secs(1))
    }

    /// Allows `events` events in each minute.
    ///
    /// # Errors
    ///
    /// Returns [`RateError::ZeroEvents`] if `events` is 0.
    pub const fn per_minute(events: u32) -> Result<Self, RateError> {
        Self::new(events, Duration::from_secs(60))
    }

    /// Allows `events` events in each hour.
    ///
    /// # Errors
    ///
    /// Returns [`RateError::ZeroEvents`] if `events` is 0.
    pub const fn per_hour(events: u32) -> Result<Self, RateError> {
        Self::new(events, Duration::from_secs(3600))
    }

    /// Allows `events` events in each day, also all at once.
    ///
    /// # Errors
    ///
    /// Returns [`RateError::ZeroEvents`] if `events` is 0.
    pub const fn per_day(events: u32) -> Result<Self, RateError> {
        Self::new(events, Duration::from_secs(24 * 3600))
    }

    /// Returns a rate with another burst: `burst` events may happen at once.
    ///
    /// # Errors
    ///
    /// Returns [`RateError::ZeroBurst`] if `burst` is 0.
    pub const fn with_burst(self, burst: u32) -> Result<Self, RateError> {
        let Some(burst) = NonZeroU32::new(burst) else {
            return Err(RateError::ZeroBurst);
        };
        Ok(Self { burst, ..self })
    }

    /// Returns how many events are allowed in each [`period`](Self::period).
    #[must_use]
    pub const fn events(&self) -> u32 {
        self.events.get()
    }

    /// Returns the time over which [`events`](Self::events) are counted.
    #[must_use]
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// Returns how many events may happen at once.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst.get()
    }
}

/// Parses `N/SECONDS`, both in decimal digits: `100/60` is a hundred in each minute.
impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (events, seconds) = text.split_once('/').ok_or(RateError::Syntax)?;
        let events = u32::try_from(number(events)?).map_err(|_| RateError::TooLarge)?;
        Self::new(events, Duration::from_secs(number(seconds)?))
    }
}

/// An error of the constructors of [`Rate`].
///
/// ```
/// use smtpd_tower::limiter::{Rate, RateError};
///
/// let error = "100 a minute".parse::<Rate>().unwrap_err();
/// assert_eq!(error, RateError::Syntax);
/// assert_eq!(error.to_string(), "a rate is N/SECONDS, such as 100/60");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateError {
    /// No events at all.
    ZeroEvents,
    /// A period of zero length.
    ZeroPeriod,
    /// A burst that lets nothing through.
    ZeroBurst,
    /// Text that is not `N/SECONDS`.
    Syntax,
    /// A number in the text above 2^32 - 1 events or 2^64 - 1 seconds.
    TooLarge,
}

impl fmt::Display for RateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroEvents => "a rate must allow at least 1 event",
            Self::ZeroPeriod => "the period of a rate must be longer than 0",
            Self::ZeroBurst => "the burst of a rate must be at least 1",
            Self::Syntax => "a rate is N/SECONDS, such as 100/60",
            Self::TooLarge => "a number in the rate is too large",
        })
    }
}

impl Error for RateError {}

/// The generic cell rate algorithm, in nanoseconds since an epoch that the caller chooses.
///
/// The whole state of a key is its theoretical arrival time (TAT): when it will have paid for everything it was allowed. An event
/// costs `interval`, and the debt may be up to `window`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gcra {
    interval: u64,
    window: u64,
}

impl Gcra {
    /// The longest debt, 292 years: no sum below overflows u64 for as many years.
    const LONGEST_WINDOW: u64 = u64::MAX / 2;

    pub(super) fn new(rate: Rate) -> Self {
        let burst = u64::from(rate.burst());
        let exact = rate.period().as_nanos() / u128::from(rate.events());
        let interval = u64::try_from(exact)
            .unwrap_or(u64::MAX)
            .clamp(1, Self::LONGEST_WINDOW / burst);
        Self {
            interval,
            window: interval.saturating_mul(burst),
        }
    }

    /// Returns the new TAT if `n` more events are allowed now, otherwise how long until they are.
    ///
    /// Events that are not allowed cost nothing, so a client that keeps trying is let in as soon as
    /// one that waits. A TAT not above `now` is the same as none.
    pub(super) fn admit(self, tat: u64, now: u64, n: NonZeroU32) -> Result<u64, Duration> {
        let cost = self.interval.saturating_mul(n.get().into());
        if cost > self.window {
            return Err(Duration::MAX);
        }
        let next = tat.max(now).saturating_add(cost);
        let allowed_until = now.saturating_add(self.window);
        if next <= allowed_until {
            Ok(next)
        } else {
            Err(Duration::from_nanos(next - allowed_until))
        }
    }
}

/// Digits only: the number parser of std also takes a sign.
fn number(text: &str) -> Result<u64, RateError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(RateError::Syntax);
    }
    text.parse().map_err(|_| RateError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_from_str() {
        let rate = |events, seconds| Rate::new(events, Duration::from_secs(seconds));
        let table = [
            ("100/60", rate(100, 60)),
            ("1/1", rate(1, 1)),
            ("007/010", rate(7, 10)),
            ("4294967295/1", rate(u32::MAX, 1)),
            ("1/18446744073709551615", rate(1, u64::MAX)),
            ("0/60", Err(RateError::ZeroEvents)),
            ("100/0", Err(RateError::ZeroPeriod)),
            ("4294967296/1", Err(RateError::TooLarge)),
            ("1/18446744073709551616", Err(RateError::TooLarge)),
            ("", Err(RateError::Syntax)),
            ("/", Err(RateError::Syntax)),
            ("100", Err(RateError::Syntax)),
            ("100/", Err(RateError::Syntax)),
            ("/60", Err(RateError::Syntax)),
            ("100/60/2", Err(RateError::Syntax)),
            ("+100/60", Err(RateError::Syntax)),
            ("-1/60", Err(RateError::Syntax)),
            (" 100/60", Err(RateError::Syntax)),
            ("100 / 60", Err(RateError::Syntax)),
            ("1.5/60", Err(RateError::Syntax)),
            ("100/60s", Err(RateError::Syntax)),
            ("١/60", Err(RateError::Syntax)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Rate>(), expected, "{text:?}");
        }
    }

    #[test]
    fn zero_is_refused_by_name() {
        assert_eq!(Rate::per_second(0), Err(RateError::ZeroEvents));
        assert_eq!(Rate::per_minute(0), Err(RateError::ZeroEvents));
        assert_eq!(Rate::per_hour(0), Err(RateError::ZeroEvents));
        assert_eq!(Rate::new(1, Duration::ZERO), Err(RateError::ZeroPeriod));
        let rate = Rate::per_second(1).unwrap();
        assert_eq!(rate.with_burst(0), Err(RateError::ZeroBurst));
    }

    #[test]
    fn burst_is_the_number_of_events_unless_set() {
        let rate = Rate::per_hour(7).unwrap();
        assert_eq!((rate.events(), rate.burst()), (7, 7));
        assert_eq!(rate.period(), Duration::from_secs(3600));
        let rate = rate.with_burst(20).unwrap();
        assert_eq!((rate.events(), rate.burst()), (7, 20));
    }

    /// Adds events at `now` until one is refused, at most `limit` of them.
    fn allowed_at(gcra: Gcra, tat: &mut u64, now: u64, limit: u32) -> u32 {
        for taken in 0..limit {
            match gcra.admit(*tat, now, NonZeroU32::MIN) {
                Ok(next) => *tat = next,
                Err(_) => return taken,
            }
        }
        limit
    }

    #[test]
    fn burst_is_exact_at_the_edges_of_rate_and_time() {
        let year = 365 * 24 * 3600 * 1_000_000_000;
        let table = [
            (1, Duration::from_nanos(1), 1),
            (1, Duration::MAX, 1),
            (5, Duration::MAX, 5),
            (1, Duration::MAX, 1000),
            (1000, Duration::from_secs(u64::MAX), 3),
            (u32::MAX, Duration::from_nanos(1), 5),
            (3, Duration::from_secs(1), 3),
            (1, Duration::from_secs(1 << 40), 9),
        ];
        for (events, period, burst) in table {
            let rate = Rate::new(events, period).unwrap();
            let gcra = Gcra::new(rate.with_burst(burst).unwrap());
            for now in [0, 1, 100 * year] {
                let allowed = allowed_at(gcra, &mut 0, now, burst + 10);
                assert_eq!(allowed, burst, "{rate:?} burst {burst} at {now}");
            }
        }
    }

    #[test]
    fn largest_burst_keeps_a_debt_that_fits() {
        let rate = Rate::new(1, Duration::MAX).unwrap();
        let gcra = Gcra::new(rate.with_burst(u32::MAX).unwrap());
        assert!(gcra.window <= Gcra::LONGEST_WINDOW);
        assert_eq!(gcra.window / gcra.interval, u64::from(u32::MAX));
    }

    #[test]
    fn whole_burst_is_back_after_a_period_that_does_not_divide() {
        let gcra = Gcra::new(Rate::per_second(3).unwrap());
        let mut tat = 0;
        assert_eq!(allowed_at(gcra, &mut tat, 0, 10), 3);
        assert_eq!(allowed_at(gcra, &mut tat, 1_000_000_000, 10), 3);
    }
}
