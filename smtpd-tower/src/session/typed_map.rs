use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};

/// A map with one value of each type, shared by all its holders.
///
/// Every method is atomic. No lock is held while code of a value runs (its `Clone`, `Default` or `Drop`, or the closure of
/// [`update`](Self::update)), so that code may use the map: it finds all values but the one that it works on. Other threads wait
/// meanwhile.
///
/// [The guide](crate::guide::state) says how long what is in it lasts.
///
/// ```
/// use smtpd_tower::session::TypedMap;
///
/// #[derive(Clone, Default)]
/// struct Refused(u32);
///
/// let map = TypedMap::default();
/// map.update(|refused: &mut Refused| refused.0 += 1);
/// assert_eq!(map.get::<Refused>().map(|r| r.0), Some(1));
/// ```
#[derive(Default)]
pub struct TypedMap {
    state: Mutex<State>,
    /// The state has no owner any more.
    released: Condvar,
}

#[derive(Default)]
struct State {
    values: HashMap<TypeId, Value, BuildHasherDefault<TypeIdHasher>>,
    /// The thread that works on a value, which is not among the values meanwhile. Only this thread may go on. There is one owner
    /// for all types, because two threads that update two types within each other would wait forever.
    owner: Option<ThreadId>,
    /// The number of threads that wait for the owner: even waking none costs a system call.
    waiting: usize,
}

type Value = Box<dyn Any + Send + Sync>;

impl TypedMap {
    /// Keeps a value. Replaces one of the same type.
    pub fn insert<T: Send + Sync + 'static>(&self, value: T) {
        let value = Box::new(value);
        let replaced = self.lock().values.insert(TypeId::of::<T>(), value);
        drop(replaced); // The lock is released.
    }

    /// Returns a clone of the value of that type.
    pub fn get<T: Clone + 'static>(&self) -> Option<T> {
        let lent = self.lend::<T>();
        lent.value.as_ref()?.downcast_ref().cloned()
    }

    /// Calls `f` with the value of that type, if there is one. The map is locked meanwhile, so `f` must not use it.
    pub(crate) fn read<T: 'static, R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        let state = self.lock();
        state.values.get(&TypeId::of::<T>())?.downcast_ref().map(f)
    }

    /// Removes and returns the value of that type.
    pub fn remove<T: 'static>(&self) -> Option<T> {
        let removed = self.lock().values.remove(&TypeId::of::<T>())?;
        removed.downcast().ok().map(|value| *value)
    }

    /// Changes the value of that type. If there is none, starts with the default.
    ///
    /// No other thread reads or changes the map before `f` returns, so concurrent updates never lose one. `f` should only
    /// compute: if it waits for another thread that uses the map, both wait forever. If `f` itself keeps a value of that type in
    /// the map, the updated value replaces it when `f` returns. If `f` panics, the value is gone.
    pub fn update<T: Default + Send + Sync + 'static, R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let mut lent = self.lend::<T>();
        let value = lent.value.take().and_then(|value| value.downcast().ok());
        let mut value: Box<T> = value.unwrap_or_default();
        let result = f(&mut value);
        lent.value = Some(value);
        result
    }

    /// Returns whether the map is empty.
    pub fn is_empty(&self) -> bool {
        self.lock().values.is_empty()
    }

    /// Lends the value of that type to a user's code, which runs without the lock.
    fn lend<T: 'static>(&self) -> Lent<'_> {
        let key = TypeId::of::<T>();
        let mut state = self.lock();
        Lent {
            map: self,
            key,
            value: state.values.remove(&key),
            owner_before: state.owner.replace(thread::current().id()),
        }
    }

    /// Returns the state once no other thread works on a value.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock_at_once();
        if state.owner.is_some() {
            let this = thread::current().id();
            while state.owner.is_some_and(|owner| owner != this) {
                state.waiting += 1;
                let waited = self.released.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
                state.waiting -= 1;
            }
        }
        state
    }

    fn lock_at_once(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TypedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedMap")
            .field("values", &self.lock_at_once().values.len())
            .finish()
    }
}

/// A value that is put back when this is dropped, also during a panic.
struct Lent<'a> {
    map: &'a TypedMap,
    key: TypeId,
    value: Option<Value>,
    /// This thread already, if its code uses the map while it works on another value.
    owner_before: Option<ThreadId>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.map.lock_at_once();
        let value = self.value.take();
        let replaced = value.and_then(|value| state.values.insert(self.key, value));
        state.owner = self.owner_before;
        let others_wait = state.owner.is_none() && state.waiting > 0;
        drop(state);
        if others_wait {
            self.map.released.notify_all();
        }
        drop(replaced); // Its code runs without the lock too.
    }
}

/// A `TypeId` is already a hash.
#[derive(Default)]
struct TypeIdHasher(u64);

impl Hasher for TypeIdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::{
        mem,
        panic::{AssertUnwindSafe, catch_unwind},
        sync::Arc,
    };

    use super::*;

    #[test]
    fn one_value_of_each_type() {
        let map = TypedMap::default();
        assert!(map.is_empty());
        map.insert(1_u8);
        map.insert("two");
        map.insert(3_u8);
        assert_eq!(
            (map.get::<u8>(), map.get::<&str>(), map.get::<u16>()),
            (Some(3), Some("two"), None)
        );
        assert_eq!((map.remove::<u8>(), map.get::<u8>()), (Some(3), None));
    }

    #[test]
    fn update_begins_with_the_default() {
        let map = TypedMap::default();
        assert_eq!(map.update(|n: &mut u32| mem::replace(n, 5)), 0);
        assert_eq!(map.get::<u32>(), Some(5));
    }

    /// A value whose every function uses the map that it is in, including the values of its own type.
    struct Reentrant(Arc<TypedMap>);

    impl Reentrant {
        fn use_map(&self) {
            assert_eq!(self.0.get::<u8>(), Some(1));
            self.0.insert(2_u16);
            self.0.update(|n: &mut u32| *n += 1);
            assert!(self.0.get::<Self>().is_none());
            assert!(!self.0.is_empty());
        }
    }

    impl Clone for Reentrant {
        fn clone(&self) -> Self {
            self.use_map();
            Self(self.0.clone())
        }
    }

    impl Drop for Reentrant {
        fn drop(&mut self) {
            assert_eq!(self.0.get::<u8>(), Some(1));
            self.0.update(|n: &mut u32| *n += 1);
        }
    }

    #[test]
    fn a_value_whose_code_uses_its_map_does_not_deadlock() {
        let map = Arc::<TypedMap>::default();
        map.insert(1_u8);
        map.insert(Reentrant(map.clone()));
        map.insert(Reentrant(map.clone())); // The previous one is dropped.
        let clone = map.get::<Reentrant>();
        map.insert(clone.unwrap());
        drop(map.remove::<Reentrant>());
        assert_eq!(map.get::<u32>(), Some(4));
    }

    #[test]
    fn what_an_update_keeps_of_the_type_that_it_changes_is_replaced() {
        let map = TypedMap::default();
        map.update(|outer: &mut u32| {
            *outer += 1;
            assert_eq!(map.update(|inner: &mut u32| mem::replace(inner, 7)), 0);
            assert_eq!((map.get::<u32>(), map.get::<u8>()), (Some(7), None));
            map.insert(8_u8);
        });
        assert_eq!((map.get::<u32>(), map.get::<u8>()), (Some(1), Some(8)));
    }

    #[test]
    fn updates_on_many_threads_lose_none() {
        const EACH: usize = 200;
        let map = TypedMap::default();
        map.insert(String::new());
        let change = || {
            for _ in 0..EACH {
                map.update(|text: &mut String| {
                    thread::yield_now();
                    text.push('x');
                    map.update(|n: &mut usize| *n += 1);
                });
                assert!(map.get::<String>().is_some(), "lent to another thread");
                map.update(|n: &mut usize| {
                    *n += 1;
                    map.update(|text: &mut String| text.push('x'));
                });
            }
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(change);
            }
        });
        assert_eq!(map.get::<String>().map(|text| text.len()), Some(8 * EACH));
        assert_eq!(map.get::<usize>(), Some(8 * EACH));
    }

    #[test]
    fn an_update_that_panics_leaves_the_map_in_order() {
        let map = TypedMap::default();
        map.insert(1_u8);
        map.insert(2_u16);
        let update = || map.update(|_: &mut u8| panic!("no"));
        assert!(catch_unwind(AssertUnwindSafe(update)).is_err());
        let seen = thread::scope(|scope| {
            let other = scope.spawn(|| (map.get::<u8>(), map.get::<u16>()));
            other.join().unwrap()
        });
        assert_eq!(seen, (None, Some(2)));
    }
}
