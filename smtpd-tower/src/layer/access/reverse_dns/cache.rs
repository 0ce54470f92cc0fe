//! The names that are known, and the lookups in flight.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::flight::Flight;
use crate::session::ReverseName;

/// What clones of a layer share.
#[derive(Default)]
pub(super) struct Cache(Mutex<Known>);

#[derive(Default)]
struct Known {
    names: Names,
    flights: HashMap<IpAddr, Joined>,
}

struct Joined {
    flight: Arc<Flight>,
    waiters: usize,
}

/// The name of an address, or the flight that looks for it.
pub(super) enum Entry {
    Known(Option<ReverseName>),
    InFlight(Waiter),
}

impl Cache {
    pub(super) fn entry(self: &Arc<Self>, ip: IpAddr) -> Entry {
        let mut known = self.lock();
        if let Some(name) = known.names.get(ip) {
            return Entry::Known(name);
        }
        let joined = known.flights.entry(ip).or_insert_with(|| Joined {
            flight: Arc::default(),
            waiters: 0,
        });
        joined.waiters += 1;
        Entry::InFlight(Waiter {
            cache: self.clone(),
            ip,
            flight: joined.flight.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        let known = self.lock();
        assert!(known.names.order.len() >= known.names.names.len());
        (known.names.order.len(), known.flights.len())
    }
}

/// One of those who wait for a lookup. The last one that leaves ends it.
pub(super) struct Waiter {
    cache: Arc<Cache>,
    pub(super) ip: IpAddr,
    pub(super) flight: Arc<Flight>,
}

impl Waiter {
    /// Remembers what the lookup has found, so that who comes from now on does not join it.
    pub(super) fn landed(&self, name: Option<ReverseName>, keep: Duration, capacity: NonZeroUsize) {
        let mut known = self.cache.lock();
        known.names.put(self.ip, name, keep, capacity);
        known.take_flight(self);
    }

    /// Like [`landed`](Self::landed), but remembers nothing.
    pub(super) fn crashed(&self) {
        self.cache.lock().take_flight(self);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // Dropping a flight may drop the resolver's future, which must not happen under the lock.
        let _last = self.cache.lock().leave(self);
    }
}

impl Known {
    /// Returns the flight of this waiter, unless it has landed already.
    fn joined(&mut self, waiter: &Waiter) -> Option<&mut Joined> {
        let joined = self.flights.get_mut(&waiter.ip)?;
        Arc::ptr_eq(&joined.flight, &waiter.flight).then_some(joined)
    }

    fn take_flight(&mut self, waiter: &Waiter) {
        // The waiter has the same flight, so it is not dropped here.
        if self.joined(waiter).is_some() {
            self.flights.remove(&waiter.ip);
        }
    }

    fn leave(&mut self, waiter: &Waiter) -> Option<Joined> {
        let joined = self.joined(waiter)?;
        joined.waiters -= 1;
        if joined.waiters > 0 {
            return None;
        }
        self.flights.remove(&waiter.ip)
    }
}

/// Names by address. The oldest go first.
#[derive(Default)]
struct Names {
    names: HashMap<IpAddr, Name>,
    /// The addresses in the order in which they came, with the numbers of their names. That of an older name stays here when
    /// another replaces it.
    order: VecDeque<(IpAddr, u64)>,
    next_number: u64,
}

struct Name {
    name: Option<ReverseName>,
    since: Instant,
    keep: Duration,
    number: u64,
}

impl Names {
    fn get(&self, ip: IpAddr) -> Option<Option<ReverseName>> {
        let known = self.names.get(&ip)?;
        (known.since.elapsed() < known.keep).then(|| known.name.clone())
    }

    fn put(
        &mut self,
        ip: IpAddr,
        name: Option<ReverseName>,
        keep: Duration,
        capacity: NonZeroUsize,
    ) {
        let number = self.next_number;
        self.next_number += 1;
        let name = Name {
            name,
            since: Instant::now(),
            keep,
            number,
        };
        self.names.insert(ip, name);
        self.order.push_back((ip, number));
        while self.order.len() > capacity.get() {
            let Some((ip, number)) = self.order.pop_front() else {
                break;
            };
            if self
                .names
                .get(&ip)
                .is_some_and(|name| name.number == number)
            {
                self.names.remove(&ip);
            }
        }
    }
}
