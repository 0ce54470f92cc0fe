//! The only source of chance in a run.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// A stream of numbers that its seed determines (SplitMix64). Clones share the stream.
#[derive(Clone)]
pub struct Dice(Arc<AtomicU64>);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(mix(seed ^ STEP))))
    }

    /// A number below `limit`, or 0 where the limit is 0.
    pub fn below(&self, limit: usize) -> usize {
        let number = mix(self.0.fetch_add(STEP, Ordering::Relaxed));
        (number % (limit.max(1) as u64)) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// True once in `n` cases.
    pub fn one_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// A random part of them, never empty.
    pub fn some_of<T: Copy>(&self, all: &[T]) -> Vec<T> {
        let percent = self.pick(&[10, 30, 60, 100]);
        let mut some: Vec<T> = all
            .iter()
            .copied()
            .filter(|_| self.chance(percent))
            .collect();
        if some.is_empty() {
            some.push(self.pick(all));
        }
        some
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
