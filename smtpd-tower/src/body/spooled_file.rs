use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::body::BodyError;

/// The number of bytes read at once.
const CHUNK: u64 = 64 * 1024;

/// Reads a file that others read too: each at a position of its own.
pub(super) struct SpooledFile {
    file: Arc<Mutex<File>>,
    at: u64,
    end: u64,
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl SpooledFile {
    pub(super) const fn new(file: Arc<Mutex<File>>, len: u64) -> Self {
        Self {
            file,
            at: 0,
            end: len,
            reading: None,
        }
    }

    fn read(&self) -> JoinHandle<io::Result<Vec<u8>>> {
        let (file, at) = (self.file.clone(), self.at);
        let len = CHUNK.min(self.end - at);
        spawn_blocking(move || read(&file, at, len))
    }
}

fn read(file: &Mutex<File>, at: u64, len: u64) -> io::Result<Vec<u8>> {
    // The file has one position to read from, so the lock is held meanwhile.
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    let read = Read::by_ref(&mut *file).take(len).read_to_end(&mut bytes)?;
    if (read as u64) < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

impl Stream for SpooledFile {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.at == this.end {
            return Poll::Ready(None);
        }
        let job = this.reading.take().unwrap_or_else(|| this.read());
        let job = this.reading.insert(job);
        let read = ready!(Pin::new(job).poll(cx)).map_err(io::Error::from);
        this.reading = None;
        Poll::Ready(Some(match read.and_then(|result| result) {
            Ok(bytes) => {
                this.at += bytes.len() as u64;
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
    use crate::body::Body;

    #[tokio::test]
    async fn a_file_that_was_cut_is_an_error_and_not_an_end() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10).unwrap();
        let mut body = Body::new(SpooledFile::new(Arc::new(Mutex::new(file)), 11));
        let error = body.chunk().await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::Other(_)));
        assert!(body.chunk().await.is_none());
    }
}
