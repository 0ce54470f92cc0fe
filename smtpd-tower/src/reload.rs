//! Lists that change while the server runs.

use std::{
    fmt, mem,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

/// A value that can be replaced while services use it, such as a list of networks or of domains.
///
/// Layers that have a list accept either the list or a `Reloadable` of it. Keep a clone, and [`set`](Self::set) the new list: the
/// requests that come after it see the new one. A request that is being decided on keeps the list that it began with. Clones
/// share the value.
///
/// Parse the new list first: if that fails, the old one stays.
///
/// ```
/// use smtpd_tower::{
///     Rcpt, Request, Session, domains::Domains, handler_fn,
///     layer::DomainFilterLayer, reload::Reloadable,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let domains = Reloadable::new(Domains::parse(["example.org"])?);
/// let rcpt = ServiceBuilder::new()
///     .layer(DomainFilterLayer::new(domains.clone()))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let ask = |address: &str| {
///     address.parse().map(|path| {
///         let request = Request::new(Session::local(), Rcpt::new(path));
///         rcpt.clone().oneshot(request)
///     })
/// };
/// assert_eq!(ask("user@example.net")?.await?.code().as_u16(), 550);
///
/// domains.set(Domains::parse(["example.org", "example.net"])?);
/// assert_eq!(ask("user@example.net")?.await?.code().as_u16(), 250);
/// # Ok(()) }
/// ```
pub struct Reloadable<T> {
    shared: Arc<Shared<T>>,
}

/// As long as nothing was set, which is the rule, reading takes no lock. The first value stays until the last clone is dropped.
struct Shared<T> {
    first: Arc<T>,
    latest: OnceLock<RwLock<Arc<T>>>,
}

impl<T> Reloadable<T> {
    /// Creates one with this value.
    pub fn new(value: T) -> Self {
        Self {
            shared: Arc::new(Shared {
                first: Arc::new(value),
                latest: OnceLock::new(),
            }),
        }
    }

    /// Returns the current value.
    pub fn get(&self) -> Arc<T> {
        match self.shared.latest.get() {
            None => self.shared.first.clone(),
            Some(latest) => latest
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    /// Replaces the value, for all clones.
    pub fn set(&self, value: T) {
        self.update(|_| value);
    }

    /// Replaces the value by one that follows from it. Nothing else replaces it meanwhile.
    pub(crate) fn update(&self, next: impl FnOnce(&T) -> T) {
        let latest = &self.shared.latest;
        // Begins with the first value: a new one that readers see before it is set could replace what they set then.
        let latest = latest.get_or_init(|| RwLock::new(self.shared.first.clone()));
        let mut latest = latest.write().unwrap_or_else(PoisonError::into_inner);
        let value = Arc::new(next(&latest));
        let old = mem::replace(&mut *latest, value);
        // Freeing a long list takes time, during which nobody should have to wait.
        drop(latest);
        drop(old);
    }

    /// Returns the result of `f` for the current value, which stays locked meanwhile.
    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        match self.shared.latest.get() {
            None => f(&self.shared.first),
            Some(latest) => f(&latest.read().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl<T> Clone for Reloadable<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Reloadable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reloadable").field(&self.get()).finish()
    }
}

impl<T> From<T> for Reloadable<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn clones_share_the_value() {
        let one = Reloadable::new(1);
        let other = one.clone();
        assert_eq!((*one.get(), one.with(|value| *value)), (1, 1));
        for value in [2, 3] {
            one.set(value);
            assert_eq!((*other.get(), other.with(|value| *value)), (value, value));
        }
        assert_eq!(format!("{other:?}"), "Reloadable(3)");
    }

    #[test]
    fn a_request_sees_half_of_the_old_list_and_half_of_the_new() {
        let list = Reloadable::new(vec![0; 100]);
        let old = list.get();
        list.set(vec![1; 100]);
        assert!(old.iter().all(|value| *value == 0));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !done.load(Ordering::Relaxed) {
                        let seen = list.get();
                        assert!(seen.iter().all(|value| *value == seen[0]));
                        assert!(seen[0] >= last, "an old list came back");
                        last = list.with(|list| list[0]);
                        assert!(last >= seen[0], "an old list came back");
                    }
                });
            }
            for value in 2..500 {
                list.set(vec![value; 100]);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(*list.get(), [499; 100]);
    }

    #[test]
    fn a_value_that_was_seen_replaces_the_one_that_was_set_thereupon() {
        for _ in 0..2_000 {
            let list = Reloadable::new(0);
            thread::scope(|scope| {
                scope.spawn(|| list.set(1));
                scope.spawn(|| {
                    while *list.get() == 0 {
                        std::hint::spin_loop();
                    }
                    list.set(2);
                });
            });
            assert_eq!(*list.get(), 2);
        }
    }

    #[test]
    fn the_value_of_one_setter_is_lost_among_several() {
        for _ in 0..200 {
            let list = Reloadable::new(0);
            thread::scope(|scope| {
                for value in 1..=2 {
                    let list = &list;
                    scope.spawn(move || list.set(value));
                }
            });
            assert_ne!(*list.get(), 0);
        }
    }

    #[test]
    fn a_value_that_follows_from_another_one_overtakes_a_third() {
        let count = Reloadable::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| count.update(|value| value + 1)));
            }
        });
        assert_eq!(*count.get(), 2_000);
    }

    /// A panic in a predicate must not make the list unusable for all sessions.
    #[test]
    fn a_panic_while_reading_poisons_the_list() {
        let list = Reloadable::new(1);
        list.set(2);
        let reader = list.clone();
        let panicked = thread::spawn(move || reader.with(|_| panic!("in a predicate")));
        assert!(panicked.join().is_err());
        list.set(3);
        assert_eq!(*list.get(), 3);
    }
}
