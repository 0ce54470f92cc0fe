//! Lines that wait to be written. Adding one never waits for the writer.

use std::{
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How many bytes may wait. At 20,000 lines a second it is a second's worth.
const LIMIT: usize = 4 << 20;

/// How much memory is kept from one batch to the next.
const KEPT: usize = 64 << 10;

/// A bounded queue of lines, from any number of threads that log to one that writes.
///
/// A line that does not fit is counted and dropped, and so are all after it until the writer takes the next batch:
/// lines are lost in one place, where [`Batch::lost`] says how many.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    batch: Batch,
    closed: bool,
    /// Whether the writer has lines that it has not written yet.
    writing: bool,
    /// How many bytes the writer sleeps for. A wake-up is a system call, and is spared where nobody sleeps.
    wake_at: Option<usize>,
}

/// Lines in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Whole lines, each with its end.
    pub(crate) lines: Vec<u8>,
    /// How many lines were dropped after these.
    pub(crate) lost: u64,
}

impl Queue {
    /// Adds one line, or counts it as lost.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let batch = &mut state.batch;
        if batch.lost > 0 || batch.lines.len() + line.len() > LIMIT {
            batch.lost += 1;
        } else {
            batch.lines.extend_from_slice(line);
        }
        let is_due = |at: &mut usize| batch.lost > 0 || batch.lines.len() >= *at;
        if state.wake_at.take_if(is_due).is_some() {
            drop(guard);
            self.wake.notify_one();
        }
    }

    /// Waits for lines and takes all. Returns whether there are any; once the queue is closed there may be none.
    pub(crate) fn take(&self, batch: &mut Batch) -> bool {
        batch.lines.clear();
        batch.lines.shrink_to(KEPT);
        batch.lost = 0;
        let mut state = self.lock();
        state.wake_at = Some(1);
        let is_idle = |state: &mut State| state.batch.is_empty() && !state.closed;
        let waited = self.wake.wait_while(state, is_idle);
        state = waited.unwrap_or_else(PoisonError::into_inner);
        state.wake_at = None;
        mem::swap(&mut state.batch, batch);
        state.writing = !batch.is_empty();
        state.writing
    }

    /// Waits while lines gather, for that long or until the queue is half full or closed.
    pub(crate) fn gather(&self, time: Duration) {
        let mut state = self.lock();
        state.writing = false;
        self.written.notify_all();
        state.wake_at = Some(LIMIT / 2);
        let is_early = |state: &mut State| {
            state.batch.lines.len() < LIMIT / 2 && state.batch.lost == 0 && !state.closed
        };
        let waited = self.wake.wait_timeout_while(state, time, is_early);
        waited.unwrap_or_else(PoisonError::into_inner).0.wake_at = None;
    }

    /// Waits until no line waits to be written any more, but no longer than that.
    pub(crate) fn wait_until_written(&self, time: Duration) {
        let state = self.lock();
        let is_open = |state: &mut State| state.writing || !state.batch.is_empty();
        drop(self.written.wait_timeout_while(state, time, is_open));
    }

    /// Lets the writer end once it has written everything.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Nothing in here panics, but the lock outlives a thread that does elsewhere.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.lost == 0
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted_and_no_memory_is_taken_for_them() {
        let queue = Queue::default();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..LIMIT / line.len() + 7 {
            queue.push(&line);
        }
        let mut batch = Batch::default();
        assert!(queue.take(&mut batch));
        assert_eq!((batch.lines.len(), batch.lost), (LIMIT, 7));
        assert!(batch.lines.capacity() <= 2 * LIMIT);
        queue.push(b"next\n");
        assert!(queue.take(&mut batch));
        assert_eq!((&*batch.lines, batch.lost), (&b"next\n"[..], 0));
    }

    #[test]
    fn the_wait_for_lines_ends_when_they_are_written() {
        const LEAST: Duration = Duration::from_millis(20);
        let queue = Queue::default();
        let waits = || {
            let begun = Instant::now();
            queue.wait_until_written(LEAST);
            begun.elapsed() >= LEAST
        };
        queue.wait_until_written(Duration::MAX);
        queue.push(b"line\n");
        assert!(waits(), "nobody has taken the line");
        thread::scope(|scope| {
            scope.spawn(|| queue.wait_until_written(Duration::MAX));
            let mut batch = Batch::default();
            assert!(queue.take(&mut batch));
            assert!(waits(), "the line is not written");
            queue.gather(Duration::ZERO);
        });
    }

    #[test]
    fn lines_are_lost_in_one_place_only() {
        let queue = Queue::default();
        queue.push(&vec![b'x'; LIMIT + 1]);
        queue.push(b"short\n");
        let mut batch = Batch::default();
        assert!(queue.take(&mut batch));
        assert_eq!((&*batch.lines, batch.lost), (&b""[..], 2));
    }

    #[test]
    fn a_closed_queue_gives_what_it_has_and_then_nothing() {
        let queue = Queue::default();
        queue.push(b"last\n");
        queue.close();
        queue.gather(Duration::MAX);
        let mut batch = Batch::default();
        assert!(queue.take(&mut batch));
        assert_eq!(batch.lines, b"last\n");
        assert!(!queue.take(&mut batch));
    }

    #[test]
    fn a_sleeping_writer_is_woken_by_a_line_by_a_loss_and_by_the_end() {
        let wakers: [fn(&Queue); 3] = [
            |queue| queue.push(b"line\n"),
            |queue| queue.push(&vec![b'x'; LIMIT + 1]),
            Queue::close,
        ];
        for wake in wakers {
            let queue = Queue::default();
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| queue.take(&mut Batch::default()));
                while queue.lock().wake_at.is_none() {
                    std::thread::yield_now();
                }
                wake(&queue);
                writer.join().unwrap();
            });
        }
    }
}
