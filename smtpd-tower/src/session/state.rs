use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
};

type Map = HashMap<TypeId, Box<dyn Any + Send + Sync>, BuildHasherDefault<TypeIdHasher>>;

/// A map with one value of each type, shared by all that hold it.
///
/// ```
/// use smtpd_tower::TypedMap;
///
/// #[derive(Clone, Default)]
/// struct Refused(u32);
///
/// let map = TypedMap::default();
/// map.update(|refused: &mut Refused| refused.0 += 1);
/// assert_eq!(map.get::<Refused>().map(|r| r.0), Some(1));
/// ```
#[derive(Default)]
pub struct TypedMap(Mutex<Map>);

impl TypedMap {
    /// Keeps a value, in place of one of the same type.
    pub fn insert<T: Send + Sync + 'static>(&self, value: T) {
        self.lock().insert(TypeId::of::<T>(), Box::new(value));
    }

    /// A clone of the value of that type.
    pub fn get<T: Clone + 'static>(&self) -> Option<T> {
        self.lock().get(&TypeId::of::<T>())?.downcast_ref().cloned()
    }

    /// Takes the value of that type out.
    pub fn remove<T: 'static>(&self) -> Option<T> {
        self.lock()
            .remove(&TypeId::of::<T>())?
            .downcast()
            .ok()
            .map(|value| *value)
    }

    /// Changes the value of that type, which is the default where there is none. Not atomic: two updates of the same type at once may lose one.
    pub fn update<T: Default + Send + Sync + 'static, R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.remove::<T>().unwrap_or_default();
        let result = f(&mut value);
        self.insert(value);
        result
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TypedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedMap")
            .field("values", &self.lock().len())
            .finish()
    }
}

/// A `TypeId` is a hash already.
#[derive(Default)]
struct TypeIdHasher(u64);

impl Hasher for TypeIdHasher {
    fn write(&mut self, octets: &[u8]) {
        for &octet in octets {
            self.0 = self.0.rotate_left(8) ^ u64::from(octet);
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
        assert_eq!(map.update(|n: &mut u32| std::mem::replace(n, 5)), 0);
        assert_eq!(map.get::<u32>(), Some(5));
    }
}
