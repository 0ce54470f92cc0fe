use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use tokio::sync::Mutex;

use super::{Body, BodyError, BodyReader, blocks::Blocks};
use crate::{
    disk::{DiskPermits, Job, OnDisk},
    memory::{self, MemoryBudget, Reservation},
};

/// The number of bytes read at once.
const CHUNK: u64 = 64 * 1024;

/// A whole message in memory or in a temporary file, which can be read any number of times; see [`Body::spool`].
///
/// Clones share it, and so do the bodies that it returns; it is deleted with the last of them.
#[derive(Clone)]
pub struct Spooled {
    kept: Kept,
    len: u64,
    budget: MemoryBudget,
}

#[derive(Clone)]
enum Kept {
    /// In one block, as most messages are.
    Memory(Bytes),
    Blocks(Arc<Several>),
    File(SharedFile),
    #[cfg(feature = "queue")]
    Part(Part),
}

/// A file that is read at any position, by many at the same time.
#[cfg(feature = "queue")]
pub(crate) trait ReadAt: Send + Sync {
    /// Fills the buffer, or fails.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A message within a file that has others too.
#[cfg(feature = "queue")]
#[derive(Clone)]
struct Part {
    file: Arc<dyn ReadAt>,
    start: u64,
    permits: DiskPermits,
}

/// A message in several blocks.
struct Several {
    blocks: Vec<Bytes>,
    _reserved: Reservation,
}

/// A file that others read too: each at a position of its own. The file has one position to read from, so its readers take turns.
#[derive(Clone)]
struct SharedFile {
    file: Arc<Mutex<OnDisk<File>>>,
    /// Where the message begins in the file.
    start: u64,
    permits: DiskPermits,
    _counted: Arc<memory::InFile>,
}

impl Spooled {
    pub(super) fn in_memory(blocks: Blocks, reserved: Reservation) -> Self {
        let len = blocks.len() as u64;
        let budget = reserved.budget().clone();
        let kept = match blocks.into_one() {
            Ok(one) => Kept::Memory(reserved.attach_to(one)),
            Err(several) => Kept::Blocks(Arc::new(Several {
                blocks: several.into_blocks(),
                _reserved: reserved,
            })),
        };
        Self { kept, len, budget }
    }

    pub(super) fn in_file(
        file: OnDisk<File>,
        counted: memory::InFile,
        len: u64,
        permits: DiskPermits,
    ) -> Self {
        let budget = counted.budget().clone();
        let file = SharedFile {
            file: Arc::new(Mutex::new(file)),
            start: 0,
            permits,
            _counted: Arc::new(counted),
        };
        Self {
            kept: Kept::File(file),
            len,
            budget,
        }
    }

    /// Returns the message that a file has from its current position to its end, as a queue stores it. Works on the disk, so call
    /// it where that may block.
    ///
    /// The file is read by [`DiskPermits::shared`], and closed with the last clone and the last body. Its length is taken now: if
    /// the file is cut later, a body ends with an error.
    ///
    /// # Errors
    ///
    /// Returns the error of the file system.
    ///
    /// ```
    /// use std::io::{Seek, SeekFrom, Write};
    ///
    /// use smtpd_tower::body::Spooled;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut file = tempfile::tempfile()?;
    /// file.write_all(b"my own header\nSubject: hi\r\n\r\nHello\r\n")?;
    /// file.seek(SeekFrom::Start(14))?;
    /// let message = Spooled::from_file(file)?;
    /// assert_eq!(message.body().collect().await?, "Subject: hi\r\n\r\nHello\r\n");
    /// # Ok(()) }
    /// ```
    pub fn from_file(mut file: File) -> io::Result<Self> {
        let start = file.stream_position()?;
        let len = file.metadata()?.len().saturating_sub(start);
        let permits = DiskPermits::shared();
        let file = OnDisk::new(file, permits.clone());
        let mut spooled = Self::in_file(file, memory::InFile::default(), len, permits);
        if let Kept::File(file) = &mut spooled.kept {
            file.start = start;
        }
        Ok(spooled)
    }

    /// Returns the message of these bytes, which are counted.
    #[cfg(feature = "queue")]
    pub(crate) fn of_bytes(bytes: Bytes, reserved: Reservation) -> Self {
        let (len, budget) = (bytes.len() as u64, reserved.budget().clone());
        let kept = Kept::Memory(reserved.attach_to(bytes));
        Self { kept, len, budget }
    }

    /// Returns the message of `len` bytes that begins at `start` in a file.
    #[cfg(feature = "queue")]
    pub(crate) fn part_of(
        file: Arc<dyn ReadAt>,
        start: u64,
        len: u64,
        permits: DiskPermits,
    ) -> Self {
        let part = Part {
            file,
            start,
            permits,
        };
        Self {
            kept: Kept::Part(part),
            len,
            budget: MemoryBudget::shared(),
        }
    }

    /// Returns some bytes from this position on, at least one unless it is the end. It works on the disk, so it must not be
    /// called in a task.
    #[cfg(feature = "queue")]
    pub(crate) fn blocking_chunk(&self, at: u64) -> io::Result<Bytes> {
        let len = CHUNK.min(self.len.saturating_sub(at));
        match &self.kept {
            Kept::Memory(bytes) => Ok(rest_of(bytes, at)),
            Kept::Blocks(several) => {
                let mut at = at;
                for block in &several.blocks {
                    if at < block.len() as u64 {
                        return Ok(rest_of(block, at));
                    }
                    at -= block.len() as u64;
                }
                Ok(Bytes::new())
            }
            Kept::File(shared) => {
                let mut file = shared.file.blocking_lock();
                read(file.get_mut(), shared.start + at, len).map(Bytes::from)
            }
            Kept::Part(part) => part.read(at, len).map(Bytes::from),
        }
    }

    /// Returns its length in bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether it is in memory, without a file.
    pub const fn is_in_memory(&self) -> bool {
        matches!(self.kept, Kept::Memory(_) | Kept::Blocks(_))
    }

    /// Returns the message from its beginning. Several bodies may be read at the same time.
    ///
    /// If the file cannot be read, the body yields [`BodyError::Other`].
    pub fn body(&self) -> Body {
        let body = match &self.kept {
            Kept::Memory(bytes) => bytes.clone().into(),
            Kept::Blocks(blocks) => Body::new(InMemory {
                message: blocks.clone(),
                at: 0,
            }),
            Kept::File(file) => Body::new(InFile {
                file: file.clone(),
                at: 0,
                end: self.len,
                reading: None,
            }),
            #[cfg(feature = "queue")]
            Kept::Part(part) => Body::new(InFile {
                file: part.clone(),
                at: 0,
                end: self.len,
                reading: None,
            }),
        };
        body.with_budget(self.budget.clone())
    }

    /// Returns the message, to be read once: what is in memory needs no second owner then.
    pub(crate) fn into_body(self) -> Body {
        match self.kept {
            Kept::Memory(bytes) => Body::from(bytes).with_budget(self.budget),
            _ => self.body(),
        }
    }

    /// Returns the message from its beginning as an [`AsyncRead`](tokio::io::AsyncRead).
    pub fn reader(&self) -> BodyReader {
        self.body().into_reader()
    }
}

impl fmt::Debug for Spooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spooled")
            .field("len", &self.len)
            .field("is_in_memory", &self.is_in_memory())
            .finish()
    }
}

struct InMemory {
    message: Arc<Several>,
    at: usize,
}

impl Stream for InMemory {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let block = self.message.blocks.get(self.at).cloned();
        self.at += usize::from(block.is_some());
        Poll::Ready(block.map(Ok))
    }
}

struct InFile<F> {
    file: F,
    at: u64,
    end: u64,
    reading: Option<Job<io::Result<Vec<u8>>>>,
}

/// Reads a part of a message as a job.
trait ReadJob {
    fn read_job(&self, at: u64, len: u64) -> Job<io::Result<Vec<u8>>>;
}

#[cfg(feature = "queue")]
impl Part {
    fn read(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        self.file.read_at(self.start + at, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(feature = "queue")]
impl ReadJob for Part {
    fn read_job(&self, at: u64, len: u64) -> Job<io::Result<Vec<u8>>> {
        let part = self.clone();
        Box::pin(async move {
            let permits = part.permits.clone();
            permits.run(move || part.read(at, len)).await
        })
    }
}

#[cfg(feature = "queue")]
fn rest_of(bytes: &Bytes, at: u64) -> Bytes {
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(at..)
}

impl ReadJob for SharedFile {
    fn read_job(&self, at: u64, len: u64) -> Job<io::Result<Vec<u8>>> {
        let Self {
            file,
            start,
            permits,
            ..
        } = self.clone();
        let at = start + at;
        Box::pin(async move {
            // Before the permit: whoever waits here needs neither a permit nor a thread.
            let mut file = file.lock_owned().await;
            permits.run(move || read(file.get_mut(), at, len)).await
        })
    }
}

fn read(file: Option<&mut File>, at: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(file) = file {
        file.seek(SeekFrom::Start(at))?;
        bytes.reserve_exact(usize::try_from(len).unwrap_or_default());
        Read::by_ref(file).take(len).read_to_end(&mut bytes)?;
    }
    match bytes.len() as u64 == len {
        true => Ok(bytes),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl<F: ReadJob + Unpin> Stream for InFile<F> {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.at == this.end {
            return Poll::Ready(None);
        }
        let len = CHUNK.min(this.end - this.at);
        let job = match &mut this.reading {
            Some(job) => job,
            none => none.insert(this.file.read_job(this.at, len)),
        };
        let read = ready!(job.as_mut().poll(cx)).and_then(|done| done);
        this.reading = None;
        Poll::Ready(Some(match read {
            Ok(bytes) => {
                this.at += len;
                Ok(bytes.into())
            }
            Err(error) => {
                this.at = this.end;
                Err(BodyError::other(error))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_was_cut_is_an_error_and_not_an_end() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10).unwrap();
        let permits = DiskPermits::shared();
        let file = OnDisk::new(file, permits.clone());
        let spooled = Spooled::in_file(file, memory::InFile::default(), 11, permits);
        let mut body = spooled.body();
        let error = body.chunk().await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::Other(_)));
        assert!(body.chunk().await.is_none());
    }
}
