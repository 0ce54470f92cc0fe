use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState},
};

/// Stands for a key: two of 100,000 keys collide with a chance of about one in 4 billion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeyHash(u64);

impl KeyHash {
    /// Returns the number of one of `shards` parts. It does not depend on the bits by which a map places its entries.
    pub(crate) const fn shard(self, shards: usize) -> usize {
        (self.0 >> 32) as usize % shards
    }
}

/// Hashes keys with a secret seed, so that nobody can choose keys that collide.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyHasher(RandomState);

impl KeyHasher {
    /// Runs the key's own code, so it must not be called under a lock.
    pub(crate) fn hash(&self, key: impl Hash) -> KeyHash {
        KeyHash(self.0.hash_one(key))
    }
}

/// A map by hashes of keys, which are not hashed again.
pub(crate) type KeyMap<V> = HashMap<KeyHash, V, BuildHasherDefault<AsItIs>>;

/// Passes a [`KeyHash`] on.
#[derive(Debug, Default)]
pub(crate) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not called for a `KeyHash`, but still a hash of sorts.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
