//! The thread of the writer, and what waits for it.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    change::{Change, Op},
    writer::Writer,
};
use crate::{fault::caught, queue::QueueError, session::QueueId};

/// How many operations may wait. More wait for their turn without any memory of the writer.
const MOST: usize = 1024;
/// How many bytes of messages are written before the first of them are synced, about.
const GROUP: u64 = 8 << 20;

pub(super) struct Inbox {
    state: Mutex<State>,
    /// Wakes the writer.
    wake: Condvar,
    room: Arc<Semaphore>,
    ended: Notify,
}

#[derive(Default)]
struct State {
    ops: VecDeque<(Op, OwnedSemaphorePermit)>,
    closed: bool,
    ended: bool,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(MOST)),
            ended: Notify::new(),
        }
    }

    pub(super) async fn send(
        &self,
        id: QueueId,
        change: Change,
        answer: oneshot::Sender<Result<QueueId, QueueError>>,
    ) -> Result<(), QueueError> {
        let room = self.room.clone().acquire_owned().await;
        let room = room.map_err(|_| QueueError::Closed)?;
        let mut state = self.state();
        if state.closed {
            return Err(QueueError::Closed);
        }
        state.ops.push_back((Op { id, change, answer }, room));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Accepts nothing more. What waits is still written.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Waits until the writer has ended.
    pub(super) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.state().ended {
                return;
            }
            ended.await;
        }
    }

    /// Waits for operations. Returns none if something has to be synced, and `None` at the end.
    fn next(&self, writer: &Writer) -> Option<Vec<Op>> {
        let mut state = self.state();
        while state.ops.is_empty() {
            if state.closed {
                return None;
            }
            state = match writer.patience() {
                Some(left) if left.is_zero() => return Some(Vec::new()),
                Some(left) => {
                    let waited = self.wake.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.wake.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
        Some(state.group())
    }

    /// Fails all that waits and all that comes.
    fn end(&self) {
        let mut state = self.state();
        (state.closed, state.ended) = (true, true);
        let left = std::mem::take(&mut state.ops);
        drop(state);
        drop(left);
        self.ended.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn group(&mut self) -> Vec<Op> {
        let mut bytes = 0;
        let mut group = Vec::new();
        while bytes < GROUP
            && let Some((op, _room)) = self.ops.pop_front()
        {
            bytes += match &op.change {
                Change::Put { message, .. } => message.len(),
                _ => 0,
            };
            group.push(op);
        }
        group
    }
}

/// Starts the thread of a writer.
pub(super) fn start(mut writer: Writer) -> io::Result<()> {
    let run = move || {
        let shared = writer.shared.clone();
        // A panic must leave nobody waiting.
        if let Err(panic) = caught(|| run(&mut writer)) {
            tracing::error!(panic = %panic.escape_debug(), "the writer of the queue panicked");
        }
        drop(writer); // The directory is unlocked.
        shared.inbox.end();
    };
    let thread = thread::Builder::new().name("smtpd-queue".to_owned());
    thread.spawn(run).map(drop)
}

fn run(writer: &mut Writer) {
    let shared = writer.shared.clone();
    while let Some(ops) = shared.inbox.next(writer) {
        writer.commit(ops);
    }
    if let Err(error) = writer.end() {
        tracing::error!(%error, "the queue cannot sync its last records");
    }
}
