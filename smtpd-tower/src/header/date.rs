use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

const SECONDS_OF_DAY: u64 = 86_400;

/// 1 January 1970 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// Years start in March, so that a leap day is the last day of its year.
const MONTHS: [&str; 12] = [
    "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb",
];

/// A time as `Sun, 22 Nov 2026 20:00:00 +0000` (RFC 5322 section 3.3), in UTC. Times before 1970 are shown as its beginning.
pub(crate) struct Date(pub(crate) SystemTime);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        let (days, second) = (seconds / SECONDS_OF_DAY, seconds % SECONDS_OF_DAY);
        let (year, month, day) = civil(days);
        let weekday = WEEKDAYS[(days % 7) as usize];
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(
            f,
            "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} +0000"
        )
    }
}

/// Returns year, month and day of the month of a day counted from 1 January 1970, in the Gregorian calendar.
fn civil(days: u64) -> (u64, &'static str, u64) {
    // Days from 1 March of the year 0, in cycles of 400 years of 146,097 days.
    let days = days + 719_468;
    let (cycle, day_of_cycle) = (days / 146_097, days % 146_097);
    let leap_days = day_of_cycle / 1_460 - day_of_cycle / 36_524 + day_of_cycle / 146_096;
    let year = (day_of_cycle - leap_days) / 365;
    let day_of_year = day_of_cycle - (365 * year + year / 4 - year / 100);
    // Starting in March, months repeatedly have 31, 30, 31, 30, 31 days: 153 days in each five.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let january_or_february = u64::from(month >= 10);
    let name = MONTHS[(month % 12) as usize];
    (cycle * 400 + year + january_or_february, name, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates() {
        let table = [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (68_169_599, "Mon, 28 Feb 1972 23:59:59 +0000"),
            (68_169_600, "Tue, 29 Feb 1972 00:00:00 +0000"),
            (68_256_000, "Wed, 01 Mar 1972 00:00:00 +0000"),
            (94_694_399, "Sun, 31 Dec 1972 23:59:59 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 +0000"),
            (1_740_787_200, "Sat, 01 Mar 2025 00:00:00 +0000"),
            (1_795_377_600, "Sun, 22 Nov 2026 20:00:00 +0000"),
            (1_795_410_005, "Mon, 23 Nov 2026 05:00:05 +0000"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 +0000"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 +0000"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 +0000"),
        ];
        for (seconds, date) in table {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(Date(time).to_string(), date, "{seconds}");
        }
    }

    #[test]
    fn days_follow_each_other() {
        const LENGTHS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut days = 0;
        for year in 1970..2405 {
            let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
            for (month, length) in LENGTHS.into_iter().enumerate() {
                let length = length + u64::from(month == 1 && leap);
                for day in 1..=length {
                    assert_eq!(civil(days), (year, MONTHS[(month + 10) % 12], day));
                    days += 1;
                }
            }
        }
    }

    #[test]
    fn a_clock_before_1970_is_no_panic() {
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Date(before).to_string(), "Thu, 01 Jan 1970 00:00:00 +0000");
    }
}
