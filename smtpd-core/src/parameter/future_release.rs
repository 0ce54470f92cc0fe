use std::{num::NonZeroU32, time::SystemTime};

use super::{By, DateTime, Parameter, ParameterError, Parameters, date_time::Written, malformed};
use crate::reply::Reply;

/// `HOLDFOR=` on MAIL: the time in seconds for which the message must not be released (RFC 4865 section 3).
///
/// ```
/// use smtpd_core::parameter::{HoldFor, Parameter};
///
/// let hour = HoldFor::parse(Some("3600"))?;
/// assert_eq!((hour, hour.seconds()), (HoldFor::new(3600)?, 3600));
/// assert!(HoldFor::new(0).is_err());
/// # Ok::<(), smtpd_core::parameter::ParameterError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldFor(NonZeroU32);

impl HoldFor {
    /// The longest time, 999,999,999 seconds.
    pub const MAX: Self = Self(NonZeroU32::MIN.saturating_add(999_999_998));

    /// Creates the parameter for a time of 1 to 999,999,999 seconds.
    ///
    /// # Errors
    ///
    /// [`ParameterError::Malformed`] for any other time.
    pub const fn new(seconds: u32) -> Result<Self, ParameterError> {
        match NonZeroU32::new(seconds) {
            Some(seconds) if seconds.get() <= Self::MAX.seconds() => Ok(Self(seconds)),
            _ => Err(ParameterError::Malformed),
        }
    }

    /// Returns the seconds, counted from MAIL.
    pub const fn seconds(self) -> u32 {
        self.0.get()
    }
}

impl Parameter for HoldFor {
    const KEYWORD: &'static str = "HOLDFOR";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        // RFC 4865 section 3: %x31-39 *8DIGIT.
        let digits = value.filter(|v| !v.starts_with(['0', '+']));
        let seconds = digits.and_then(|v| v.parse().ok());
        Self::new(seconds.ok_or(ParameterError::Malformed)?)
    }
}

/// `HOLDUNTIL=` on MAIL: the time before which the message must not be released (RFC 4865 section 3). A fraction of a second
/// counts as a whole one.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
///
/// use smtpd_core::parameter::{HoldUntil, Parameters};
///
/// let now = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
/// let parameters: Parameters = "HOLDFOR=60".parse()?;
/// let hold = HoldUntil::resolve(&parameters, now)?.expect("it has the parameter");
/// assert_eq!(hold.time().unix_seconds(), 1_790_000_060);
///
/// let passed: Parameters = "HOLDUNTIL=2001-01-01T00:00:00Z".parse()?;
/// assert_eq!(HoldUntil::resolve(&passed, now).unwrap_err().code().as_u16(), 501);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldUntil(DateTime);

impl HoldUntil {
    /// Returns the time before which the message must not be released.
    pub const fn time(self) -> DateTime {
        self.0
    }

    /// Returns the time until which to hold a message with these MAIL parameters, whether the client sent `HOLDFOR=` or
    /// `HOLDUNTIL=`; `None` if it sent neither.
    ///
    /// `now` is the time when MAIL was received. The connection has no clock, so it cannot check what depends on one: call this
    /// in the service for MAIL.
    ///
    /// # Errors
    ///
    /// The reply to MAIL, 501 5.5.4, if the time has passed (RFC 4865 section 4.2), or is later than the one by which [`By`]
    /// requires delivery (RFC 4865 section 5.2.2).
    pub fn resolve(parameters: &Parameters, now: SystemTime) -> Result<Option<Self>, Reply> {
        let now = DateTime::from(now);
        let until = match (parameters.get::<HoldFor>(), parameters.get::<Self>()) {
            (None, None) => return Ok(None),
            (Some(hold), _) => now.plus_seconds(hold.seconds().into()),
            (None, Some(until)) => until.time(),
        };
        if until <= now {
            return Err(malformed("HOLDUNTIL has passed"));
        }
        let by = parameters.get::<By>();
        if by.is_some_and(|by| until > now.plus_seconds(by.seconds().into())) {
            return Err(malformed("The message would be held beyond BY"));
        }
        Ok(Some(Self(until)))
    }
}

impl Parameter for HoldUntil {
    const KEYWORD: &'static str = "HOLDUNTIL";

    fn parse(value: Option<&str>) -> Result<Self, ParameterError> {
        // RFC 4865 section 3: normalized to UTC.
        let written = Written::parse(value.unwrap_or_default())
            .filter(|written| written.is_utc)
            .ok_or(ParameterError::Malformed)?;
        Ok(Self(written.time.plus_seconds(written.has_fraction.into())))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn intervals() {
        for (value, expected) in [
            (Some("1"), Some(1)),
            (Some("999999999"), Some(999_999_999)),
            (Some("1000000000"), None),
            (Some("0"), None),
            (Some("01"), None),
            (Some("+1"), None),
            (Some("-1"), None),
            (Some("1s"), None),
            (Some(""), None),
            (None, None),
        ] {
            let seconds = HoldFor::parse(value).ok().map(HoldFor::seconds);
            assert_eq!(seconds, expected, "{value:?}");
        }
    }

    #[test]
    fn times() {
        for (value, expected) in [
            (Some("2030-01-01T00:00:00Z"), Some(1_893_456_000)),
            (Some("2030-01-01T00:00:00+00:00"), Some(1_893_456_000)),
            (Some("2030-01-01T00:00:00.05Z"), Some(1_893_456_001)),
            (Some("2030-01-01T00:00:00+01:00"), None),
            (Some("2030-01-01"), None),
            (Some(""), None),
            (None, None),
        ] {
            let hold = HoldUntil::parse(value).ok();
            let seconds = hold.map(|hold| hold.time().unix_seconds());
            assert_eq!(seconds, expected, "{value:?}");
        }
    }

    #[test]
    fn what_depends_on_the_clock() {
        let now = UNIX_EPOCH + Duration::from_secs(1_893_456_000);
        let resolve = |parameters: &str| {
            let resolved = HoldUntil::resolve(&parameters.parse().unwrap(), now);
            let seconds = |hold: HoldUntil| hold.time().unix_seconds() - 1_893_456_000;
            resolved
                .map(|hold| hold.map(seconds))
                .map_err(|reply| reply.code().as_u16())
        };
        for (parameters, expected) in [
            ("BY=1;R", Ok(None)),
            ("HOLDFOR=9 BY=9;R", Ok(Some(9))),
            ("HOLDFOR=9 BY=8;R", Err(501)),
            ("HOLDUNTIL=2030-01-01T00:00:02Z", Ok(Some(2))),
            ("HOLDUNTIL=2030-01-01T00:00:00Z", Err(501)),
            ("HOLDUNTIL=2030-01-01T00:00:02Z BY=2;N", Ok(Some(2))),
            ("HOLDUNTIL=2030-01-01T00:00:02Z BY=1;N", Err(501)),
        ] {
            assert_eq!(resolve(parameters), expected, "{parameters}");
        }
    }
}
