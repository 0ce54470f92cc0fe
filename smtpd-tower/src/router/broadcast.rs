//! One body for several readers.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures_core::Stream;

use crate::{
    body::{Body, BodyError},
    waker::Registration,
};

/// Returns `readers` bodies, each with everything that `body` yields.
///
/// The first reader that wants a chunk receives it from the source, and the chunk is kept for the others. A reader that is
/// `ahead` bytes or more ahead of the slowest waits for it. An error ends all of them.
pub(super) fn broadcast(body: Body, readers: usize, ahead: usize) -> Vec<Body> {
    Hub::new(readers, ahead).bodies(body, readers)
}

/// Also returns a handle that shows whether the lock is held.
#[cfg(test)]
pub(crate) fn probed_broadcast(
    body: Body,
    readers: usize,
    ahead: usize,
) -> (Vec<Body>, impl Fn() -> bool + Send + Sync) {
    let hub = Hub::new(readers, ahead);
    let bodies = hub.bodies(body, readers);
    (bodies, move || hub.0.try_lock().is_err())
}

struct Reader {
    hub: Arc<Hub>,
    /// Empty while a reader polls it, and once it has ended.
    source: Arc<Mutex<Option<Body>>>,
    number: usize,
}

impl Stream for Reader {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut registration = Registration::new(cx);
        loop {
            let next = self.hub.lock().next(self.number, &mut registration);
            match next {
                Next::Chunk(chunk) => {
                    self.hub.forget();
                    return Poll::Ready(Some(Ok(chunk)));
                }
                Next::End(error) => {
                    self.hub.leave(self.number);
                    return Poll::Ready(error.map(Err));
                }
                Next::Register => registration.prepare(),
                Next::Wait => return Poll::Pending,
                Next::Receive => {
                    if self.receive().is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Reader {
    /// Polls the source for one more chunk, or the end. Only one reader does so at a time.
    fn receive(&self) -> Poll<()> {
        let mut lease = Lease::begin(self);
        lease.poll();
        if matches!(lease.polled, Some(Poll::Pending)) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn source(&self) -> MutexGuard<'_, Option<Body>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.hub.leave(self.number);
    }
}

/// One reader's exclusive use of the source.
struct Lease<'a> {
    reader: &'a Reader,
    source: Option<Body>,
    /// `None` if the source has panicked.
    polled: Option<Poll<Option<Result<Bytes, BodyError>>>>,
}

impl<'a> Lease<'a> {
    fn begin(reader: &'a Reader) -> Self {
        let source = reader.source().take();
        Self {
            reader,
            source,
            polled: None,
        }
    }

    /// The source wakes the hub, and so all waiting readers: the reader that polls it now may give up waiting.
    fn poll(&mut self) {
        let waker = Waker::from(self.reader.hub.clone());
        let mut cx = Context::from_waker(&waker);
        self.polled = Some(match &mut self.source {
            Some(source) => Pin::new(source).poll_next(&mut cx),
            None => Poll::Ready(None),
        });
    }
}

impl Drop for Lease<'_> {
    /// Puts the source back, unless it has ended.
    fn drop(&mut self) {
        let polled = self.polled.take();
        if !matches!(polled, Some(Poll::Ready(None | Some(Err(_))))) {
            *self.reader.source() = self.source.take();
        }
        self.reader.hub.received(self.reader.number, polled);
    }
}

/// The state that readers share, apart from the source. It is the waker of the source, so it must not own the source.
struct Hub(Mutex<State>);

struct State {
    /// Received chunks that not all readers have read yet.
    chunks: VecDeque<Bytes>,
    /// How many chunks came before these.
    taken: usize,
    /// The memory that the chunks use.
    cost: usize,
    ahead: usize,
    end: Option<Result<(), BodyError>>,
    /// Readers that have not reached the end.
    positions: Vec<Option<Position>>,
    /// Whether a reader polls the source.
    receiving: bool,
    /// Whether the source has woken the hub since.
    woken: bool,
}

#[derive(Default)]
struct Position {
    /// The number of the next chunk to read.
    next: usize,
    /// Whether it has found nothing, or polls the source.
    waiting: bool,
    /// Only woken while it is waiting; otherwise kept to save cloning it again.
    waker: Option<Waker>,
}

/// What a reader does next.
enum Next {
    Chunk(Bytes),
    End(Option<BodyError>),
    /// Clone the waker first.
    Register,
    Wait,
    Receive,
}

impl Hub {
    fn new(readers: usize, ahead: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            chunks: VecDeque::new(),
            taken: 0,
            cost: 0,
            ahead,
            end: None,
            positions: (0..readers).map(|_| Some(Position::default())).collect(),
            receiving: false,
            woken: false,
        })))
    }

    fn bodies(self: &Arc<Self>, source: Body, readers: usize) -> Vec<Body> {
        let source = Arc::new(Mutex::new(Some(source)));
        let reader = |number| Reader {
            hub: self.clone(),
            source: source.clone(),
            number,
        };
        (0..readers).map(reader).map(Body::new).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores what a reader has received from the source.
    fn received(&self, number: usize, polled: Option<Poll<Option<Result<Bytes, BodyError>>>>) {
        let mut state = self.lock();
        state.receiving = false;
        let woken = std::mem::take(&mut state.woken);
        let pending = matches!(polled, Some(Poll::Pending));
        if let Some(Poll::Ready(item)) = polled {
            state.push(item);
            // This reader continues at once.
            if let Some(Some(position)) = state.positions.get_mut(number) {
                position.waiting = false;
            }
        }
        drop(state);
        if woken || !pending {
            self.wake_all();
        }
    }

    fn leave(&self, number: usize) {
        let position = self.lock().positions.get_mut(number).and_then(Option::take);
        // Dropped outside of the lock: it may hold a waker.
        drop(position);
        self.forget();
    }

    /// Drops the chunks that all readers have read. One at a time, because they must not be dropped under the lock.
    fn forget(&self) {
        let mut room = false;
        loop {
            let mut state = self.lock();
            let full = state.is_full();
            let chunk = state.pop_taken();
            room |= full && !state.is_full();
            drop(state);
            if chunk.is_none() {
                break;
            }
        }
        if room {
            self.wake_all();
        }
    }

    /// Wakes all waiting readers.
    fn wake_all(&self) {
        let mut number = 0;
        loop {
            let mut state = self.lock();
            let Some(position) = state.positions.get_mut(number) else {
                break;
            };
            let waker = position.as_mut().and_then(Position::take_waker);
            drop(state);
            // Not under the lock: a reader that is woken may come back at once.
            if let Some(waker) = waker {
                waker.wake();
            }
            number += 1;
        }
    }
}

impl Wake for Hub {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.receiving {
            // Readers that are woken now would not get the source. The reader that has it wakes all when it is done.
            state.woken = true;
            return;
        }
        drop(state);
        self.wake_all();
    }
}

impl State {
    fn next(&mut self, number: usize, registration: &mut Registration<'_>) -> Next {
        let full = self.is_full();
        let Some(Some(position)) = self.positions.get_mut(number) else {
            return Next::End(None);
        };
        if let Some(chunk) = self.chunks.get(position.next - self.taken) {
            position.next += 1;
            position.waiting = false;
            return Next::Chunk(chunk.clone());
        }
        if let Some(end) = &self.end {
            return Next::End(end.clone().err());
        }
        if !registration.store(&mut position.waker) {
            return Next::Register;
        }
        position.waiting = true;
        if full || self.receiving {
            return Next::Wait;
        }
        self.receiving = true;
        Next::Receive
    }

    fn push(&mut self, item: Option<Result<Bytes, BodyError>>) {
        match item {
            Some(Ok(chunk)) => {
                self.cost += cost(&chunk);
                self.chunks.push_back(chunk);
            }
            Some(Err(error)) => self.end = Some(Err(error)),
            None => self.end = Some(Ok(())),
        }
    }

    fn is_full(&self) -> bool {
        !self.chunks.is_empty() && self.cost >= self.ahead
    }

    /// Removes the first chunk if no reader needs it.
    fn pop_taken(&mut self) -> Option<Bytes> {
        let positions = self.positions.iter().flatten();
        let slowest = positions.map(|position| position.next).min();
        if slowest.is_some_and(|slowest| slowest <= self.taken) {
            return None;
        }
        let chunk = self.chunks.pop_front()?;
        self.cost -= cost(&chunk);
        self.taken += 1;
        Some(chunk)
    }
}

impl Position {
    fn take_waker(&mut self) -> Option<Waker> {
        if std::mem::take(&mut self.waiting) {
            self.waker.take()
        } else {
            None
        }
    }
}

/// A minimum cost even for the smallest chunk, because a message may arrive byte by byte.
const fn cost(chunk: &Bytes) -> usize {
    chunk.len() + size_of::<Bytes>()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::body::{Feed, incoming};

    fn several<const N: usize>(ahead: usize) -> (Feed, [Body; N]) {
        let (feed, body) = incoming();
        let bodies = broadcast(body, N, ahead).try_into().unwrap();
        (feed, bodies)
    }

    async fn push(feed: &Feed, text: &'static str) {
        feed.push(Bytes::from_static(text.as_bytes())).await;
    }

    async fn chunk(body: &mut Body) -> Bytes {
        body.chunk().await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn nothing_is_polled_before_a_reader_polls() {
        let (feed, [mut one, mut two]) = several(100);
        let mut engine = task::spawn(());
        assert_pending!(engine.enter(|cx, _| feed.poll_wanted(cx)));
        let mut first = task::spawn(one.chunk());
        assert_pending!(first.poll());
        assert_ready!(engine.enter(|cx, _| feed.poll_wanted(cx)));
        push(&feed, "chunk").await;
        assert!(first.is_woken());
        assert_eq!(assert_ready!(first.poll()).unwrap().unwrap(), "chunk");
        assert_pending!(engine.enter(|cx, _| feed.poll_wanted(cx)));
        assert_eq!(chunk(&mut two).await, "chunk");
    }

    #[tokio::test]
    async fn a_reader_that_found_nothing_is_woken_when_another_receives_a_chunk() {
        let (feed, [mut one, mut two]) = several(100);
        let mut first = task::spawn(one.chunk());
        assert_pending!(first.poll());
        let mut second = task::spawn(two.chunk());
        assert_pending!(second.poll());
        push(&feed, "chunk").await;
        assert_ready!(second.poll());
        assert!(first.is_woken());
        assert_eq!(assert_ready!(first.poll()).unwrap().unwrap(), "chunk");
    }

    #[tokio::test]
    async fn a_reader_waits_for_the_slowest_until_it_continues_or_is_dropped() {
        for goes_away in [false, true] {
            // One chunk costs more than that.
            let (feed, [mut fast, mut slow]) = several(1);
            push(&feed, "one").await;
            push(&feed, "two").await;
            assert_eq!(chunk(&mut fast).await, "one");
            let mut next = task::spawn(fast.chunk());
            assert_pending!(next.poll());
            if goes_away {
                drop(slow);
            } else {
                assert_eq!(chunk(&mut slow).await, "one");
            }
            assert!(next.is_woken());
            assert_eq!(assert_ready!(next.poll()).unwrap().unwrap(), "two");
        }
    }

    #[tokio::test]
    async fn every_reader_that_waits_is_woken_also_if_the_last_one_to_look_has_given_up() {
        for goes_away in [false, true] {
            let (feed, [mut one, mut two]) = several(100);
            let mut first = task::spawn(one.chunk());
            assert_pending!(first.poll());
            assert_pending!(task::spawn(two.chunk()).poll());
            let kept = Some(two).filter(|_| !goes_away);
            push(&feed, "chunk").await;
            assert!(first.is_woken());
            assert_eq!(assert_ready!(first.poll()).unwrap().unwrap(), "chunk");
            drop(kept);
        }
    }

    /// Polls another reader of the broadcast whose source it is, and then yields a chunk, waits, or panics.
    struct Reentrant {
        other: Arc<Mutex<Option<Body>>>,
        waker: Waker,
        then: fn() -> Poll<Option<Result<Bytes, BodyError>>>,
    }

    impl Stream for Reentrant {
        type Item = Result<Bytes, BodyError>;

        fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            let other = self.other.lock().unwrap().take();
            if let Some(mut other) = other {
                let polled = Pin::new(&mut other).poll_next(&mut Context::from_waker(&self.waker));
                assert_pending!(polled);
                *self.other.lock().unwrap() = Some(other);
            }
            // It arrives between the poll of the other reader and what this one receives.
            cx.waker().wake_by_ref();
            (self.then)()
        }
    }

    #[test]
    fn a_reader_that_polls_while_another_polls_the_source_is_woken_when_that_is_done() {
        let chunk = || Poll::Ready(Some(Ok(Bytes::from_static(b"chunk"))));
        for then in [chunk, || Poll::Pending, || panic!("on purpose")] {
            let mut second = task::spawn(());
            let other = Arc::default();
            let source = Reentrant {
                other: Arc::clone(&other),
                waker: second.enter(|cx, _| cx.waker().clone()),
                then,
            };
            let [mut one, two] = broadcast(Body::new(source), 2, 100).try_into().unwrap();
            *other.lock().unwrap() = Some(two);
            let mut first = task::spawn(one.chunk());
            let _ = catch_unwind(AssertUnwindSafe(|| drop(first.poll())));
            assert!(second.is_woken());
        }
    }

    #[tokio::test]
    async fn an_error_comes_once_to_each_after_all_chunks() {
        let (feed, bodies) = several::<3>(100);
        push(&feed, "half").await;
        drop(feed);
        for mut body in bodies {
            assert_eq!(chunk(&mut body).await, "half");
            assert!(matches!(
                body.chunk().await,
                Some(Err(BodyError::Incomplete))
            ));
            assert!(body.chunk().await.is_none());
            assert!(body.chunk().await.is_none());
        }
    }

    #[tokio::test]
    async fn each_receives_everything_in_whatever_order_they_read() {
        const TEXT: &str = "abcdefghijklmnopqrstuvwxyz";
        const AHEAD: usize = 200;
        let most = AHEAD + cost(&Bytes::from_static(b"x"));
        for seed in 0..50_u32 {
            let (feed, body) = incoming();
            for at in 0..TEXT.len() {
                push(&feed, &TEXT[at..=at]).await;
            }
            feed.finish(Ok(()));
            let mut bodies = broadcast(body, 3, AHEAD);
            let mut got = vec![String::new(); 3];
            let mut random = seed;
            while got.iter().any(|text| text.len() < TEXT.len()) {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let reader = (random >> 16) as usize % 3;
                if let Poll::Ready(Some(chunk)) = task::spawn(bodies[reader].chunk()).poll() {
                    got[reader].push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
                }
                let lengths = got.iter().map(String::len);
                let apart = lengths.clone().max().unwrap() - lengths.min().unwrap();
                assert!(apart * (1 + size_of::<Bytes>()) <= most, "{got:?}");
            }
            assert_eq!(got, [TEXT; 3]);
        }
    }
}
