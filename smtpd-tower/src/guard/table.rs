use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    GuardReason,
    handshakes::Handshakes,
    settings::{Counted, Settings},
};
use crate::limiter::{ClientKey, Debt, KeyHash, KeyHasher, KeyMap};

const MOST_SHARDS: usize = 16;

/// A small table is not split further: uneven shards would forget clients well before the capacity is reached.
const LEAST_SHARD_CAPACITY: usize = 64;

/// How many entries a new client may inspect to find one to replace.
const LOOKED_AT: usize = 8;

/// What a guard remembers of its clients.
pub(super) struct Table {
    shard_capacity: usize,
    epoch: Instant,
    hasher: KeyHasher,
    pub(super) handshakes: Handshakes,
    shards: Box<[Mutex<Shard>]>,
}

/// A client, as the table knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) client: ClientKey,
    key: KeyHash,
}

impl Known {
    pub(super) const fn key(&self) -> KeyHash {
        self.key
    }
}

/// What a client has at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) sessions: u32,
    pub(super) logins: u32,
}

/// What a client has done, for its owner.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) client: ClientKey,
    pub(super) live: Live,
    pub(super) handshakes: u32,
    /// By [`Counted`].
    pub(super) counts: [u64; Counted::ALL],
    pub(super) refused: u64,
}

impl Table {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        let shards = (capacity.get() / LEAST_SHARD_CAPACITY).clamp(1, MOST_SHARDS);
        Self {
            shard_capacity: capacity.get() / shards,
            epoch: Instant::now(),
            hasher: KeyHasher::default(),
            handshakes: Handshakes::default(),
            shards: (0..shards).map(|_| Mutex::default()).collect(),
        }
    }

    pub(super) fn find(&self, client: ClientKey) -> Known {
        let key = self.hasher.hash(client);
        Known { client, key }
    }

    /// Returns the time since the guard was created.
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Begins a session of the client, unless it is over one of its limits.
    pub(super) fn enter(&self, known: Known, settings: &Settings) -> Result<(), GuardReason> {
        let now = self.nanos();
        let mut shard = self.shard(known);
        if shard.live(known).sessions >= settings.sessions {
            return Err(GuardReason::Sessions);
        }
        for (counted, reason) in [
            (Counted::RejectedRecipient, GuardReason::RejectedRecipients),
            (Counted::Error, GuardReason::Errors),
            (Counted::IdleSession, GuardReason::IdleSessions),
            (Counted::NewSession, GuardReason::NewSessions),
        ] {
            if shard.is_over(known, counted, settings, now) {
                return Err(reason);
            }
        }
        shard.charge(
            known,
            Counted::NewSession,
            1,
            settings,
            now,
            self.shard_capacity,
        );
        shard.live.entry(known.key).or_default().sessions += 1;
        Ok(())
    }

    /// Ends a session.
    pub(super) fn leave(&self, known: Known) {
        self.shard(known).set_live(known, |live| {
            live.sessions = live.sessions.saturating_sub(1)
        });
    }

    /// Begins a login, unless the client would be over its limit if this one and those in progress failed.
    pub(super) fn begin_login(&self, known: Known, settings: &Settings) -> Result<(), GuardReason> {
        let now = self.nanos();
        let mut shard = self.shard(known);
        if shard.is_over(known, Counted::FailedLogin, settings, now) {
            return Err(GuardReason::FailedLogins);
        }
        let all = shard.live(known).logins.saturating_add(1);
        if !shard.has_left(known, Counted::FailedLogin, all, settings, now) {
            return Err(GuardReason::Logins);
        }
        shard.live.entry(known.key).or_default().logins = all;
        Ok(())
    }

    /// Ends a login. A failure was counted before.
    pub(super) fn end_login(&self, known: Known) {
        let mut shard = self.shard(known);
        shard.set_live(known, |live| live.logins = live.logins.saturating_sub(1));
        let queue = shard.queues.get(&known.key);
        let ended = queue.map(|queue| queue.ended.clone());
        drop(shard);
        if let Some(ended) = ended {
            ended.notify_one();
        }
    }

    /// Begins to wait for the end of a login. Returns what is notified of it.
    pub(super) fn join_queue(&self, known: Known) -> Arc<Notify> {
        let mut shard = self.shard(known);
        let queue = shard.queues.entry(known.key).or_default();
        queue.len += 1;
        queue.ended.clone()
    }

    /// Stops waiting for the end of a login.
    pub(super) fn leave_queue(&self, known: Known) {
        let mut shard = self.shard(known);
        if let Some(queue) = shard.queues.get_mut(&known.key) {
            queue.len -= 1;
            if queue.len == 0 {
                shard.queues.remove(&known.key);
            }
        }
    }

    /// Counts what a client has done. Returns whether it is now over its limit.
    pub(super) fn count(
        &self,
        known: Known,
        counted: Counted,
        n: u32,
        settings: &Settings,
    ) -> bool {
        let now = self.nanos();
        let mut shard = self.shard(known);
        if n > 0 {
            shard.charge(known, counted, n, settings, now, self.shard_capacity);
        }
        shard.is_over(known, counted, settings, now)
    }

    /// Forgets what a client has done of one kind.
    pub(super) fn forgive(&self, known: Known, counted: Counted, settings: &Settings) {
        let mut shard = self.shard(known);
        if let (Some(entry), Some(pace)) = (shard.entry_mut(known), settings.pace(counted)) {
            entry.debts[counted as usize] = Some(Debt::none(pace));
        }
    }

    /// Notes that a client was refused.
    pub(super) fn refused(&self, known: Known) {
        if let Some(entry) = self.shard(known).entry_mut(known) {
            entry.refused = entry.refused.saturating_add(1);
        }
    }

    /// Forgets what a client has done. Its sessions and handshakes stay counted.
    pub(super) fn reset(&self, known: Known) {
        if let Some(entry) = self.shard(known).entry_mut(known) {
            *entry = Entry::new(known);
        }
    }

    pub(super) fn facts(&self, known: Known) -> Facts {
        let now = self.nanos();
        let shard = self.shard(known);
        let facts = match shard.entry(known) {
            Some(entry) => shard.facts(entry, now),
            None => shard.facts(&Entry::new(known), now),
        };
        drop(shard);
        self.with_handshakes(known, facts)
    }

    /// Returns the `n` clients that were refused most often.
    pub(super) fn top(&self, n: usize) -> Vec<Facts> {
        let now = self.nanos();
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let refused = shard.entries.iter().filter(|entry| entry.refused > 0);
            all.extend(refused.map(|entry| (entry.known, shard.facts(entry, now))));
        }
        all.sort_by_key(|(_, facts)| (std::cmp::Reverse(facts.refused), facts.client));
        all.truncate(n);
        let all = all.into_iter();
        all.map(|(known, facts)| self.with_handshakes(known, facts))
            .collect()
    }

    fn with_handshakes(&self, known: Known, facts: Facts) -> Facts {
        Facts {
            handshakes: self.handshakes.of(known),
            ..facts
        }
    }

    /// Returns how many clients have logins that wait.
    #[cfg(test)]
    pub(super) fn queues(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| lock(shard).queues.len()).sum()
    }

    pub(super) fn tracked(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| lock(shard).entries.len()).sum()
    }

    /// Returns what all clients have at a time, without handshakes.
    pub(super) fn live(&self) -> Live {
        let mut all = Live::default();
        for shard in &self.shards {
            for live in lock(shard).live.values() {
                all.sessions += live.sessions;
                all.logins += live.logins;
            }
        }
        all
    }

    fn shard(&self, known: Known) -> MutexGuard<'_, Shard> {
        // In range: there is at least one shard.
        lock(&self.shards[known.key.shard(self.shards.len())])
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Entries in a `Vec`, so that the next few are found at once, and the position of each client's.
#[derive(Default)]
struct Shard {
    slots: KeyMap<usize>,
    entries: Vec<Entry>,
    /// What is counted at a time. It is apart from the entries, because none of it may be forgotten; there are no more of these
    /// than sessions.
    live: KeyMap<Live>,
    /// Of each client with logins that wait. They are apart from `live`, because sessions that are not counted may wait, too.
    queues: KeyMap<LoginQueue>,
    /// Where the next inspection begins. It wraps around, so every entry is inspected in turn.
    hand: usize,
}

/// The logins of a client that wait for others of it to end.
#[derive(Default)]
struct LoginQueue {
    len: usize,
    /// Notified when a login ends.
    ended: Arc<Notify>,
}

struct Entry {
    known: Known,
    /// By [`Counted`].
    debts: [Option<Debt>; Counted::ALL],
    refused: u64,
}

impl Entry {
    const fn new(known: Known) -> Self {
        Self {
            known,
            debts: [const { None }; Counted::ALL],
            refused: 0,
        }
    }

    /// Returns when nothing is held against the client any more.
    fn free_at(&self) -> u64 {
        let debts = self.debts.iter().flatten();
        debts.map(Debt::free_at).max().unwrap_or(0)
    }
}

impl Shard {
    fn live(&self, known: Known) -> Live {
        self.live.get(&known.key).copied().unwrap_or_default()
    }

    fn set_live(&mut self, known: Known, change: impl FnOnce(&mut Live)) {
        if let Some(live) = self.live.get_mut(&known.key) {
            change(live);
            if *live == Live::default() {
                self.live.remove(&known.key);
            }
        }
    }

    fn entry(&self, known: Known) -> Option<&Entry> {
        self.entries.get(*self.slots.get(&known.key)?)
    }

    fn entry_mut(&mut self, known: Known) -> Option<&mut Entry> {
        self.entries.get_mut(*self.slots.get(&known.key)?)
    }

    fn is_over(&mut self, known: Known, counted: Counted, settings: &Settings, now: u64) -> bool {
        !self.has_left(known, counted, 1, settings, now)
    }

    /// Returns whether the client may do something `n` more times.
    fn has_left(
        &mut self,
        known: Known,
        counted: Counted,
        n: u32,
        settings: &Settings,
        now: u64,
    ) -> bool {
        let Some(pace) = settings.pace(counted) else {
            return true;
        };
        let Some(most) = pace.burst().checked_sub(n) else {
            return false;
        };
        let entry = self.entry_mut(known);
        let debt = entry.and_then(|entry| entry.debts[counted as usize].as_mut());
        debt.is_none_or(|debt| {
            debt.align(pace, now);
            debt.wait(now, most.into()) == 0
        })
    }

    /// Counts `n` events, but no more than the limit: a client that goes on is refused no longer than one that stops.
    fn charge(
        &mut self,
        known: Known,
        counted: Counted,
        n: u32,
        settings: &Settings,
        now: u64,
        capacity: usize,
    ) {
        let Some(pace) = settings.pace(counted) else {
            return;
        };
        let entry = self.entry_or_insert(known, capacity);
        let debt = entry.debts[counted as usize].get_or_insert_with(|| Debt::none(pace));
        debt.align(pace, now);
        let left = u64::from(pace.most()).saturating_sub(debt.events(now));
        debt.charge(now, u32::try_from(left).map_or(n, |left| n.min(left)));
    }

    fn entry_or_insert(&mut self, known: Known, capacity: usize) -> &mut Entry {
        let slot = match self.slots.get(&known.key) {
            Some(slot) => *slot,
            None => {
                let slot = self.free_slot(known, capacity);
                self.slots.insert(known.key, slot);
                slot
            }
        };
        &mut self.entries[slot]
    }

    /// Makes an entry, in place of the one that is free soonest among the next few if there is no room.
    fn free_slot(&mut self, known: Known, capacity: usize) -> usize {
        let entry = Entry::new(known);
        let len = self.entries.len();
        if len < capacity {
            self.entries.push(entry);
            return len;
        }
        let looked_at = (self.hand..self.hand + LOOKED_AT).map(|slot| slot % len);
        let soonest = looked_at.min_by_key(|&slot| self.entries[slot].free_at());
        let slot = soonest.unwrap_or(0);
        self.hand = (self.hand + LOOKED_AT) % len;
        let forgotten = std::mem::replace(&mut self.entries[slot], entry);
        self.slots.remove(&forgotten.known.key);
        slot
    }

    fn facts(&self, entry: &Entry, now: u64) -> Facts {
        let count = |debt: &Option<Debt>| debt.as_ref().map_or(0, |debt| debt.events(now));
        Facts {
            client: entry.known.client,
            live: self.live(entry.known),
            handshakes: 0,
            counts: std::array::from_fn(|counted| count(&entry.debts[counted])),
            refused: entry.refused,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    fn known(table: &Table, ip: impl Into<IpAddr>) -> Known {
        table.find(ClientKey::new(ip.into()))
    }

    fn table(capacity: usize) -> Table {
        Table::new(NonZeroUsize::new(capacity).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_addresses_grows_the_table() {
        let (table, settings) = (table(1000), Settings::default());
        let punished = known(&table, Ipv4Addr::new(192, 0, 2, 1));
        assert!(table.count(punished, Counted::FailedLogin, 99, &settings));
        for n in 0..1_000_000_u128 {
            // Each is a /64 of its own.
            let flood = known(&table, Ipv6Addr::from_bits(n << 64));
            table.enter(flood, &settings).unwrap();
            table.leave(flood);
        }
        assert!(table.tracked() <= 1000);
        for shard in &table.shards {
            let shard = lock(shard);
            assert!(shard.entries.capacity() <= 2 * table.shard_capacity);
            assert!(shard.slots.capacity() <= 5 * table.shard_capacity);
            assert_eq!(shard.slots.len(), shard.entries.len());
        }
        assert_eq!(table.live(), Live::default());
        assert!(
            table.count(punished, Counted::FailedLogin, 0, &settings),
            "the flood has made the table forget who guesses passwords"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_on_is_refused_longer_than_one_that_stops() {
        let (table, settings) = (table(10), Settings::default());
        let client = known(&table, Ipv4Addr::new(192, 0, 2, 1));
        assert!(table.count(client, Counted::FailedLogin, 1_000_000, &settings));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!table.count(client, Counted::FailedLogin, 0, &settings));
        assert_eq!(table.facts(client).counts[Counted::FailedLogin as usize], 9);
    }

    #[tokio::test(start_paused = true)]
    async fn the_sessions_of_a_forgotten_client_are_not_counted() {
        let (table, mut settings) = (table(1), Settings::default());
        settings.sessions = 1;
        let client = known(&table, Ipv4Addr::new(192, 0, 2, 1));
        table.enter(client, &settings).unwrap();
        let other = known(&table, Ipv4Addr::new(192, 0, 2, 2));
        table.enter(other, &settings).unwrap();
        assert_eq!(table.tracked(), 1);
        assert_eq!(table.enter(client, &settings), Err(GuardReason::Sessions));
        table.leave(client);
        table.leave(other);
        assert_eq!(table.live(), Live::default());
    }

    #[test]
    fn a_client_takes_more_memory_than_the_documentation_says() {
        assert!(size_of::<Entry>() <= 200, "{}", size_of::<Entry>());
    }
}
