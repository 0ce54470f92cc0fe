//! Rate limits by key, in memory.
//!
//! A [`RateLimiter`] is called with a key, usually the [`ClientKey`] of an address, and counts an event if its [`Rate`] allows
//! one, or returns how long that takes, as [`Limited`]. It neither waits nor spawns tasks. [`reserve`](RateLimiter::reserve)
//! counts only what succeeds. The layer for it is [`RateLimitLayer`](crate::layer::RateLimitLayer).
//!
//! [The guide](crate::guide::limits) lists all limits of a server, and what the client receives.
//!
//! # Memory is bounded
//!
//! A limiter remembers at most [`capacity`](RateLimiter::capacity) keys (100,000 by default, 50 to 100 bytes each: a hash with a
//! secret seed stands for the key; about 120 bytes more with a [strict](Rate::strict) rate). The keys are spread over up to 16
//! locked shards that share the capacity evenly. When a new key arrives at a full shard, the limiter inspects the next 8 entries
//! of that shard, in turn, and the new key replaces the one that would be free again soonest. Entries of keys that are no longer
//! limited are replaced first; nothing else removes them. A [`Reservation`] is remembered as long as it exists, in addition.
//!
//! So a flood of addresses cannot grow memory, and a check inspects no more than 8 other entries. At worst, a flood makes the
//! limiter forget some limits, those of clients far from their limit before those of clients at it; a client that is forgotten
//! starts again with a whole burst. The seed of the hash is random, so nobody can aim at a shard.
//!
//! ```
//! use std::net::IpAddr;
//!
//! use smtpd_tower::limiter::{ClientKey, Rate, RateLimiter};
//!
//! let limiter = RateLimiter::new(Rate::per_minute(2)?);
//! let client: IpAddr = "2001:db8::1".parse()?;
//! let neighbour: IpAddr = "2001:db8::2".parse()?;
//!
//! limiter.check(ClientKey::new(client))?;
//! limiter.check(ClientKey::new(neighbour))?;
//! // Neighbors in a /64 share one limit.
//! let limited = limiter.check(ClientKey::new(client)).unwrap_err();
//! assert!(limited.retry_after().is_some_and(|after| after.as_secs() <= 30));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod client;
mod debt;
mod key_hash;
mod limited;
mod pace;
mod rate;
mod reservation;
mod table;

use std::{
    fmt,
    hash::Hash,
    marker::PhantomData,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
};

use self::table::{Table, Take};
pub use self::{
    client::ClientKey,
    limited::{Limited, Usage},
    rate::{Rate, RateError},
    reservation::Reservation,
};
pub(crate) use self::{
    debt::Debt,
    key_hash::{KeyHash, KeyHasher, KeyMap},
    pace::{Pace, Share},
};

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
/// limiter.check("alice")?;
/// assert!(clone.check("alice").is_err());
/// clone.check("bob")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RateLimiter<K> {
    table: Arc<Table>,
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
        Self {
            table: Arc::new(Table::new(rate, capacity)),
            keys: PhantomData,
        }
    }

    /// Returns the rate that applies to each key.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.table.rate()
    }

    /// Changes the rate of all keys, for all clones.
    ///
    /// A key still owes as many events as before, but no more than the new [burst](Rate::burst), and regains them at the new
    /// rate. It is converted when it is next seen.
    ///
    /// The new rate is [strict](Rate::strict) only if it says so, whatever the one before was.
    ///
    /// ```
    /// use smtpd_tower::limiter::{Rate, RateLimiter};
    ///
    /// let limiter = RateLimiter::new(Rate::per_hour(1)?);
    /// limiter.check("alice")?;
    /// assert!(limiter.check("alice").is_err());
    /// limiter.set_rate(Rate::per_hour(3)?);
    /// assert_eq!(limiter.usage("alice").counted(), 1);
    /// limiter.check("alice")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_rate(&self, rate: Rate) {
        self.table.set_rate(rate);
    }

    /// Returns the maximum number of keys that are remembered.
    #[must_use]
    pub fn capacity(&self) -> NonZeroUsize {
        self.table.capacity()
    }

    /// Returns how many keys are remembered now, for metrics. This includes keys that are no longer limited.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.table.tracked()
    }
}

impl<K: Hash> RateLimiter<K> {
    /// Counts one event of `key` if its rate allows it now.
    ///
    /// # Errors
    ///
    /// Returns [`Limited`], with the time to wait, if the event is not allowed. It is not counted then.
    pub fn check(&self, key: K) -> Result<(), Limited> {
        self.take_any(key, Share::ONE, NonZeroU32::MIN)
    }

    /// Counts `n` events of `key` if its rate allows all of them now. Otherwise none is counted.
    ///
    /// ```
    /// use std::num::NonZeroU32;
    ///
    /// use smtpd_tower::limiter::{Rate, RateLimiter};
    ///
    /// // A message counts for each of its recipients.
    /// let limiter = RateLimiter::new(Rate::per_hour(100)?);
    /// let recipients = NonZeroU32::new(60).ok_or("no recipients")?;
    /// limiter.check_n("alice", recipients)?;
    /// assert!(limiter.check_n("alice", recipients).is_err());
    /// limiter.check("alice")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`Limited`], with the time to wait, if they are not allowed. More events than the [`burst`](Rate::burst) of the
    /// rate never are.
    pub fn check_n(&self, key: K, n: NonZeroU32) -> Result<(), Limited> {
        self.take_any(key, Share::ONE, n)
    }

    /// Counts one event of `key` if `rate` allows it now, instead of the limiter's own rate.
    ///
    /// Use the same rate each time for the same key. If the rate of a key changes, it still owes as many events, as after
    /// [`set_rate`](Self::set_rate).
    ///
    /// ```
    /// use smtpd_tower::limiter::{Rate, RateLimiter};
    ///
    /// let (usual, paying) = (Rate::per_hour(1)?, Rate::per_hour(1000)?);
    /// let limiter = RateLimiter::new(usual);
    /// for _ in 0..1000 {
    ///     limiter.check_at("alice", paying)?;
    /// }
    /// limiter.check("bob")?;
    /// assert!(limiter.check("bob").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`check`](Self::check).
    pub fn check_at(&self, key: K, rate: Rate) -> Result<(), Limited> {
        self.take_any(key, Share::at(Some(rate)), NonZeroU32::MIN)
    }

    /// Reserves `n` events of `key` if its rate allows all of them now, to count only what succeeds.
    ///
    /// They count from when the reservation is [committed](Reservation::commit). Until then they are in the way of other events
    /// of the key, and if the reservation is dropped, they are given back.
    ///
    /// # Errors
    ///
    /// Returns [`Limited`], with the time to wait, if they are not allowed.
    pub fn reserve(&self, key: K, n: NonZeroU32) -> Result<Reservation, Limited> {
        self.reserve_any(key, Share::ONE, n)
    }

    /// Like [`reserve`](Self::reserve), with `rate` instead of the limiter's own, as in [`check_at`](Self::check_at).
    ///
    /// # Errors
    ///
    /// Returns [`Limited`], with the time to wait, if they are not allowed.
    pub fn reserve_at(&self, key: K, n: NonZeroU32, rate: Rate) -> Result<Reservation, Limited> {
        self.reserve_any(key, Share::at(Some(rate)), n)
    }

    /// Returns what `key` has used of its rate. Counts nothing.
    pub fn usage(&self, key: K) -> Usage {
        self.usage_any(key, Share::ONE)
    }

    /// Like [`usage`](Self::usage), for a key that is counted at `rate`, as by [`check_at`](Self::check_at).
    pub fn usage_at(&self, key: K, rate: Rate) -> Usage {
        self.usage_any(key, Share::at(Some(rate)))
    }

    /// Forgets the counted events of `key`, as if it had never been seen. Events that are reserved stay so.
    ///
    /// ```
    /// use smtpd_tower::limiter::{Rate, RateLimiter};
    ///
    /// let limiter = RateLimiter::new(Rate::per_hour(1)?);
    /// limiter.check("alice")?;
    /// limiter.reset("alice");
    /// limiter.check("alice")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reset(&self, key: K) {
        self.reset_any(key);
    }
}

/// With keys of any type.
impl<K> RateLimiter<K> {
    // The key is hashed before the table is locked: its own code must not run under the lock.
    pub(crate) fn take_any(
        &self,
        key: impl Hash,
        share: Share,
        n: NonZeroU32,
    ) -> Result<(), Limited> {
        self.table.take(self.table.hash(key), share, n, Take::Count)
    }

    pub(crate) fn reserve_any(
        &self,
        key: impl Hash,
        share: Share,
        n: NonZeroU32,
    ) -> Result<Reservation, Limited> {
        let key = self.table.hash(key);
        self.table.take(key, share, n, Take::Hold)?;
        Ok(Reservation::new(
            Arc::clone(&self.table),
            key,
            share,
            n.get(),
        ))
    }

    pub(crate) fn usage_any(&self, key: impl Hash, share: Share) -> Usage {
        self.table.usage(self.table.hash(key), share)
    }

    pub(crate) fn reset_any(&self, key: impl Hash) {
        self.table.reset(self.table.hash(key));
    }
}

// By hand: a derived Clone would require K: Clone.
impl<K> Clone for RateLimiter<K> {
    fn clone(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
            keys: PhantomData,
        }
    }
}

// By hand: the table may be large, and its keys are clients.
impl<K> fmt::Debug for RateLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("rate", &self.rate())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;
    use std::net::{IpAddr, Ipv6Addr};
    use std::thread;
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    fn limiter<K>(events: u32, seconds: u64) -> RateLimiter<K> {
        RateLimiter::new(Rate::new(events, Duration::from_secs(seconds)).unwrap())
    }

    fn capacity(keys: usize) -> NonZeroUsize {
        NonZeroUsize::new(keys).unwrap()
    }

    fn limited(retry_after: Duration) -> Result<(), Limited> {
        Err(Limited(Some(retry_after)))
    }

    /// Counts how many of `tries` events of `key` are allowed now.
    fn allowed<K: Hash + Clone>(limiter: &RateLimiter<K>, key: K, tries: usize) -> usize {
        let decisions = (0..tries).map(|_| limiter.check(key.clone()));
        decisions.filter(Result::is_ok).count()
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
        assert!(limiter.check_n("a", events(4)).is_ok());
        assert!(limiter.check_n("a", events(4)).is_ok());
        assert_eq!(
            limiter.check_n("a", events(4)),
            limited(Duration::from_secs(2))
        );
        assert_eq!(allowed(&limiter, "a", 9), 2);
        advance(Duration::from_secs(10)).await;
        assert!(limiter.check_n("a", events(10)).is_ok());
        assert_eq!(allowed(&limiter, "a", 9), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn more_events_than_a_burst_pass_once_the_key_has_rested() {
        let rate = Rate::per_minute(60).unwrap().with_burst(5).unwrap();
        let limiter = RateLimiter::new(rate);
        for n in [6, u32::MAX] {
            assert_eq!(limiter.check_n("a", events(n)), Err(Limited(None)));
        }
        assert!(limiter.check_n("a", events(5)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_its_own_for_each_key() {
        let limiter = limiter(1, 60);
        let two = Rate::per_minute(2).unwrap();
        let at_two = |key| limiter.check_at(key, two);
        assert!(at_two("a").is_ok() && at_two("a").is_ok());
        assert_eq!(at_two("a"), limited(Duration::from_secs(30)));
        assert!(limiter.check("a").is_err(), "the table is the same");
        assert_eq!(allowed(&limiter, "b", 3), 1);
        advance(Duration::from_secs(30)).await;
        assert!(at_two("a").is_ok());
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
            assert_eq!(limiter.check(key(ip)).is_ok(), passes, "{ip}");
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
        assert_eq!(limiter.check("a"), Ok(()));
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

    #[tokio::test(start_paused = true)]
    async fn what_has_failed_uses_up_the_limit() {
        for rate in [
            Rate::per_hour(3).unwrap(),
            Rate::per_hour(3).unwrap().strict(),
        ] {
            let limiter = RateLimiter::new(rate);
            for _ in 0..10 {
                let reservations = [(); 3].map(|()| limiter.reserve("a", events(1)).unwrap());
                assert!(
                    limiter.reserve("a", events(1)).is_err(),
                    "they are in the way"
                );
                assert!(limiter.check("a").is_err());
                drop(reservations);
                advance(Duration::from_secs(1)).await;
            }
            assert_eq!(limiter.usage("a").counted(), 0);
            limiter.reserve("a", events(2)).unwrap().commit();
            assert_eq!(allowed(&limiter, "a", 5), 1);
            assert_eq!(limiter.table.reserved(), 0);
        }
    }

    /// Numbers that look random, the same in each run.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, most: u32) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % u64::from(most)) as u32
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_that_is_given_back_leaves_a_trace() {
        let mut numbers = Numbers(20_261_130);
        for round in 0..60 {
            let (per_minute, burst) = (1 + numbers.below(30), 1 + numbers.below(40));
            let rate = Rate::per_minute(per_minute).unwrap();
            let rate = rate.with_burst(burst).unwrap();
            let rate = if round % 2 == 0 { rate } else { rate.strict() };
            // The second one sees only what was committed, as if there had never been a reservation.
            let (limiter, plain) = (RateLimiter::new(rate), RateLimiter::new(rate));
            let mut pending = Vec::new();
            for _ in 0..100 {
                advance(Duration::from_millis(numbers.below(8000).into())).await;
                let n = 1 + numbers.below(rate.burst());
                match numbers.below(4) {
                    0 | 1 => pending.extend(limiter.reserve("a", events(n))),
                    _ if pending.is_empty() => {}
                    2 => drop(pending.swap_remove(numbers.below(pending.len() as u32) as usize)),
                    _ => {
                        let at = numbers.below(pending.len() as u32) as usize;
                        let reservation = pending.swap_remove(at);
                        let n = events(reservation.events());
                        reservation.commit();
                        assert!(plain.check_n("a", n).is_ok(), "{rate:?}: over its rate");
                    }
                }
                let (usage, expected) = (limiter.usage("a"), plain.usage("a"));
                assert_eq!(usage.counted(), expected.counted(), "{rate:?}");
                let reserved: u32 = pending.iter().map(Reservation::events).sum();
                assert_eq!(usage.reserved(), u64::from(reserved));
                assert!(usage.counted() + usage.reserved() <= u64::from(usage.limit()));
            }
            pending.clear();
            assert_eq!(limiter.usage("a"), plain.usage("a"), "{rate:?}");
            assert_eq!(limiter.table.reserved(), 0);
        }
    }

    #[test]
    fn reservations_of_many_threads_exceed_the_limit_together() {
        let limiter: RateLimiter<u32> = limiter(1000, 1 << 32);
        let threads = (0..4).map(|thread| {
            let limiter = limiter.clone();
            thread::spawn(move || {
                let mut numbers = Numbers(thread + 1);
                let mut committed = 0;
                for _ in 0..5000 {
                    let Ok(reservation) = limiter.reserve(7, events(1 + numbers.below(3))) else {
                        continue;
                    };
                    if numbers.below(2) == 0 {
                        committed += reservation.events();
                        reservation.commit();
                    }
                }
                committed
            })
        });
        let threads: Vec<_> = threads.collect();
        let committed: u32 = threads.into_iter().map(|t| t.join().unwrap()).sum();
        assert!((998..=1000).contains(&committed), "{committed}");
        assert_eq!(limiter.usage(7).counted(), u64::from(committed));
        assert_eq!(limiter.table.reserved(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_was_reserved_is_owed_and_less_is_given_back() {
        for rate in [
            Rate::per_minute(10).unwrap(),
            Rate::per_minute(10).unwrap().strict(),
        ] {
            let limiter = RateLimiter::new(rate);
            limiter.reserve("less", events(10)).unwrap().commit_n(4);
            assert_eq!(allowed(&limiter, "less", 20), 6);
            limiter.reserve("none", events(10)).unwrap().commit_n(0);
            assert_eq!(allowed(&limiter, "none", 20), 10);
            limiter.reserve("more", events(1)).unwrap().commit_n(25);
            assert_eq!(limiter.usage("more").counted(), 25);
            advance(Duration::from_secs(59)).await;
            assert_eq!(allowed(&limiter, "more", 20), 0);
            limiter
                .reserve("most", events(1))
                .unwrap()
                .commit_n(u32::MAX);
            assert!(limiter.check("most").is_err());
            limiter.reset("most");
            assert!(limiter.check("most").is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_addresses_releases_what_is_reserved() {
        let limiter = RateLimiter::with_capacity(Rate::per_hour(1).unwrap(), capacity(100));
        let client = ClientKey::new("192.0.2.1".parse().unwrap());
        let first = limiter.reserve(client, events(1)).unwrap();
        for n in 0..10_000 {
            assert!(limiter.check(flood_key(n)).is_ok());
        }
        assert!(limiter.reserve(client, events(1)).is_err());
        first.commit();
        assert!(limiter.reserve(client, events(1)).is_err());
        assert_eq!(limiter.tracked(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_is_changed_applies_to_all_keys_and_clones() {
        let limiter = limiter(2, 60);
        let clone = limiter.clone();
        for key in 0..1000 {
            assert_eq!(allowed(&limiter, key, 5), 2);
        }
        clone.set_rate(Rate::per_minute(5).unwrap());
        assert_eq!(limiter.rate(), Rate::per_minute(5).unwrap());
        for key in 0..1000 {
            assert_eq!(allowed(&limiter, key, 5), 3, "{key}");
        }
        limiter.set_rate(Rate::per_minute(1).unwrap());
        let reservation = limiter.reserve(1000, events(1)).unwrap();
        limiter.set_rate(Rate::per_hour(1).unwrap());
        reservation.commit();
        assert_eq!(
            limiter.check(1000),
            limited(Duration::from_secs(3600)),
            "it is counted at the rate of now"
        );
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
            assert!(limiter.check(flood_key(n)).is_ok());
            assert!(n % 10_000 != 0 || limiter.tracked() <= 1000);
        }
        limiter.table.assert_bounded();
        let tracked = limiter.tracked();
        assert!((900..=1000).contains(&tracked), "{tracked}");
    }

    #[tokio::test(start_paused = true)]
    async fn flood_of_addresses_sets_a_limited_client_free() {
        let limiter = RateLimiter::with_capacity(Rate::per_hour(3).unwrap(), capacity(1000));
        let client = ClientKey::new("192.0.2.1".parse().unwrap());
        assert_eq!(allowed(&limiter, client, 9), 3);
        for n in 0..100_000 {
            assert!(limiter.check(flood_key(n)).is_ok());
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
                assert!(limiter.check(key).is_ok());
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
        assert!(limiter.check(Reentrant(limiter.clone())).is_ok());
        assert!(limiter.check(Reentrant(limiter.clone())).is_err());
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
