//! The TLS handshakes in progress.

#[cfg(any(test, feature = "tls"))]
use std::task::{Context, Poll};
use std::{
    cmp::Ordering::{Equal, Greater, Less},
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{GuardReason, settings::Settings, table::Known};
use crate::{
    limiter::{KeyHash, KeyMap},
    waker::WakerSlot,
};

/// How long a handshake is left alone, while all are in progress, if its client has hardly more of them than the one that wants
/// another. It is over after two round trips, so one that takes longer usually waits for a client that does nothing.
///
/// A flood of clients that all begin one handshake and do nothing occupies all of them. Each is given up after this time, so with
/// 256 of them, up to 1,024 such clients a second keep nobody out, and with `n` times as many, one in `n` handshakes begins. With
/// a longer time, a smaller flood would do; with a shorter one, clients far away would not come to an end during a flood.
const PATIENCE: Duration = Duration::from_millis(250);

/// The TLS handshakes in progress, of all clients.
///
/// A client can begin a handshake and then do nothing, or stop in the middle of it, so a handshake in progress may be given up
/// for another one: the limit of all clients is not something that some of them can use up.
#[derive(Debug, Default)]
pub(super) struct Handshakes(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    /// Of each client, the oldest first.
    clients: KeyMap<BTreeMap<u64, Arc<Handshake>>>,
    len: usize,
    next: u64,
}

/// A handshake in progress.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(super) known: Known,
    number: u64,
    begun: Duration,
    is_given_up: AtomicBool,
    waker: WakerSlot,
}

impl Handshake {
    /// Ready when it has to end, because another client needs its permit.
    #[cfg(any(test, feature = "tls"))]
    pub(super) fn poll_given_up(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx);
        match self.is_given_up() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Returns whether it has to end, because another client needs its permit.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }

    /// Notifies its session that it has to end. This runs code of the executor, so no lock may be held.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Handshakes {
    /// Begins a handshake of the client at that time. Returns it, and the one that has to be given up for it.
    ///
    /// If all clients together have as many as they may, the client that has the most gives up its oldest, as long as it has more
    /// than the other would have then. So does one that would have as many, if its oldest has taken unusually long. If they have
    /// more, because the limit was lowered, none is given up.
    pub(super) fn begin(
        &self,
        known: Known,
        settings: &Settings,
        now: Duration,
    ) -> Result<(Arc<Handshake>, Option<Arc<Handshake>>), GuardReason> {
        let mut all = self.lock();
        let own = all.of(known.key());
        if own >= settings.handshakes as usize {
            return Err(GuardReason::Handshakes);
        }
        let limit = settings.all_handshakes as usize;
        let oldest = match all.len.cmp(&limit) {
            Less => return Ok((all.insert(known, now), None)),
            Equal => all.oldest_in_excess(own, now),
            Greater => None,
        };
        let oldest = oldest.ok_or(GuardReason::AllHandshakes)?;
        all.remove(&oldest);
        Ok((all.insert(known, now), Some(oldest)))
    }

    /// Ends a handshake, unless it was given up.
    pub(super) fn end(&self, handshake: &Handshake) {
        self.lock().remove(handshake);
    }

    /// Returns how many that client has in progress.
    pub(super) fn of(&self, known: Known) -> u32 {
        u32::try_from(self.lock().of(known.key())).unwrap_or(u32::MAX)
    }

    /// Returns how many are in progress.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.lock().len).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn of(&self, key: KeyHash) -> usize {
        self.clients.get(&key).map_or(0, BTreeMap::len)
    }

    fn insert(&mut self, known: Known, now: Duration) -> Arc<Handshake> {
        let handshake = Arc::new(Handshake {
            known,
            number: self.next,
            begun: now,
            is_given_up: AtomicBool::new(false),
            waker: WakerSlot::default(),
        });
        self.next += 1;
        self.len += 1;
        let own = self.clients.entry(known.key()).or_default();
        own.insert(handshake.number, handshake.clone());
        handshake
    }

    fn remove(&mut self, handshake: &Handshake) {
        let key = handshake.known.key();
        let Some(own) = self.clients.get_mut(&key) else {
            return;
        };
        self.len -= usize::from(own.remove(&handshake.number).is_some());
        if own.is_empty() {
            self.clients.remove(&key);
        }
    }

    /// Returns the oldest handshake of the clients with the most, if a client that has `own` may have its permit.
    fn oldest_in_excess(&self, own: usize, now: Duration) -> Option<Arc<Handshake>> {
        let most = self.clients.values().map(BTreeMap::len).max()?;
        let most_of_all = self.clients.values().filter(|all| all.len() == most);
        let oldest = most_of_all.filter_map(|all| all.values().next());
        let oldest = oldest.min_by_key(|handshake| handshake.number)?;
        let is_late = now.saturating_sub(oldest.begun) >= PATIENCE;
        (most > own + 1 || (most > own && is_late)).then(|| oldest.clone())
    }
}
