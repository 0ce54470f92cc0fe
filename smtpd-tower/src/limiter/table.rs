use std::{
    hash::Hash,
    num::{NonZeroU32, NonZeroUsize},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Limited, Rate, Usage,
    debt::Debt,
    key_hash::{KeyHash, KeyHasher, KeyMap},
    pace::{Pace, Share},
};

const MOST_SHARDS: usize = 16;

/// A small table is not split further: uneven shards would forget keys well before
/// the capacity is reached.
const LEAST_SHARD_CAPACITY: usize = 64;

/// How many entries a new key may inspect to find one to replace.
const LOOKED_AT: usize = 8;

/// What a limiter remembers.
pub(super) struct Table {
    rate: Mutex<Rate>,
    capacity: NonZeroUsize,
    shard_capacity: usize,
    epoch: Instant,
    hasher: KeyHasher,
    shards: Box<[Mutex<Shard>]>,
}

/// What becomes of events that are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// They are counted.
    Count,
    /// They are kept for a reservation.
    Hold,
}

impl Table {
    pub(super) fn new(rate: Rate, capacity: NonZeroUsize) -> Self {
        let shards = (capacity.get() / LEAST_SHARD_CAPACITY).clamp(1, MOST_SHARDS);
        let shard = || Mutex::new(Shard::new(Pace::new(rate)));
        Self {
            rate: Mutex::new(rate),
            capacity,
            shard_capacity: capacity.get() / shards,
            epoch: Instant::now(),
            hasher: KeyHasher::default(),
            shards: (0..shards).map(|_| shard()).collect(),
        }
    }

    pub(super) fn rate(&self) -> Rate {
        *lock(&self.rate)
    }

    /// The lock of the rate is held meanwhile, so that all shards have the rate of the last call.
    pub(super) fn set_rate(&self, rate: Rate) {
        let mut current = lock(&self.rate);
        for shard in &self.shards {
            lock(shard).pace = Pace::new(rate);
        }
        *current = rate;
    }

    pub(super) const fn capacity(&self) -> NonZeroUsize {
        self.capacity
    }

    pub(super) fn tracked(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| lock(shard).entries.len()).sum()
    }

    pub(super) fn hash(&self, key: impl Hash) -> KeyHash {
        self.hasher.hash(key)
    }

    /// Takes `n` events of the key if its rate allows all of them now.
    pub(super) fn take(
        &self,
        key: KeyHash,
        share: Share,
        n: NonZeroU32,
        take: Take,
    ) -> Result<(), Limited> {
        let now = self.now();
        let mut shard = self.shard(key);
        let pace = share.of(shard.pace);
        shard.admit(key, pace, now, n.get())?;
        match take {
            Take::Count => shard.charge(key, pace, now, n.get(), self.shard_capacity),
            Take::Hold => shard.hold(key, n.get()),
        }
        Ok(())
    }

    /// Ends a reservation of `held` events, and counts `n` instead.
    pub(super) fn settle(&self, key: KeyHash, share: Share, held: u32, n: u32) {
        let now = self.now();
        let mut shard = self.shard(key);
        shard.release(key, held);
        if n > 0 {
            let pace = share.of(shard.pace);
            shard.charge(key, pace, now, n, self.shard_capacity);
        }
    }

    /// Looks at a copy of the debt, so that it stays in the pace that it was made in.
    pub(super) fn usage(&self, key: KeyHash, share: Share) -> Usage {
        let now = self.now();
        let shard = self.shard(key);
        let pace = share.of(shard.pace);
        let (reserved, debt) = (shard.held(key), shard.debt(key).cloned());
        drop(shard);
        let mut debt = debt.unwrap_or_else(|| Debt::none(pace));
        debt.align(pace, now);
        Usage {
            counted: debt.events(now),
            reserved,
            limit: pace.most(),
            wait: match u64::from(pace.burst() - 1).checked_sub(reserved) {
                Some(may_owe) => Duration::from_nanos(debt.wait(now, may_owe)),
                None => Duration::from_nanos(pace.step()),
            },
        }
    }

    /// Forgets what the key owes. Reservations stay.
    pub(super) fn reset(&self, key: KeyHash) {
        let mut shard = self.shard(key);
        let pace = shard.pace;
        if let Some(debt) = shard.debt_mut(key) {
            *debt = Debt::none(pace);
        }
    }

    fn shard(&self, key: KeyHash) -> MutexGuard<'_, Shard> {
        // In range: there is at least one shard.
        lock(&self.shards[key.shard(self.shards.len())])
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Entries in a `Vec`, so that the next few are found at once, and the position of each key's.
struct Shard {
    pace: Pace,
    slots: KeyMap<usize>,
    entries: Vec<Entry>,
    /// The events that are reserved. They are apart from the entries, because none of them may be forgotten.
    held: KeyMap<u64>,
    /// Where the next inspection begins. It wraps around, so every entry is inspected in turn.
    hand: usize,
}

struct Entry {
    key: KeyHash,
    debt: Debt,
}

impl Shard {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            slots: KeyMap::default(),
            entries: Vec::new(),
            held: KeyMap::default(),
            hand: 0,
        }
    }

    /// Decides on `n` events. Those that are not allowed cost nothing, so a client that keeps trying is let in as soon as one
    /// that waits.
    fn admit(&mut self, key: KeyHash, pace: Pace, now: u64, n: u32) -> Result<(), Limited> {
        let held = self.held(key);
        let left = pace.burst().checked_sub(n).ok_or(Limited::NEVER)?;
        let Some(may_owe) = u64::from(left).checked_sub(held) else {
            // Reservations are in the way. They may be counted or given back at any time.
            return Err(Limited::after(pace.step()));
        };
        let wait = self.debt_mut(key).map_or(0, |debt| {
            debt.align(pace, now);
            debt.wait(now, may_owe)
        });
        match wait {
            0 => Ok(()),
            _ => Err(Limited::after(wait)),
        }
    }

    fn charge(&mut self, key: KeyHash, pace: Pace, now: u64, n: u32, capacity: usize) {
        if let Some(debt) = self.debt_mut(key) {
            debt.align(pace, now);
            debt.charge(now, n);
            return;
        }
        let mut debt = Debt::none(pace);
        debt.charge(now, n);
        let entry = Entry { key, debt };
        let slot = if self.entries.len() < capacity {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            self.replace_soonest_free(entry)
        };
        self.slots.insert(key, slot);
    }

    fn held(&self, key: KeyHash) -> u64 {
        // Most limiters have no reservations at all.
        match self.held.is_empty() {
            true => 0,
            false => self.held.get(&key).copied().unwrap_or(0),
        }
    }

    fn hold(&mut self, key: KeyHash, n: u32) {
        *self.held.entry(key).or_default() += u64::from(n);
    }

    fn release(&mut self, key: KeyHash, n: u32) {
        if let Some(held) = self.held.get_mut(&key) {
            *held = held.saturating_sub(n.into());
            if *held == 0 {
                self.held.remove(&key);
            }
        }
    }

    fn debt(&self, key: KeyHash) -> Option<&Debt> {
        let entry = self.entries.get(*self.slots.get(&key)?)?;
        Some(&entry.debt)
    }

    fn debt_mut(&mut self, key: KeyHash) -> Option<&mut Debt> {
        let entry = self.entries.get_mut(*self.slots.get(&key)?)?;
        Some(&mut entry.debt)
    }

    /// Replaces the entry that is free soonest among the next few by `entry`.
    fn replace_soonest_free(&mut self, entry: Entry) -> usize {
        let len = self.entries.len();
        let looked_at = (self.hand..self.hand + LOOKED_AT).map(|slot| slot % len);
        let soonest = looked_at.min_by_key(|&slot| self.entries[slot].debt.free_at());
        let slot = soonest.unwrap_or(0);
        self.hand = (self.hand + LOOKED_AT) % len;
        let forgotten = std::mem::replace(&mut self.entries[slot], entry);
        self.slots.remove(&forgotten.key);
        slot
    }
}

/// What a table keeps for a key, and how much of it may be in memory: for tests.
#[cfg(test)]
impl Table {
    pub(super) fn assert_bounded(&self) {
        for shard in &self.shards {
            let shard = lock(shard);
            assert!(shard.entries.capacity() <= 2 * self.shard_capacity);
            assert!(shard.slots.capacity() <= 5 * self.shard_capacity);
            assert_eq!(shard.slots.len(), shard.entries.len());
        }
    }

    pub(super) fn reserved(&self) -> u64 {
        let held = |shard: &Mutex<Shard>| lock(shard).held.values().sum::<u64>();
        self.shards.iter().map(held).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Limited {
    /// More than the rate ever allows.
    const NEVER: Self = Self(None);

    fn after(nanos: u64) -> Self {
        Self(Some(Duration::from_nanos(nanos)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_takes_more_memory_than_the_documentation_says() {
        // An entry, and its slot in a map that is between 7/16 and 7/8 full.
        assert_eq!(
            (size_of::<Entry>(), size_of::<(KeyHash, usize)>()),
            (32, 16)
        );
        let (least, most) = (32 + 17 * 8 / 7, 2 * 32 + 17 * 16 / 7);
        assert!(50 <= least && most <= 103, "{least} to {most}");
    }
}
