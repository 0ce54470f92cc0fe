use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Body, BodyError, Source};
use crate::waker::Registration;

/// Creates the two ends of a message in transit: the engine feeds it, the service reads it.
///
/// Usually both run in one task and poll each other in turn, so a chunk is handed over under one short lock, without a channel
/// and without a wake. But the service may pass its body on, to another task or to a future that runs in the same task beside the
/// session. Therefore a wake is omitted only if it cannot matter, whichever is polled next:
///
/// - While the engine polls the service, a reader does not wake it: the engine checks what the reader wants as soon as that poll
///   returns ([`Feed::poll_service`]).
/// - [`Feed::hand_over`] does not wake a reader that has the waker of the engine's task, because that wake would have no effect
///   before the task's current poll is over. Within that poll, the engine polls the service. If the reader has not fetched the
///   chunks by then, it is elsewhere in the task, and is woken.
pub(crate) fn incoming() -> (Feed, Body) {
    let shared = Arc::<Shared>::default();
    (
        Feed(shared.clone()),
        Source::Incoming(Incoming { shared, rest: None }).into(),
    )
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The engine polls the service, and checks the state afterwards.
    ///
    /// Readers check this under the lock, and the engine clears it before it takes the lock to check the state: either the engine
    /// sees what the reader wants, or the reader sees that the engine is not about to check.
    serving: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    pieces: Pieces,
    end: Option<Result<(), BodyError>>,
    /// The reader has fetched the end.
    read: bool,
    /// The reader was told that there is nothing, and has not polled again since.
    waiting: bool,
    /// The reader's task. Only woken while the reader is waiting; otherwise kept to avoid cloning it again.
    reader: Option<Waker>,
    /// The engine's task. Only woken when the reader begins to wait.
    feeder: Option<Waker>,
    /// When the session answers by itself, while it waits for the service.
    due: Option<Instant>,
}

/// Chunks in order. Usually there is one, which needs no queue.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    first: Option<Bytes>,
    rest: Rest,
}

/// Boxed, because most messages have none, and it is moved with the request.
type Rest = Option<Box<VecDeque<Bytes>>>;

impl Pieces {
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.is_empty() {
            self.first = Some(chunk);
        } else {
            self.rest.get_or_insert_default().push_back(chunk);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.as_ref().is_none_or(|rest| rest.is_empty())
    }

    /// Returns whether there are so many chunks that they cost more than their bytes: a message of dots arrives in chunks of a
    /// few bytes.
    pub(crate) fn are_many(&self) -> bool {
        const MANY: usize = 512;
        self.rest.as_ref().is_some_and(|rest| rest.len() >= MANY)
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.first.take().or_else(|| pop(&mut self.rest))
    }

    fn append(&mut self, mut others: Self) {
        if self.is_empty() {
            *self = others;
            return;
        }
        while let Some(chunk) = others.pop() {
            self.push(chunk);
        }
    }
}

fn pop(rest: &mut Rest) -> Option<Bytes> {
    rest.as_mut()?.pop_front()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_pending(&self) -> bool {
        self.end.is_some() || !self.pieces.is_empty()
    }

    /// Returns the reader's waker if there is something that the reader does not know of. The caller has to wake it.
    fn take_unaware(&mut self) -> Option<Waker> {
        if self.waiting && self.has_pending() {
            self.reader.take()
        } else {
            None
        }
    }
}

/// When the session answers a message by itself. It changes while the message arrives.
#[derive(Clone)]
pub(crate) struct Due(Arc<Shared>);

impl Due {
    /// Returns `None` while nothing waits for the service.
    pub(crate) fn get(&self) -> Option<Instant> {
        self.0.lock().due
    }

    pub(crate) fn set(&self, due: Option<Instant>) {
        self.0.lock().due = due;
    }
}

impl fmt::Debug for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Due").field(&self.get()).finish()
    }
}

/// The engine's end.
pub(crate) struct Feed(Arc<Shared>);

/// What a service that was polled and is not idle is doing.
#[derive(Debug)]
pub(crate) enum Served<T> {
    /// It has returned.
    Answered(T),
    /// It waits for more of the message.
    Wanted,
}

impl Feed {
    /// Polls the service by calling `poll`, and then checks whether the reader waits for a chunk, as
    /// [`poll_wanted`](Self::poll_wanted) does.
    ///
    /// Use this to poll the service after chunks were handed over: it wakes a reader that has not fetched them. If the service
    /// has answered, dropping the feed does that.
    pub(crate) fn poll_service<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Served<T>> {
        let serving = Serving::begin(&self.0);
        let polled = poll(cx);
        drop(serving);
        if let Poll::Ready(answer) = polled {
            return Poll::Ready(Served::Answered(answer));
        }
        self.poll_wanted(cx).map(|()| Served::Wanted)
    }

    /// Ready when the reader waits for a chunk. Never ready once the message has ended.
    ///
    /// Wakes a reader that waits although there is something for it.
    pub(crate) fn poll_wanted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut registration = Registration::new(cx);
        loop {
            let mut state = self.0.lock();
            if state.waiting && !state.has_pending() {
                return Poll::Ready(());
            }
            let unaware = state.take_unaware();
            let stored = registration.store(&mut state.feeder);
            drop(state);
            wake(unaware);
            if stored {
                return Poll::Pending;
            }
            registration.prepare();
        }
    }

    /// Hands chunks over, and the end if there is one.
    ///
    /// Wakes a reader in another task. A reader in the engine's own task might not be woken: call
    /// [`poll_service`](Self::poll_service) in the same poll of the task.
    pub(crate) fn hand_over(
        &self,
        pieces: Pieces,
        end: Option<Result<(), BodyError>>,
        cx: &Context<'_>,
    ) {
        let mut state = self.0.lock();
        state.pieces.append(pieces);
        let surplus = if state.end.is_none() {
            state.end = end;
            None
        } else {
            end
        };
        let own = state
            .reader
            .as_ref()
            .is_some_and(|reader| reader.will_wake(cx.waker()));
        let reader = if own { None } else { state.take_unaware() };
        drop(state);
        drop(surplus);
        wake(reader);
    }

    /// Ends the message, unless it has ended.
    pub(crate) fn finish(&self, result: Result<(), BodyError>) {
        let mut state = self.0.lock();
        let surplus = if state.end.is_none() {
            state.end = Some(result);
            None
        } else {
            Some(result)
        };
        let reader = state.take_unaware();
        drop(state);
        drop(surplus);
        wake(reader);
    }

    /// Returns when the session answers by itself, to be read by layers and set by the engine.
    pub(crate) fn due(&self) -> Due {
        Due(self.0.clone())
    }

    /// Sets when the session answers by itself.
    pub(crate) fn set_due(&self, due: Option<Instant>) {
        self.0.lock().due = due;
    }

    /// Returns whether the reader has read the message to its end.
    pub(crate) fn is_read(&self) -> bool {
        self.0.lock().read
    }

    /// Wakes a reader that waits although there is something for it.
    #[cfg(test)]
    fn wake_unaware(&self) {
        let reader = self.0.lock().take_unaware();
        wake(reader);
    }

    /// Hands one chunk over.
    #[cfg(test)]
    pub(crate) async fn push(&self, chunk: Bytes) {
        let mut pieces = Pieces::default();
        pieces.push(chunk);
        std::future::poll_fn(|cx| {
            self.hand_over(std::mem::take(&mut pieces), None, cx);
            self.wake_unaware();
            Poll::Ready(())
        })
        .await;
    }

    /// Returns a function that tells whether the lock is held.
    #[cfg(test)]
    pub(crate) fn lock_probe(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let shared = self.0.clone();
        move || shared.state.try_lock().is_err()
    }
}

impl Drop for Feed {
    /// A feed that is dropped before the end leaves an incomplete message.
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.end.get_or_insert(Err(BodyError::Incomplete));
        let unaware = state.take_unaware();
        // Nothing else is woken from now on: the body may live on for long, and must not keep two tasks alive.
        let wakers = (state.reader.take(), state.feeder.take());
        drop(state);
        wake(unaware);
        drop(wakers);
    }
}

/// While this exists, the engine polls the service. A panic of the service ends it too.
struct Serving<'a>(&'a AtomicBool);

impl<'a> Serving<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.serving.store(true, Ordering::Relaxed);
        Self(&shared.serving)
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The service's end.
pub(super) struct Incoming {
    shared: Arc<Shared>,
    /// What was fetched from there at once, after a chunk that was returned.
    rest: Rest,
}

/// Shows whether the reader waits.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Shared>);

impl Waiting {
    pub(super) fn is_waiting(&self) -> bool {
        let state = self.0.lock();
        state.waiting && !state.has_pending()
    }
}

impl Incoming {
    pub(super) fn waiting(&self) -> Waiting {
        Waiting(self.shared.clone())
    }

    pub(super) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(chunk) = pop(&mut self.rest) {
            return Poll::Ready(Some(Ok(chunk)));
        }
        let mut registration = Registration::new(cx);
        loop {
            let mut state = self.shared.lock();
            if let Some(chunk) = state.pieces.pop() {
                // The empty queue goes back, to be filled again.
                std::mem::swap(&mut self.rest, &mut state.pieces.rest);
                state.waiting = false;
                return Poll::Ready(Some(Ok(chunk)));
            }
            if let Some(end) = &mut state.end {
                let error = std::mem::replace(end, Ok(())).err();
                state.read = true;
                state.waiting = false;
                return Poll::Ready(error.map(Err));
            }
            if registration.store(&mut state.reader) {
                let feeder = self.begin_to_wait(&mut state);
                drop(state);
                wake(feeder);
                return Poll::Pending;
            }
            drop(state);
            registration.prepare();
        }
    }

    /// Returns the feeder's waker, if the feeder has to be woken.
    fn begin_to_wait(&self, state: &mut State) -> Option<Waker> {
        let began = !std::mem::replace(&mut state.waiting, true);
        if began && !self.shared.serving.load(Ordering::Relaxed) {
            state.feeder.take()
        } else {
            None
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        pin::Pin,
        task::Wake,
    };

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn a_message_is_read_when_its_end_is_and_not_when_its_last_chunk_is() {
        let (feed, mut body) = incoming();
        let mut session = task::spawn(());
        hand_over(&feed, &mut session, "one");
        feed.finish(Ok(()));
        assert!(assert_ready!(task::spawn(body.chunk()).poll()).is_some());
        assert!(!feed.is_read());
        assert!(assert_ready!(task::spawn(body.chunk()).poll()).is_none());
        assert!(feed.is_read());
    }

    #[test]
    fn nothing_is_wanted_before_the_body_is_polled() {
        let (feed, mut body) = incoming();
        let mut engine = task::spawn(());
        assert!(engine.enter(|cx, _| feed.poll_wanted(cx)).is_pending());
        let mut chunk = task::spawn(body.chunk());
        assert_pending!(chunk.poll());
        assert!(engine.is_woken());
        assert_ready!(engine.enter(|cx, _| feed.poll_wanted(cx)));
        assert_ready!(task::spawn(feed.push(Bytes::from_static(b"one"))).poll());
        assert!(chunk.is_woken());
        assert!(engine.enter(|cx, _| feed.poll_wanted(cx)).is_pending());
        assert_eq!(assert_ready!(chunk.poll()).unwrap().unwrap(), "one");
    }

    /// Polls the service, which does nothing or asks for a chunk.
    fn serve(feed: &Feed, session: &mut Session, chunk: Option<&mut Chunk<'_>>) -> bool {
        let served = session.enter(|cx, _| {
            feed.poll_service(cx, |cx| match chunk {
                Some(chunk) => chunk.as_mut().poll(cx),
                None => Poll::Pending,
            })
        });
        matches!(served, Poll::Ready(Served::Wanted))
    }

    fn hand_over(feed: &Feed, session: &mut Session, chunk: &'static str) {
        let mut pieces = Pieces::default();
        pieces.push(Bytes::from_static(chunk.as_bytes()));
        session.enter(|cx, _| feed.hand_over(pieces, None, cx));
    }

    type Session = task::Spawn<()>;
    type Chunk<'a> = Pin<Box<dyn Future<Output = Option<Result<Bytes, BodyError>>> + 'a>>;

    #[test]
    fn a_service_that_reads_its_body_itself_wakes_nobody() {
        let (feed, mut body) = incoming();
        let mut session = task::spawn(());
        for piece in ["one", "two"] {
            // Not wanted yet: the engine sleeps, and would be woken.
            assert!(!serve(&feed, &mut session, None));
            let mut chunk: Chunk<'_> = Box::pin(body.chunk());
            assert!(serve(&feed, &mut session, Some(&mut chunk)));
            hand_over(&feed, &mut session, piece);
            let read = session.enter(|cx, _| {
                feed.poll_service(cx, |cx| chunk.as_mut().poll(cx))
                    .map(|served| match served {
                        Served::Answered(read) => read.unwrap().unwrap(),
                        Served::Wanted => panic!("it has not arrived"),
                    })
            });
            assert_eq!(assert_ready!(read), piece);
        }
        assert!(!session.is_woken());
    }

    #[test]
    fn a_reader_beside_the_session_in_its_task_wakes_the_engine_and_is_woken() {
        let (feed, mut body) = incoming();
        let mut session = task::spawn(());
        let mut chunk: Chunk<'_> = Box::pin(body.chunk());
        assert!(!serve(&feed, &mut session, None));
        // The same waker, but not within the poll of the service.
        assert_pending!(session.enter(|cx, _| chunk.as_mut().poll(cx)));
        assert!(session.is_woken());
        assert!(session.enter(|cx, _| feed.poll_wanted(cx)).is_ready());
        hand_over(&feed, &mut session, "one");
        assert!(!session.is_woken());
        assert!(!serve(&feed, &mut session, None));
        assert!(session.is_woken());
        let piece = assert_ready!(session.enter(|cx, _| chunk.as_mut().poll(cx)));
        assert_eq!(piece.unwrap().unwrap(), "one");
    }

    /// The reader was polled within the service, and is polled elsewhere in the task from then on, or the service has answered.
    #[test]
    fn a_reader_that_has_left_the_service_is_woken() {
        for answers in [false, true] {
            let (feed, mut body) = incoming();
            let mut session = task::spawn(());
            let mut chunk: Chunk<'_> = Box::pin(body.chunk());
            assert!(serve(&feed, &mut session, Some(&mut chunk)));
            hand_over(&feed, &mut session, "one");
            assert!(!session.is_woken());
            let answer = if answers {
                Poll::Ready(())
            } else {
                Poll::Pending
            };
            let served = session.enter(|cx, _| feed.poll_service(cx, |_| answer));
            assert_eq!(served.is_ready(), answers);
            if answers {
                drop(feed);
            }
            assert!(session.is_woken());
        }
    }

    #[test]
    fn a_service_that_panics_does_not_leave_the_engine_deaf() {
        let (feed, mut body) = incoming();
        let mut session = task::spawn(());
        assert!(!serve(&feed, &mut session, None));
        let panicking = AssertUnwindSafe(|| {
            session.enter(|cx, _| feed.poll_service::<()>(cx, |_| panic!("on purpose")))
        });
        assert!(catch_unwind(panicking).is_err());
        let mut session = task::spawn(());
        assert!(session.enter(|cx, _| feed.poll_wanted(cx)).is_pending());
        assert_pending!(task::spawn(body.chunk()).poll());
        assert!(session.is_woken());
    }

    /// A body may be kept for long after its message.
    #[test]
    fn a_body_whose_feed_is_gone_keeps_no_task_alive() {
        struct Task;

        impl Wake for Task {
            fn wake(self: Arc<Self>) {}
        }

        let (feed, mut body) = incoming();
        let [session, reader] = [Arc::new(Task), Arc::new(Task)];
        let alive = [Arc::downgrade(&session), Arc::downgrade(&reader)];
        let [session, reader] = [Waker::from(session), Waker::from(reader)];
        assert_pending!(feed.poll_wanted(&Context::from_waker(&session)));
        assert_pending!(body.poll_chunk(&mut Context::from_waker(&reader)));
        drop((feed, session, reader));
        assert!(alive.iter().all(|task| task.upgrade().is_none()));
    }

    #[tokio::test]
    async fn a_feed_that_is_dropped_never_ends_a_message_cleanly() {
        let (feed, mut body) = incoming();
        feed.push(Bytes::from_static(b"half")).await;
        drop(feed);
        assert_eq!(body.chunk().await.unwrap().unwrap(), "half");
        assert!(matches!(
            body.chunk().await,
            Some(Err(BodyError::Incomplete))
        ));
        assert!(body.chunk().await.is_none());
    }

    #[tokio::test]
    async fn the_end_comes_once() {
        let (feed, mut body) = incoming();
        feed.finish(Ok(()));
        feed.finish(Err(BodyError::TooLarge));
        assert!(body.chunk().await.is_none());
        assert!(body.chunk().await.is_none());
    }
}
