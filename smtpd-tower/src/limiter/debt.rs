use std::num::NonZeroU64;

use super::pace::{Gcra, Pace, Sliding};

/// What a key owes for the events that were counted: a point of time or some counts. Times are in nanoseconds since the epoch of
/// the limiter.
#[derive(Clone, Debug)]
pub(crate) struct Debt {
    /// When nothing is owed any more. In an even pace, this is the whole state: the theoretical arrival time of the algorithm.
    free_at: u64,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// An event costs so much.
    Even(NonZeroU64),
    Sliding(Box<Window>),
}

/// The counts of the last parts of a period.
#[derive(Clone, Debug)]
struct Window {
    pace: Sliding,
    /// When nothing would be owed any more, if there were no limit for a period.
    even_at: u64,
    /// The number of the last part with an event.
    latest: u64,
    /// Those of the part `n` are at `n % KEPT`.
    counts: [u32; Self::KEPT as usize],
}

impl Debt {
    /// No debt.
    pub(crate) fn none(pace: Pace) -> Self {
        let form = match pace {
            Pace::Even(gcra) => Form::Even(gcra.interval),
            Pace::Sliding(sliding) => Form::Sliding(Box::new(Window::new(sliding))),
        };
        Self { free_at: 0, form }
    }

    /// Returns when nothing is owed any more.
    pub(crate) const fn free_at(&self) -> u64 {
        self.free_at
    }

    /// Returns how many events are not regained yet, rounded up.
    pub(crate) fn events(&self, now: u64) -> u64 {
        match &self.form {
            Form::Even(interval) => owed(self.free_at, now).div_ceil(interval.get()),
            Form::Sliding(window) => window.count(now),
        }
    }

    /// Returns how long it takes until no more than `most` events of a burst are owed.
    pub(crate) fn wait(&self, now: u64, most: u64) -> u64 {
        match &self.form {
            Form::Even(interval) => wait(self.free_at, now, *interval, most),
            Form::Sliding(window) => window.wait(now, most),
        }
    }

    /// Counts `n` events, in the pace that the debt is aligned to.
    pub(crate) fn charge(&mut self, now: u64, n: u32) {
        match &mut self.form {
            Form::Even(interval) => self.free_at = after(self.free_at, now, *interval, n),
            Form::Sliding(window) => {
                window.add(now, n);
                self.free_at = window.ends(window.latest).max(window.even_at);
            }
        }
    }

    /// Converts the debt if it was made in another pace: as many events remain owed, but no more than the new pace allows.
    pub(crate) fn align(&mut self, pace: Pace, now: u64) {
        match (&mut self.form, pace) {
            (Form::Even(interval), Pace::Even(gcra)) => {
                if *interval != gcra.interval {
                    self.free_at = converted(self.free_at, now, *interval, gcra);
                    *interval = gcra.interval;
                }
            }
            (Form::Sliding(window), Pace::Sliding(sliding))
                if window.pace.width == sliding.width =>
            {
                let old = window.pace.even.interval;
                if old != sliding.even.interval {
                    window.even_at = converted(window.even_at, now, old, sliding.even);
                }
                window.pace = sliding;
            }
            _ => {
                let events = self.events(now).min(pace.most().into());
                *self = Self::none(pace);
                self.charge(now, u32::try_from(events).unwrap_or(u32::MAX));
                if let Form::Sliding(window) = &mut self.form {
                    window.owe_one_burst(now);
                }
            }
        }
    }
}

fn owed(free_at: u64, now: u64) -> u64 {
    free_at.saturating_sub(now)
}

fn wait(free_at: u64, now: u64, interval: NonZeroU64, most: u64) -> u64 {
    owed(free_at, now).saturating_sub(interval.get().saturating_mul(most))
}

fn after(free_at: u64, now: u64, interval: NonZeroU64, n: u32) -> u64 {
    let cost = interval.get().saturating_mul(n.into());
    free_at.max(now).saturating_add(cost)
}

/// Returns when as many events are paid in the pace of `new` as are owed at an interval of `old`. Rounded up.
fn converted(free_at: u64, now: u64, old: NonZeroU64, new: Gcra) -> u64 {
    let interval = new.interval.get();
    let most = interval.saturating_mul(new.burst.get().into());
    let exact = u128::from(owed(free_at, now)) * u128::from(interval);
    let exact = exact.div_ceil(old.get().into());
    let owed = u64::try_from(exact).map_or(most, |owed| owed.min(most));
    now.saturating_add(owed)
}

impl Window {
    /// One more than a period has, because the part that is now has only begun.
    const KEPT: u64 = Sliding::PARTS + 1;

    const fn new(pace: Sliding) -> Self {
        Self {
            pace,
            even_at: 0,
            latest: 0,
            counts: [0; Self::KEPT as usize],
        }
    }

    fn add(&mut self, now: u64, n: u32) {
        // Never an earlier part: the time may have been read before that of another thread.
        let part = (now / self.pace.width).max(self.latest);
        for begun in 1..=(part - self.latest).min(Self::KEPT) {
            *self.count_mut(self.latest.saturating_add(begun)) = 0;
        }
        self.latest = part;
        let count = self.count_mut(part);
        *count = count.saturating_add(n);
        self.even_at = after(self.even_at, now, self.pace.even.interval, n);
    }

    /// Lowers what is owed at once to a burst. What is owed in a period stays.
    fn owe_one_burst(&mut self, now: u64) {
        let Gcra { interval, burst } = self.pace.even;
        self.even_at = self.even_at.min(after(now, now, interval, burst.get()));
    }

    fn count_mut(&mut self, part: u64) -> &mut u32 {
        // In range: it is the length.
        &mut self.counts[(part % Self::KEPT) as usize]
    }

    /// When the events of a part do not count any more.
    fn ends(&self, part: u64) -> u64 {
        let end = part.saturating_add(Self::KEPT);
        end.saturating_mul(self.pace.width.get())
    }

    /// The parts whose events count, the oldest first, and how many those are.
    fn parts(&self, now: u64) -> impl Iterator<Item = (u64, u64)> {
        let oldest = self.latest.saturating_sub(Sliding::PARTS);
        (oldest..=self.latest)
            .filter(move |part| self.ends(*part) > now)
            .map(|part| {
                let count = self.counts[(part % Self::KEPT) as usize];
                (part, count.into())
            })
    }

    fn count(&self, now: u64) -> u64 {
        self.parts(now).map(|(_, count)| count).sum()
    }

    fn wait(&self, now: u64, most: u64) -> u64 {
        let mut left = self.count(now);
        let mut parts = self.parts(now);
        let mut period = 0;
        while left > most.saturating_add(self.pace.spare().into())
            && let Some((part, count)) = parts.next()
        {
            left -= count;
            period = self.ends(part).saturating_sub(now);
        }
        period.max(wait(self.even_at, now, self.pace.even.interval, most))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limiter::Rate;

    /// A key and its rate, without a table around them.
    struct Key {
        pace: Pace,
        debt: Debt,
    }

    impl Key {
        fn new(rate: Rate) -> Self {
            let pace = Pace::new(rate);
            let debt = Debt::none(pace);
            Self { pace, debt }
        }

        fn wait(&self, now: u64, n: u32) -> u64 {
            self.debt.wait(now, u64::from(self.pace.burst() - n))
        }

        /// Counts events one by one until one is refused, at most `most` of them.
        fn allowed(&mut self, now: u64, most: u32) -> u32 {
            for allowed in 0..most {
                if self.wait(now, 1) > 0 {
                    return allowed;
                }
                self.debt.charge(now, 1);
            }
            most
        }
    }

    /// Numbers that look random, the same in each run.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, most: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % most
        }
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
            let rate = rate.with_burst(burst).unwrap();
            for now in [0, 1, 100 * year] {
                let allowed = Key::new(rate).allowed(now, burst + 10);
                assert_eq!(allowed, burst, "{rate:?} at {now}");
                let strict = rate.strict();
                let expected = strict.burst().min(burst + 10);
                let allowed = Key::new(strict).allowed(now, burst + 10);
                assert_eq!(allowed, expected, "{strict:?} at {now}");
            }
        }
    }

    #[test]
    fn whole_burst_is_back_after_a_period_that_does_not_divide() {
        let mut key = Key::new(Rate::per_second(3).unwrap());
        assert_eq!(key.allowed(0, 10), 3);
        assert_eq!(key.allowed(1_000_000_000, 10), 3);
    }

    #[test]
    fn a_quota_of_100_a_day_is_199_in_the_first_24_hours() {
        const HOUR: u64 = 3600 * 1_000_000_000;
        let day = Rate::per_day(100).unwrap();
        // The worst client: it sends whenever it may, in each minute of a day that begins with a burst.
        let worst = |rate| {
            let mut key = Key::new(rate);
            let minutes = (0..24 * 60).map(|minute| HOUR * 30 + minute * HOUR / 60);
            minutes.map(|now| key.allowed(now, 1000)).sum::<u32>()
        };
        assert_eq!(worst(day), 199);
        assert_eq!(worst(day.with_burst(20).unwrap()), 119);
        assert_eq!(worst(day.strict()), 100);
        assert_eq!(worst(day.strict().with_burst(20).unwrap()), 100);

        let mut key = Key::new(day.strict());
        assert_eq!(key.allowed(HOUR, 1000), 100);
        assert_eq!(key.allowed(HOUR * 25 - 1, 1), 0);
        assert_eq!(key.allowed(HOUR * 53 / 2, 1000), 100, "after 25.5 hours");
    }

    #[test]
    fn no_period_of_a_strict_rate_has_an_event_too_many() {
        let mut numbers = Numbers(20_261_130);
        for round in 0..300 {
            let events = 1 + numbers.below(40) as u32;
            let period = u64::from(events) + numbers.below(1000);
            let burst = 1 + numbers.below(50) as u32;
            let rate = Rate::new(events, Duration::from_nanos(period)).unwrap();
            let rate = rate.with_burst(burst).unwrap().strict();
            let (mut key, mut now, mut log) = (Key::new(rate), numbers.below(5000), Vec::new());
            for _ in 0..200 {
                now += numbers.below(1 + period / 4);
                let n = 1 + numbers.below(u64::from(rate.burst())) as u32;
                let wait = key.wait(now, n);
                if wait > 0 {
                    assert!(key.wait(now + wait - 1, n) > 0, "{rate:?}: too early");
                    assert_eq!(key.wait(now + wait, n), 0, "{rate:?}: too late");
                    continue;
                }
                key.debt.charge(now, n);
                log.push((now, n));
            }
            for (first, &(start, _)) in log.iter().enumerate() {
                let within = log[first..]
                    .iter()
                    .take_while(|(at, _)| *at <= start + period);
                let count: u32 = within.map(|(_, n)| n).sum();
                assert!(
                    count <= events,
                    "{count} in round {round}: {rate:?} {log:?}"
                );
            }
            let step = key.pace.step();
            let rested = now + 17 * step;
            assert_eq!(key.allowed(rested, 100), rate.burst(), "{rate:?}");
        }
    }

    #[test]
    fn a_new_rate_leaves_a_key_with_its_old_debt() {
        const MINUTE: u64 = 60 * 1_000_000_000;
        let rate = |n| Rate::per_hour(n).unwrap();
        let (even, strict) = (rate(60), rate(60).strict());
        let small = Rate::per_day(1440)
            .unwrap()
            .with_burst(10)
            .unwrap()
            .strict();
        // The rate before, events, the rate after: how many of it are allowed at once, and when the next is.
        for (before, counted, after, allowed, wait) in [
            (even, 30, even, 30, MINUTE),
            (even, 30, rate(40), 10, 90 * 1_000_000_000),
            (even, 30, rate(10), 0, 6 * MINUTE),
            (even, 60, rate(600), 540, MINUTE / 10),
            (even, 60, rate(60).with_burst(100).unwrap(), 40, MINUTE),
            (even, 60, strict, 0, 60 * MINUTE),
            (even, 59, strict, 1, 60 * MINUTE),
            (strict, 60, even, 0, MINUTE),
            (strict, 60, rate(90).strict(), 30, 60 * MINUTE),
            (strict, 60, small, 0, MINUTE),
            (even, 60, small, 0, MINUTE),
            (
                strict,
                60,
                Rate::per_day(90).unwrap().strict(),
                30,
                1440 * MINUTE,
            ),
        ] {
            let mut key = Key::new(before);
            let now = 240 * MINUTE;
            key.debt.charge(now, counted);
            key.pace = Pace::new(after);
            key.debt.align(key.pace, now);
            assert_eq!(key.allowed(now, 1000), allowed, "{before:?} to {after:?}");
            let next = key.wait(now, 1);
            assert!(
                (wait..=wait + wait / 16).contains(&next),
                "{before:?} to {after:?}: {next}"
            );
        }
    }

    #[test]
    fn a_part_that_is_read_late_counts_where_time_has_come() {
        let mut key = Key::new(Rate::new(2, Duration::from_nanos(16)).unwrap().strict());
        key.debt.charge(100, 1);
        // Another thread has read its time before.
        key.debt.charge(90, 1);
        assert_eq!(key.wait(100, 1), 117 - 100);
        assert_eq!(key.debt.events(100), 2);
        assert_eq!(key.debt.events(u64::MAX), 0);
    }

    #[test]
    fn a_strict_key_takes_more_memory_than_the_documentation_says() {
        assert!(size_of::<Window>() <= 120);
    }
}
