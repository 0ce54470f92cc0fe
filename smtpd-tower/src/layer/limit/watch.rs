use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::session::Session;

/// The longest name that is kept, in bytes.
const LONGEST_NAME: usize = 256;

/// How many names a new one may inspect to find one to replace.
const LOOKED_AT: usize = 8;

/// A key that a layer has refused because it was at its limit, as `top` of the layer returns it.
///
/// The name may be text that a client has sent: escape it before you log it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtLimit {
    name: Arc<str>,
    refused: u64,
    ago: Duration,
}

impl AtLimit {
    /// Returns the name of the key, cut to 256 bytes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how many of its requests were refused since its name is kept.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns how long ago the last of them was.
    pub const fn ago(&self) -> Duration {
        self.ago
    }
}

/// Remembers the names of those that were refused, each with a count, up to a number of them.
#[derive(Clone)]
pub(super) struct Watch {
    name: NameOf,
    names: Arc<Mutex<RefusedNames>>,
}

type NameOf = Arc<dyn Fn(&Session) -> Option<String> + Send + Sync>;

struct RefusedNames {
    capacity: usize,
    slots: HashMap<Arc<str>, usize>,
    entries: Vec<Refused>,
    /// Where the next inspection begins.
    hand: usize,
}

struct Refused {
    name: Arc<str>,
    count: u64,
    last: Instant,
}

impl Watch {
    pub(super) fn new(
        capacity: NonZeroUsize,
        name: impl Fn(&Session) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let names = RefusedNames {
            capacity: capacity.get(),
            slots: HashMap::new(),
            entries: Vec::new(),
            hand: 0,
        };
        Self {
            name: Arc::new(name),
            names: Arc::new(Mutex::new(names)),
        }
    }

    pub(super) fn refused(&self, session: &Session) {
        let Some(mut name) = (self.name)(session) else {
            return;
        };
        let mut ends = (0..=LONGEST_NAME.min(name.len())).rev();
        let end = ends.find(|&end| name.is_char_boundary(end));
        name.truncate(end.unwrap_or(0));
        let name = Arc::from(name);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.count(name);
    }

    /// Returns the `n` names with the most refusals.
    pub(super) fn top(&self, n: usize) -> Vec<AtLimit> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let all = names.entries.iter().map(|entry| AtLimit {
            name: Arc::clone(&entry.name),
            refused: entry.count,
            ago: now.duration_since(entry.last),
        });
        let mut all: Vec<_> = all.collect();
        drop(names);
        all.sort_by_key(|entry| (std::cmp::Reverse(entry.refused), entry.ago));
        all.truncate(n);
        all
    }
}

impl RefusedNames {
    fn count(&mut self, name: Arc<str>) {
        let last = Instant::now();
        let known = self.slots.get(&name).copied();
        if let Some(entry) = known.and_then(|slot| self.entries.get_mut(slot)) {
            entry.count = entry.count.saturating_add(1);
            entry.last = last;
            return;
        }
        let entry = Refused {
            name: Arc::clone(&name),
            count: 1,
            last,
        };
        let slot = if self.entries.len() < self.capacity {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            self.replace_oldest(entry)
        };
        self.slots.insert(name, slot);
    }

    /// Replaces the entry among the next few that was refused longest ago.
    fn replace_oldest(&mut self, entry: Refused) -> usize {
        let len = self.entries.len();
        let looked_at = (self.hand..self.hand + LOOKED_AT).map(|slot| slot % len);
        let slot = looked_at.min_by_key(|&slot| self.entries[slot].last);
        let slot = slot.unwrap_or(0);
        self.hand = (self.hand + LOOKED_AT) % len;
        let forgotten = std::mem::replace(&mut self.entries[slot], entry);
        self.slots.remove(&forgotten.name);
        slot
    }
}

// By hand: a closure has no Debug.
impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Watch")
            .field("capacity", &names.capacity)
            .field("names", &names.entries.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn watch(capacity: usize) -> Watch {
        Watch::new(NonZeroUsize::new(capacity).unwrap(), |session| {
            Some(session.identity()?.to_string())
        })
    }

    fn refuse(watch: &Watch, name: &str) {
        watch.refused(&Session::local().with_identity(name));
    }

    fn names(watch: &Watch, n: usize) -> Vec<(String, u64)> {
        let top = watch.top(n).into_iter();
        top.map(|one| (one.name().to_owned(), one.refused()))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn those_with_the_most_refusals_come_first() {
        let watch = watch(10);
        for name in ["a", "b", "c", "b", "b", "c"] {
            refuse(&watch, name);
            advance(Duration::from_secs(1)).await;
        }
        watch.refused(&Session::local());
        assert_eq!(names(&watch, 2), [("b".into(), 3), ("c".into(), 2)]);
        assert_eq!(watch.top(9).len(), 3);
        assert_eq!(watch.top(1)[0].ago(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_names_grows_memory() {
        let watch = watch(100);
        for n in 0..10_000 {
            refuse(&watch, &format!("{n} {}", "ä".repeat(1000)));
            advance(Duration::from_millis(1)).await;
        }
        let names = watch.names.lock().unwrap();
        assert_eq!((names.entries.len(), names.slots.len()), (100, 100));
        assert!(names.entries.iter().all(|entry| entry.name.len() <= 256));
    }
}
