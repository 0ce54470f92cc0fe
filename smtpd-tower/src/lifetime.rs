//! The life of a server: its sessions, and the stages of its shutdown.

#[cfg(feature = "test")]
use std::sync::LazyLock;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::Instant,
};

#[cfg(feature = "test")]
use crate::permits::Permits;
use crate::{session::ShuttingDown, waker::WakerSlot};

/// How far the shutdown of a server has progressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Running,
    /// No more connections; sessions end between two messages.
    Draining,
    /// The time for draining is over.
    Ending,
}

/// The sessions of a server: how many there are, and how to reach them.
#[derive(Debug)]
pub(crate) struct Registry {
    stage: AtomicU8,
    /// What services and layers see of the stage.
    shutting_down: ShuttingDown,
    /// When the time for draining is over. The first session that notices it advances the server.
    grace_end: Mutex<Option<Instant>>,
    sessions: Mutex<Sessions>,
    changed: Notify,
    /// Permits for telling clients that no session permit is free.
    farewells: Semaphore,
    crowd: Mutex<Crowd>,
    /// Permits for work that keeps a processor busy, for this server alone. The test kit uses them.
    #[cfg(feature = "test")]
    own_permits: LazyLock<Permits>,
}

/// How many refused connections may receive a reply at once; others are just closed.
const MOST_FAREWELLS: usize = 1000;

/// How often it is told that there are too many sessions.
const CROWD_PERIOD: Duration = Duration::from_secs(60);

/// The clients that were refused because there are too many sessions.
#[derive(Debug, Default)]
struct Crowd {
    told: Option<Instant>,
    /// Since then.
    refused: u64,
}

#[derive(Debug, Default)]
struct Sessions {
    /// Each wakes one session. Its lock is shared only with a server that shuts down.
    wakers: Vec<Option<Arc<WakerSlot>>>,
    free: Vec<usize>,
    taken: usize,
}

impl Registry {
    pub(crate) fn new() -> Arc<Self> {
        let stage = AtomicU8::new(Stage::Running as u8);
        Arc::new(Self {
            stage,
            shutting_down: ShuttingDown::default(),
            grace_end: Mutex::default(),
            sessions: Mutex::default(),
            changed: Notify::new(),
            farewells: Semaphore::new(MOST_FAREWELLS),
            crowd: Mutex::default(),
            #[cfg(feature = "test")]
            own_permits: LazyLock::new(Permits::one_per_processor),
        })
    }

    /// Returns a permit for one more session, if there are fewer than `limit` and the server is not being shut down.
    pub(crate) fn enter(self: &Arc<Self>, limit: usize) -> Option<SessionPermit> {
        let mut sessions = self.sessions();
        // Under the lock: otherwise a session could begin after `empty` has found none.
        if sessions.taken >= limit || self.stage() != Stage::Running {
            return None;
        }
        sessions.taken += 1;
        let waker = Arc::new(WakerSlot::default());
        let number = match sessions.free.pop() {
            Some(number) => {
                sessions.wakers[number] = Some(waker.clone());
                number
            }
            None => {
                sessions.wakers.push(Some(waker.clone()));
                sessions.wakers.len() - 1
            }
        };
        Some(SessionPermit {
            registry: self.clone(),
            number,
            waker,
            #[cfg(debug_assertions)]
            armed: false,
        })
    }

    /// Returns a permit for telling one client that it is refused, held until it is dropped.
    pub(crate) fn farewell(&self) -> Option<SemaphorePermit<'_>> {
        self.farewells.try_acquire().ok()
    }

    /// Notes that a client is refused because there are too many sessions. Returns how many were since that was last told, if it
    /// is time to tell it again.
    pub(crate) fn refused(&self) -> Option<u64> {
        let mut crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
        crowd.refused = crowd.refused.saturating_add(1);
        let now = Instant::now();
        if crowd.told.is_some_and(|told| now < told + CROWD_PERIOD) {
            return None;
        }
        crowd.told = Some(now);
        Some(std::mem::take(&mut crowd.refused))
    }

    #[cfg(feature = "test")]
    pub(crate) fn own_permits(&self) -> Permits {
        self.own_permits.clone()
    }

    pub(crate) fn shutting_down(&self) -> ShuttingDown {
        self.shutting_down.clone()
    }

    pub(crate) fn taken(&self) -> usize {
        self.sessions().taken
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Running,
            1 => Stage::Draining,
            _ => Stage::Ending,
        }
    }

    /// Lets every session end between two messages, but at that time at the latest. A later time than one that was set before
    /// has no effect.
    pub(crate) fn drain_until(&self, end: Instant) {
        let mut grace_end = self.grace_end();
        *grace_end = Some(grace_end.map_or(end, |earlier| earlier.min(end)));
        drop(grace_end);
        self.advance(Stage::Draining);
    }

    /// Returns the stage at this time, at which the time for draining may be over.
    fn stage_at(&self, now: Instant) -> Stage {
        let stage = self.stage();
        if stage == Stage::Draining && self.grace_end().is_some_and(|end| end <= now) {
            self.advance(Stage::Ending);
            return Stage::Ending;
        }
        stage
    }

    /// Advances to a stage, and notifies every session.
    pub(crate) fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        if stage > Stage::Running {
            self.shutting_down.begin();
        }
        // Not under the lock: code that is woken may come back at once.
        let wakers: Vec<_> = self.sessions().wakers.iter().flatten().cloned().collect();
        for waker in wakers {
            waker.wake();
        }
        self.changed.notify_waiters();
    }

    /// Returns when the server is to accept no more connections.
    pub(crate) async fn draining(&self) {
        self.until(|| self.stage() >= Stage::Draining).await;
    }

    /// Returns when there is no session.
    pub(crate) async fn empty(&self) {
        self.until(|| self.taken() == 0).await;
    }

    async fn until(&self, done: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if done() {
                return;
            }
            changed.await;
        }
    }

    fn grace_end(&self) -> MutexGuard<'_, Option<Instant>> {
        let grace_end = self.grace_end.lock();
        grace_end.unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permit of one session, released when it is dropped.
#[derive(Debug)]
pub(crate) struct SessionPermit {
    registry: Arc<Registry>,
    number: usize,
    waker: Arc<WakerSlot>,
    /// It was polled since the session was woken.
    #[cfg(debug_assertions)]
    armed: bool,
}

impl SessionPermit {
    #[cfg(debug_assertions)]
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }

    #[cfg(debug_assertions)]
    pub(crate) const fn is_armed(&self) -> bool {
        self.armed
    }

    pub(crate) fn stage(&self) -> Stage {
        self.registry.stage()
    }

    /// Returns the stage at this time, at which the time for draining may be over.
    pub(crate) fn stage_at(&self, now: Instant) -> Stage {
        self.registry.stage_at(now)
    }

    /// Returns when the time for draining is over, once the server drains.
    pub(crate) fn grace_end(&self) -> Option<Instant> {
        *self.registry.grace_end()
    }

    /// Ready when the server has advanced from that stage.
    pub(crate) fn poll_past(&mut self, cx: &Context<'_>, stage: Stage) -> Poll<()> {
        #[cfg(debug_assertions)]
        {
            self.armed = true;
        }
        self.waker.register(cx);
        if self.stage() > stage {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        let mut sessions = self.registry.sessions();
        sessions.wakers[self.number] = None;
        sessions.free.push(self.number);
        sessions.taken -= 1;
        let empty = sessions.taken == 0;
        drop(sessions);
        if empty {
            self.registry.changed.notify_waiters();
        }
    }
}

/// Returns `start` plus `limit`. If an `Instant` cannot represent that, returns a far future time.
pub(crate) fn later(start: Instant, limit: Duration) -> Instant {
    const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    start + limit.min(FOREVER)
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn permits_are_limited_and_given_back() {
        let registry = Registry::new();
        let one = registry.enter(2).unwrap();
        let _two = registry.enter(2).unwrap();
        assert!(registry.enter(2).is_none());
        drop(one);
        assert!(registry.enter(2).is_some());
        assert_eq!((registry.taken(), registry.sessions().wakers.len()), (1, 2));
    }

    #[test]
    fn a_session_begins_after_the_shutdown_has_found_none() {
        let registry = Registry::new();
        registry.advance(Stage::Draining);
        assert_ready!(task::spawn(registry.empty()).poll());
        assert!(registry.enter(1).is_none());
        assert_eq!(registry.taken(), 0);
    }

    #[test]
    fn every_session_is_notified_of_the_end() {
        let registry = Registry::new();
        let mut permits: Vec<_> = (0..3).map(|_| registry.enter(9).unwrap()).collect();
        let mut waits: Vec<_> = permits.iter().map(|_| task::spawn(())).collect();
        for (wait, permit) in waits.iter_mut().zip(&mut permits) {
            assert!(
                wait.enter(|cx, _| permit.poll_past(cx, Stage::Running))
                    .is_pending()
            );
        }
        let mut empty = task::spawn(registry.empty());
        assert_pending!(empty.poll());
        registry.advance(Stage::Draining);
        assert!(waits.iter().all(|wait| wait.is_woken()));
        assert_pending!(empty.poll());
        drop(permits);
        assert_ready!(empty.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn every_client_that_is_refused_is_a_line_of_the_log() {
        let registry = Registry::new();
        assert_eq!(registry.refused(), Some(1));
        for _ in 0..1000 {
            assert_eq!(registry.refused(), None);
        }
        tokio::time::advance(CROWD_PERIOD).await;
        assert_eq!(registry.refused(), Some(1001));
    }

    /// Polls when it is woken, as some executors do: the session ends on the spot.
    struct EndsAtOnce {
        registry: Arc<Registry>,
        permit: Mutex<Option<SessionPermit>>,
    }

    impl Wake for EndsAtOnce {
        fn wake(self: Arc<Self>) {
            assert!(self.registry.sessions.try_lock().is_ok());
            let permit = self.permit.lock().unwrap().take();
            let stage = permit.map(|mut permit| {
                permit.poll_past(&Context::from_waker(Waker::noop()), Stage::Running)
            });
            assert_eq!(stage, Some(Poll::Ready(())));
        }
    }

    #[test]
    fn a_session_that_is_polled_where_it_is_woken_does_not_block_the_end() {
        let registry = Registry::new();
        let session = Arc::new(EndsAtOnce {
            registry: registry.clone(),
            permit: Mutex::new(registry.enter(9)),
        });
        let waker = Waker::from(session.clone());
        let polled = {
            let mut permit = session.permit.lock().unwrap();
            let permit = permit.as_mut().unwrap();
            permit.poll_past(&Context::from_waker(&waker), Stage::Running)
        };
        assert!(polled.is_pending());
        registry.advance(Stage::Draining);
        assert_eq!(registry.taken(), 0);
    }
}
