//! The only source of chance: what a case is, and what its services do, follows from its seed.

/// A stream of numbers that its seed determines (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed ^ STEP))
    }

    /// The dice of one decision: it does not depend on how many were made before it, so that a case that is cut down by a layer
    /// or a command still decides the rest as before.
    pub fn of(seed: u64, decision: &[usize]) -> Self {
        let hash = |hash: u64, part: &usize| mix(hash ^ (*part as u64).wrapping_add(STEP));
        Self::new(decision.iter().fold(seed, hash))
    }

    /// A number below `limit`, or 0 where the limit is 0.
    pub const fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(STEP);
        let limit = if limit == 0 { 1 } else { limit };
        (mix(self.0) % limit as u64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub const fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 cases.
    pub const fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
