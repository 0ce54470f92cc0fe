use std::{
    collections::HashMap,
    fmt,
    future::{Ready, ready},
    hash::{BuildHasher, RandomState},
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tower::BoxError;

use super::{GreylistKey, GreylistPolicy, GreylistStore, GreylistVerdict};

/// A store in memory: messages that wait, messages that have passed, and clients that are trusted.
///
/// It holds at most [`capacity`](Self::capacity) entries of about 70 bytes each: a hash with a secret seed stands for the key.
/// Each new entry inspects the next 8 entries in turn and drops those that are too old. If there is still no room, it replaces
/// the oldest of the next 8 that still waits, or, if none waits, the oldest that has passed.
///
/// So a flood of made-up senders (RFC 6647 section 8.2) never grows memory, and pushes out first attempts before messages that
/// have passed. A `RateLimitLayer` outside of greylisting keeps such a flood small. Everything is forgotten when the server ends:
/// after the next start, every client is deferred once more.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use smtpd_tower::layer::{GreylistLayer, MemoryGreylist};
///
/// let capacity = NonZeroUsize::new(1_000_000).ok_or("no room")?;
/// let layer = GreylistLayer::with_store(MemoryGreylist::with_capacity(capacity));
/// assert_eq!(layer.store().tracked(), 0);
/// # Ok::<(), &str>(())
/// ```
pub struct MemoryGreylist {
    capacity: NonZeroUsize,
    hasher: RandomState,
    table: Mutex<Table>,
}

impl MemoryGreylist {
    /// The capacity of [`new`](Self::new), in entries: 100,000.
    pub const DEFAULT_CAPACITY: NonZeroUsize = match NonZeroUsize::new(100_000) {
        Some(entries) => entries,
        None => NonZeroUsize::MIN,
    };

    /// Creates an empty store with a capacity of [`DEFAULT_CAPACITY`](Self::DEFAULT_CAPACITY) entries.
    pub fn new() -> Self {
        Self::with_capacity(Self::DEFAULT_CAPACITY)
    }

    /// Creates an empty store that remembers up to `entries` entries. Memory is allocated as they come.
    pub fn with_capacity(entries: NonZeroUsize) -> Self {
        Self {
            capacity: entries,
            hasher: RandomState::new(),
            table: Mutex::default(),
        }
    }

    /// Returns how many entries are remembered at most.
    pub const fn capacity(&self) -> NonZeroUsize {
        self.capacity
    }

    /// Returns how many entries are remembered now, for metrics. Some of them may be too old to count.
    pub fn tracked(&self) -> usize {
        self.lock().entries.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GreylistStore for MemoryGreylist {
    type Check = Ready<Result<GreylistVerdict, BoxError>>;

    fn check(&self, key: GreylistKey, policy: GreylistPolicy) -> Self::Check {
        let client = self.hasher.hash_one((0_u8, key.client()));
        let message = self.hasher.hash_one((1_u8, key));
        let mut moment = Moment {
            table: &mut self.lock(),
            capacity: self.capacity.get(),
            policy,
            now: Instant::now(),
        };
        ready(Ok(moment.check(client, message)))
    }
}

impl Default for MemoryGreylist {
    /// See [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

// By hand: the table may be large.
impl fmt::Debug for MemoryGreylist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryGreylist")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// How many entries a new one inspects, first to drop old ones, then to find room.
const LOOKED_AT: usize = 8;

/// Entries in a `Vec`, so that the next few are found at once, and the position of each.
#[derive(Default)]
struct Table {
    slots: HashMap<u64, usize>,
    entries: Vec<Entry>,
    /// Where the next inspection begins. It wraps around, so every entry is inspected in turn.
    hand: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    id: u64,
    state: State,
    /// The first attempt if it waits, otherwise the last mail.
    at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Passed,
    /// A client and how many of its messages have passed.
    Client(u32),
}

impl Entry {
    /// The value of keeping it: less if it waits than if it has passed, less if it is older.
    fn worth(&self) -> (bool, Instant) {
        (self.state != State::Waiting, self.at)
    }
}

/// The table at one moment, with one policy.
struct Moment<'a> {
    table: &'a mut Table,
    capacity: usize,
    policy: GreylistPolicy,
    now: Instant,
}

impl Moment<'_> {
    fn check(&mut self, client: u64, message: u64) -> GreylistVerdict {
        if self.is_trusted(client) {
            return GreylistVerdict::Pass;
        }
        match self.fresh(message) {
            None => {
                self.put(message, State::Waiting);
                GreylistVerdict::Wait
            }
            Some(entry) if entry.state != State::Waiting => {
                self.put(message, State::Passed);
                GreylistVerdict::Pass
            }
            Some(entry) if self.now - entry.at < self.policy.delay() => GreylistVerdict::Wait,
            Some(_) => {
                self.put(message, State::Passed);
                self.count(client);
                GreylistVerdict::Pass
            }
        }
    }

    fn is_trusted(&mut self, client: u64) -> bool {
        let known = self.fresh(client).map(|entry| entry.state);
        let Some(State::Client(passed)) = known else {
            return false;
        };
        let trusted = self.policy.trust_after().is_some_and(|n| n.get() <= passed);
        if trusted {
            self.put(client, State::Client(passed));
        }
        trusted
    }

    /// Counts a message of the client that has passed, if the policy counts them.
    fn count(&mut self, client: u64) {
        if self.policy.trust_after().is_none() {
            return;
        }
        let passed = match self.fresh(client).map(|entry| entry.state) {
            Some(State::Client(passed)) => passed,
            _ => 0,
        };
        self.put(client, State::Client(passed.saturating_add(1)));
    }

    /// Returns the entry, unless it is too old.
    fn fresh(&self, id: u64) -> Option<Entry> {
        let slot = *self.table.slots.get(&id)?;
        let entry = *self.table.entries.get(slot)?;
        (!self.is_stale(&entry)).then_some(entry)
    }

    fn is_stale(&self, entry: &Entry) -> bool {
        let limit = match entry.state {
            State::Waiting => self.policy.window(), // RFC 6647 section 5, item 2
            State::Passed | State::Client(_) => self.policy.lifetime(), // RFC 6647 section 5, item 3
        };
        self.now - entry.at > limit
    }

    fn put(&mut self, id: u64, state: State) {
        let entry = Entry {
            id,
            state,
            at: self.now,
        };
        let slot = self.table.slots.get(&id);
        if let Some(known) = slot.and_then(|&slot| self.table.entries.get_mut(slot)) {
            *known = entry;
            return;
        }
        self.sweep();
        if self.table.entries.len() >= self.capacity {
            self.table.forget_one();
        }
        self.table.slots.insert(id, self.table.entries.len());
        self.table.entries.push(entry);
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

impl Table {
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
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use smtpd_core::{ForwardPath, ReversePath};
    use tokio::time::advance;

    use super::{GreylistVerdict::*, *};
    use crate::limiter::ClientKey;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NANO: Duration = Duration::from_nanos(1);

    fn key(client: &str, sender: &str) -> GreylistKey {
        let client = ClientKey::new(client.parse().unwrap());
        let sender: ReversePath = sender.parse().unwrap();
        let recipient: ForwardPath = "b@example.org".parse().unwrap();
        GreylistKey::new(client, sender, recipient)
    }

    fn without_trust() -> GreylistPolicy {
        GreylistPolicy::new().with_trust_after(None)
    }

    impl MemoryGreylist {
        fn now(&self, key: &GreylistKey, policy: GreylistPolicy) -> GreylistVerdict {
            self.check(key.clone(), policy).into_inner().unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_passes_within_its_time() {
        let table = [
            (Duration::ZERO, Wait),
            (MINUTE - NANO, Wait),
            (MINUTE, Pass),
            (DAY, Pass),
            (DAY + NANO, Wait),
        ];
        for policy in [GreylistPolicy::new(), without_trust()] {
            for (after, expected) in table {
                let (store, key) = (MemoryGreylist::new(), key("192.0.2.1", "a@example.com"));
                assert_eq!(store.now(&key, policy), Wait);
                advance(after).await;
                assert_eq!(store.now(&key, policy), expected, "{after:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_too_early_does_not_start_the_delay_anew() {
        let (store, key) = (MemoryGreylist::new(), key("192.0.2.1", "a@example.com"));
        for second in 0..60 {
            assert_eq!(store.now(&key, without_trust()), Wait, "{second}");
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(store.now(&key, without_trust()), Pass);
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_too_late_counts_as_the_first() {
        let (store, key) = (MemoryGreylist::new(), key("192.0.2.1", "a@example.com"));
        assert_eq!(store.now(&key, without_trust()), Wait);
        advance(DAY * 2).await;
        assert_eq!(store.now(&key, without_trust()), Wait);
        advance(MINUTE).await;
        assert_eq!(store.now(&key, without_trust()), Pass);
        assert_eq!(store.tracked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_writes_now_and_then_stays_known() {
        let other = key("192.0.2.1", "other@example.com");
        for (policy, key) in [
            (without_trust(), key("192.0.2.1", "a@example.com")),
            (GreylistPolicy::new(), other),
        ] {
            let (store, first) = (
                MemoryGreylist::new(),
                self::key("192.0.2.1", "a@example.com"),
            );
            assert_eq!(store.now(&first, policy), Wait);
            advance(MINUTE).await;
            assert_eq!(store.now(&first, policy), Pass);
            for _ in 0..3 {
                advance(DAY * 36).await;
                assert_eq!(store.now(&key, policy), Pass);
            }
            advance(DAY * 36 + NANO).await;
            assert_eq!(store.now(&key, policy), Wait);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_trusted_after_so_many_messages() {
        for (trust_after, passes_at) in [(1, Some(1)), (3, Some(3)), (0, None)] {
            let policy = GreylistPolicy::new().with_trust_after(NonZeroU32::new(trust_after));
            let store = MemoryGreylist::new();
            let mut trusted_at = None;
            for n in 0..5 {
                let key = key("192.0.2.1", &format!("{n}@example.com"));
                if store.now(&key, policy) == Pass {
                    trusted_at = trusted_at.or(Some(n));
                }
                advance(MINUTE).await;
                // The second message is known already, and does not count again.
                assert_eq!(store.now(&key, policy), Pass);
                assert_eq!(store.now(&key, policy), Pass);
            }
            assert_eq!(trusted_at, passes_at, "{trust_after}");
            let stranger = key("192.0.2.2", "0@example.com");
            assert_eq!(store.now(&stranger, policy), Wait);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn flood_of_senders_grows_memory_or_pushes_out_what_has_passed() {
        let store = MemoryGreylist::with_capacity(NonZeroUsize::new(100).unwrap());
        let known = key("192.0.2.1", "a@example.com");
        assert_eq!(store.now(&known, without_trust()), Wait);
        advance(MINUTE).await;
        assert_eq!(store.now(&known, without_trust()), Pass);
        for n in 0..10_000 {
            let stranger = key("192.0.2.2", &format!("{n}@example.com"));
            assert_eq!(store.now(&stranger, without_trust()), Wait);
            assert!(store.tracked() <= store.capacity().get());
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(store.tracked(), 100);
        assert_eq!(store.now(&known, without_trust()), Pass);
        let table = store.lock();
        assert_eq!(table.slots.len(), table.entries.len());
        for (slot, entry) in table.entries.iter().enumerate() {
            assert_eq!(table.slots.get(&entry.id), Some(&slot));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_old_is_dropped_as_new_comes() {
        let store = MemoryGreylist::new();
        for n in 0..1000 {
            store.now(
                &key("192.0.2.1", &format!("{n}@example.com")),
                without_trust(),
            );
        }
        advance(DAY + NANO).await;
        for n in 0..200 {
            store.now(
                &key("192.0.2.2", &format!("{n}@example.com")),
                without_trust(),
            );
        }
        assert_eq!(store.tracked(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_capacity_has_room_for_one() {
        let store = MemoryGreylist::with_capacity(NonZeroUsize::MIN);
        let key = key("192.0.2.1", "a@example.com");
        assert_eq!(store.now(&key, without_trust()), Wait);
        advance(MINUTE).await;
        assert_eq!(store.now(&key, without_trust()), Pass);
        assert_eq!((store.capacity().get(), store.tracked()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_of_a_retry_is_that_of_the_policy() {
        let hour = Duration::from_secs(3600);
        let policy = without_trust().with_window(hour);
        assert_eq!(policy.window(), hour);
        for (after, expected) in [(hour, Pass), (hour + NANO, Wait)] {
            let (store, key) = (MemoryGreylist::new(), key("192.0.2.1", "a@example.com"));
            assert_eq!(store.now(&key, policy), Wait);
            advance(after).await;
            assert_eq!(store.now(&key, policy), expected, "{after:?}");
        }
    }
}
