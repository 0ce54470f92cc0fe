use std::{
    hash::{Hash, Hasher},
    num::{NonZeroU32, NonZeroU64},
};

use super::Rate;

/// The longest debt, 292 years: no sum of it and the time since the epoch of a limiter overflows u64 for as many years.
const LONGEST: u64 = u64::MAX / 2;

/// A rate as it is applied, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pace {
    Even(Gcra),
    Sliding(Sliding),
}

/// The generic cell rate algorithm: an event costs `interval`, and a key may owe `burst` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Gcra {
    pub(super) interval: NonZeroU64,
    pub(super) burst: NonZeroU32,
}

/// At most `most` events in any period, which is counted in parts of `width`, and no more at once than `even` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sliding {
    pub(super) width: NonZeroU64,
    pub(super) most: NonZeroU32,
    pub(super) even: Gcra,
}

impl Gcra {
    fn times(self, factor: NonZeroU32) -> Self {
        let interval = self.interval.get() / u64::from(factor.get());
        Self {
            interval: NonZeroU64::new(interval).unwrap_or(NonZeroU64::MIN),
            burst: self.burst.saturating_mul(factor),
        }
    }
}

impl Sliding {
    /// The number of parts of a period. An event counts for the period and up to one part more.
    pub(super) const PARTS: u64 = 16;

    /// How many events a period has beyond a burst.
    pub(super) const fn spare(self) -> u32 {
        self.most.get().saturating_sub(self.even.burst.get())
    }
}

impl Pace {
    pub(crate) fn new(rate: Rate) -> Self {
        let burst = NonZeroU32::new(rate.burst()).unwrap_or(NonZeroU32::MIN);
        let most = NonZeroU32::new(rate.events()).unwrap_or(NonZeroU32::MIN);
        let period = rate.period().as_nanos();
        let even = Gcra {
            interval: nanos(
                period / u128::from(rate.events()),
                LONGEST / u64::from(burst.get()),
            ),
            burst,
        };
        if !rate.is_strict() {
            return Self::Even(even);
        }
        let width = period.div_ceil(Sliding::PARTS.into());
        let width = nanos(width, LONGEST / (2 * Sliding::PARTS));
        Self::Sliding(Sliding { width, most, even })
    }

    /// The pace at which `factor` times as much is allowed.
    fn times(self, factor: NonZeroU32) -> Self {
        match self {
            Self::Even(gcra) => Self::Even(gcra.times(factor)),
            Self::Sliding(sliding) => Self::Sliding(Sliding {
                most: sliding.most.saturating_mul(factor),
                even: sliding.even.times(factor),
                ..sliding
            }),
        }
    }

    /// The most events at once.
    pub(crate) const fn burst(self) -> u32 {
        match self {
            Self::Even(gcra) => gcra.burst.get(),
            Self::Sliding(sliding) => sliding.even.burst.get(),
        }
    }

    /// The most events that may be owed.
    pub(crate) const fn most(self) -> u32 {
        match self {
            Self::Even(gcra) => gcra.burst.get(),
            Self::Sliding(sliding) => sliding.most.get(),
        }
    }

    /// The time in which something is regained.
    pub(super) const fn step(self) -> u64 {
        match self {
            Self::Even(gcra) => gcra.interval.get(),
            Self::Sliding(sliding) => sliding.width.get(),
        }
    }
}

/// The pace of a key: that of the limiter or one of its own, `factor` times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    own: Option<Pace>,
    factor: NonZeroU32,
}

impl Share {
    /// A key like all others.
    pub(crate) const ONE: Self = Self {
        own: None,
        factor: NonZeroU32::MIN,
    };

    /// A key with a rate of its own, if there is one.
    pub(crate) fn at(rate: Option<Rate>) -> Self {
        Self {
            own: rate.map(Pace::new),
            ..Self::ONE
        }
    }

    pub(crate) const fn times(self, factor: NonZeroU32) -> Self {
        Self { factor, ..self }
    }

    /// Returns the key of what keys with several rates have in common, such as their network: one for each rate. A single debt
    /// would be cut to the smallest burst of them.
    pub(crate) const fn common_key<K>(self, key: K) -> CommonKey<K> {
        CommonKey { key, own: self.own }
    }

    pub(super) fn of(self, common: Pace) -> Pace {
        let pace = self.own.unwrap_or(common);
        match self.factor {
            NonZeroU32::MIN => pace,
            factor => pace.times(factor),
        }
    }
}

/// See [`Share::common_key`]. Without a rate of its own, the hash is that of the key.
pub(crate) struct CommonKey<K> {
    key: K,
    own: Option<Pace>,
}

impl<K: Hash> Hash for CommonKey<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
        if let Some(own) = self.own {
            own.hash(state);
        }
    }
}

/// At least 1 and at most `most`.
fn nanos(exact: u128, most: u64) -> NonZeroU64 {
    let cut = u64::try_from(exact).unwrap_or(most).min(most);
    NonZeroU64::new(cut).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_largest_burst_keeps_a_debt_that_fits() {
        let rate = Rate::new(1, Duration::MAX).unwrap();
        let Pace::Even(gcra) = Pace::new(rate.with_burst(u32::MAX).unwrap()) else {
            panic!("not strict");
        };
        let window = gcra.interval.get().checked_mul(u32::MAX.into()).unwrap();
        assert!(window <= LONGEST);
    }

    #[test]
    fn no_rate_is_a_pace_of_zero() {
        for period in [Duration::from_nanos(1), Duration::MAX] {
            for events in [1, 2, u32::MAX] {
                let rate = Rate::new(events, period).unwrap();
                for rate in [rate, rate.strict(), rate.strict().with_burst(1).unwrap()] {
                    let pace = Pace::new(rate);
                    assert!(pace.step() >= 1 && pace.burst() == rate.burst(), "{rate:?}");
                }
            }
        }
    }
}
