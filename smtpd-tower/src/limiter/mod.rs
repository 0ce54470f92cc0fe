//! Rate limits by key, in memory.
//!
//! A [`RateLimiter`] is called with a key, usually the [`ClientKey`] of an address, and returns a [`Decision`] by its [`Rate`].
//! It neither waits nor spawns tasks. The layer for it is [`RateLimitLayer`](crate::layer::RateLimitLayer).
//!
//! # Memory is bounded
//!
//! A limiter remembers at most [`capacity`](RateLimiter::capacity) keys (100,000 by default, about 60 bytes each: a hash with a
//! secret seed stands for the key). The keys are spread over up to 16 locked shards that share the capacity evenly. When a new
//! key arrives at a full shard, the limiter inspects the next 8 entries of that shard, in turn, and the new key replaces the one
//! that would be free again soonest. Entries of keys that are no longer limited are replaced first; nothing else removes them.
//!
//! So a flood of addresses cannot grow memory, and a check inspects no more than 8 other entries. At worst, a flood makes the
//! limiter forget some limits, those of clients far from their limit before those of clients at it; a client that is forgotten
//! starts again with a whole burst. The seed of the hash is random, so nobody can aim at a shard.
//!
//! ```
//! use std::net::IpAddr;
//!
//! use smtpd_tower::limiter::{ClientKey, Decision, Rate, RateLimiter};
//!
//! let limiter = RateLimiter::new(Rate::per_minute(2)?);
//! let client: IpAddr = "2001:db8::1".parse()?;
//! let neighbour: IpAddr = "2001:db8::2".parse()?;
//!
//! assert!(limiter.check(ClientKey::new(client)).is_allowed());
//! assert!(limiter.check(ClientKey::new(neighbour)).is_allowed());
//! match limiter.check(ClientKey::new(client)) {
//!     Decision::Limited { retry_after } => assert!(retry_after.as_secs() <= 30),
//!     Decision::Allowed => unreachable!("neighbours in a /64 share one limit"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod client;
mod gcra;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::marker::PhantomData;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use self::client::ClientKey;
use self::gcra::Gcra;
pub use self::gcra::{Rate, RateError};

/// Limits the rate of events by key, in a table that all clones share.
///
/// Cloning is cheap and never copies the table: give each connection a clone. The clock is tokio's, so it can be paused in tests;
/// outside of a runtime it is the system's. The [module documentation](self) explains what is remembered.
///
/// ```
/// use smtpd_tower::limiter::{Rate, RateLimiter};
///
/// let limiter = RateLimiter::new(Rate::per_hour(1)?);
/// let clone = limiter.clone();
///
/// assert!(limiter.check("alice").is_allowed());
/// assert!(!clone.check("alice").is_allowed());
/// assert!(clone.check("bob").is_allowed());
/// # Ok::<(), smtpd_tower::limiter::RateError>(())
/// ```
pub struct RateLimiter<K> {
    shared: Arc<Shared>,
    keys: PhantomData<fn(K)>,
}

impl<K> RateLimiter<K> {
    /// The capacity of [`new`](Self::new), in keys: 100,000.
    pub const DEFAULT_CAPACITY: NonZeroUsize = match NonZeroUsize::new(100_000) {
        Some(keys) => keys,
        None => NonZeroUsize::MIN,
    };

    /// Creates a limiter that remembers up to [`DEFAULT_CAPACITY`](Self::DEFAULT_CAPACITY) keys.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self::with_capacity(rate, Self::DEFAULT_CAPACITY)
    }

    /// Creates a limiter that remembers up to `capacity` keys. Memory is allocated as they come.
    #[must_use]
    pub fn with_capacity(rate: Rate, capacity: NonZeroUsize) -> Self {
        let shards = (capacity.get() / LEAST_SHARD_CAPACITY).clamp(1, MOST_SHARDS);
        Self {
            shared: Arc::new(Shared {
                rate,
                gcra: Gcra::new(rate),
                capacity,
                shard_capacity: capacity.get() / shards,
                epoch: Instant::now(),
                key_hasher: RandomState::new(),
                shards: (0..shards).map(|_| Mutex::default()).collect(),
            }),
            keys: PhantomData,
        }
    }

    /// Returns the rate that applies to each key.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.shared.rate
    }

    /// Returns the maximum number of keys that are remembered.
    #[must_use]
    pub fn capacity(&self) -> NonZeroUsize {
        self.shared.capacity
    }

    /// Returns how many keys are remembered now, for metrics. This includes keys that are no longer limited.
    #[must_use]
    pub fn tracked(&self) -> usize {
        let shards = self.shared.shards.iter();
        shards.map(|shard| lock(shard).entries.len()).sum()
    }
}

impl<K: Hash> RateLimiter<K> {
    /// Counts one event of `key` if its rate allows it now.
    ///
    /// An event that is not allowed is not counted.
    pub fn check(&self, key: K) -> Decision {
        self.check_any(key)
    }

    /// Counts `n` events of `key` if its rate allows all of them now. Otherwise none is counted.
    ///
    /// More events than the [`burst`](Rate::burst) of the rate are never allowed; `retry_after` is [`Duration::MAX`] then.
    ///
    /// ```
    /// use std::num::NonZeroU32;
    ///
    /// use smtpd_tower::limiter::{Rate, RateLimiter};
    ///
    /// // A message counts for each of its recipients.
    /// let limiter = RateLimiter::new(Rate::per_hour(100)?);
    /// let recipients = NonZeroU32::new(60).ok_or("no recipients")?;
    /// assert!(limiter.check_n("alice", recipients).is_allowed());
    /// assert!(!limiter.check_n("alice", recipients).is_allowed());
    /// assert!(limiter.check("alice").is_allowed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_n(&self, key: K, n: NonZeroU32) -> Decision {
        self.admit(key, self.shared.gcra, n)
    }

    /// Counts one event of `key` if `rate` allows it now, instead of the limiter's own rate.
    ///
    /// Use the same rate each time for the same key. If the rate of a key changes, the debt of its last events remains as it is.
    ///
    /// ```
    /// use smtpd_tower::limiter::{Rate, RateLimiter};
    ///
    /// let (usual, paying) = (Rate::per_hour(1)?, Rate::per_hour(1000)?);
    /// let limiter = RateLimiter::new(usual);
    /// for _ in 0..1000 {
    ///     assert!(limiter.check_at("alice", paying).is_allowed());
    /// }
    /// assert!(limiter.check("bob").is_allowed());
    /// assert!(!limiter.check("bob").is_allowed());
    /// # Ok::<(), smtpd_tower::limiter::RateError>(())
    /// ```
    pub fn check_at(&self, key: K, rate: Rate) -> Decision {
        self.admit(key, Gcra::new(rate), NonZeroU32::MIN)
    }
}

impl<K> RateLimiter<K> {
    /// Like [`check`](Self::check), with keys of any type.
    pub(crate) fn check_any(&self, key: impl Hash) -> Decision {
        self.admit(key, self.shared.gcra, NonZeroU32::MIN)
    }

    fn admit(&self, key: impl Hash, gcra: Gcra, n: NonZeroU32) -> Decision {
        let shared = &*self.shared;
        // The key's own code must not run under the lock.
        let key = KeyHash(shared.key_hasher.hash_one(key));
        let now = nanos(shared.epoch.elapsed());
        let mut shard = lock(shared.shard_of(key));
        match gcra.admit(shard.tat(key), now, n) {
            Ok(tat) => {
                shard.set_tat(key, tat, shared.shard_capacity);
                Decision::Allowed
            }
            Err(retry_after) => Decision::Limited { retry_after },
        }
    }
}

// By hand: a derived Clone would require K: Clone.
impl<K> Clone for RateLimiter<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            keys: PhantomData,
        }
    }
}

// By hand: the table may be large, and its keys are clients.
impl<K> fmt::Debug for RateLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("rate", &self.shared.rate)
            .field("capacity", &self.shared.capacity)
            .finish_non_exhaustive()
    }
}

/// The decision of a [`RateLimiter`]. This enum is exhaustive: an event is allowed or not.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_tower::limiter::Decision;
///
/// let retry_after = Duration::from_secs(30);
/// assert!(!Decision::Limited { retry_after }.is_allowed());
/// assert!(Decision::Allowed.is_allowed());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// The event may happen and was counted.
    Allowed,
    /// The event must not happen and was not counted.
    Limited {
        /// The time until the key's next event is allowed, if it causes none before. Never zero. [`Duration::MAX`] if it will
        /// never be allowed, see [`RateLimiter::check_n`].
        retry_after: Duration,
    },
}

impl Decision {
    /// Returns whether the event may happen.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed)
    }
}

const MOST_SHARDS: usize = 16;

/// A small table is not split further: uneven shards would forget keys well before
/// the capacity is reached.
const LEAST_SHARD_CAPACITY: usize = 64;

/// How many entries a new key may inspect to find one to replace.
const LOOKED_AT: usize = 8;

struct Shared {
    rate: Rate,
    gcra: Gcra,
    capacity: NonZeroUsize,
    shard_capacity: usize,
    epoch: Instant,
    key_hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

impl Shared {
    fn shard_of(&self, key: KeyHash) -> &Mutex<Shard> {
        // In range: there is at least one shard.
        &self.shards[key.0 as usize % self.shards.len()]
    }
}

/// Stands for a key: two of 100,000 keys collide with a chance of about one in 4 billion.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct KeyHash(u64);

/// Entries in a `Vec`, so that the next few are found at once, and the position of each key's.
#[derive(Default)]
struct Shard {
    slots: HashMap<KeyHash, usize>,
    entries: Vec<Entry>,
    /// Where the next inspection begins. It wraps around, so every entry is inspected in turn.
    hand: usize,
}

struct Entry {
    key: KeyHash,
    tat: u64,
}

impl Shard {
    /// The key's theoretical arrival time; 0, which is always past, for an unknown key.
    fn tat(&self, key: KeyHash) -> u64 {
        let slot = self.slots.get(&key);
        let entry = slot.and_then(|&slot| self.entries.get(slot));
        entry.map_or(0, |entry| entry.tat)
    }

    fn set_tat(&mut self, key: KeyHash, tat: u64, capacity: usize) {
        let slot = self.slots.get(&key);
        if let Some(entry) = slot.and_then(|&slot| self.entries.get_mut(slot)) {
            entry.tat = tat;
            return;
        }
        let entry = Entry { key, tat };
        let slot = if self.entries.len() < capacity {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            self.replace_soonest_free(entry)
        };
        self.slots.insert(key, slot);
    }

    /// Replaces the entry with the least TAT among the next few by `entry`.
    fn replace_soonest_free(&mut self, entry: Entry) -> usize {
        let len = self.entries.len();
        let looked_at = (self.hand..self.hand + LOOKED_AT).map(|slot| slot % len);
        let soonest = looked_at.min_by_key(|&slot| self.entries[slot].tat);
        let slot = soonest.unwrap_or(0);
        self.hand = (self.hand + LOOKED_AT) % len;
        let forgotten = std::mem::replace(&mut self.entries[slot], entry);
        self.slots.remove(&forgotten.key);
        slot
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;
    use std::net::{IpAddr, Ipv6Addr};
    use std::thread;

    use tokio::time::advance;

    use super::*;

    fn limiter<K>(events: u32, seconds: u64) -> RateLimiter<K> {
        RateLimiter::new(Rate::new(events, Duration::from_secs(seconds)).unwrap())
    }

    fn capacity(keys: usize) -> NonZeroUsize {
        NonZeroUsize::new(keys).unwrap()
    }

    fn limited(retry_after: Duration) -> Decision {
        Decision::Limited { retry_after }
    }

    /// Counts how many of `tries` events of `key` are allowed now.
    fn allowed<K: Hash + Clone>(limiter: &RateLimiter<K>, key: K, tries: usize) -> usize {
        let decisions = (0..tries).map(|_| limiter.check(key.clone()));
        decisions.filter(Decision::is_allowed).count()
    }

    #[tokio::test(start_paused = true)]
    async fn burst_at_once_then_one_each_interval() {
        let limiter = limiter(5, 10);
        assert_eq!(allowed(&limiter, "a", 20), 5);
        for _ in 0..10 {
            advance(Duration::from_nanos(1_999_999_999)).await;
            assert_eq!(allowed(&limiter, "a", 3), 0);
            advance(Duration::from_nanos(1)).await;
            assert_eq!(allowed(&limiter, "a", 3), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn long_pause_earns_one_burst_and_no_more() {
        let limiter = limiter(5, 10);
        assert_eq!(allowed(&limiter, "a", 20), 5);
        advance(Duration::from_secs(10)).await;
        assert_eq!(allowed(&limiter, "a", 20), 5);
        advance(Duration::from_secs(1_000_000)).await;
        assert_eq!(allowed(&limiter, "a", 20), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn set_burst_leaves_the_rate_alone() {
        let rate = Rate::per_minute(60).unwrap().with_burst(2).unwrap();
        let limiter = RateLimiter::new(rate);
        assert_eq!(allowed(&limiter, "a", 20), 2);
        advance(Duration::from_secs(1)).await;
        assert_eq!(allowed(&limiter, "a", 20), 1);
    }

    fn events(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_counted_all_or_none() {
        let limiter = limiter(10, 10);
        assert!(limiter.check_n("a", events(4)).is_allowed());
        assert!(limiter.check_n("a", events(4)).is_allowed());
        assert_eq!(
            limiter.check_n("a", events(4)),
            limited(Duration::from_secs(2))
        );
        assert_eq!(allowed(&limiter, "a", 9), 2);
        advance(Duration::from_secs(10)).await;
        assert!(limiter.check_n("a", events(10)).is_allowed());
        assert_eq!(allowed(&limiter, "a", 9), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn more_events_than_a_burst_pass_once_the_key_has_rested() {
        let rate = Rate::per_minute(60).unwrap().with_burst(5).unwrap();
        let limiter = RateLimiter::new(rate);
        for n in [6, u32::MAX] {
            assert_eq!(limiter.check_n("a", events(n)), limited(Duration::MAX));
        }
        assert!(limiter.check_n("a", events(5)).is_allowed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_its_own_for_each_key() {
        let limiter = limiter(1, 60);
        let two = Rate::per_minute(2).unwrap();
        let at_two = |key| limiter.check_at(key, two);
        assert!(at_two("a").is_allowed() && at_two("a").is_allowed());
        assert_eq!(at_two("a"), limited(Duration::from_secs(30)));
        assert!(!limiter.check("a").is_allowed(), "the table is the same");
        assert_eq!(allowed(&limiter, "b", 3), 1);
        advance(Duration::from_secs(30)).await;
        assert!(at_two("a").is_allowed());
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_independent() {
        let limiter = limiter(2, 60);
        assert_eq!(allowed(&limiter, "a", 5), 2);
        assert_eq!(allowed(&limiter, "b", 5), 2);
        assert_eq!(allowed(&limiter, "a", 5), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn limit_state_cloned_per_connection() {
        let limiter = limiter(3, 60);
        let connections: Vec<_> = (0..10).map(|_| limiter.clone()).collect();
        let passed: usize = connections.iter().map(|c| allowed(c, "a", 3)).sum();
        assert_eq!(passed, 3);
        assert_eq!(allowed(&limiter, "a", 1), 0);
    }

    #[test]
    fn events_of_many_threads_are_all_counted() {
        let limiter = limiter(1000, 1 << 32);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let limiter = limiter.clone();
                thread::spawn(move || allowed(&limiter, "a", 1000))
            })
            .collect();
        let passed: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!(passed, 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn client_addresses_are_counted_by_their_network() {
        let key = |ip: &str| ClientKey::new(ip.parse().unwrap());
        let limiter = limiter(1, 60);
        let table = [
            ("2001:db8::1", true),
            ("2001:db8::ffff", false),
            ("2001:db8:0:1::1", true),
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
        ];
        for (ip, passes) in table {
            assert_eq!(limiter.check(key(ip)).is_allowed(), passes, "{ip}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_when_the_next_one_passes() {
        let limiter = limiter(4, 60);
        assert_eq!(allowed(&limiter, "a", 4), 4);
        assert_eq!(limiter.check("a"), limited(Duration::from_secs(15)));
        advance(Duration::from_secs(10)).await;
        let rest = Duration::from_secs(5);
        assert_eq!(limiter.check("a"), limited(rest));
        advance(rest - Duration::from_nanos(1)).await;
        assert_eq!(limiter.check("a"), limited(Duration::from_nanos(1)));
        advance(Duration::from_nanos(1)).await;
        assert_eq!(limiter.check("a"), Decision::Allowed);
        assert_eq!(limiter.check("a"), limited(Duration::from_secs(15)));
    }

    #[tokio::test(start_paused = true)]
    async fn huge_period_overflows_into_free_passage() {
        let limiter = RateLimiter::new(Rate::new(2, Duration::MAX).unwrap());
        advance(Duration::from_secs(1 << 30)).await;
        assert_eq!(allowed(&limiter, "a", 100), 2);
        advance(Duration::from_secs(1 << 30)).await;
        assert_eq!(allowed(&limiter, "a", 100), 0);
    }

    fn flood_key(n: u32) -> ClientKey {
        let ip = Ipv6Addr::from_bits((0x2001_0db8 << 96) | (u128::from(n) << 64));
        ClientKey::new(IpAddr::V6(ip))
    }

    #[tokio::test(start_paused = true)]
    async fn flood_of_addresses_grows_memory() {
        let rate = Rate::per_hour(10).unwrap();
        let limiter = RateLimiter::with_capacity(rate, capacity(1000));
        for n in 0..1_000_000 {
            assert!(limiter.check(flood_key(n)).is_allowed());
            assert!(n % 10_000 != 0 || limiter.tracked() <= 1000);
        }
        let mut slots = 0;
        for shard in &limiter.shared.shards {
            let shard = lock(shard);
            assert!(shard.entries.capacity() <= 2 * limiter.shared.shard_capacity);
            assert!(shard.slots.capacity() <= 5 * limiter.shared.shard_capacity);
            assert_eq!(shard.slots.len(), shard.entries.len());
            slots += shard.slots.len();
        }
        assert!((900..=1000).contains(&slots), "{slots}");
        assert_eq!(limiter.tracked(), slots);
    }

    #[tokio::test(start_paused = true)]
    async fn flood_of_addresses_sets_a_limited_client_free() {
        let limiter = RateLimiter::with_capacity(Rate::per_hour(3).unwrap(), capacity(1000));
        let client = ClientKey::new("192.0.2.1".parse().unwrap());
        assert_eq!(allowed(&limiter, client, 9), 3);
        for n in 0..100_000 {
            assert!(limiter.check(flood_key(n)).is_allowed());
        }
        assert_eq!(allowed(&limiter, client, 9), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn entry_of_an_idle_client_is_replaced_first() {
        let limiter = RateLimiter::with_capacity(Rate::per_minute(1).unwrap(), capacity(8));
        assert_eq!(allowed(&limiter, 0, 1), 1);
        advance(Duration::from_secs(60)).await;
        for key in 1..=8 {
            assert_eq!(allowed(&limiter, key, 1), 1);
        }
        assert_eq!(limiter.tracked(), 8);
        for key in 1..=8 {
            assert_eq!(allowed(&limiter, key, 1), 0, "{key}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn capacity_is_never_exceeded_and_small_ones_are_exact() {
        for (most, kept) in [(1, 1), (5, 5), (127, 127), (1000, 990)] {
            let limiter = RateLimiter::with_capacity(Rate::per_minute(1).unwrap(), capacity(most));
            for key in 0..20_000 {
                assert!(limiter.check(key).is_allowed());
            }
            assert_eq!(limiter.tracked(), kept, "capacity {most}");
            assert!(limiter.tracked() <= limiter.capacity().get());
        }
    }

    /// A key whose code uses the limiter that it is counted by.
    struct Reentrant(RateLimiter<Self>);

    impl Hash for Reentrant {
        fn hash<H: Hasher>(&self, state: &mut H) {
            assert!(self.0.tracked() < 10);
            0.hash(state);
        }
    }

    impl Drop for Reentrant {
        fn drop(&mut self) {
            assert!(self.0.tracked() < 10);
        }
    }

    #[test]
    fn a_key_whose_code_uses_the_limiter_does_not_deadlock() {
        let limiter = limiter(1, 60);
        assert!(limiter.check(Reentrant(limiter.clone())).is_allowed());
        assert!(!limiter.check(Reentrant(limiter.clone())).is_allowed());
    }

    /// A key that is neither Sync nor Debug.
    #[derive(Hash)]
    struct Bare(*const u8);

    #[test]
    fn clones_may_cross_threads_and_keys_need_not_be_shown() {
        fn is_shareable<T: Send + Sync + Clone + fmt::Debug>(_: &T) {}
        let limiter: RateLimiter<Bare> = limiter(1, 60);
        is_shareable(&limiter);
        let shown = format!("{limiter:?}");
        assert!(shown.contains("capacity: 100000"), "{shown}");
    }
}
