use std::{pin::Pin, sync::Arc, time::SystemTime};

use super::{Durability, Job, Outcome, QueueError};
use crate::{body::Spooled, session::QueueId};

/// The future that a [`Store`] returns.
pub type StoreFuture<T> = Pin<Box<dyn Future<Output = Result<T, QueueError>> + Send>>;

/// Where messages wait for their delivery.
///
/// A message is leased before it is delivered, and settled afterwards. A lease ends at its deadline, so that whoever fails to settle
/// loses the lease and not the message: it is leased again then. So each message is delivered at least once.
///
/// [`FileStore`](super::FileStore) is the store of this crate. It can be used as `Arc<dyn Store>`.
pub trait Store: Send + Sync + 'static {
    /// Returns what a message outlives once it is [put](Self::put).
    fn durability(&self) -> Durability;

    /// Adds a message. Completes when it is as durable as [`durability`](Self::durability) says, and returns its id, which is not
    /// that of the job if another message has that one.
    ///
    /// If the future is dropped before it completes, the message may be in the store or not.
    fn put(&self, job: Job, message: Spooled) -> StoreFuture<QueueId>;

    /// Leases up to `most` messages that are due at `now`, until a deadline: first those of the highest
    /// [priority](Job::priority), and among these first those that have been due for longest. Messages that are held or leased
    /// are not among them.
    ///
    /// A message that cannot be read is logged and left out, and comes again after the deadline. If the future is dropped, its
    /// leases end at the deadline.
    fn lease(&self, now: SystemTime, most: usize, until: SystemTime) -> StoreFuture<Vec<Leased>>;

    /// Moves the deadline of a lease, for a delivery that takes longer.
    ///
    /// # Errors
    ///
    /// [`QueueError::LeaseLost`] if the message has been leased again, or deleted.
    fn renew(&self, leased: &Leased, until: SystemTime) -> StoreFuture<()>;

    /// Records the results of an attempt, each with the position of its recipient in the envelope, and ends the lease. A recipient
    /// without a result stays as it is. When no recipient is pending, the message is removed.
    ///
    /// # Errors
    ///
    /// [`QueueError::LeaseLost`] if the message has been leased again, or deleted.
    fn settle(&self, leased: Leased, outcomes: Vec<(usize, Outcome)>) -> StoreFuture<()>;

    /// Returns when the next message is due or the next lease ends, if there is any.
    fn next_due(&self) -> StoreFuture<Option<SystemTime>>;

    /// Returns a future that completes when a message was added or released after this call, so that something may be due before
    /// [`next_due`](Self::next_due) had said.
    fn changed(&self) -> StoreFuture<()>;
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn durability(&self) -> Durability {
        (**self).durability()
    }

    fn put(&self, job: Job, message: Spooled) -> StoreFuture<QueueId> {
        (**self).put(job, message)
    }

    fn lease(&self, now: SystemTime, most: usize, until: SystemTime) -> StoreFuture<Vec<Leased>> {
        (**self).lease(now, most, until)
    }

    fn renew(&self, leased: &Leased, until: SystemTime) -> StoreFuture<()> {
        (**self).renew(leased, until)
    }

    fn settle(&self, leased: Leased, outcomes: Vec<(usize, Outcome)>) -> StoreFuture<()> {
        (**self).settle(leased, outcomes)
    }

    fn next_due(&self) -> StoreFuture<Option<SystemTime>> {
        (**self).next_due()
    }

    fn changed(&self) -> StoreFuture<()> {
        (**self).changed()
    }
}

/// A message that is leased. To drop it has no effect: the lease ends at its deadline.
#[derive(Clone, Debug)]
pub struct Leased {
    job: Job,
    message: Spooled,
    token: u64,
}

impl Leased {
    /// Creates a lease, for a store of your own. The token tells it from earlier leases of the same message.
    pub const fn new(job: Job, message: Spooled, token: u64) -> Self {
        Self {
            job,
            message,
            token,
        }
    }

    /// Returns the message without its bytes.
    pub const fn job(&self) -> &Job {
        &self.job
    }

    /// Returns the bytes of the message.
    pub const fn message(&self) -> &Spooled {
        &self.message
    }

    /// Returns what tells this lease from others, which only its store understands.
    pub const fn token(&self) -> u64 {
        self.token
    }
}
