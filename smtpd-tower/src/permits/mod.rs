//! Permits for work that keeps a processor busy, such as comparing a password with its hash.
//!
//! Such work runs in threads of its own, because every session of a runtime's thread would wait for it. Clients that guess
//! passwords ask for as much of it as they can, so there is a limit on how much runs at once, on how much waits, and the clients
//! take turns.

use std::{
    collections::VecDeque,
    num::NonZero,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::{sync::oneshot, task};

use crate::limiter::ClientKey;

/// The work was not done, because too much of it waits or because it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable;

/// Does this work in another thread, as soon as a processor is free for it. `client` is who has asked for it.
///
/// Dropping the future gives the work up, unless it has begun.
pub(crate) async fn compute<T: Send + 'static>(
    client: Option<ClientKey>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unavailable> {
    Permits::of_process().compute(client, work).await
}

/// A number of permits, which clients take in turn. A clone shares them.
#[derive(Clone, Debug)]
pub(crate) struct Permits(Arc<Mutex<Queue>>);

#[derive(Debug)]
struct Queue {
    free: usize,
    /// How many wait, those that have been given up included.
    waiting: usize,
    /// A line for each client that waits, the next one first. None is empty.
    lines: VecDeque<Line>,
}

#[derive(Debug)]
struct Line {
    client: Option<ClientKey>,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

impl Permits {
    /// The most that may wait at once.
    const MAX_WAITING: usize = 1024;

    pub(crate) fn new(permits: NonZero<usize>) -> Self {
        Self(Arc::new(Mutex::new(Queue {
            free: permits.get(),
            waiting: 0,
            lines: VecDeque::new(),
        })))
    }

    /// Those of all servers of this process.
    pub(crate) fn of_process() -> &'static Self {
        static PERMITS: LazyLock<Permits> = LazyLock::new(Permits::one_per_processor);
        &PERMITS
    }

    fn one_per_processor() -> Self {
        Self::new(thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN))
    }

    async fn compute<T: Send + 'static>(
        &self,
        client: Option<ClientKey>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let permit = self.acquire(client).await?;
        let done = task::spawn_blocking(move || {
            // Held by the work and not by the session: the work does not end when its client goes away.
            let _permit = permit;
            work()
        });
        done.await.map_err(|_| Unavailable)
    }

    /// Waits for a permit. Clients get one in turn, however many each waits for; where too many wait, the client that waits for
    /// most gives way.
    pub(crate) async fn acquire(&self, client: Option<ClientKey>) -> Result<Permit, Unavailable> {
        let mut turned_away = Vec::new();
        let granted = {
            let mut queue = self.lock();
            if queue.free > 0 {
                queue.free -= 1;
                return Ok(Permit(Some(self.clone())));
            }
            queue.enter(client, &mut turned_away)
        };
        // That wakes their tasks, which may be code that wants a permit itself. The lock must not be held then.
        drop(turned_away);
        granted.ok_or(Unavailable)?.await.map_err(|_| Unavailable)
    }

    /// How often that client waits, without what it has given up.
    #[cfg(all(test, feature = "test"))]
    pub(crate) fn waiting(&self, client: ClientKey) -> usize {
        let queue = self.lock();
        let mut lines = queue.lines.iter();
        let line = lines.find(|line| line.client == Some(client));
        line.map_or(0, |line| {
            let waiting = line.waiting.iter();
            waiting.filter(|waiting| !waiting.is_closed()).count()
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a permit that is not needed any more to who is next.
    fn release(self) {
        let mut permit = Permit(Some(self.clone()));
        loop {
            let next = self.lock().next();
            let Some(next) = next else { break };
            match next.send(permit) {
                Ok(()) => return,
                Err(returned) => permit = returned,
            }
        }
        permit.0 = None;
    }
}

impl Queue {
    /// Who is next. Where nobody waits, the permit is free.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        let Some(mut line) = self.lines.pop_front() else {
            self.free += 1;
            return None;
        };
        let next = line.waiting.pop_front();
        self.waiting -= usize::from(next.is_some());
        if !line.waiting.is_empty() {
            self.lines.push_back(line);
        }
        next
    }

    /// Lets that client wait, if there is room. Those who do not wait any longer are added to `turned_away`.
    fn enter(
        &mut self,
        client: Option<ClientKey>,
        turned_away: &mut Vec<oneshot::Sender<Permit>>,
    ) -> Option<oneshot::Receiver<Permit>> {
        if self.waiting >= Permits::MAX_WAITING {
            self.forget_given_up(turned_away);
        }
        if self.waiting >= Permits::MAX_WAITING {
            turned_away.push(self.turn_away_before(client)?);
        }
        let (sender, granted) = oneshot::channel();
        self.waiting += 1;
        match self.lines.iter_mut().find(|line| line.client == client) {
            Some(line) => line.waiting.push_back(sender),
            None => self.lines.push_back(Line {
                client,
                waiting: VecDeque::from([sender]),
            }),
        }
        Some(granted)
    }

    fn forget_given_up(&mut self, forgotten: &mut Vec<oneshot::Sender<Permit>>) {
        for line in &mut self.lines {
            let all = line.waiting.drain(..);
            let (given_up, waiting): (VecDeque<_>, _) = all.partition(oneshot::Sender::is_closed);
            line.waiting = waiting;
            forgotten.extend(given_up);
        }
        self.lines.retain(|line| !line.waiting.is_empty());
        self.waiting = self.lines.iter().map(|line| line.waiting.len()).sum();
    }

    /// Makes room for that client, unless no other waits for more. Returns who has to go.
    fn turn_away_before(&mut self, client: Option<ClientKey>) -> Option<oneshot::Sender<Permit>> {
        let own = self.lines.iter().find(|line| line.client == client);
        let own = own.map_or(0, |line| line.waiting.len());
        let longest = self
            .lines
            .iter_mut()
            .max_by_key(|line| line.waiting.len())?;
        if longest.waiting.len() <= own + 1 {
            return None;
        }
        let last = longest.waiting.pop_back()?;
        self.waiting -= 1;
        Some(last)
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
        pin::pin,
        sync::mpsc,
        task::{Context, Wake, Waker},
    };

    use tokio::sync::mpsc::unbounded_channel;
    use tokio_test::{assert_pending, assert_ready, task::Spawn, task::spawn};

    use super::*;

    fn client(number: u8) -> Option<ClientKey> {
        Some(ClientKey::new([192, 0, 2, number].into()))
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
    fn who_gives_up_leaves_nothing_behind() {
        let permits = one();
        let held = assert_ready!(spawn(permits.acquire(None)).poll()).unwrap();
        let (first, mut second) = (waiting(&permits, 1), waiting(&permits, 2));
        drop(first);
        drop(held);
        let held = assert_ready!(second.poll()).unwrap();
        // One that was granted, and is given up before it is looked at.
        let granted = waiting(&permits, 3);
        drop(held);
        assert!(granted.is_woken());
        drop(granted);
        let queue = permits.lock();
        assert_eq!((queue.free, queue.waiting, queue.lines.len()), (1, 0, 0));
    }

    #[test]
    fn the_queue_is_bounded_and_who_floods_it_gives_way() {
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
        assert_eq!(permits.lock().waiting, Permits::MAX_WAITING);

        // Those that are given up make room.
        flood.truncate(5);
        let _again = waiting(&permits, 1);
        assert_eq!(permits.lock().waiting, 7);
        drop(held);
        let first = assert_ready!(flood[0].poll());
        drop(first);
        assert!(assert_ready!(other.poll()).is_ok());
    }

    /// Random clients that come, wait, give up, and let go: nothing is lost, and never are there more permits than there were.
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
                assert!(waits.is_empty() || held.len() == 3, "one waits in vain");
            }
        }
    }

    /// Notes whether the lock was free when it was woken, as code that wants a permit then needs it.
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
            tokio::spawn(async move { permits.compute(client(number), work).await })
        });
        for (released, waiting) in [(3, 2), (1, 1), (1, 0)] {
            for _ in 0..released {
                begun.recv().await.unwrap();
            }
            assert_eq!(permits.lock().waiting, waiting);
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
    async fn a_panic_costs_no_permit() {
        for _ in 0..64 {
            let done: Result<(), _> = compute(None, || panic!("on purpose")).await;
            assert_eq!(done, Err(Unavailable));
        }
        assert_eq!(compute(None, || 1).await, Ok(1));
    }
}
