//! Events on their way to the log and to the functions of the user, which may take their time.

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    runtime::Handle,
    time::{Duration, Instant},
};
use tracing::{Dispatch, dispatcher};

use super::report::{GuardEvent, Listeners};
use crate::fault::quietly;

/// How many events wait at most. That is a minute's worth for four times as many clients as are reported at a time.
const MOST_EVENTS: usize = 4096;

/// How often it is logged at most that events were lost.
const PERIOD: Duration = Duration::from_secs(60);

/// Events that wait. One blocking thread at a time passes them on, in order: sessions and the loop that accepts connections wait
/// neither for the log nor for a function of the user.
#[derive(Debug, Default)]
pub(super) struct Outbox(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    events: VecDeque<Outgoing>,
    /// It passes events on, or is about to.
    has_worker: bool,
    /// Since the server was started.
    lost: u64,
    /// Of these, how many were logged, and when.
    reported: u64,
    reported_at: Option<Instant>,
}

struct Outgoing {
    event: GuardEvent,
    listeners: Listeners,
}

/// What there is to do next.
enum Next {
    Event(Outgoing),
    Lost(u64),
    Nothing,
}

impl Outbox {
    /// Adds events. What does not fit is lost.
    pub(super) fn send(
        self: &Arc<Self>,
        listeners: &Listeners,
        events: impl IntoIterator<Item = GuardEvent>,
    ) {
        let mut events = events.into_iter().peekable();
        if events.peek().is_none() {
            return;
        }
        let mut queue = self.lock();
        for event in events {
            if queue.events.len() >= MOST_EVENTS {
                queue.lost = queue.lost.saturating_add(1);
                continue;
            }
            queue.events.push_back(Outgoing {
                event,
                listeners: listeners.clone(),
            });
        }
        if mem::replace(&mut queue.has_worker, true) {
            return;
        }
        drop(queue);
        let worker = Worker {
            outbox: self.clone(),
            log: dispatcher::get_default(Dispatch::clone),
            is_over: false,
        };
        match Handle::try_current() {
            // A runtime that shuts down drops it. Then the next event is passed on together with those that are left.
            Ok(runtime) => drop(runtime.spawn_blocking(move || worker.run())),
            Err(_) => worker.run(),
        }
    }

    /// Returns how many events were lost.
    pub(super) fn lost(&self) -> u64 {
        self.lock().lost
    }

    fn next(&self) -> Next {
        let mut queue = self.lock();
        if let Some(lost) = queue.unreported_loss() {
            return Next::Lost(lost);
        }
        match queue.events.pop_front() {
            Some(event) => Next::Event(event),
            None => {
                // Under the same lock: an event that comes now begins anew.
                queue.has_worker = false;
                Next::Nothing
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Returns how many events were lost since that was last logged, if it is time to log it.
    fn unreported_loss(&mut self) -> Option<u64> {
        let lost = self.lost - self.reported;
        let now = Instant::now();
        if lost == 0 || self.reported_at.is_some_and(|at| now < at + PERIOD) {
            return None;
        }
        (self.reported, self.reported_at) = (self.lost, Some(now));
        Some(lost)
    }
}

/// Passes events on, until there is none.
struct Worker {
    outbox: Arc<Outbox>,
    /// Where the thread that has caused the first event logs.
    log: Dispatch,
    is_over: bool,
}

impl Worker {
    fn run(mut self) {
        let log = self.log.clone();
        dispatcher::with_default(&log, || {
            loop {
                match self.outbox.next() {
                    Next::Event(Outgoing { event, listeners }) => listeners.tell(&event),
                    Next::Lost(lost) => quietly(|| {
                        tracing::warn!(lost, "events of the guard were lost, on_event is too slow");
                    }),
                    Next::Nothing => break,
                }
            }
        });
        self.is_over = true;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Otherwise another one may have begun since.
        if !self.is_over {
            self.outbox.lock().has_worker = false;
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("events", &self.events.len())
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::mpsc::{self, Receiver, Sender},
    };

    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::{
        guard::{GuardReason, report::Reports},
        limiter::ClientKey,
    };

    /// Returns events of so many clients.
    fn events(reports: &Reports, clients: std::ops::Range<u32>) -> Vec<GuardEvent> {
        let refused = |n| {
            let client = ClientKey::new(Ipv4Addr::from_bits(n).into());
            reports.refused(client, GuardReason::Errors, Duration::ZERO)
        };
        clients.filter_map(refused).collect()
    }

    /// Returns a function of the user that tells of each event, and then waits for permission to return.
    fn slow() -> (Listeners, Receiver<GuardEvent>, Sender<()>) {
        let (tell, told) = mpsc::channel();
        let (proceed, may_proceed) = mpsc::channel();
        let may_proceed = Mutex::new(may_proceed);
        let mut listeners = Listeners::default();
        listeners.add(move |event| {
            let _ = tell.send(*event);
            let _ = may_proceed.lock().unwrap().recv();
        });
        (listeners, told, proceed)
    }

    fn runtime() -> Runtime {
        let mut builder = Builder::new_current_thread();
        builder.max_blocking_threads(1).build().unwrap()
    }

    #[test]
    fn the_events_of_a_function_that_is_slow_pile_up() {
        let (outbox, reports) = (Arc::<Outbox>::default(), Reports::default());
        let (listeners, told, proceed) = slow();
        let runtime = runtime();
        let handle = runtime.handle().clone();
        let _context = handle.enter();
        outbox.send(&listeners, events(&reports, 0..1));
        told.recv().unwrap();
        // A thousand clients are reported at a time, so the same events are sent again.
        let others = events(&reports, 1..1000);
        for _ in 0..5 {
            outbox.send(&listeners, others.clone());
        }
        assert_eq!(outbox.lock().events.len(), MOST_EVENTS);
        assert_eq!(outbox.lost(), (5 * others.len() - MOST_EVENTS) as u64);
        drop(proceed);
        let told: Vec<_> = told.iter().take(MOST_EVENTS).collect();
        // It waits for the thread.
        drop(runtime);
        let sent: Vec<_> = others.iter().cycle().take(MOST_EVENTS).copied().collect();
        assert_eq!(told, sent, "they are in order");
        let queue = outbox.lock();
        assert!(!queue.has_worker && queue.events.is_empty());
        assert_eq!(queue.lost, queue.reported);
    }

    #[test]
    fn a_runtime_that_ends_keeps_the_events_for_ever() {
        let (outbox, reports) = (Arc::<Outbox>::default(), Reports::default());
        let (tell, told) = mpsc::channel();
        let mut listeners = Listeners::default();
        listeners.add(move |event| tell.send(*event).unwrap());
        let sent = events(&reports, 0..2);

        let first = runtime();
        let handle = first.handle().clone();
        drop(first);
        let context = handle.enter();
        outbox.send(&listeners, sent[..1].to_vec());
        drop(context);
        assert!(!outbox.lock().has_worker);
        assert!(told.try_recv().is_err());

        let second = runtime();
        second.block_on(async { outbox.send(&listeners, sent[1..].to_vec()) });
        drop(second);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), sent);

        // Without a runtime, there is no other thread.
        outbox.send(&listeners, sent[..1].to_vec());
        assert_eq!(told.try_recv(), Ok(sent[0]));
    }
}
