use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use sync_wrapper::SyncWrapper;

use super::{Body, BodyError, Spooled, blocks::Blocks};
use crate::{
    disk::{DiskPermits, Job, OnDisk},
    memory::{InFile, Reservation},
};

/// The future of [`Body::spool`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Spooling {
    body: Body,
    limit: usize,
    directory: Option<PathBuf>,
    permits: DiskPermits,
    len: u64,
    /// What is not in the file.
    memory: Blocks,
    /// What of it counts.
    reserved: Reservation,
    /// What is in the file, also for the message that is made of it.
    in_file: InFile,
    storage: Storage,
}

enum Storage {
    /// The body is read, into memory as long as there is no file.
    Reading(Option<OnDisk<File>>),
    /// Only ever reached through `&mut`, so the wrapper makes the future `Sync` for free.
    Writing(SyncWrapper<Job<io::Result<OnDisk<File>>>>),
    /// The body has ended, and the rest is written.
    Finishing(SyncWrapper<Job<io::Result<OnDisk<File>>>>),
    Ended,
}

impl Spooling {
    pub(super) fn new(body: Body, limit: usize) -> Self {
        let budget = body.budget().clone();
        Self {
            body,
            limit,
            directory: None,
            permits: DiskPermits::shared(),
            len: 0,
            memory: Blocks::default(),
            reserved: Reservation::empty(budget.clone()),
            in_file: InFile::empty(budget),
            storage: Storage::Reading(None),
        }
    }

    /// Sets the directory of the file. Default: the system's directory for temporary files.
    pub fn in_directory(self, directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: Some(directory.into()),
            ..self
        }
    }

    /// Sets the limit on how many jobs work on the disk at a time. Default: [`DiskPermits::shared`].
    pub fn disk_permits(self, permits: DiskPermits) -> Self {
        Self { permits, ..self }
    }

    /// Takes the next chunk of the body.
    fn store(&mut self, chunk: Bytes) {
        self.len += chunk.len() as u64;
        let is_in_memory = matches!(self.storage, Storage::Reading(None));
        let fits = match is_in_memory {
            true => {
                let fits = self.memory.len().saturating_add(chunk.len()) <= self.limit;
                // If the memory of all messages is used up, this one goes to a file.
                fits && self.reserved.try_grow(chunk.len() as u64)
            }
            // A chunk of a few bytes is not worth a job.
            false => self.memory.len() + chunk.len() < Blocks::SIZE,
        };
        if fits {
            self.memory.push(&chunk);
        } else {
            self.storage = Storage::Writing(self.write(chunk));
        }
    }

    /// Writes what is in memory, and a chunk after it.
    fn write(&mut self, chunk: Bytes) -> SyncWrapper<Job<io::Result<OnDisk<File>>>> {
        let file = match std::mem::replace(&mut self.storage, Storage::Ended) {
            Storage::Reading(file) => file,
            _ => None,
        };
        self.in_file.grow((self.memory.len() + chunk.len()) as u64);
        let mut bytes = std::mem::take(&mut self.memory).into_blocks();
        bytes.push(chunk);
        let reserved = self.reserved.take();
        let directory = match file {
            None => self.directory.clone(),
            Some(_) => None,
        };
        let permits = self.permits.clone();
        SyncWrapper::new(Box::pin(async move {
            let keeper = permits.clone();
            let job = move || {
                let mut file = match file.and_then(OnDisk::into_inner) {
                    Some(file) => file,
                    None => create(directory.as_deref())?,
                };
                // Each is freed as soon as it is written.
                bytes
                    .into_iter()
                    .try_for_each(|bytes| file.write_all(&bytes))?;
                drop(reserved);
                Ok(OnDisk::new(file, keeper))
            };
            permits.run(job).await
        }))
    }

    /// Returns the message, once it is complete.
    fn finish(&mut self, file: Option<OnDisk<File>>) -> Spooled {
        self.storage = Storage::Ended;
        match file {
            Some(file) => {
                let counted = self.in_file.take();
                Spooled::in_file(file, counted, self.len, self.permits.clone())
            }
            None => {
                let memory = std::mem::take(&mut self.memory);
                Spooled::in_memory(memory, self.reserved.take())
            }
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Spooled, BodyError>> {
        loop {
            match &mut self.storage {
                Storage::Reading(file) => match ready!(self.body.poll_chunk(cx)).transpose()? {
                    Some(chunk) if chunk.is_empty() => {}
                    Some(chunk) => self.store(chunk),
                    None if file.is_some() && self.memory.len() > 0 => {
                        self.storage = Storage::Finishing(self.write(Bytes::new()));
                    }
                    None => {
                        let file = file.take();
                        return Poll::Ready(Ok(self.finish(file)));
                    }
                },
                Storage::Writing(job) => {
                    let file = ready!(job.get_mut().as_mut().poll(cx)).and_then(|done| done);
                    let file = file.map_err(|error| self.failed(error))?;
                    self.storage = Storage::Reading(Some(file));
                }
                Storage::Finishing(job) => {
                    let file = ready!(job.get_mut().as_mut().poll(cx)).and_then(|done| done);
                    let file = file.map_err(|error| self.failed(error))?;
                    return Poll::Ready(Ok(self.finish(Some(file))));
                }
                // Polled after completion, it stays pending like a fused future.
                Storage::Ended => return Poll::Pending,
            }
        }
    }

    fn failed(&self, error: io::Error) -> BodyError {
        BodyError::other(failed(self.directory.as_deref(), error))
    }
}

impl Future for Spooling {
    type Output = Result<Spooled, BodyError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let message = ready!(this.poll_message(cx));
        // After an error, neither the body nor a job may be polled again.
        this.storage = Storage::Ended;
        Poll::Ready(message)
    }
}

fn create(directory: Option<&Path>) -> io::Result<File> {
    match directory {
        Some(directory) => tempfile::tempfile_in(directory),
        None => tempfile::tempfile(),
    }
}

/// Checks that a message can be spooled: creates a file, writes and reads a few bytes.
pub(crate) async fn check(directory: Option<PathBuf>, permits: &DiskPermits) -> io::Result<()> {
    const PROBE: &[u8] = b"probe";
    let of_file = directory.clone();
    let job = move || {
        let mut file = create(of_file.as_deref())?;
        file.write_all(PROBE)?;
        file.rewind()?;
        let mut read = Vec::new();
        file.read_to_end(&mut read)?;
        match read == PROBE {
            true => Ok(()),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    };
    let checked = permits.run(job).await.and_then(|done| done);
    checked.map_err(|error| failed(directory.as_deref(), error))
}

/// Names the directory. A quota of it is not that of a mailbox: the disk is full for all messages.
fn failed(directory: Option<&Path>, source: io::Error) -> io::Error {
    let kind = match source.kind() {
        io::ErrorKind::QuotaExceeded => io::ErrorKind::StorageFull,
        kind => kind,
    };
    let directory = directory.map_or_else(std::env::temp_dir, Path::to_owned);
    io::Error::new(kind, SpoolError { directory, source })
}

/// An error of a temporary file.
#[derive(Debug)]
struct SpoolError {
    directory: PathBuf,
    source: io::Error,
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot spool in {}", self.directory.display())
    }
}

impl Error for SpoolError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl fmt::Debug for Spooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spooling")
            .field("limit", &self.limit)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::body::{in_pieces, incoming};

    #[tokio::test]
    async fn a_message_above_the_limit_goes_to_a_file_and_is_read_twice() {
        let message: Vec<u8> = (0..300_000_u32).map(|byte| byte as u8).collect();
        // Bytes, bytes per chunk, limit, whether it stays in memory.
        let table = [
            (0, 1, 0, true),
            (1, 1, 0, false),
            (9, 3, 9, true),
            (10, 3, 9, false),
            (9, 100, 9, true),
            (10, 100, 9, false),
            (300_000, 50_000, 400_000, true),
            (300_000, 50_000, 100_000, false),
            (300_000, 300_000, usize::MAX, true),
        ];
        for (len, size, limit, in_memory) in table {
            let message = &message[..len];
            let chunks = message.chunks(size).chain([&b""[..]]);
            let spooled = in_pieces(chunks, Ok(())).spool(limit).await.unwrap();
            let case = format!("{len} bytes, limit {limit}");
            assert_eq!(spooled.is_in_memory(), in_memory, "{case}");
            assert_eq!(spooled.len(), len as u64, "{case}");
            assert_eq!(spooled.is_empty(), len == 0, "{case}");
            for _ in 0..2 {
                assert!(spooled.body().collect().await.unwrap() == message, "{case}");
            }
            let mut read = Vec::new();
            let mut reader = spooled.reader();
            drop(spooled);
            reader.read_to_end(&mut read).await.unwrap();
            assert!(read == message, "{case}");
        }
    }

    #[tokio::test]
    async fn readers_at_the_same_time_do_not_disturb_each_other() {
        let message = "0123456789".repeat(20_000);
        let body = Body::from(message.clone().into_bytes());
        let spooled = body.spool(10).await.unwrap();
        let (mut one, mut two) = (spooled.reader(), spooled.clone().reader());
        let mut read = [Vec::new(), Vec::new()];
        for _ in 0..20 {
            for (reader, read) in [&mut one, &mut two].into_iter().zip(&mut read) {
                let mut buffer = [0; 10_000];
                reader.read_exact(&mut buffer).await.unwrap();
                read.extend(buffer);
            }
        }
        assert!(read.iter().all(|read| read == message.as_bytes()));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_file_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let body = Body::from("Hello");
        let spooled = body.spool(0).in_directory(directory.path()).await.unwrap();
        assert!(!spooled.is_in_memory());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        directory.close().unwrap();
        assert_eq!(spooled.body().collect().await.unwrap(), "Hello");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_made_is_an_error_only_if_it_is_needed() {
        let nowhere = tempfile::tempdir().unwrap().path().join("nowhere");
        let body = || in_pieces([&b"Hello"[..], b"you"], Ok(()));
        let error = body().spool(7).in_directory(&nowhere).await.unwrap_err();
        assert!(matches!(&error, BodyError::Other(_)));
        assert_eq!(error.reply().code().as_u16(), 451);
        let cause = error.source().unwrap();
        assert!(cause.to_string().contains("nowhere"), "{cause}");
        assert!(body().spool(8).in_directory(&nowhere).await.is_ok());
    }

    #[tokio::test]
    async fn a_message_that_breaks_off_is_not_spooled() {
        for limit in [0, 100] {
            let body = in_pieces([b"half"], Err(BodyError::Incomplete));
            assert!(matches!(
                body.spool(limit).await,
                Err(BodyError::Incomplete)
            ));
        }
    }

    #[tokio::test]
    async fn polled_after_its_end_it_is_no_panic() {
        let nowhere = tempfile::tempdir().unwrap().path().join("nowhere");
        let body = || in_pieces([&b"Hello"[..], b"you"], Ok(()));
        let broken = in_pieces([b"half"], Err(BodyError::Incomplete));
        for (spooling, is_ok) in [
            (body().spool(0).in_directory(&nowhere), false),
            (body().spool(0), true),
            (body().spool(100), true),
            (broken.spool(0), false),
        ] {
            let mut spooling = spooling;
            assert_eq!((&mut spooling).await.is_ok(), is_ok);
            let mut spooling = task::spawn(spooling);
            assert_pending!(spooling.poll());
            assert_pending!(spooling.poll());
        }
    }

    #[tokio::test]
    async fn small_chunks_are_written_together() {
        let permits = DiskPermits::new(std::num::NonZero::<usize>::MIN);
        let (feed, body) = incoming();
        let spooling = body.spool(10).disk_permits(permits.clone());
        let mut spooling = task::spawn(spooling);
        assert_pending!(spooling.poll());
        feed.push("more than ten".into()).await;
        assert_pending!(spooling.poll());
        while permits.available() == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            feed.push("dots".into()).await;
            assert_pending!(spooling.poll());
            assert_eq!(permits.available(), 1, "a job for a few bytes");
        }
        feed.finish(Ok(()));
        let spooled = spooling.await.unwrap();
        let whole = spooled.body().collect().await.unwrap();
        assert_eq!(whole, format!("more than ten{}", "dots".repeat(100)));
    }

    #[tokio::test]
    async fn a_message_that_waits_for_the_disk_gives_its_permit_back_when_it_is_dropped() {
        let permits = DiskPermits::new(std::num::NonZero::<usize>::MIN);
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let mut other = task::spawn(permits.run(move || ends.recv()));
        assert_pending!(other.poll());
        let spooling = || Body::from("Hello").spool(0).disk_permits(permits.clone());
        let (mut dropped, mut kept) = (task::spawn(spooling()), task::spawn(spooling()));
        assert_pending!(dropped.poll());
        assert_pending!(kept.poll());
        drop(dropped);
        drop(end);
        other.await.unwrap().unwrap_err();
        let spooled = kept.await.unwrap();
        // Two readers at a time, with one permit.
        let (mut one, mut two) = (spooled.body(), spooled.body());
        let (one, two) = tokio::join!(one.chunk(), two.chunk());
        assert_eq!(one.unwrap().unwrap(), two.unwrap().unwrap());
        let mut last = spooled.body();
        drop(spooled);
        drop(task::spawn(last.chunk()).poll());
        drop(last);
        while permits.available() == 0 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_full_disk_is_told_whoever_has_the_quota() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = failed(Some(Path::new("/spool")), kind.into());
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
        let error = failed(None, io::ErrorKind::PermissionDenied.into());
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[tokio::test]
    async fn what_is_spooled_in_memory_is_not_copied_when_it_is_read() {
        let message = vec![b'x'; 5 * Blocks::SIZE];
        let body = in_pieces(message.chunks(1000), Ok(()));
        let spooled = body.spool(usize::MAX).await.unwrap();
        let (mut one, mut two) = (spooled.body(), spooled.body());
        for _ in 0..5 {
            let first = one.chunk().await.unwrap().unwrap();
            let second = two.chunk().await.unwrap().unwrap();
            assert_eq!(first.len(), Blocks::SIZE);
            assert_eq!(first.as_ptr(), second.as_ptr());
        }
        assert!(one.chunk().await.is_none());
        assert_ready!(task::spawn(two.chunk()).poll());
    }
}
