//! Wakers behind locks.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

/// A waker on its way into a slot that is behind a lock.
/// Cloning, dropping and waking a waker runs code of the executor, which may come back for the same lock. So the clone is made
/// before the lock is taken, and the waker that was in the slot is dropped after the lock is released: declare the registration
/// before the guard.
pub(crate) struct Registration<'a> {
    waker: &'a Waker,
    clone: Option<Waker>,
}

impl<'a> Registration<'a> {
    pub(crate) const fn new(cx: &Context<'a>) -> Self {
        Self {
            waker: cx.waker(),
            clone: None,
        }
    }

    /// Stores the waker, unless the slot holds it already. Returns false if it has to be cloned first: then release the
    /// lock, call [`prepare`](Self::prepare), and look again at what the lock protects.
    #[must_use]
    pub(crate) fn store(&mut self, slot: &mut Option<Waker>) -> bool {
        let stored = slot
            .as_ref()
            .is_some_and(|stored| stored.will_wake(self.waker));
        if !stored && self.clone.is_some() {
            // Not compared again: the clone of a waker need not equal it.
            std::mem::swap(slot, &mut self.clone);
            return true;
        }
        stored
    }

    /// Clones the waker. The lock must not be held.
    pub(crate) fn prepare(&mut self) {
        self.clone = Some(self.waker.clone());
    }
}

/// The waker of the one task that waits.
#[derive(Debug, Default)]
pub(crate) struct WakerSlot(Mutex<Option<Waker>>);

impl WakerSlot {
    /// Stores the waker of that task. Replaces the previous one.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut registration = Registration::new(cx);
        while !registration.store(&mut self.lock()) {
            registration.prepare();
        }
    }

    /// Wakes the task, if one has registered since the last wake.
    pub(crate) fn wake(&self) {
        let waker = self.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
