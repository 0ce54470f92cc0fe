use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::{Body, BodyError, Source};

/// The two ends of a message on its way: the engine feeds it, the service reads it.
///
/// Mostly both run in one task and poll each other in turn, so a piece is handed over through one short lock, without a
/// channel and without waking anybody.
pub(crate) fn incoming() -> (Feed, Body) {
    let shared = Arc::new(Shared(Mutex::default()));
    (
        Feed(shared.clone()),
        Source::Incoming(Incoming {
            shared,
            pieces: Pieces::default(),
        })
        .into(),
    )
}

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    pieces: Pieces,
    end: Option<Result<(), BodyError>>,
    /// The reader has found nothing and waits.
    wanted: bool,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

/// Pieces in their order. Mostly there is one, which needs no queue.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    first: Option<Bytes>,
    rest: VecDeque<Bytes>,
}

impl Pieces {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if self.is_empty() {
            self.first = Some(piece);
        } else {
            self.rest.push_back(piece);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    /// Whether they are so many that they cost more than their bytes: a message of dots comes in pieces of a few bytes.
    pub(crate) fn are_many(&self) -> bool {
        const MANY: usize = 512;
        self.rest.len() >= MANY
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.first.take().or_else(|| self.rest.pop_front())
    }

    fn append(&mut self, mut others: Self) {
        if self.is_empty() {
            *self = others;
            return;
        }
        while let Some(piece) = others.pop() {
            self.push(piece);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine's end.
pub(crate) struct Feed(Arc<Shared>);

impl Feed {
    /// Calls that, which polls the service that reads the message.
    pub(crate) fn polling<T>(&self, poll: impl FnOnce() -> T) -> T {
        poll()
    }

    /// Ready when the reader waits for a piece.
    pub(crate) fn poll_wanted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.wanted {
            return Poll::Ready(());
        }
        keep(&mut state.feeder, cx);
        Poll::Pending
    }

    /// Hands pieces over, and perhaps the end. The caller polls the service next, so its own task is not woken for that.
    pub(crate) fn hand_over(
        &self,
        pieces: Pieces,
        end: Option<Result<(), BodyError>>,
        cx: &Context<'_>,
    ) {
        let mut state = self.0.lock();
        state.pieces.append(pieces);
        state.end = state.end.take().or(end);
        wake_reader(state, Some(cx));
    }

    /// Ends the message, unless it has ended.
    pub(crate) fn finish(&self, result: Result<(), BodyError>) {
        let mut state = self.0.lock();
        state.end.get_or_insert(result);
        wake_reader(state, None);
    }

    /// Hands one piece over.
    #[cfg(test)]
    pub(crate) async fn push(&self, piece: Bytes) {
        let mut pieces = Pieces::default();
        pieces.push(piece);
        std::future::poll_fn(|cx| {
            self.hand_over(std::mem::take(&mut pieces), None, cx);
            Poll::Ready(())
        })
        .await;
    }
}

impl Drop for Feed {
    /// A feed that goes away before the end leaves half a message.
    fn drop(&mut self) {
        self.finish(Err(BodyError::Incomplete));
    }
}

/// The service's end.
pub(super) struct Incoming {
    shared: Arc<Shared>,
    /// What has been taken out of there at once.
    pieces: Pieces,
}

impl Incoming {
    pub(super) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(piece) = self.pieces.pop() {
            return Poll::Ready(Some(Ok(piece)));
        }
        let mut state = self.shared.lock();
        std::mem::swap(&mut self.pieces, &mut state.pieces);
        if let Some(piece) = self.pieces.pop() {
            return Poll::Ready(Some(Ok(piece)));
        }
        match &mut state.end {
            Some(end) => Poll::Ready(std::mem::replace(end, Ok(())).err().map(Err)),
            None => {
                state.wanted = true;
                keep(&mut state.reader, cx);
                if let Some(feeder) = state
                    .feeder
                    .take()
                    .filter(|feeder| !feeder.will_wake(cx.waker()))
                {
                    drop(state);
                    feeder.wake();
                }
                Poll::Pending
            }
        }
    }
}

fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if slot
        .as_ref()
        .is_none_or(|waker| !waker.will_wake(cx.waker()))
    {
        *slot = Some(cx.waker().clone());
    }
}

fn wake_reader(mut state: MutexGuard<'_, State>, polled_next: Option<&Context<'_>>) {
    state.wanted = false;
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) =
        reader.filter(|reader| polled_next.is_none_or(|cx| !reader.will_wake(cx.waker())))
    {
        reader.wake();
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

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
