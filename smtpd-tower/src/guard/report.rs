//! Tells of refusals, without a line for each.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::GuardReason;
use crate::{
    fault::{caught, quietly},
    limiter::{ClientKey, KeyHasher, KeyMap},
};

/// How often a client that goes on being refused is told of.
const PERIOD: u64 = 60_000;

/// How long nothing is looked for after it was.
const LEAST_WAIT: u64 = 1_000;

/// How many clients are told of at a time. The others are only counted.
const MOST_CLIENTS: usize = 1000;

/// A client is being refused, or not any more. [`Guard::on_event`](super::Guard::on_event) receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardEvent {
    client: ClientKey,
    reason: GuardReason,
    stage: GuardStage,
    refused: u64,
}

/// What has changed for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GuardStage {
    /// It was refused, after nothing was refused to it for a minute at least.
    Began,
    /// It was refused again in the minute that has passed.
    Continued,
    /// Nothing was refused to it for a minute.
    Ended,
}

impl GuardEvent {
    /// Returns the client.
    pub const fn client(&self) -> ClientKey {
        self.client
    }

    /// Returns why it was refused, the last time.
    pub const fn reason(&self) -> GuardReason {
        self.reason
    }

    /// Returns what has changed.
    pub const fn stage(&self) -> GuardStage {
        self.stage
    }

    /// Returns how often it was refused since the previous event: 1 when it begins, 0 when it ends.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    fn log(&self) {
        let (client, reason, refused) = (self.client, self.reason, self.refused);
        match self.stage {
            GuardStage::Ended => {
                tracing::info!(%client, %reason, "client no longer refused by the guard");
            }
            _ => tracing::warn!(%client, %reason, refused, "client refused by the guard"),
        }
    }
}

type Function = Arc<dyn Fn(&GuardEvent) + Send + Sync>;

/// Functions that are called, in this order, with each event.
#[derive(Clone, Default)]
pub(super) struct Listeners(Arc<Vec<Function>>);

impl Listeners {
    pub(super) fn add(&mut self, function: impl Fn(&GuardEvent) + Send + Sync + 'static) {
        Arc::make_mut(&mut self.0).push(Arc::new(function));
    }

    /// Logs an event, and calls every function. A panic in one does not affect the others; it is logged.
    pub(super) fn tell(&self, event: &GuardEvent) {
        quietly(|| event.log());
        for function in &*self.0 {
            if let Err(panic) = caught(|| function(event)) {
                let panic = panic.escape_debug();
                quietly(|| tracing::error!(%panic, "on_event panicked"));
            }
        }
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listeners").field(&self.0.len()).finish()
    }
}

/// The clients that are being refused.
#[derive(Debug, Default)]
pub(super) struct Reports {
    hasher: KeyHasher,
    clients: Mutex<KeyMap<Refused>>,
    /// When there may be something to tell, in milliseconds; 0 if nobody is being refused.
    due: AtomicU64,
}

#[derive(Debug)]
struct Refused {
    client: ClientKey,
    reason: GuardReason,
    /// Since the last event.
    count: u64,
    /// When there is something to tell of it, in milliseconds.
    due: u64,
}

impl Refused {
    fn event(&self, stage: GuardStage) -> GuardEvent {
        GuardEvent {
            client: self.client,
            reason: self.reason,
            stage,
            refused: self.count,
        }
    }
}

impl Reports {
    /// Notes a refusal. Returns an event if it is the first.
    pub(super) fn refused(
        &self,
        client: ClientKey,
        reason: GuardReason,
        now: Duration,
    ) -> Option<GuardEvent> {
        let key = self.hasher.hash(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refused) = clients.get_mut(&key) {
            refused.count = refused.count.saturating_add(1);
            refused.reason = reason;
            return None;
        }
        if clients.len() >= MOST_CLIENTS {
            return None;
        }
        let mut refused = Refused {
            client,
            reason,
            count: 1,
            due: millis(now) + PERIOD,
        };
        let event = refused.event(GuardStage::Began);
        refused.count = 0;
        if clients.is_empty() {
            self.due.store(refused.due, Ordering::Relaxed);
        }
        clients.insert(key, refused);
        Some(event)
    }

    /// Returns what there is to tell now.
    pub(super) fn due(&self, now: Duration) -> Vec<GuardEvent> {
        let now = millis(now);
        match self.due.load(Ordering::Relaxed) {
            0 => return Vec::new(),
            due if now < due => return Vec::new(),
            _ => {}
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = Vec::new();
        clients.retain(|_, refused| {
            if now < refused.due {
                return true;
            }
            let goes_on = refused.count > 0;
            events.push(refused.event(match goes_on {
                true => GuardStage::Continued,
                false => GuardStage::Ended,
            }));
            (refused.count, refused.due) = (0, now + PERIOD);
            goes_on
        });
        let next = clients.values().map(|refused| refused.due).min();
        let next = next.map_or(0, |due| due.max(now + LEAST_WAIT));
        self.due.store(next, Ordering::Relaxed);
        events
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn client(n: u32) -> ClientKey {
        ClientKey::new(Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn every_refusal_is_a_line_of_the_log() {
        let reports = Reports::default();
        let told = |event: &GuardEvent| (event.stage(), event.refused());
        let first = reports.refused(client(1), GuardReason::Errors, SECOND);
        assert_eq!(first.as_ref().map(told), Some((GuardStage::Began, 1)));
        for _ in 0..1000 {
            let next = reports.refused(client(1), GuardReason::Sessions, SECOND);
            assert_eq!(next, None);
        }
        assert!(reports.due(60 * SECOND).is_empty());
        let events = reports.due(61 * SECOND);
        let events: Vec<_> = events.iter().map(told).collect();
        assert_eq!(events, [(GuardStage::Continued, 1000)]);
        assert!(reports.due(120 * SECOND).is_empty());
        let events = reports.due(121 * SECOND);
        let events: Vec<_> = events.iter().map(told).collect();
        assert_eq!(events, [(GuardStage::Ended, 0)]);
        let again = reports.refused(client(1), GuardReason::Errors, 122 * SECOND);
        assert_eq!(again.as_ref().map(told), Some((GuardStage::Began, 1)));
    }

    #[test]
    fn a_flood_of_addresses_floods_the_log() {
        let reports = Reports::default();
        let events = (0..100_000).filter_map(|n| {
            let client = client(n);
            reports.refused(client, GuardReason::NewSessions, SECOND)
        });
        assert_eq!(events.count(), MOST_CLIENTS);
        assert_eq!(reports.due(100 * SECOND).len(), MOST_CLIENTS);
        assert_eq!(reports.due.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_hook_that_panics_keeps_the_others_from_the_event() {
        let called = Arc::new(AtomicU64::new(0));
        let mut listeners = Listeners::default();
        let second = called.clone();
        listeners.add(|_| panic!("in a hook"));
        listeners.add(move |_| {
            second.fetch_add(1, Ordering::Relaxed);
        });
        let reports = Reports::default();
        let event = reports.refused(client(1), GuardReason::Errors, SECOND);
        listeners.tell(&event.unwrap());
        assert_eq!(called.load(Ordering::Relaxed), 1);
    }
}
