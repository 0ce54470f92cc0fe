//! What the messages of each client hold.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{Account, MemoryBudget};
use crate::net::Cidr;

/// The clients that have a session with a message, or one before it. A client is forgotten with the last of them.
#[derive(Debug, Default)]
pub(super) struct Clients(Mutex<BTreeMap<Cidr, Weak<Client>>>);

/// What a client holds, over all of its sessions.
#[derive(Debug)]
pub(super) struct Client {
    budget: MemoryBudget,
    network: Cidr,
    held: AtomicU64,
}

/// What one message of a client holds, until it is answered.
#[derive(Debug)]
pub(super) struct Claim {
    client: Arc<Client>,
    /// The bytes of this message, and [`ENDED`](Self::ENDED).
    held: AtomicU64,
}

/// The messages of one session, for a client that the guard counts.
#[derive(Debug)]
pub(crate) struct ClientMemory {
    client: Arc<Client>,
    /// The last message.
    budget: MemoryBudget,
}

impl ClientMemory {
    /// Counts the messages of a session for the client that this network stands for, too.
    pub(crate) fn new(budget: &MemoryBudget, network: Cidr) -> Self {
        let client = budget.account().clients.get(budget, network);
        let budget = client.message();
        Self { client, budget }
    }

    /// Begins another message of the session. Returns the budget that it counts against. The one before was answered.
    pub(crate) fn next_message(&mut self) -> &MemoryBudget {
        // Most services keep nothing of a message, so there is nothing that could still count for it.
        if self.budget.claim().is_some_and(Claim::is_held) {
            self.end_message();
            self.budget = self.client.message();
        }
        &self.budget
    }

    fn end_message(&self) {
        if let Some(claim) = self.budget.claim() {
            claim.end();
        }
    }
}

impl Drop for ClientMemory {
    fn drop(&mut self) {
        self.end_message();
    }
}

impl Client {
    /// Returns the budget for a message of this client.
    fn message(self: &Arc<Self>) -> MemoryBudget {
        let account = self.budget.part.as_ref();
        let account = account.and_then(|part| part.account.clone());
        MemoryBudget::counting(account, Some(Claim::new(self.clone())))
    }
}

impl Clients {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Cidr, Weak<Client>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, budget: &MemoryBudget, network: Cidr) -> Arc<Client> {
        let mut clients = self.lock();
        let known = clients.entry(network).or_default();
        known.upgrade().unwrap_or_else(|| {
            let client = Arc::new(Client {
                budget: budget.clone(),
                network,
                held: AtomicU64::new(0),
            });
            *known = Arc::downgrade(&client);
            client
        })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut clients = self.budget.account().clients.lock();
        // Another session of it may have begun in the meantime.
        let is_gone = |client: &Weak<Self>| client.strong_count() == 0;
        if clients.get(&self.network).is_some_and(is_gone) {
            clients.remove(&self.network);
        }
    }
}

impl Claim {
    /// The message was answered: what is kept of it is no longer its client's.
    const ENDED: u64 = 1 << 63;

    pub(super) const fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            held: AtomicU64::new(0),
        }
    }

    /// Returns whether anything of the message is in memory.
    fn is_held(&self) -> bool {
        self.held.load(Relaxed) > 0
    }

    /// Returns whether the client may begin this message.
    pub(super) fn admits(&self, account: &Account) -> bool {
        let (held, share) = (self.client.held.load(Relaxed), account.share());
        held == 0 || held < share - share / 4
    }

    /// Adds bytes unless the client would hold more than its share. Returns whether it has.
    pub(super) fn try_add(&self, bytes: u64, account: &Account) -> bool {
        let own = self.held.load(Relaxed);
        if own & Self::ENDED != 0 {
            self.held.fetch_add(bytes, Relaxed);
            return true;
        }
        let (share, alone) = (account.share(), account.limit / 2);
        let added = self.client.held.fetch_update(Relaxed, Relaxed, |held| {
            let most = if held == own { share.max(alone) } else { share };
            held.checked_add(bytes).filter(|&sum| sum <= most)
        });
        if added.is_ok() {
            self.note(bytes);
        }
        added.is_ok()
    }

    /// Adds bytes that are in memory in any case.
    pub(super) fn add(&self, bytes: u64) {
        self.client.held.fetch_add(bytes, Relaxed);
        self.note(bytes);
    }

    /// Notes bytes that the client holds.
    fn note(&self, bytes: u64) {
        if self.held.fetch_add(bytes, Relaxed) & Self::ENDED != 0 {
            self.client.held.fetch_sub(bytes, Relaxed);
        }
    }

    pub(super) fn sub(&self, bytes: u64) {
        if self.held.fetch_sub(bytes, Relaxed) & Self::ENDED == 0 {
            self.client.held.fetch_sub(bytes, Relaxed);
        }
    }

    /// Notes that the message was answered: what is kept of it is the service's.
    pub(super) fn end(&self) {
        let held = self.held.fetch_or(Self::ENDED, Relaxed);
        if held & Self::ENDED == 0 {
            self.client.held.fetch_sub(held, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::memory::Reservation;

    const LIMIT: u64 = 1000;

    fn network(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    /// A session of that client, with its first message.
    fn session(budget: &MemoryBudget, client: &str) -> (ClientMemory, Reservation) {
        let mut memory = ClientMemory::new(budget, network(client));
        let message = Reservation::empty(memory.next_message().clone());
        (memory, message)
    }

    fn budget() -> MemoryBudget {
        MemoryBudget::new(LIMIT)
    }

    fn held(memory: &ClientMemory) -> u64 {
        memory.client.held.load(Relaxed)
    }

    fn clients(budget: &MemoryBudget) -> usize {
        budget.account().clients.len()
    }

    #[test]
    fn the_sessions_of_a_client_take_most_of_the_memory() {
        let budget = budget();
        let mut sessions: Vec<_> = (0..50).map(|_| session(&budget, "192.0.2.1")).collect();
        for _ in 0..LIMIT {
            for (_, message) in &mut sessions {
                let _ = message.grow(1);
            }
        }
        // As much as a quarter of what is left for others.
        assert_eq!(budget.used(), LIMIT / 5);
        assert!(budget.deferred() > 0);
        for (_, message) in &mut sessions {
            assert!(message.grow(1).is_err());
        }
        // Neither are others deferred, nor do they have less than this one.
        let (_other, mut message) = session(&budget, "192.0.2.2");
        message.grow(LIMIT / 5).unwrap();
        assert!(budget.admit_message().is_ok());
        drop(message);
        drop(sessions);
        assert_eq!((budget.used(), clients(&budget)), (0, 1));
    }

    #[test]
    fn many_clients_together_leave_no_room_for_others() {
        let budget = budget();
        let mut all: Vec<_> = (0..12)
            .flat_map(|n| {
                let client = format!("192.0.2.{n}");
                [session(&budget, &client), session(&budget, &client)]
            })
            .collect();
        for _ in 0..LIMIT {
            for (_, message) in &mut all {
                let _ = message.grow(1);
            }
        }
        assert!(budget.used() <= LIMIT - LIMIT / 4);
    }

    #[test]
    fn the_only_message_of_a_client_is_as_small_as_those_of_many() {
        let budget = budget();
        let (_one, mut large) = session(&budget, "192.0.2.1");
        large.grow(LIMIT / 2).unwrap();
        assert!(large.grow(1).is_err());
        // What takes more is not the only message any more.
        let (mut two, mut other) = session(&budget, "192.0.2.1");
        assert!(other.grow(1).is_err());
        assert!(two.next_message().admit_message().is_err());
        drop(large);
        assert!(two.next_message().admit_message().is_ok());
        other.grow(LIMIT / 2).unwrap();
    }

    #[test]
    fn a_message_that_a_service_keeps_counts_for_its_client_after_the_reply() {
        let budget = budget();
        let (mut memory, mut message) = session(&budget, "192.0.2.1");
        message.grow(300).unwrap();
        let kept = message.attach_to("kept".into());
        assert_eq!(held(&memory), 300);
        let mut next = Reservation::empty(memory.next_message().clone());
        assert_eq!((held(&memory), budget.used()), (0, 300));
        next.grow(400).unwrap();
        drop(kept);
        assert_eq!((held(&memory), budget.used()), (400, 400));
        // The end of the session is the end of its message.
        let (other, _message) = session(&budget, "192.0.2.1");
        drop(memory);
        assert_eq!((held(&other), budget.used()), (0, 400));
        next.grow(100).unwrap();
        next.shrink_to(50);
        assert_eq!((held(&other), budget.used()), (0, 50));
        drop(next);
        assert_eq!((held(&other), budget.used()), (0, 0));
    }

    #[test]
    fn what_does_not_fit_into_the_budget_counts_for_the_client() {
        let budget = budget();
        let _others = budget.reserve(LIMIT - 10).unwrap();
        let (memory, mut message) = session(&budget, "192.0.2.1");
        assert!(message.grow(11).is_err());
        assert_eq!((held(&memory), message.bytes()), (0, 0));
        message.cover(20);
        assert_eq!((held(&memory), budget.used()), (20, LIMIT + 10));
        drop(message);
        assert_eq!((held(&memory), budget.used()), (0, LIMIT - 10));
    }

    #[test]
    fn clients_are_remembered_forever() {
        let budget = budget();
        for n in 0..10_000_u32 {
            let client = IpAddr::from(n.to_be_bytes()).into();
            let mut memory = ClientMemory::new(&budget, client);
            memory.next_message();
            assert_eq!(clients(&budget), 1);
        }
        let (_one, message) = session(&budget, "192.0.2.1");
        let (_two, _message) = session(&budget, "2001:db8::/64");
        drop((_one, message));
        assert_eq!(clients(&budget), 1);
        drop((_two, _message));
        assert_eq!(clients(&budget), 0);
    }

    #[test]
    fn threads_that_begin_and_end_messages_at_once_lose_what_a_client_holds() {
        let budget = budget();
        let (watched, _message) = session(&budget, "192.0.2.1");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let (mut memory, mut message) = session(&budget, "192.0.2.1");
                        let _ = message.grow(40);
                        message.cover(60);
                        let kept = std::thread::spawn(move || drop(message));
                        memory.next_message();
                        drop(memory);
                        kept.join().unwrap();
                    }
                });
            }
        });
        assert_eq!((held(&watched), budget.used(), clients(&budget)), (0, 0, 1));
    }
}
