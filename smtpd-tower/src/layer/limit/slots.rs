use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Counts the slots in use for each key, up to a limit per key. A key that is not in use takes no memory.
///
/// A hash with a secret seed stands for a key, as in a [`RateLimiter`](crate::limiter::RateLimiter).
pub(super) struct Slots {
    limit: usize,
    hasher: RandomState,
    in_use: Mutex<HashMap<u64, usize>>,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            hasher: RandomState::new(),
            in_use: Mutex::default(),
        })
    }

    /// Takes a slot of the key until it is dropped; `None` if all are in use.
    pub(super) fn take(self: &Arc<Self>, key: impl Hash) -> Option<Slot> {
        // The key's own code must not run under the lock.
        let key = self.hasher.hash_one(key);
        let mut in_use = self.lock();
        match in_use.get_mut(&key) {
            Some(count) if *count >= self.limit => return None,
            Some(count) => *count += 1,
            None if self.limit == 0 => return None,
            None => {
                in_use.insert(key, 1);
            }
        }
        drop(in_use);
        let slots = self.clone();
        Some(Slot { key, slots })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("limit", &self.limit)
            .field("keys", &self.lock().len())
            .finish()
    }
}

/// A slot in use.
#[derive(Debug)]
pub(super) struct Slot {
    key: u64,
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

    #[test]
    fn a_slot_is_free_again_when_dropped_and_its_key_forgotten() {
        let slots = Slots::new(2);
        let first = slots.take("a").unwrap();
        let second = slots.take("a").unwrap();
        assert!(slots.take("a").is_none());
        let other = slots.take("b").unwrap();
        assert_eq!(slots.lock().len(), 2);
        drop(first);
        let third = slots.take("a").unwrap();
        assert!(slots.take("a").is_none());
        drop((second, third, other));
        assert!(slots.lock().is_empty());
    }

    #[test]
    fn a_limit_of_zero_lets_one_through() {
        let slots = Slots::new(0);
        assert!(slots.take(1).is_none());
        assert!(slots.lock().is_empty());
    }
}
