//! What the readers of a broadcast share.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Wake, Waker},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::pace::{Pace, Patience};
use crate::{body::BodyError, waker::Registration};

/// The state that readers share, apart from the source. It is the waker of the source, so it must not own the source.
pub(super) struct Hub(Mutex<State>);

struct State {
    /// Received chunks that not all readers have read yet.
    chunks: VecDeque<Bytes>,
    /// How many chunks came before these.
    taken: usize,
    /// The memory that the chunks use.
    cost: usize,
    ahead: usize,
    end: Option<Result<(), BodyError>>,
    places: Vec<Place>,
    /// Whether the source was polled.
    begun: bool,
    /// Whether it is polled now.
    receiving: bool,
    /// Whether the source has woken the hub since.
    woken: bool,
    pace: Pace,
}

/// Where a reader is.
enum Place {
    Reading(Position),
    /// It was told that there is no more for it, or will be told so.
    Expelled,
    /// It has reached the end, or was dropped.
    Left,
}

struct Position {
    /// The number of the next chunk to read.
    next: usize,
    /// When it took the last one, if another was waiting for room.
    moved: Option<Instant>,
    /// Whether it has found nothing, or polls the source.
    waiting: bool,
    /// Only woken while it is waiting; otherwise kept to save cloning it again.
    waker: Option<Waker>,
}

/// What a reader does next.
pub(super) enum Next {
    Chunk(Bytes),
    End(Option<BodyError>),
    /// Clone the waker first.
    Register,
    Wait,
    Receive,
}

impl Hub {
    pub(super) fn new(readers: usize, ahead: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            chunks: VecDeque::new(),
            taken: 0,
            cost: 0,
            ahead,
            end: None,
            places: (0..readers).map(|_| Place::default()).collect(),
            begun: false,
            receiving: false,
            woken: false,
            pace: Pace::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the lock is held.
    #[cfg(test)]
    pub(super) fn is_locked(&self) -> bool {
        self.0.try_lock().is_err()
    }

    /// Returns what a reader does next.
    pub(super) fn next(&self, number: usize, registration: &mut Registration<'_>) -> Next {
        self.lock().next(number, registration)
    }

    /// Returns whether the source has to be polled because no reader has done so.
    pub(super) fn begin(&self) -> bool {
        self.lock().begin()
    }

    /// See [`Broadcast::expel`](super::broadcast::Broadcast::expel).
    pub(super) fn expel(&self, number: usize) {
        let mut state = self.lock();
        let place = state.places.get_mut(number);
        let position = match place {
            Some(place) if place.is_reading() => std::mem::replace(place, Place::Expelled),
            _ => return,
        };
        state.settle();
        drop(state);
        if let Place::Reading(Position {
            waker: Some(waker), ..
        }) = position
        {
            waker.wake();
        }
        self.forget();
    }

    /// See [`Broadcast::due`](super::broadcast::Broadcast::due).
    pub(super) fn due(&self, patience: Patience) -> Option<Instant> {
        let state = self.lock();
        let client = state.pace.due(patience);
        let readers = state.places.iter();
        readers
            .filter_map(|place| state.due_of(place, patience))
            .chain(client)
            .min()
    }

    /// Returns when this reader will be overdue. While it waits, only others can be.
    pub(super) fn due_of(&self, number: usize, patience: Patience) -> Option<Instant> {
        let state = self.lock();
        let place = state.places.get(number)?;
        let client = state.pace.due(patience).filter(|_| !place.is_waiting());
        let others = state.due_of(place, patience);
        client.into_iter().chain(others).min()
    }

    /// See [`Broadcast::overdue`](super::broadcast::Broadcast::overdue).
    pub(super) fn overdue(&self, now: Instant, patience: Patience) -> Vec<usize> {
        let mut state = self.lock();
        let for_client = state.pace.due(patience).is_some_and(|due| due <= now);
        let is_late = |place: &Place| {
            let due = state.due_of(place, patience);
            due.is_some_and(|due| due <= now) || for_client && !place.is_waiting()
        };
        let places = state.places.iter().enumerate();
        let late = places.filter(|(_, place)| is_late(place));
        let late = late.map(|(number, _)| number).collect();
        if for_client {
            state.pace.restart(now);
        }
        late
    }

    /// Stores what a reader has received from the source.
    pub(super) fn received(
        &self,
        number: Option<usize>,
        polled: Option<Poll<Option<Result<Bytes, BodyError>>>>,
    ) {
        let mut state = self.lock();
        state.receiving = false;
        let woken = std::mem::take(&mut state.woken);
        let pending = matches!(polled, Some(Poll::Pending));
        if pending && !woken {
            state.pace.client_goes_on();
        } else {
            state.pace.client_waits();
        }
        if let Some(Poll::Ready(item)) = polled {
            state.push(item);
            // This reader continues at once.
            let place = number.and_then(|number| state.places.get_mut(number));
            if let Some(Place::Reading(position)) = place {
                position.waiting = false;
            }
        }
        drop(state);
        if woken || !pending {
            self.wake_all();
        }
    }

    pub(super) fn leave(&self, number: usize) {
        let mut state = self.lock();
        let place = state.places.get_mut(number);
        let place = place.map(|place| std::mem::replace(place, Place::Left));
        state.settle();
        drop(state);
        // Dropped outside of the lock: it may hold a waker.
        drop(place);
        self.forget();
    }

    /// Drops the chunks that all readers have read. One at a time, because they must not be dropped under the lock.
    pub(super) fn forget(&self) {
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
            let Some(place) = state.places.get_mut(number) else {
                break;
            };
            let waker = place.take_waker();
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
        state.pace.client_waits();
        drop(state);
        self.wake_all();
    }
}

impl State {
    fn next(&mut self, number: usize, registration: &mut Registration<'_>) -> Next {
        let full = self.is_full();
        let position = match self.places.get_mut(number) {
            Some(Place::Reading(position)) => position,
            // Never the end of a message that is not over.
            Some(Place::Expelled) => return Next::End(Some(BodyError::Incomplete)),
            _ => return Next::End(None),
        };
        if let Some(chunk) = self.chunks.get(position.next - self.taken) {
            position.next += 1;
            position.moved = self.pace.is_reader_waiting().then(Instant::now);
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
        if full {
            self.pace.reader_waits();
        }
        if full || self.receiving {
            return Next::Wait;
        }
        self.begun = true;
        self.receiving = true;
        Next::Receive
    }

    fn begin(&mut self) -> bool {
        let begins = !std::mem::replace(&mut self.begun, true);
        self.receiving |= begins;
        begins
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

    /// Returns whether a reader waits for the slowest.
    fn is_stuck(&self) -> bool {
        self.is_full() && self.places.iter().any(Place::is_waiting)
    }

    /// Forgets since when readers wait for room, if none does any longer.
    fn settle(&mut self) {
        if !self.is_stuck() {
            self.pace.readers_go_on();
        }
    }

    /// Returns when this reader will have kept others waiting for too long, if one waits and this one does not.
    fn due_of(&self, place: &Place, patience: Patience) -> Option<Instant> {
        let position = place.position().filter(|position| !position.waiting)?;
        self.pace.due_of(position.moved, patience)
    }

    /// Removes the first chunk if no reader needs it.
    fn pop_taken(&mut self) -> Option<Bytes> {
        let positions = self.places.iter().filter_map(Place::position);
        let slowest = positions.map(|position| position.next).min();
        if slowest.is_some_and(|slowest| slowest <= self.taken) {
            return None;
        }
        let chunk = self.chunks.pop_front()?;
        self.cost -= cost(&chunk);
        self.taken += 1;
        self.settle();
        Some(chunk)
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::Reading(Position {
            next: 0,
            moved: None,
            waiting: false,
            waker: None,
        })
    }
}

impl Place {
    const fn position(&self) -> Option<&Position> {
        match self {
            Self::Reading(position) => Some(position),
            _ => None,
        }
    }

    const fn is_reading(&self) -> bool {
        matches!(self, Self::Reading(_))
    }

    /// Returns whether the reader was told that there is nothing for it, and nothing has come since.
    fn is_waiting(&self) -> bool {
        self.position().is_some_and(|position| position.waiting)
    }

    fn take_waker(&mut self) -> Option<Waker> {
        match self {
            Self::Reading(position) => position.take_waker(),
            _ => None,
        }
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
pub(super) const fn cost(chunk: &Bytes) -> usize {
    chunk.len() + size_of::<Bytes>()
}
