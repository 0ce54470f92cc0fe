//! Sizes, durations, counts and rates, as people write them: `10M`, `5m`, `100/1m`.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use smtpd_tower::limiter::Rate;

const SIZE: &str = "expected a number of bytes, or of k, M, G or T, such as 512k or 10M";
const DURATION: &str =
    "expected a number of seconds, or with ms, s, m, h or d, such as 30s or 5m, and more than 0";
const SOME_BYTES: &str =
    "expected a number of bytes above 0, or of k, M, G or T, such as 512k or 10M";
const LINE: &str = "expected a number of bytes from 512 to 1M, such as 2048 or 4k";
const RATE: &str = "expected N/DURATION with numbers above 0, such as 100/60 or 1000/1h";
const TOO_LARGE: &str = "the number is too large";

/// Reads a number of bytes; a `k` is 1024.
pub(crate) fn size(text: &str) -> Result<u64, &'static str> {
    let (number, unit) = number_and_unit(text).ok_or(SIZE)?;
    let factor: u64 = match &*unit.to_ascii_lowercase() {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err(SIZE),
    };
    let number: u64 = number.parse().map_err(|_| TOO_LARGE)?;
    number.checked_mul(factor).ok_or(TOO_LARGE)
}

/// Reads a number of bytes that must not be 0.
pub(crate) fn some_bytes(text: &str) -> Result<NonZeroU64, &'static str> {
    NonZeroU64::new(size(text)?).ok_or(SOME_BYTES)
}

/// Reads the length of a line: RFC 5321 section 4.5.3.1.4 requires 512 bytes.
pub(crate) fn line_length(text: &str) -> Result<usize, &'static str> {
    let length = usize::try_from(size(text)?).map_err(|_| LINE)?;
    (512..=1 << 20)
        .contains(&length)
        .then_some(length)
        .ok_or(LINE)
}

/// Reads a duration, in seconds if there is no unit.
pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    let (number, unit) = number_and_unit(text).ok_or(DURATION)?;
    let millis: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(DURATION),
    };
    // Longer than any server runs, and short enough to be added to any time.
    const MOST: u64 = 100 * 365 * 86_400_000;
    let number: u64 = number.parse().map_err(|_| TOO_LARGE)?;
    match number.checked_mul(millis) {
        Some(0) => Err(DURATION),
        Some(millis) if millis <= MOST => Ok(Duration::from_millis(millis)),
        _ => Err(TOO_LARGE),
    }
}

/// Reads a duration that may be 0.
pub(crate) fn duration_or_none(text: &str) -> Result<Duration, &'static str> {
    match number_and_unit(text) {
        Some((number, _)) if number.bytes().all(|digit| digit == b'0') => Ok(Duration::ZERO),
        _ => duration(text),
    }
}

/// Reads a number that must not be 0.
pub(crate) fn count(text: &str) -> Result<NonZeroU32, &'static str> {
    text.parse()
        .map_err(|_| "expected a number from 1 to 4294967295")
}

/// Reads how often something may happen in how much time.
pub(crate) fn rate(text: &str) -> Result<Rate, &'static str> {
    let (events, period) = text.split_once('/').ok_or(RATE)?;
    let events = count(events).map_err(|_| RATE)?;
    let period = duration(period).map_err(|_| RATE)?;
    Rate::new(events.get(), period).map_err(|_| RATE)
}

/// How often something may happen, or that it may always happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnyRate {
    Limited(Rate),
    Unlimited,
}

/// Reads a rate, or `none`.
pub(crate) fn rate_or_none(text: &str) -> Result<AnyRate, &'static str> {
    match text {
        "none" => Ok(AnyRate::Unlimited),
        text => rate(text).map(AnyRate::Limited).map_err(
            |_| "expected none, or N/DURATION with numbers above 0, such as 100/60 or 1000/1h",
        ),
    }
}

/// Splits `10M` into `10` and `M`.
fn number_and_unit(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    (!number.is_empty()).then_some((number, unit))
}

/// Writes a duration in its largest whole unit.
pub(crate) fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match [(86_400, "d"), (3_600, "h"), (60, "m")]
        .into_iter()
        .find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit))
    {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None if duration.subsec_millis() > 0 => format!("{}ms", duration.as_millis()),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1_048_576),
            ("512k", 524_288),
            ("512K", 524_288),
            ("10M", 10 << 20),
            ("1G", 1 << 30),
            ("2T", 2 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "", "M", "-1", "+1", "1.5M", "10 M", "10MB", "10x", "١", "1_000",
        ] {
            assert_eq!(size(text), Err(SIZE), "{text}");
        }
        for text in ["18446744073709551616", "18014398509481985k", "999999999T"] {
            assert_eq!(size(text), Err(TOO_LARGE), "{text}");
        }
    }

    #[test]
    fn sizes_that_are_too_small() {
        assert_eq!(some_bytes("1k").map(NonZeroU64::get), Ok(1024));
        assert_eq!(some_bytes("0"), Err(SOME_BYTES));
        assert_eq!(some_bytes("x"), Err(SIZE));
        for (text, length) in [("512", 512), ("4k", 4096), ("1M", 1 << 20)] {
            assert_eq!(line_length(text), Ok(length));
        }
        for text in ["0", "511", "1025k", "8G"] {
            assert_eq!(line_length(text), Err(LINE), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("1", 1_000),
            ("300", 300_000),
            ("30s", 30_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("200ms", 200),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "0ms", "m", "-5m", "5 m", "5M", "1h30m", "5min"] {
            assert_eq!(duration(text), Err(DURATION), "{text}");
        }
        for text in ["36501d", "18446744073709551615", "99999999999999999999s"] {
            assert_eq!(duration(text), Err(TOO_LARGE), "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for text in ["1s", "90s", "5m", "36h", "2d", "250ms", "1500ms"] {
            assert_eq!(shown(duration(text).unwrap()), text);
        }
        assert_eq!(shown(Duration::from_secs(3600)), "1h");
    }

    #[test]
    fn rates() {
        for (text, events, seconds) in [("100/60", 100, 60), ("100/1m", 100, 60), ("5/1h", 5, 3600)]
        {
            let expected = Rate::new(events, Duration::from_secs(seconds)).unwrap();
            assert_eq!(rate(text), Ok(expected), "{text}");
        }
        for text in [
            "", "5", "/", "5/", "/60", "0/60", "5/0", "5/60/60", "5 / 60",
        ] {
            assert_eq!(rate(text), Err(RATE), "{text}");
        }
        assert_eq!(rate_or_none("5/1h"), rate("5/1h").map(AnyRate::Limited));
        assert_eq!(rate_or_none("none"), Ok(AnyRate::Unlimited));
        for text in ["", "None", "0/60"] {
            assert!(rate_or_none(text).is_err(), "{text}");
        }
        assert_eq!(count("7").map(NonZeroU32::get), Ok(7));
        for text in ["0", "-1", "x", "4294967296"] {
            assert!(count(text).is_err(), "{text}");
        }
    }
}
