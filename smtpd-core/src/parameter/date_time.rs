use std::{
    error::Error,
    fmt,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

/// A date and time in the format of RFC 3339 section 5.6, with a resolution of a second.
///
/// It is parsed with any offset, and written in UTC. A leap second counts as the second before it. The crate has no clock: create
/// a `DateTime` from text, or from a [`SystemTime`].
///
/// ```
/// use smtpd_core::parameter::DateTime;
///
/// let time: DateTime = "1996-12-19T16:39:57-08:00".parse()?;
/// assert_eq!(time.to_string(), "1996-12-20T00:39:57Z");
/// assert_eq!(time.unix_seconds(), 851_042_397);
/// # Ok::<(), smtpd_core::parameter::DateTimeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime(i64);

impl DateTime {
    /// The year 0, the earliest that can be written.
    const MIN: i64 = -62_167_219_200;
    /// The last second of the year 9999.
    const MAX: i64 = 253_402_300_799;

    /// Returns the seconds since the start of 1970 in UTC; negative for a time before it.
    pub const fn unix_seconds(self) -> i64 {
        self.0
    }

    /// Returns the time `seconds` later, or earlier if negative. The result stays within the years 0 to 9999.
    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self::clamped(self.0.saturating_add(seconds))
    }

    fn clamped(seconds: i64) -> Self {
        Self(seconds.clamp(Self::MIN, Self::MAX))
    }
}

impl From<SystemTime> for DateTime {
    /// Fractions of a second are dropped. A time outside of the years 0 to 9999 becomes the nearest second within.
    fn from(time: SystemTime) -> Self {
        let seconds =
            |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self::clamped(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => seconds(since),
            Err(before) => -seconds(before.duration()),
        })
    }
}

impl FromStr for DateTime {
    type Err = DateTimeError;

    fn from_str(text: &str) -> Result<Self, DateTimeError> {
        Written::parse(text)
            .map(|written| written.time)
            .ok_or(DateTimeError(()))
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

/// An error for text that is not a date and time of RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DateTimeError(());

impl fmt::Display for DateTimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a date and time of RFC 3339")
    }
}

impl Error for DateTimeError {}

const DAY: i64 = 24 * 3600;

/// A date and time, with the details of its form that some parameters restrict.
pub(super) struct Written {
    pub(super) time: DateTime,
    /// Whether it is written in UTC.
    pub(super) is_utc: bool,
    /// Whether there is a fraction of a second.
    pub(super) has_fraction: bool,
}

impl Written {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.as_bytes();
        let days = parse_date(&mut rest)?;
        take(&mut rest, b"Tt")?;
        let second = parse_time(&mut rest)?;
        let has_fraction = parse_fraction(&mut rest)?;
        let offset = parse_offset(&mut rest)?;
        let seconds = days * DAY + second - offset;
        let is_inside = (DateTime::MIN..=DateTime::MAX).contains(&seconds);
        (rest.is_empty() && is_inside).then_some(Self {
            time: DateTime(seconds),
            is_utc: offset == 0,
            has_fraction,
        })
    }
}

fn parse_date(rest: &mut &[u8]) -> Option<i64> {
    let year = number(rest, 4, 0..=9999)?;
    take(rest, b"-")?;
    let month = number(rest, 2, 1..=12)?;
    take(rest, b"-")?;
    let day = number(rest, 2, 1..=days_of(year, month))?;
    Some(days_from_civil(year, month, day))
}

fn parse_time(rest: &mut &[u8]) -> Option<i64> {
    let hour = number(rest, 2, 0..=23)?;
    take(rest, b":")?;
    let minute = number(rest, 2, 0..=59)?;
    take(rest, b":")?;
    let second = number(rest, 2, 0..=60)?;
    Some(hour * 3600 + minute * 60 + second.min(59))
}

fn parse_fraction(rest: &mut &[u8]) -> Option<bool> {
    if take(rest, b".").is_none() {
        return Some(false);
    }
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    *rest = rest.get(digits..)?;
    (digits > 0).then_some(true)
}

/// In seconds, positive to the east.
fn parse_offset(rest: &mut &[u8]) -> Option<i64> {
    let sign = match take(rest, b"Zz+-")? {
        b'+' => 1,
        b'-' => -1,
        _ => return Some(0),
    };
    let hour = number(rest, 2, 0..=23)?;
    take(rest, b":")?;
    let minute = number(rest, 2, 0..=59)?;
    Some(sign * (hour * 3600 + minute * 60))
}

fn take(rest: &mut &[u8], wanted: &[u8]) -> Option<u8> {
    let (&first, after) = rest.split_first()?;
    let found = wanted.contains(&first);
    if found {
        *rest = after;
    }
    found.then_some(first)
}

fn number(rest: &mut &[u8], digits: usize, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let (now, after) = rest.split_at_checked(digits)?;
    *rest = after;
    let text = std::str::from_utf8(now).ok()?;
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_number)?;
    range.contains(&number).then_some(number)
}

fn days_of(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the days since the start of 1970, by eras of 400 years that begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let month = (march + 2) % 12 + 1;
    let year = era * 400 + year + i64::from(month <= 2);
    (year, month, day - (153 * march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_a_date_and_time() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01t00:00:01z", Some(1)),
            ("1985-04-12T23:20:50.52Z", Some(482_196_050)),
            ("1996-12-19T16:39:57-08:00", Some(851_042_397)),
            ("1990-12-31T23:59:60Z", Some(662_687_999)),
            ("2000-02-29T00:00:00+00:00", Some(951_782_400)),
            ("2024-02-29T12:00:00-00:00", Some(1_709_208_000)),
            ("9999-12-31T23:59:59Z", Some(DateTime::MAX)),
            ("0000-01-01T00:00:00Z", Some(DateTime::MIN)),
            ("9999-12-31T23:59:59-00:01", None),
            ("0000-01-01T00:00:00+00:01", None),
            ("2023-02-29T12:00:00Z", None),
            ("1900-02-29T12:00:00Z", None),
            ("2024-13-01T12:00:00Z", None),
            ("2024-00-01T12:00:00Z", None),
            ("2024-04-31T12:00:00Z", None),
            ("2024-01-01T24:00:00Z", None),
            ("2024-01-01T12:60:00Z", None),
            ("2024-01-01T12:00:61Z", None),
            ("2024-01-01T12:00:00", None),
            ("2024-01-01T12:00:00.Z", None),
            ("2024-01-01T12:00:00+0100", None),
            ("2024-01-01T12:00:00+24:00", None),
            ("2024-01-01 12:00:00Z", None),
            ("2024-01-01T12:00:00Z ", None),
            ("+024-01-01T12:00:00Z", None),
            ("2024-01-01", None),
            ("", None),
        ];
        for (text, seconds) in cases {
            let time = text.parse::<DateTime>().ok();
            assert_eq!(time.map(DateTime::unix_seconds), seconds, "{text}");
        }
    }

    #[test]
    fn a_time_that_is_written_is_read_again() {
        for seconds in (DateTime::MIN..=DateTime::MAX).step_by(86_400 * 97 + 12_345) {
            let time = DateTime(seconds);
            assert_eq!(time.to_string().parse(), Ok(time));
        }
    }

    #[test]
    fn times_of_a_clock_beyond_what_can_be_written_are_cut() {
        let of = |time: Option<SystemTime>| time.map(DateTime::from);
        let far = Duration::from_secs(1 << 40);
        assert_eq!(DateTime::from(UNIX_EPOCH).unix_seconds(), 0);
        assert_eq!(
            of(UNIX_EPOCH.checked_add(far)),
            Some(DateTime(DateTime::MAX))
        );
        assert_eq!(
            of(UNIX_EPOCH.checked_sub(far)),
            Some(DateTime(DateTime::MIN))
        );
        assert_eq!(DateTime(0).plus_seconds(i64::MAX), DateTime(DateTime::MAX));
        assert_eq!(
            DateTime(0).plus_seconds(-1).to_string(),
            "1969-12-31T23:59:59Z"
        );
    }
}
