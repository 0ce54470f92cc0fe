//! One body for several readers.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_core::Stream;

use crate::{Body, BodyError};

/// As many bodies, all with what that one brings.
///
/// The first of them that wants a piece gets it from the source, and it is kept for the others. Whoever is ahead of the
/// slowest by `ahead` octets or more waits for it. An error ends them all.
pub(super) fn broadcast(body: Body, readers: usize, ahead: usize) -> Vec<Body> {
    let state = State {
        source: body,
        pieces: VecDeque::new(),
        taken: 0,
        octets: 0,
        ahead,
        end: None,
        readers: (0..readers).map(|_| Some(Place::default())).collect(),
        woken: Vec::new(),
    };
    let shared = Arc::new(Shared(Mutex::new(state)));
    let reader = |number| Reader {
        shared: shared.clone(),
        number,
    };
    (0..readers).map(reader).map(Body::new).collect()
}

struct Reader {
    shared: Arc<Shared>,
    number: usize,
}

struct Shared(Mutex<State>);

struct State {
    source: Body,
    /// What has come, and was not taken by all readers.
    pieces: VecDeque<Bytes>,
    /// How many pieces came before these.
    taken: usize,
    /// What the pieces cost in memory.
    octets: usize,
    ahead: usize,
    end: Option<Result<(), BodyError>>,
    /// Those that have not come to the end.
    readers: Vec<Option<Place>>,
    /// Whom to wake when the lock is given back.
    woken: Vec<Waker>,
}

#[derive(Default)]
struct Place {
    /// The number of the piece that it takes next.
    next: usize,
    waker: Option<Waker>,
}

impl Stream for Reader {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.shared.with(|state| state.poll(self.number, cx))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.with(|state| {
            // It may have been the one that the source wakes.
            state.wake_all();
            state.leave(self.number);
        });
    }
}

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut state);
        let woken = std::mem::take(&mut state.woken);
        drop(state);
        // Not under the lock: whoever is woken may drop a reader at once.
        woken.into_iter().for_each(Waker::wake);
        result
    }
}

impl State {
    fn poll(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(Some(place)) = self.readers.get_mut(number) else {
            return Poll::Ready(None);
        };
        let position = place.next - self.taken;
        if position == self.pieces.len() && self.end.is_none() {
            let full = !self.pieces.is_empty() && self.octets >= self.ahead;
            if full || self.receive(cx).is_pending() {
                self.wait(number, cx);
                return Poll::Pending;
            }
        }
        let piece = self.pieces.get(position).cloned();
        if let Some(piece) = piece {
            self.advance(number);
            return Poll::Ready(Some(Ok(piece)));
        }
        self.leave(number);
        let error = self.end.clone().and_then(Result::err);
        Poll::Ready(error.map(Err))
    }

    /// Gets one more piece, or the end.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match std::task::ready!(Pin::new(&mut self.source).poll_next(cx)) {
            Some(Ok(piece)) => {
                self.octets += cost(&piece);
                self.pieces.push_back(piece);
            }
            Some(Err(error)) => self.end = Some(Err(error)),
            None => self.end = Some(Ok(())),
        }
        self.wake_all();
        Poll::Ready(())
    }

    fn wait(&mut self, number: usize, cx: &Context<'_>) {
        if let Some(Some(place)) = self.readers.get_mut(number) {
            place.waker = Some(cx.waker().clone());
        }
    }

    fn advance(&mut self, number: usize) {
        if let Some(Some(place)) = self.readers.get_mut(number) {
            place.next += 1;
        }
        self.forget();
    }

    fn leave(&mut self, number: usize) {
        if let Some(place) = self.readers.get_mut(number) {
            *place = None;
        }
        self.forget();
    }

    /// Drops the pieces that all readers have taken.
    fn forget(&mut self) {
        let places = self.readers.iter().flatten();
        let Some(slowest) = places.map(|place| place.next).min() else {
            self.pieces.clear();
            return;
        };
        let full = self.octets >= self.ahead;
        while self.taken < slowest {
            let Some(piece) = self.pieces.pop_front() else {
                break;
            };
            self.octets -= cost(&piece);
            self.taken += 1;
        }
        if full && (self.octets < self.ahead || self.pieces.is_empty()) {
            self.wake_all();
        }
    }

    fn wake_all(&mut self) {
        let places = self.readers.iter_mut().flatten();
        self.woken
            .extend(places.filter_map(|place| place.waker.take()));
    }
}

/// Also of the smallest piece, for a message may come octet by octet.
const fn cost(piece: &Bytes) -> usize {
    piece.len() + size_of::<Bytes>()
}

#[cfg(test)]
mod tests {
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

    async fn piece(body: &mut Body) -> Bytes {
        body.chunk().await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn nothing_is_asked_for_before_a_reader_asks() {
        let (feed, [mut one, mut two]) = several(100);
        let mut engine = task::spawn(());
        assert_pending!(engine.enter(|cx, _| feed.poll_wanted(cx)));
        let mut first = task::spawn(one.chunk());
        assert_pending!(first.poll());
        assert_ready!(engine.enter(|cx, _| feed.poll_wanted(cx)));
        push(&feed, "piece").await;
        assert!(first.is_woken());
        assert_eq!(assert_ready!(first.poll()).unwrap().unwrap(), "piece");
        assert_pending!(engine.enter(|cx, _| feed.poll_wanted(cx)));
        assert_eq!(piece(&mut two).await, "piece");
    }

    #[tokio::test]
    async fn a_reader_that_found_nothing_is_woken_when_another_gets_a_piece() {
        let (feed, [mut one, mut two]) = several(100);
        let mut first = task::spawn(one.chunk());
        assert_pending!(first.poll());
        let mut second = task::spawn(two.chunk());
        assert_pending!(second.poll());
        push(&feed, "piece").await;
        assert_ready!(second.poll());
        assert!(first.is_woken());
        assert_eq!(assert_ready!(first.poll()).unwrap().unwrap(), "piece");
    }

    #[tokio::test]
    async fn a_reader_waits_for_the_slowest_until_that_goes_on_or_away() {
        for goes_away in [false, true] {
            // One piece costs more than that.
            let (feed, [mut fast, mut slow]) = several(1);
            push(&feed, "one").await;
            push(&feed, "two").await;
            assert_eq!(piece(&mut fast).await, "one");
            let mut next = task::spawn(fast.chunk());
            assert_pending!(next.poll());
            if goes_away {
                drop(slow);
            } else {
                assert_eq!(piece(&mut slow).await, "one");
            }
            assert!(next.is_woken());
            assert_eq!(assert_ready!(next.poll()).unwrap().unwrap(), "two");
        }
    }

    #[tokio::test]
    async fn a_reader_is_woken_where_the_one_that_the_source_would_wake_goes_away() {
        let (feed, [mut one, mut two]) = several(100);
        let mut first = task::spawn(one.chunk());
        assert_pending!(first.poll());
        assert_pending!(task::spawn(two.chunk()).poll());
        drop(two);
        assert!(first.is_woken());
        assert_pending!(first.poll());
        push(&feed, "piece").await;
        assert!(first.is_woken());
    }

    #[tokio::test]
    async fn an_error_comes_once_to_each_behind_all_pieces() {
        let (feed, bodies) = several::<3>(100);
        push(&feed, "half").await;
        drop(feed);
        for mut body in bodies {
            assert_eq!(piece(&mut body).await, "half");
            assert!(matches!(
                body.chunk().await,
                Some(Err(BodyError::Incomplete))
            ));
            assert!(body.chunk().await.is_none());
            assert!(body.chunk().await.is_none());
        }
    }

    #[tokio::test]
    async fn each_gets_all_in_whatever_order_they_read() {
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
                if let Poll::Ready(Some(piece)) = task::spawn(bodies[reader].chunk()).poll() {
                    got[reader].push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
                }
                let lengths = got.iter().map(String::len);
                let apart = lengths.clone().max().unwrap() - lengths.min().unwrap();
                assert!(apart * (1 + size_of::<Bytes>()) <= most, "{got:?}");
            }
            assert_eq!(got, [TEXT; 3]);
        }
    }
}
