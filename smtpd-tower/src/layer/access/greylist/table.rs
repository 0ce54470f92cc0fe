//! The entries of a [`MemoryGreylist`](super::MemoryGreylist), and the rules of a policy applied to them.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use super::{GreylistKey, GreylistPolicy, GreylistVerdict, siphash::SipHasher};

/// A time in nanoseconds since the store was made. What was loaded from a file may be older than the store.
pub(super) type Nanos = i64;

/// How many entries a new one inspects, first to drop old ones, then to find room.
const LOOKED_AT: usize = 8;

/// Entries in a `Vec`, so that the next few are found at once, and the position of each.
pub(super) struct Table {
    /// The key of the hashes that stand for clients and messages.
    pub(super) seed: [u8; 16],
    slots: HashMap<u64, usize>,
    entries: Vec<Entry>,
    /// Where the next inspection begins. It wraps around, so every entry is inspected in turn.
    hand: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) state: State,
    /// The first attempt if it waits, otherwise the last mail.
    pub(super) at: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Passed,
    /// A client in a network: how many of its messages have passed, and when the last of them was counted.
    Client {
        passed: u32,
        counted: Nanos,
    },
}

impl Entry {
    /// The value of keeping it: less if it waits than if it has passed, less if it is older.
    fn worth(&self) -> (bool, Nanos) {
        (self.state != State::Waiting, self.at)
    }
}

impl Table {
    pub(super) fn new() -> Self {
        // This is what the standard library seeds with random numbers of the system.
        let random = RandomState::new();
        let seed = [0_u8, 1].map(|half| random.hash_one(half).to_le_bytes());
        Self::with_seed(seed.concat().try_into().unwrap_or_default())
    }

    pub(super) fn with_seed(seed: [u8; 16]) -> Self {
        Self {
            seed,
            slots: HashMap::new(),
            entries: Vec::new(),
            hand: 0,
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds or replaces an entry. If `capacity` others are there, one of them goes.
    pub(super) fn put(&mut self, entry: Entry, capacity: usize) {
        let slot = self.slots.get(&entry.id);
        if let Some(known) = slot.and_then(|&slot| self.entries.get_mut(slot)) {
            *known = entry;
            return;
        }
        if self.entries.len() >= capacity {
            self.forget_one();
        }
        self.slots.insert(entry.id, self.entries.len());
        self.entries.push(entry);
    }

    fn get(&self, id: u64) -> Option<Entry> {
        self.entries.get(*self.slots.get(&id)?).copied()
    }

    /// Drops the least valuable of the next few entries.
    fn forget_one(&mut self) {
        let len = self.entries.len().max(1);
        let looked_at = (self.hand..self.hand + LOOKED_AT).map(|slot| slot % len);
        let worth = |slot| self.entries.get(slot).map(Entry::worth);
        if let Some(slot) = looked_at.min_by_key(|&slot| worth(slot)) {
            self.remove(slot);
        }
    }

    fn remove(&mut self, slot: usize) {
        if slot >= self.entries.len() {
            return;
        }
        let gone = self.entries.swap_remove(slot);
        self.slots.remove(&gone.id);
        if let Some(moved) = self.entries.get(slot) {
            self.slots.insert(moved.id, slot);
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.slots.len(), self.entries.len());
        for (slot, entry) in self.entries.iter().enumerate() {
            assert_eq!(self.slots.get(&entry.id), Some(&slot));
        }
    }
}

/// The table at one moment, with one policy.
pub(super) struct Moment<'a> {
    pub(super) table: &'a mut Table,
    pub(super) capacity: usize,
    pub(super) policy: GreylistPolicy,
    pub(super) now: Nanos,
}

impl Moment<'_> {
    pub(super) fn check(&mut self, key: &GreylistKey) -> GreylistVerdict {
        let hasher = SipHasher::new(self.table.seed);
        let (mut client, mut message) = (hasher.clone(), hasher);
        key.digest_trusted(client.write(b"c"));
        key.digest(message.write(b"m"));
        let (client, message) = (client.finish(), message.finish());

        if self.is_trusted(client) {
            return GreylistVerdict::Pass;
        }
        match self.fresh(message) {
            None => {
                self.put(message, State::Waiting);
                self.wait(Duration::ZERO)
            }
            Some(entry) if entry.state != State::Waiting => {
                self.put(message, State::Passed);
                GreylistVerdict::Pass
            }
            Some(entry) if self.since(entry.at) < self.policy.delay() => {
                self.wait(self.since(entry.at))
            }
            Some(_) => {
                self.put(message, State::Passed);
                self.count(client);
                GreylistVerdict::Pass
            }
        }
    }

    const fn wait(&self, age: Duration) -> GreylistVerdict {
        GreylistVerdict::Wait {
            retry_after: self.policy.delay().saturating_sub(age),
        }
    }

    fn is_trusted(&mut self, client: u64) -> bool {
        let known = self.fresh(client).map(|entry| entry.state);
        let Some(State::Client { passed, counted }) = known else {
            return false;
        };
        let trusted = self.policy.trust_after().is_some_and(|n| n.get() <= passed);
        if trusted {
            self.put(client, State::Client { passed, counted });
        }
        trusted
    }

    /// Counts a message of the client that has passed, if the policy counts it. The other recipients of that message are not
    /// counted, because they come within the interval.
    fn count(&mut self, client: u64) {
        if self.policy.trust_after().is_none() {
            return;
        }
        let state = match self.fresh(client).map(|entry| entry.state) {
            Some(State::Client { passed, counted })
                if self.since(counted) < self.policy.trust_interval() =>
            {
                State::Client { passed, counted }
            }
            Some(State::Client { passed, .. }) => State::Client {
                passed: passed.saturating_add(1),
                counted: self.now,
            },
            _ => State::Client {
                passed: 1,
                counted: self.now,
            },
        };
        self.put(client, state);
    }

    /// Returns the entry, unless it is too old.
    fn fresh(&self, id: u64) -> Option<Entry> {
        self.table.get(id).filter(|entry| !self.is_stale(entry))
    }

    fn is_stale(&self, entry: &Entry) -> bool {
        let limit = match entry.state {
            State::Waiting => self.policy.window(), // RFC 6647 section 5, item 2
            State::Passed | State::Client { .. } => self.policy.lifetime(), // RFC 6647 section 5, item 3
        };
        self.since(entry.at) > limit
    }

    fn since(&self, at: Nanos) -> Duration {
        let age = self.now.saturating_sub(at);
        Duration::from_nanos(age.try_into().unwrap_or(0))
    }

    fn put(&mut self, id: u64, state: State) {
        let entry = Entry {
            id,
            state,
            at: self.now,
        };
        if !self.table.slots.contains_key(&id) {
            self.sweep();
        }
        self.table.put(entry, self.capacity);
    }

    /// Drops the entries that are too old among the next few.
    fn sweep(&mut self) {
        for _ in 0..LOOKED_AT {
            let hand = self.table.hand;
            match self.table.entries.get(hand) {
                None => self.table.hand = 0,
                Some(entry) if self.is_stale(entry) => self.table.remove(hand),
                Some(_) => self.table.hand += 1,
            }
        }
    }
}
