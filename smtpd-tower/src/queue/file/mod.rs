mod append;
mod change;
mod committer;
mod disk;
mod frame;
mod index;
mod reading;
mod scan;
#[cfg(test)]
mod tests;
mod tidy;
mod writer;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::{oneshot, watch};

use self::{
    change::Change,
    committer::Inbox,
    disk::{Directory, Disk},
    index::Index,
    writer::Writer,
};
use super::{
    Durability, Job, Leased, Outcome, QueueError, Store, StoreFuture, codec,
    job::{millis, time},
};
use crate::{body::Spooled, disk::DiskPermits, session::QueueId};

/// The size at which a segment is full.
const SEGMENT: u64 = 64 << 20;

/// Keeps messages in the files of a directory, each synced to disk when [`put`](Store::put) completes.
///
/// [The module](super) describes the files. Clones share the store, and its writer, a thread, ends with the last of them, or with
/// [`close`](Self::close). One process can open a directory at a time.
///
/// ```
/// use smtpd_tower::{
///     Body, Envelope, Session,
///     queue::{FileStore, Job, Store},
///     session::SessionFacts,
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("queue");
/// let store = FileStore::open(&path).await?;
/// let envelope = Envelope::default().with_recipient("b@example.org".parse()?);
/// let job = Job::new(SessionFacts::from(&Session::local()), envelope);
/// let message = Body::from("Subject: hi\r\n\r\nHello\r\n").spool(1024).await?;
/// let id = store.put(job, message).await?;
/// store.close().await;
///
/// // After a restart.
/// let store = FileStore::open(&path).await?;
/// store.hold(&id).await?;
/// let held = store.list(None, 10);
/// assert!(held[0].is_held);
/// assert_eq!(held[0].bytes, 22);
/// let (job, message) = store.show(&id).await?;
/// assert_eq!(job.envelope().recipients()[0].path().as_str(), "b@example.org");
/// assert_eq!(message.body().collect().await?, "Subject: hi\r\n\r\nHello\r\n");
///
/// store.delete(&id).await?;
/// assert_eq!(store.stats().messages, 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FileStore(Arc<Handle>);

/// Ends the writer when the last of the handles is dropped.
struct Handle {
    shared: Arc<Shared>,
    permits: DiskPermits,
}

/// What the handles and the writer share.
struct Shared {
    index: Mutex<Index>,
    inbox: Inbox,
    /// A message was added or released.
    changed: watch::Sender<()>,
    #[cfg(feature = "metrics")]
    meters: std::sync::OnceLock<crate::meter::StoreMeters>,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.inbox.close();
    }
}

/// A message in the queue, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueEntry {
    /// Its id.
    pub id: QueueId,
    /// When it was put into the queue.
    pub created: SystemTime,
    /// When the next attempt is due.
    pub due: SystemTime,
    /// Its size in bytes.
    pub bytes: u64,
    /// For how many recipients it is to be delivered.
    pub pending: u32,
    /// Whether it is held.
    pub is_held: bool,
    /// Whether it is leased.
    pub is_leased: bool,
}

/// How much is in the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// The number of messages.
    pub messages: usize,
    /// How many of them are held.
    pub held: usize,
    /// How many of them are leased.
    pub leased: usize,
    /// The bytes of all messages.
    pub bytes: u64,
    /// The bytes of all segments on disk.
    pub disk_bytes: u64,
    /// When the oldest message was put into the queue.
    pub oldest: Option<SystemTime>,
    /// How many damaged parts of segments were found when the queue was opened.
    pub damaged: u64,
}

impl FileStore {
    /// Opens a directory, which is created for its owner alone unless it exists. The one above must exist.
    ///
    /// Reads all segments. What a crash has interrupted is removed, and what is damaged is set aside; see [the
    /// module](super#when-something-breaks).
    ///
    /// # Errors
    ///
    /// [`QueueError::InUse`] if the directory is open already, and [`QueueError::Io`] if it cannot be read.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, QueueError> {
        let (path, permits) = (path.into(), DiskPermits::shared());
        let opened = permits.run(move || Self::start(Box::new(Directory::open(&path)?), SEGMENT));
        let opened = opened.await;
        opened.unwrap_or_else(|error| Err(QueueError::io("open", error)))
    }

    /// Reads the disk, and starts the writer.
    fn start(disk: Box<dyn Disk>, segment_size: u64) -> Result<Self, QueueError> {
        let index = scan::open(&*disk).map_err(|error| QueueError::io("read", error))?;
        let shared = Arc::new(Shared {
            index: Mutex::new(index),
            inbox: Inbox::new(),
            changed: watch::Sender::default(),
            #[cfg(feature = "metrics")]
            meters: std::sync::OnceLock::new(),
        });
        let writer = Writer::new(disk, shared.clone(), segment_size);
        committer::start(writer).map_err(|error| QueueError::io("start its thread", error))?;
        Ok(Self(Arc::new(Handle {
            shared,
            permits: DiskPermits::shared(),
        })))
    }

    /// Records metrics by the facade `metrics`, for all clones: [the guide](crate::guide::metrics#a-queue) lists them. They are
    /// registered now, so install the recorder before.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn metrics(self) -> Self {
        let shared = &self.0.shared;
        if let Some(meters) = crate::meter::StoreMeters::new() {
            meters.messages(shared.index().entries().len());
            // A second call changes nothing.
            let _ = shared.meters.set(meters);
        }
        self
    }

    /// Completes when all operations are done and synced and the directory is unlocked. Later operations return
    /// [`QueueError::Closed`].
    pub async fn close(&self) {
        self.0.shared.inbox.close();
        self.0.shared.inbox.ended().await;
    }

    /// Has the writer perform an operation.
    fn change(&self, id: QueueId, change: Change) -> StoreFuture<QueueId> {
        let shared = self.0.shared.clone();
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            shared.inbox.send(id, change, answer).await?;
            answered.await.unwrap_or(Err(QueueError::Closed))
        })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.shared.index()
    }
}

/// # Administration
impl FileStore {
    /// Returns up to `most` messages in the order of their ids, which is about that of their arrival, after a certain one.
    pub fn list(&self, after: Option<&QueueId>, most: usize) -> Vec<QueueEntry> {
        use std::ops::Bound::{Excluded, Unbounded};
        let now = millis(SystemTime::now());
        let index = self.index();
        let after = (after.map_or(Unbounded, Excluded), Unbounded);
        let entries = index.entries().range::<QueueId, _>(after).take(most);
        let entries = entries.map(|(id, entry)| QueueEntry {
            id: id.clone(),
            created: time(entry.created),
            due: time(entry.next_due()),
            bytes: entry.put.header.body_len,
            pending: entry.pending,
            is_held: entry.held,
            is_leased: entry.is_leased(now),
        });
        entries.collect()
    }

    /// Returns a message, whether it is leased or not.
    ///
    /// # Errors
    ///
    /// [`QueueError::NotFound`] if there is none of that id, and [`QueueError::Io`] if it cannot be read.
    pub async fn show(&self, id: &QueueId) -> Result<(Job, Spooled), QueueError> {
        let record = self.record(id);
        let record = record.ok_or_else(|| QueueError::NotFound(id.clone()))?;
        let permits = self.0.permits.clone();
        let read = self.0.permits.run(move || record.read(permits)).await;
        read.and_then(|read| read)
            .map_err(|error| QueueError::io("read a message", error))
    }

    /// Holds a message: it is not leased until it is [released](Self::release). A lease of it goes on, and can be settled.
    ///
    /// # Errors
    ///
    /// [`QueueError::NotFound`] if there is none of that id, and [`QueueError::Io`] if this cannot be written.
    pub async fn hold(&self, id: &QueueId) -> Result<(), QueueError> {
        let hold = Change::Hold {
            held: true,
            due: None,
        };
        self.change(id.clone(), hold).await.map(drop)
    }

    /// Releases a message, whether it is held or not: it is due at once for all its recipients that are pending.
    ///
    /// # Errors
    ///
    /// [`QueueError::NotFound`] if there is none of that id, and [`QueueError::Io`] if this cannot be written.
    pub async fn release(&self, id: &QueueId) -> Result<(), QueueError> {
        let due = Some(millis(SystemTime::now()));
        let release = Change::Hold { held: false, due };
        self.change(id.clone(), release).await.map(drop)
    }

    /// Deletes a message. Nobody is told.
    ///
    /// # Errors
    ///
    /// [`QueueError::NotFound`] if there is none of that id, and [`QueueError::Io`] if this cannot be written yet: the message is
    /// gone, but may be back if the store is opened again before the disk works.
    pub async fn delete(&self, id: &QueueId) -> Result<(), QueueError> {
        let delete = Change::Remove { token: None };
        self.change(id.clone(), delete).await.map(drop)
    }

    /// Returns how much is in the queue. It looks at every message, so it takes milliseconds if there are many.
    pub fn stats(&self) -> QueueStats {
        let now = millis(SystemTime::now());
        let index = self.index();
        let mut stats = QueueStats {
            messages: index.entries().len(),
            bytes: index.bytes(),
            disk_bytes: index.disk_bytes(),
            damaged: index.damaged(),
            ..QueueStats::default()
        };
        for entry in index.entries().values() {
            stats.held += usize::from(entry.held);
            stats.leased += usize::from(entry.is_leased(now));
        }
        let oldest = index.entries().values().map(|entry| entry.created).min();
        stats.oldest = oldest.map(time);
        stats
    }
}

impl Store for FileStore {
    fn durability(&self) -> Durability {
        Durability::Machine { synced: true }
    }

    fn put(&self, job: Job, message: Spooled) -> StoreFuture<QueueId> {
        let put = Change::Put {
            head: codec::encode(&job),
            message,
            created: job.created,
            due: Job::due(&job.states).unwrap_or(job.created),
            pending: scan::pending(&job.states),
            priority: job.priority(),
        };
        self.change(job.id, put)
    }

    fn lease(&self, now: SystemTime, most: usize, until: SystemTime) -> StoreFuture<Vec<Leased>> {
        if self.0.shared.inbox.is_closed() {
            return Box::pin(async { Err(QueueError::Closed) });
        }
        let leased = self.index().lease(millis(now), most, millis(until));
        let records = leased.into_iter();
        let records = records.filter_map(|(id, token)| Some((self.record(&id)?, token)));
        let records: Vec<_> = records.collect();
        let permits = self.0.permits.clone();
        Box::pin(async move {
            let for_bodies = permits.clone();
            let read = permits.run(move || reading::read_all(records, &for_bodies));
            read.await
                .map_err(|error| QueueError::io("read messages", error))
        })
    }

    fn renew(&self, leased: &Leased, until: SystemTime) -> StoreFuture<()> {
        let mut index = self.index();
        let (id, token) = (leased.job().id(), leased.token());
        let renewed = index.check(id, token);
        if renewed.is_ok() {
            index.renew(id, token, Some(millis(until)));
        }
        Box::pin(async move { renewed })
    }

    fn settle(&self, leased: Leased, outcomes: Vec<(usize, Outcome)>) -> StoreFuture<()> {
        let (id, token) = (leased.job().id().clone(), leased.token());
        let states = leased.job().after(&outcomes);
        let is_put_off =
            |(_, outcome): &_| matches!(outcome, Outcome::Postponed { told: false, .. });
        if outcomes.iter().all(is_put_off) {
            let until = Job::due(&states).unwrap_or_default();
            let mut index = self.index();
            let ended = index.check(&id, token);
            if ended.is_ok() {
                index.postpone(&id, until);
            }
            return Box::pin(async move { ended });
        }
        let change = match Job::due(&states) {
            Some(due) => Change::States {
                token,
                head: codec::encode_states(&states),
                due,
                pending: scan::pending(&states),
            },
            None => Change::Remove { token: Some(token) },
        };
        let changed = self.change(id, change);
        Box::pin(async move { changed.await.map(drop) })
    }

    fn next_due(&self) -> StoreFuture<Option<SystemTime>> {
        let due = self.index().next_due().map(time);
        Box::pin(async move { Ok(due) })
    }

    fn changed(&self) -> StoreFuture<()> {
        let mut changed = self.0.shared.changed.subscribe();
        Box::pin(async move { changed.changed().await.map_err(|_| QueueError::Closed) })
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.index();
        f.debug_struct("FileStore")
            .field("messages", &index.entries().len())
            .field("bytes", &index.bytes())
            .finish_non_exhaustive()
    }
}
