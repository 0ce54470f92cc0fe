use std::{
    fmt,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{Body, BodyError, BodyReader, spooled_file::SpooledFile};

impl Body {
    /// Reads the whole message into memory, or into a temporary file as soon as it has more than `limit` bytes.
    ///
    /// The file has no name, or only for a moment, and is deleted when the last [`Spooled`] is dropped. Beyond `limit`, at most
    /// one chunk is in memory.
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
    /// let spooled = Body::from("Hello\r\n").spool(4).await?;
    /// assert_eq!((spooled.len(), spooled.is_in_memory()), (7, false));
    /// for _attempt in 0..2 {
    ///     assert_eq!(spooled.body().collect().await?, "Hello\r\n");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`BodyError::Other`] if the file fails; otherwise see [`BodyError`].
    ///
    /// # Panics
    ///
    /// The future panics outside of a tokio runtime when it needs the file.
    pub fn spool(self, limit: usize) -> Spooling {
        Spooling {
            body: self,
            limit,
            directory: None,
            len: 0,
            storage: Storage::Memory(BytesMut::new()),
        }
    }
}

/// The future of [`Body::spool`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Spooling {
    body: Body,
    limit: usize,
    directory: Option<PathBuf>,
    len: u64,
    storage: Storage,
}

enum Storage {
    Memory(BytesMut),
    File(File),
    Writing(JoinHandle<io::Result<File>>),
}

impl Spooling {
    /// Sets the directory of the file. Default: the system's directory for temporary files.
    pub fn in_directory(self, directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: Some(directory.into()),
            ..self
        }
    }

    fn store(&mut self, chunk: Bytes) {
        self.len += chunk.len() as u64;
        let storage = std::mem::replace(&mut self.storage, Storage::Memory(BytesMut::new()));
        self.storage = match storage {
            Storage::Memory(mut memory) if chunk.len() <= self.limit - memory.len() => {
                memory.extend_from_slice(&chunk);
                Storage::Memory(memory)
            }
            Storage::Memory(memory) => {
                let directory = self.directory.take();
                Storage::Writing(spawn_blocking(move || {
                    write(create(directory.as_deref())?, &[&memory, &chunk])
                }))
            }
            Storage::File(file) if chunk.is_empty() => Storage::File(file),
            Storage::File(file) => Storage::Writing(spawn_blocking(move || write(file, &[&chunk]))),
            writing @ Storage::Writing(_) => writing,
        };
    }
}

fn create(directory: Option<&Path>) -> io::Result<File> {
    match directory {
        Some(directory) => tempfile::tempfile_in(directory),
        None => tempfile::tempfile(),
    }
}

fn write(mut file: File, chunks: &[&[u8]]) -> io::Result<File> {
    chunks.iter().try_for_each(|chunk| file.write_all(chunk))?;
    Ok(file)
}

impl Future for Spooling {
    type Output = Result<Spooled, BodyError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            if let Storage::Writing(job) = &mut this.storage {
                let written = ready!(Pin::new(job).poll(cx)).map_err(io::Error::from);
                let file = written.and_then(|result| result);
                this.storage = Storage::File(file.map_err(BodyError::other)?);
            }
            if let Some(chunk) = ready!(this.body.poll_chunk(cx)) {
                this.store(chunk?);
                continue;
            }
            let storage = std::mem::replace(&mut this.storage, Storage::Memory(BytesMut::new()));
            let kept = match storage {
                Storage::File(file) => Kept::File(Arc::new(Mutex::new(file))),
                Storage::Memory(memory) => Kept::Memory(memory.freeze()),
                // Unreachable: the write was awaited above.
                Storage::Writing(_) => return Poll::Pending,
            };
            return Poll::Ready(Ok(Spooled {
                kept,
                len: this.len,
            }));
        }
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

/// A whole message in memory or in a temporary file, which can be read any number of times; see [`Body::spool`].
///
/// Clones share it, and so do the bodies that it returns; it is deleted with the last of them.
#[derive(Clone)]
pub struct Spooled {
    kept: Kept,
    len: u64,
}

#[derive(Clone)]
enum Kept {
    Memory(Bytes),
    File(Arc<Mutex<File>>),
}

impl Spooled {
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
        matches!(self.kept, Kept::Memory(_))
    }

    /// Returns the message from its beginning. Several bodies may be read at the same time.
    ///
    /// If the file cannot be read, the body yields [`BodyError::Other`].
    pub fn body(&self) -> Body {
        match &self.kept {
            Kept::Memory(bytes) => bytes.clone().into(),
            Kept::File(file) => Body::new(SpooledFile::new(file.clone(), self.len)),
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::body::in_pieces;

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
}
