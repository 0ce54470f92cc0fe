use std::error::Error;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// How often something may happen: `events` in each `period`, and up to `burst` of them at once.
///
/// After a pause, `burst` events are allowed at once (as many as `events`, unless [`with_burst`](Self::with_burst) is called),
/// then one every `period / events`. So a key that spends its burst and then each event that it regains has up to
/// `burst + events` in one period: of 100 a day, 100 at once and 99 more in the first 24 hours. [`strict`](Self::strict) never
/// allows more than `events` in any period.
///
/// | 100 a day | at once | at most in any 24 hours | the next after so many at once |
/// |---|---|---|---|
/// | `Rate::per_day(100)?` | 100 | 199 | after 14.4 minutes |
/// | `Rate::per_day(100)?.with_burst(20)?` | 20 | 119 | after 14.4 minutes |
/// | `Rate::per_day(100)?.strict()` | 100 | 100 | after 24 to 25.5 hours, then 100 at once |
/// | `Rate::per_day(100)?.strict().with_burst(20)?` | 20 | 100 | after 14.4 minutes |
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
    strict: bool,
}

impl Rate {
    /// Allows `events` events in each `period`, also all at once, and up to twice as many in the first one.
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
            strict: false,
        })
    }

    /// Allows `events` events in each second, also all at once, and up to twice as many in the first one.
    ///
    /// # Errors
    ///
    /// Returns [`RateError::ZeroEvents`] if `events` is 0.
    pub const fn per_second(events: u32) -> Result<Self, RateError> {
        Self::new(events, Duration::from_secs(1))
    }

    /// Allows `events` events in each minute, also all at once, and up to twice as many in the first one.
    ///
    /// # Errors
    ///
    /// Returns [`RateError::ZeroEvents`] if `events` is 0.
    pub const fn per_minute(events: u32) -> Result<Self, RateError> {
        Self::new(events, Duration::from_secs(60))
    }

    /// Allows `events` events in each hour, also all at once, and up to twice as many in the first one.
    ///
    /// # Errors
    ///
    /// Returns [`RateError::ZeroEvents`] if `events` is 0.
    pub const fn per_hour(events: u32) -> Result<Self, RateError> {
        Self::new(events, Duration::from_secs(3600))
    }

    /// Allows `events` events in each day, also all at once, and up to twice as many in the first one: for a quota of so many in
    /// any 24 hours, add [`strict`](Self::strict).
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

    /// Returns a rate that never allows more than [`events`](Self::events) in any period, wherever it begins.
    ///
    /// By itself, all of them may still happen at once. The limiter then counts in sixteenths of the period, so that an event is
    /// regained one period after it has happened, or up to a sixteenth later. It uses about 120 bytes more for each key.
    ///
    /// With a smaller [burst](Self::with_burst), fewer may happen at once, as with any rate. A larger burst has no effect.
    ///
    /// ```
    /// use smtpd_tower::limiter::{Rate, RateLimiter};
    ///
    /// let limiter = RateLimiter::new(Rate::per_day(100)?.strict());
    /// for _ in 0..100 {
    ///     limiter.check("alice")?;
    /// }
    /// // Alice waits for at least a day.
    /// assert!(limiter.usage("alice").retry_after().as_secs() >= 24 * 3600);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn strict(self) -> Self {
        Self {
            strict: true,
            ..self
        }
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
        if self.strict && self.burst.get() > self.events.get() {
            self.events.get()
        } else {
            self.burst.get()
        }
    }

    /// Returns whether no period has more than [`events`](Self::events): see [`strict`](Self::strict).
    #[must_use]
    pub const fn is_strict(&self) -> bool {
        self.strict
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

    #[test]
    fn strict_and_burst_are_set_in_any_order() {
        let day = Rate::per_day(100).unwrap();
        assert_eq!(day.strict().burst(), 100);
        let small = day.strict().with_burst(20).unwrap();
        assert_eq!(small, day.with_burst(20).unwrap().strict());
        assert_eq!((small.burst(), small.is_strict()), (20, true));
        let large = day.with_burst(500).unwrap().strict();
        assert_eq!(large.burst(), 100, "no more than in a period");
    }
}
