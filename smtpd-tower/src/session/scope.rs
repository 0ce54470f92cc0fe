use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::TypedMap;
use crate::fault::caught;

/// What lasts as long as a session, or as a transaction.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) values: TypedMap,
    guards: Guards,
}

/// Guards that are dropped when their time is over, whoever still has the session.
struct Guards(Mutex<Option<Vec<Box<dyn Send>>>>);

impl Scope {
    /// Keeps a guard until the scope ends. Drops it at once if that has happened.
    pub(super) fn hold(&self, guard: Box<dyn Send>) {
        let refused = match &mut *self.guards.lock() {
            Some(guards) => {
                guards.push(guard);
                None
            }
            None => Some(guard),
        };
        drop(refused); // The lock is released.
    }

    /// Drops the values, to begin anew, if there are no guards. Otherwise returns false. Takes no lock.
    pub(super) fn clear(&mut self) -> bool {
        let guards = self.guards.0.get_mut();
        let idle = guards.is_ok_and(|guards| guards.as_ref().is_some_and(Vec::is_empty));
        if idle {
            self.values = TypedMap::default();
        }
        idle
    }

    /// Ends the time of the guards: drops them, the last first. Calls `panicked` with the message of each that panics.
    pub(super) fn end(&self, mut panicked: impl FnMut(String)) {
        let guards = self.guards.lock().take();
        for guard in guards.into_iter().flatten().rev() {
            if let Err(message) = caught(|| drop(guard)) {
                panicked(message);
            }
        }
    }
}

impl Guards {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Box<dyn Send>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Guards {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guards")
            .field("held", &self.lock().as_ref().map(Vec::len))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    struct Guard(u8, mpsc::Sender<u8>);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.1.send(self.0).unwrap();
            assert_ne!(self.0, 2, "the second panics");
        }
    }

    #[test]
    fn a_guard_that_panics_keeps_the_others() {
        let (dropped, order) = mpsc::channel();
        let scope = Scope::default();
        for number in 1..4 {
            scope.hold(Box::new(Guard(number, dropped.clone())));
        }
        assert_eq!(order.try_recv(), Err(mpsc::TryRecvError::Empty));
        let mut panics = Vec::new();
        scope.end(|message| panics.push(message));
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [3, 2, 1]);
        assert!(panics.len() == 1 && panics[0].contains("the second panics"));
        scope.hold(Box::new(Guard(4, dropped)));
        assert_eq!(order.try_recv(), Ok(4), "it is over");
    }

    #[test]
    fn a_guard_that_uses_its_scope_when_it_is_dropped_does_not_deadlock() {
        struct Reentrant(Arc<Scope>);

        impl Drop for Reentrant {
            fn drop(&mut self) {
                self.0.hold(Box::new(()));
                self.0.end(|_| {});
            }
        }

        let scope = Arc::<Scope>::default();
        scope.hold(Box::new(Reentrant(scope.clone())));
        scope.end(|message| panic!("{message}"));
        assert_eq!(Arc::strong_count(&scope), 1);
    }
}
