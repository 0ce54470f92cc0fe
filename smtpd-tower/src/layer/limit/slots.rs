use std::{
    fmt,
    hash::Hash,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use smtpd_core::reply::Reply;

use super::{AtLimit, LimitKey, watch::Watch};
use crate::{
    layer::Exempt,
    limiter::{KeyHash, KeyHasher, KeyMap},
    phase::Request,
    reload::Reloadable,
    session::Session,
};

/// What layers with slots have in common: whom they limit, and what the others are told.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) slots: Arc<Slots>,
    reply: Reply,
    exempt: Option<Reloadable<Exempt>>,
    watch: Option<Watch>,
}

impl Config {
    /// With so many slots for each key.
    pub(super) fn new(slots: usize, reply: Reply) -> Self {
        Self {
            slots: Slots::new(slots),
            reply,
            exempt: None,
            watch: None,
        }
    }

    pub(super) fn set_reply(&mut self, reply: Reply) {
        self.reply = reply;
    }

    pub(super) fn set_exempt(&mut self, exempt: Reloadable<Exempt>) {
        self.exempt = Some(exempt);
    }

    pub(super) fn set_watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// Takes the slots of a request, if it needs any.
    pub(super) fn take<P, F: LimitKey<P>>(
        &self,
        by: &F,
        request: &Request<P>,
    ) -> Result<Option<Taken>, Reply> {
        let session = request.session();
        let exempt = self.exempt.as_ref();
        if exempt.is_some_and(|exempt| exempt.with(|exempt| exempt.contains(session))) {
            return Ok(None);
        }
        let taken = self.slots.take_for(by, request);
        taken.map_err(|Full| self.refuse(session))
    }

    fn refuse(&self, session: &Session) -> Reply {
        if let Some(watch) = &self.watch {
            watch.refused(session);
        }
        self.reply.clone()
    }

    /// Returns the `n` names that were refused most often, if they are remembered.
    pub(super) fn top(&self, n: usize) -> Vec<AtLimit> {
        let watch = self.watch.as_ref();
        watch.map(|watch| watch.top(n)).unwrap_or_default()
    }
}

/// Counts the slots in use for each key, up to a limit per key. A key that is not in use takes no memory.
///
/// A hash with a secret seed stands for a key, as in a [`RateLimiter`](crate::limiter::RateLimiter).
pub(super) struct Slots {
    limit: AtomicUsize,
    hasher: KeyHasher,
    in_use: Mutex<KeyMap<usize>>,
}

/// All slots of a key are in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full;

impl Slots {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.into(),
            hasher: KeyHasher::default(),
            in_use: Mutex::default(),
        })
    }

    /// Changes the limit. Slots beyond it stay in use until they are dropped.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Takes a slot for a request, and one of the network that its client is in. `None` if the request has no key.
    fn take_for<P, F: LimitKey<P>>(
        self: &Arc<Self>,
        by: &F,
        request: &Request<P>,
    ) -> Result<Option<Taken>, Full> {
        let Some(key) = by.key(request) else {
            return Ok(None);
        };
        let own = self.take(key, NonZeroU32::MIN)?;
        let network = match by.network(request) {
            Some((network, factor)) => Some(self.take(network, factor)?),
            None => None,
        };
        Ok(Some(Taken(own, network)))
    }

    /// Takes a slot of the key until it is dropped. The key has `factor` times the limit.
    fn take(self: &Arc<Self>, key: impl Hash, factor: NonZeroU32) -> Result<Slot, Full> {
        let limit = self.limit.load(Ordering::Relaxed);
        let limit = limit.saturating_mul(usize::try_from(factor.get()).unwrap_or(usize::MAX));
        // The key's own code must not run under the lock.
        let key = self.hasher.hash(key);
        let mut in_use = self.lock();
        match in_use.get_mut(&key) {
            Some(count) if *count >= limit => return Err(Full),
            Some(count) => *count += 1,
            None if limit == 0 => return Err(Full),
            None => {
                in_use.insert(key, 1);
            }
        }
        drop(in_use);
        let slots = self.clone();
        Ok(Slot { key, slots })
    }

    /// Returns how many slots of the key are in use.
    pub(super) fn in_use(&self, key: impl Hash) -> usize {
        let key = self.hasher.hash(key);
        self.lock().get(&key).copied().unwrap_or(0)
    }

    /// Returns how many keys have slots in use.
    pub(super) fn tracked(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, KeyMap<usize>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("limit", &self.limit)
            .field("keys", &self.tracked())
            .finish()
    }
}

/// What a request has taken: the slot of its key, and that of the network.
#[derive(Debug)]
#[expect(dead_code, reason = "they are held until they are dropped")]
pub(super) struct Taken(Slot, Option<Slot>);

/// A slot in use.
#[derive(Debug)]
struct Slot {
    key: KeyHash,
    slots: Arc<Slots>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut in_use = self.slots.lock();
        match in_use.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                in_use.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONCE: NonZeroU32 = NonZeroU32::MIN;

    #[test]
    fn a_slot_is_free_again_when_dropped_and_its_key_forgotten() {
        let slots = Slots::new(2);
        let first = slots.take("a", ONCE).unwrap();
        let second = slots.take("a", ONCE).unwrap();
        assert!(slots.take("a", ONCE).is_err());
        let other = slots.take("b", ONCE).unwrap();
        assert_eq!((slots.tracked(), slots.in_use("a")), (2, 2));
        drop(first);
        let third = slots.take("a", ONCE).unwrap();
        assert!(slots.take("a", ONCE).is_err());
        drop((second, third, other));
        assert_eq!((slots.tracked(), slots.in_use("a")), (0, 0));
    }

    #[test]
    fn a_limit_of_zero_lets_one_through() {
        let slots = Slots::new(0);
        assert!(slots.take(1, ONCE).is_err());
        assert_eq!(slots.tracked(), 0);
    }

    #[test]
    fn a_limit_that_is_lowered_ends_what_is_in_use() {
        let slots = Slots::new(3);
        let mut taken = [(); 3].map(|()| slots.take("a", ONCE).ok());
        slots.set_limit(2);
        taken[0] = None;
        assert!(slots.take("a", ONCE).is_err(), "two are left");
        taken[1] = None;
        let again = slots.take("a", ONCE);
        assert!(again.is_ok() && slots.take("a", ONCE).is_err());
        slots.set_limit(3);
        assert!(slots.take("a", ONCE).is_ok());
    }
}
