//! Permits for work that keeps a processor busy, such as comparing a password with its hash.
//!
//! Such work runs in threads of its own, because every session of a runtime's thread would wait for it. Clients that guess
//! passwords ask for as much of it as they can, so there is a limit on how much runs at once and on how much waits, and the
//! clients take turns.

use std::{
    num::NonZero,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    task,
    time::{Instant, timeout},
};

use self::{report::RefusalReports, turns::Turns};
use crate::{
    fault::{panic_message, quietly},
    meter::waits_for_processor,
    net::Cidr,
};

mod report;
mod turns;

/// How long a client waits for its permits. Clients wait for minutes (RFC 5321 section 4.5.3.2), so they receive the 454 before
/// they give up, and the queue holds only clients that can still be served.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The work was not done, because too much of it waits or because it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable;

/// A number of permits, for which clients take turns. Clones share them. The default ones are those of the process.
#[derive(Clone, Debug)]
pub(crate) struct Permits(Arc<Mutex<Queue>>);

#[derive(Debug)]
struct Queue {
    free: usize,
    /// Those that wait, and some that have given up.
    turns: Turns<oneshot::Sender<Permit>>,
    /// How many have given up and may be among them, so that each arrival need not search for them.
    given_up: usize,
    reports: RefusalReports,
}

/// A waiting request. Dropping it gives up.
struct Waiting<'a> {
    permits: &'a Permits,
    granted: oneshot::Receiver<Permit>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // A request that was granted or refused a permit no longer waits.
        if matches!(self.granted.try_recv(), Err(TryRecvError::Empty)) {
            self.granted.close();
            self.permits.lock().given_up += 1;
        }
    }
}

impl Permits {
    /// The most that may wait at once.
    const MAX_WAITING: usize = 1024;

    pub(crate) fn new(permits: NonZero<usize>) -> Self {
        Self(Arc::new(Mutex::new(Queue {
            free: permits.get(),
            turns: Turns::new(),
            given_up: 0,
            reports: RefusalReports::default(),
        })))
    }

    /// Returns the permits that all servers of this process share.
    pub(crate) fn shared() -> Self {
        static PERMITS: LazyLock<Permits> = LazyLock::new(Permits::one_per_processor);
        PERMITS.clone()
    }

    /// Returns new permits, as many as those that all servers share.
    pub(crate) fn one_per_processor() -> Self {
        Self::new(thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN))
    }

    /// Runs the work in another thread, as soon as a processor is free for it. `client` is the client that has asked for it. If
    /// there are `own` permits, the work needs one of those as well.
    ///
    /// Dropping the future cancels the work, unless it has begun.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        client: Option<Cidr>,
        own: Option<&Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let waiting = async {
            let own = match own {
                Some(own) => Some(own.acquire(client).await?),
                None => None,
            };
            Ok::<_, Unavailable>((own, self.acquire(client).await?))
        };
        let permits = timeout(MAX_WAIT, waiting).await;
        let Ok(Ok(permits)) = permits else {
            self.report_refusal();
            return Err(Unavailable);
        };
        let done = task::spawn_blocking(move || {
            // Held by the work and not by the session: the work does not end when its client disconnects.
            let _permits = permits;
            work()
        });
        done.await.map_err(|error| {
            if let Ok(panic) = error.try_into_panic() {
                let panic = panic_message(&*panic);
                let panic = panic.escape_debug();
                quietly(|| tracing::error!(%panic, "comparing a password panicked"));
            }
            Unavailable
        })
    }

    /// Waits for a permit. Networks, and clients within them, take turns, however many each waits for, and those that have had no
    /// turn go before the others. If too many wait, the network with the most of them loses one.
    pub(crate) async fn acquire(&self, client: Option<Cidr>) -> Result<Permit, Unavailable> {
        self.acquire_with(client, waits_for_processor).await
    }

    /// Like [`acquire`](Self::acquire), but for other work than comparing passwords.
    pub(crate) async fn acquire_unmeasured(
        &self,
        client: Option<Cidr>,
    ) -> Result<Permit, Unavailable> {
        self.acquire_with(client, || ()).await
    }

    /// `waits` measures the wait until its result is dropped, if there is one.
    async fn acquire_with<W>(
        &self,
        client: Option<Cidr>,
        waits: impl FnOnce() -> W,
    ) -> Result<Permit, Unavailable> {
        let mut turned_away = Vec::new();
        let granted = {
            let mut queue = self.lock();
            if queue.free > 0 {
                queue.free -= 1;
                return Ok(Permit(Some(self.clone())));
            }
            queue.enter(client, &mut turned_away)
        };
        // This wakes their tasks, which may run code that wants a permit itself, so the lock must not be held.
        drop(turned_away);
        let _waits = waits();
        let mut waiting = Waiting {
            permits: self,
            granted,
        };
        (&mut waiting.granted).await.map_err(|_| Unavailable)
    }

    /// Warns now and then that no permit was free in time.
    fn report_refusal(&self) {
        let refusals = self.lock().reports.count(Instant::now());
        if let Some(refusals) = refusals {
            quietly(|| {
                tracing::warn!(
                    refusals,
                    "no processor was free in time to compare passwords, clients receive 454"
                );
            });
        }
    }

    /// Returns how many are free.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.lock().free
    }

    /// Returns whether these are the same permits, not just as many.
    #[cfg(all(test, feature = "test"))]
    pub(crate) fn are(&self, others: &Self) -> bool {
        Arc::ptr_eq(&self.0, &others.0)
    }

    /// Returns how often that client waits, without what it has given up.
    #[cfg(all(test, feature = "test"))]
    pub(crate) fn waiting(&self, client: Cidr) -> usize {
        let queue = self.lock();
        queue
            .turns
            .count_of(Some(client), |waiting| !waiting.is_closed())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a permit that is no longer needed to the next in the queue.
    fn release(self) {
        let mut permit = Permit(Some(self.clone()));
        loop {
            let mut over = Vec::new();
            let next = self.lock().next(&mut over);
            drop(over);
            let Some(next) = next else { break };
            match next.send(permit) {
                Ok(()) => return,
                Err(returned) => permit = returned,
            }
        }
        permit.0 = None;
    }
}

impl Default for Permits {
    fn default() -> Self {
        Self::shared()
    }
}

impl Queue {
    /// Takes the next out of the queue. If nothing waits, the permit becomes free.
    fn next(&mut self, over: &mut Vec<oneshot::Sender<Permit>>) -> Option<oneshot::Sender<Permit>> {
        let next = self.turns.next(oneshot::Sender::is_closed, over);
        self.given_up = self.given_up.saturating_sub(over.len());
        self.free += usize::from(next.is_none());
        next
    }

    /// Adds that client to the queue. Those that no longer wait, which may include the client itself, are added to `turned_away`.
    fn enter(
        &mut self,
        client: Option<Cidr>,
        turned_away: &mut Vec<oneshot::Sender<Permit>>,
    ) -> oneshot::Receiver<Permit> {
        let (sender, granted) = oneshot::channel();
        self.turns.push(client, sender);
        if self.turns.len() > Permits::MAX_WAITING && self.given_up > 0 {
            self.turns.take_out(oneshot::Sender::is_closed, turned_away);
            self.given_up = 0;
        }
        if self.turns.len() > Permits::MAX_WAITING {
            turned_away.extend(self.turns.give_way());
        }
        granted
    }
}

/// One of the permits, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Option<Permits>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(permits) = self.0.take() {
            permits.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        pin::pin,
        sync::mpsc,
        task::{Context, Wake, Waker},
    };

    use tokio::sync::mpsc::unbounded_channel;
    use tokio_test::{assert_pending, assert_ready, task::Spawn, task::spawn};
    use tracing::Level;

    use super::*;
    use crate::fault::test::Log;

    fn client(number: u8) -> Option<Cidr> {
        Some(Cidr::around([192, 0, 2, number].into(), 32))
    }

    fn one() -> Permits {
        Permits::new(NonZero::<usize>::MIN)
    }

    /// Waits for a permit, in the queue already.
    fn waiting(
        permits: &Permits,
        number: u8,
    ) -> Spawn<impl Future<Output = Result<Permit, Unavailable>> + use<>> {
        let permits = permits.clone();
        let mut waiting = spawn(async move { permits.acquire(client(number)).await });
        assert_pending!(waiting.poll());
        waiting
    }

    #[test]
    fn clients_take_turns_however_many_each_waits_for() {
        let permits = one();
        let mut held = assert_ready!(spawn(permits.acquire(client(0))).poll()).unwrap();
        let mut all: Vec<_> = [1, 1, 1, 1, 2, 3, 3]
            .map(|number| (number, waiting(&permits, number)))
            .into();
        let mut order = Vec::new();
        while !all.is_empty() {
            drop(held);
            let woken = all.iter().position(|(_, waiting)| waiting.is_woken());
            let (number, mut next) = all.remove(woken.unwrap());
            order.push(number);
            held = assert_ready!(next.poll()).unwrap();
        }
        assert_eq!(order, [1, 2, 3, 1, 3, 1, 1]);
        drop(held);
        assert_eq!(permits.lock().free, 1);
    }

    #[test]
    fn a_client_that_gives_up_leaves_nothing_behind() {
        let permits = one();
        let held = assert_ready!(spawn(permits.acquire(None)).poll()).unwrap();
        let (first, mut second) = (waiting(&permits, 1), waiting(&permits, 2));
        drop(first);
        drop(held);
        let held = assert_ready!(second.poll()).unwrap();
        // One that was granted, and is given up before it is polled.
        let granted = waiting(&permits, 3);
        drop(held);
        assert!(granted.is_woken());
        drop(granted);
        let queue = permits.lock();
        assert_eq!((queue.free, queue.turns.len(), queue.given_up), (1, 0, 0));
    }

    #[test]
    fn the_queue_is_bounded_and_a_client_that_floods_it_gives_way() {
        let permits = one();
        let held = assert_ready!(spawn(permits.acquire(None)).poll()).unwrap();
        let mut flood: Vec<_> = (0..Permits::MAX_WAITING)
            .map(|_| waiting(&permits, 1))
            .collect();
        let refused = assert_ready!(spawn(permits.acquire(client(1))).poll());
        assert_eq!(refused.unwrap_err(), Unavailable);

        let mut other = waiting(&permits, 2);
        let last = assert_ready!(flood.pop().unwrap().poll());
        assert_eq!(last.unwrap_err(), Unavailable);
        assert_eq!(permits.lock().turns.len(), Permits::MAX_WAITING);

        // Those that are given up make room.
        flood.truncate(5);
        let _again = waiting(&permits, 1);
        assert_eq!(permits.lock().turns.len(), 7);
        drop(held);
        let first = assert_ready!(flood[0].poll());
        drop(first);
        assert!(assert_ready!(other.poll()).is_ok());
    }

    #[test]
    fn a_flood_from_clients_of_one_network_shuts_nobody_out() {
        let permits = one();
        let held = assert_ready!(spawn(permits.acquire(None)).poll()).unwrap();
        let of_48 = |link| Cidr::around(IpAddr::from([0x2001, 0xdb8, 1, link, 0, 0, 0, 1]), 64);
        let mut flood: Vec<_> = (0..Permits::MAX_WAITING as u16)
            .map(|link| {
                let permits = permits.clone();
                spawn(async move { permits.acquire(Some(of_48(link))).await })
            })
            .collect();
        flood
            .iter_mut()
            .for_each(|waiting| assert_pending!(waiting.poll()));
        let mut honest = waiting(&permits, 2);
        let gone = flood.iter().filter(|waiting| waiting.is_woken()).count();
        assert_eq!(gone, 1);
        drop(held);
        let first = flood.iter_mut().find_map(|waiting| match waiting.poll() {
            std::task::Poll::Ready(permit) => permit.ok(),
            std::task::Poll::Pending => None,
        });
        assert_pending!(honest.poll());
        drop(first);
        assert!(assert_ready!(honest.poll()).is_ok());
    }

    /// Random clients arrive, wait, give up, and release: no permit is lost, and there are never more permits than at the start.
    #[test]
    fn permits_are_neither_lost_nor_made() {
        for seed in 0..50 {
            let mut dice = seed * 2 + 1_u64;
            let mut roll = |sides: u64| {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (dice >> 33) % sides
            };
            let permits = Permits::new(NonZero::new(3).unwrap());
            let (mut held, mut waits) = (Vec::new(), Vec::new());
            for _ in 0..400 {
                match roll(3) {
                    0 => {
                        let (permits, client) = (permits.clone(), client(roll(4) as u8));
                        waits.push(spawn(async move { permits.acquire(client).await }));
                    }
                    1 if !held.is_empty() => {
                        held.swap_remove(roll(held.len() as u64) as usize);
                    }
                    _ if !waits.is_empty() => {
                        drop(waits.swap_remove(roll(waits.len() as u64) as usize));
                    }
                    _ => {}
                }
                let mut left = Vec::new();
                for mut wait in waits {
                    match wait.poll() {
                        std::task::Poll::Ready(permit) => held.push(permit.unwrap()),
                        std::task::Poll::Pending => left.push(wait),
                    }
                }
                waits = left;
                assert_eq!(held.len() + permits.lock().free, 3);
                assert!(
                    waits.is_empty() || held.len() == 3,
                    "one waits although a permit is free"
                );
            }
        }
    }

    /// Records whether the lock was free when it was woken, because code that wants a permit needs it then.
    struct Woken(Permits, Mutex<Option<bool>>);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            *self.1.lock().unwrap() = Some(self.0.0.try_lock().is_ok());
        }
    }

    #[test]
    fn nobody_is_woken_under_the_lock() {
        let permits = one();
        let _held = assert_ready!(spawn(permits.acquire(None)).poll()).unwrap();
        let _flood: Vec<_> = (1..Permits::MAX_WAITING)
            .map(|_| waiting(&permits, 1))
            .collect();
        let woken = Arc::new(Woken(permits.clone(), Mutex::default()));
        let waker = Waker::from(woken.clone());
        let mut last = pin!(permits.acquire(client(1)));
        let poll = last.as_mut().poll(&mut Context::from_waker(&waker));
        assert_pending!(poll);
        let _other = waiting(&permits, 2);
        assert_eq!(*woken.1.lock().unwrap(), Some(true));
    }

    #[tokio::test]
    async fn no_more_work_is_done_at_once_than_there_are_permits() {
        let processors = thread::available_parallelism().unwrap().get();
        assert_eq!(Permits::one_per_processor().lock().free, processors);

        let permits = Permits::new(NonZero::new(3).unwrap());
        let (begin, mut begun) = unbounded_channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let all = [1, 2, 3, 4, 5].map(|number| {
            let (permits, begin, released) = (permits.clone(), begin.clone(), released.clone());
            let work = move || {
                begin.send(()).unwrap();
                let _ = released.lock().unwrap().recv();
            };
            tokio::spawn(async move { permits.compute(client(number), None, work).await })
        });
        for (released, waiting) in [(3, 2), (1, 1), (1, 0)] {
            for _ in 0..released {
                begun.recv().await.unwrap();
            }
            assert_eq!(permits.lock().turns.len(), waiting);
            assert!(begun.try_recv().is_err());
            release.send(()).unwrap();
        }
        drop(release);
        for done in all {
            done.await.unwrap().unwrap();
        }
        assert_eq!(permits.lock().free, 3);
    }

    #[tokio::test]
    async fn a_panic_is_seen_by_nobody_and_costs_a_permit() {
        let (log, _guard) = Log::listen(Level::INFO);
        let permits = one();
        for _ in 0..2 {
            let done: Result<(), _> = permits.compute(None, None, || panic!("on purpose")).await;
            assert_eq!(done, Err(Unavailable));
        }
        assert_eq!(permits.compute(None, None, || 1).await, Ok(1));
        let line = "ERROR comparing a password panicked panic=on purpose";
        assert_eq!(log.lines(), [line; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_has_an_end() {
        for own in [None, Some(one())] {
            let all = one();
            let held = all.acquire(None).await.unwrap();
            let own_held = match &own {
                Some(own) => Some(own.acquire(None).await.unwrap()),
                None => None,
            };
            let begun = Instant::now();
            let waiting = all.compute(client(1), own.as_ref(), || 1);
            // A client that has waited for one of them has less time for the other.
            let waited = async {
                tokio::time::sleep(MAX_WAIT / 2).await;
                drop(own_held);
            };
            let (done, ()) = tokio::join!(waiting, waited);
            assert_eq!((done, begun.elapsed()), (Err(Unavailable), MAX_WAIT));
            let reported = all.lock().reports.count(Instant::now());
            assert_eq!(reported, None, "the log has it already");
            drop(held);
            let done = all.compute(client(1), own.as_ref(), || 1).await;
            assert_eq!(done, Ok(1), "what was given up is in the way");
        }
    }

    /// Otherwise a client that asks for more than its share would get nothing, because its given-up requests come first.
    #[test]
    fn a_client_that_has_given_up_uses_no_turn_of_the_others() {
        let permits = one();
        let held = assert_ready!(spawn(permits.acquire(None)).poll()).unwrap();
        for _ in 0..3 {
            drop(waiting(&permits, 1));
        }
        let (mut first, mut second) = (waiting(&permits, 1), waiting(&permits, 2));
        drop(held);
        let held = assert_ready!(first.poll()).unwrap();
        drop(held);
        assert!(assert_ready!(second.poll()).is_ok());
        let queue = permits.lock();
        assert_eq!((queue.free, queue.turns.len(), queue.given_up), (1, 0, 0));
    }
}
