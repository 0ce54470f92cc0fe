//! How many lookups are in flight, and whose.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    net::{Cidr, Prefixes},
    permits::{Permit, Permits},
};

/// A network may have a quarter of the lookups in flight. It has its own name servers, so all lookups of one may hang, and its
/// owner has as many addresses as it takes to have all of them.
const MOST_OF_ONE: usize = 4;

/// The networks whose lookups are counted together. They are what providers assign to one customer.
const NETWORKS: Prefixes = match Prefixes::new(24, 48) {
    Ok(prefixes) => prefixes,
    Err(_) => panic!("a prefix is longer than the address"),
};

/// Permits for lookups. Clients that wait for one take turns.
#[derive(Clone, Debug)]
pub(super) struct Lookups {
    all: Permits,
    of_one: NonZeroUsize,
    networks: Arc<Mutex<Networks>>,
}

/// The networks that have lookups in flight or wait for them.
type Networks = HashMap<Cidr, Network>;

#[derive(Debug)]
struct Network {
    permits: Permits,
    users: usize,
}

/// The permit of a lookup in flight. Its own one is released before the others of its network may be forgotten.
pub(super) struct LookupPermit {
    _all: Permit,
    _own: Permit,
    _network: Member,
}

/// One that has a permit of its network or waits for it.
struct Member {
    lookups: Lookups,
    network: Cidr,
}

impl Lookups {
    pub(super) fn new(lookups: NonZeroUsize) -> Self {
        let of_one = NonZeroUsize::new(lookups.get() / MOST_OF_ONE);
        Self {
            all: Permits::new(lookups),
            of_one: of_one.unwrap_or(NonZeroUsize::MIN),
            networks: Arc::default(),
        }
    }

    /// Waits for a permit. Returns `None` if too many wait.
    pub(super) async fn acquire(&self, ip: IpAddr) -> Option<LookupPermit> {
        let client = Cidr::around(ip, Prefixes::CLIENT.bits_of(ip));
        let (network, permits) = self.join(client.within(NETWORKS));
        // First of its own network, so that those who wait there are not in the way of others.
        let own = permits.acquire_unmeasured(Some(client)).await.ok()?;
        let all = self.all.acquire_unmeasured(Some(client)).await.ok()?;
        Some(LookupPermit {
            _all: all,
            _own: own,
            _network: network,
        })
    }

    fn join(&self, network: Cidr) -> (Member, Permits) {
        let mut networks = self.lock();
        let joined = networks.entry(network).or_insert_with(|| Network {
            permits: Permits::new(self.of_one),
            users: 0,
        });
        joined.users += 1;
        let permits = joined.permits.clone();
        let lookups = self.clone();
        (Member { lookups, network }, permits)
    }

    fn lock(&self) -> MutexGuard<'_, Networks> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many permits are free, and how many networks are known.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.all.free(), self.lock().len())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut networks = self.lookups.lock();
        let Some(network) = networks.get_mut(&self.network) else {
            return;
        };
        network.users -= 1;
        if network.users == 0 {
            networks.remove(&self.network);
        }
    }
}
