//! One body for several readers.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use tokio::time::Instant;

use super::{
    hub::{Hub, Next},
    pace::Patience,
};
use crate::{
    body::{Body, BodyError},
    fault::quietly,
    phase::Deadline,
    waker::Registration,
};

/// A message for several readers.
///
/// The first reader that wants a chunk receives it from the source, and the chunk is kept for the others. A reader that is
/// `ahead` bytes or more ahead of the slowest waits for it. An error ends all of them.
#[derive(Clone)]
pub(super) struct Broadcast {
    hub: Arc<Hub>,
    /// Empty while a reader polls it, and once it has ended.
    source: Arc<Mutex<Option<Body>>>,
}

/// Also returns a handle that shows whether the lock is held.
#[cfg(test)]
pub(crate) fn probed_broadcast(
    body: Body,
    readers: usize,
    ahead: usize,
) -> (Vec<Body>, impl Fn() -> bool + Send + Sync) {
    let broadcast = Broadcast::new(body, readers, ahead);
    let hub = broadcast.hub.clone();
    (broadcast.bodies(readers), move || hub.is_locked())
}

impl Broadcast {
    pub(super) fn new(body: Body, readers: usize, ahead: usize) -> Self {
        Self {
            hub: Hub::new(readers, ahead),
            source: Arc::new(Mutex::new(Some(body))),
        }
    }

    /// Returns the bodies of the readers, each with everything that the source yields.
    pub(super) fn bodies(&self, readers: usize) -> Vec<Body> {
        let reader = |number| Reader {
            broadcast: self.clone(),
            number,
        };
        (0..readers).map(reader).map(Body::new).collect()
    }

    /// Requests the message, unless a reader has done so.
    pub(super) fn begin(&self) {
        if self.hub.begin() {
            // What panics here panics again for the reader that polls it, and is reported there.
            quietly(|| {
                let _ = self.receive(None);
            });
        }
    }

    /// Ends the message for one reader, wherever its body is, with an error unless it has reached the end. The others no longer
    /// wait for it.
    pub(super) fn expel(&self, number: usize) {
        self.hub.expel(number);
    }

    /// Returns when readers will have kept the client or others waiting for too long, as far as is known.
    pub(super) fn due(&self, patience: Patience) -> Option<Instant> {
        self.hub.due(patience)
    }

    /// Returns the deadline of a reader: that of the whole message, or when this reader is overdue.
    pub(super) fn deadline(&self, number: usize, whole: Deadline, patience: Patience) -> Deadline {
        let hub = self.hub.clone();
        Deadline::of_part(move || {
            let dues = [whole.instant(), hub.due_of(number, patience)];
            dues.into_iter().flatten().min()
        })
    }

    /// Returns the readers that have kept the client or others waiting for too long. If it is the client, these are all that have
    /// something to read or have reached the end, and the client starts to wait anew.
    pub(super) fn overdue(&self, now: Instant, patience: Patience) -> Vec<usize> {
        self.hub.overdue(now, patience)
    }

    /// Polls the source for one more chunk, or the end. Only one reader does so at a time.
    fn receive(&self, number: Option<usize>) -> Poll<()> {
        let mut lease = Lease::begin(self, number);
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

impl fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast").finish_non_exhaustive()
    }
}

struct Reader {
    broadcast: Broadcast,
    number: usize,
}

impl Stream for Reader {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let hub = &self.broadcast.hub;
        let mut registration = Registration::new(cx);
        loop {
            match hub.next(self.number, &mut registration) {
                Next::Chunk(chunk) => {
                    hub.forget();
                    return Poll::Ready(Some(Ok(chunk)));
                }
                Next::End(error) => {
                    hub.leave(self.number);
                    return Poll::Ready(error.map(Err));
                }
                Next::Register => registration.prepare(),
                Next::Wait => return Poll::Pending,
                Next::Receive => ready!(self.broadcast.receive(Some(self.number))),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.broadcast.hub.leave(self.number);
    }
}

/// The exclusive use of the source, by a reader or for none of them.
struct Lease<'a> {
    broadcast: &'a Broadcast,
    number: Option<usize>,
    source: Option<Body>,
    /// `None` if the source has panicked.
    polled: Option<Poll<Option<Result<Bytes, BodyError>>>>,
}

impl<'a> Lease<'a> {
    fn begin(broadcast: &'a Broadcast, number: Option<usize>) -> Self {
        let source = broadcast.source().take();
        Self {
            broadcast,
            number,
            source,
            polled: None,
        }
    }

    /// The source wakes the hub, and so all waiting readers: the reader that polls it now may give up waiting.
    fn poll(&mut self) {
        let waker = Waker::from(self.broadcast.hub.clone());
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
            *self.broadcast.source() = self.source.take();
        }
        self.broadcast.hub.received(self.number, polled);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::{
        body::{Feed, incoming},
        router::hub::cost,
    };

    fn broadcast(body: Body, readers: usize, ahead: usize) -> Vec<Body> {
        Broadcast::new(body, readers, ahead).bodies(readers)
    }

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
