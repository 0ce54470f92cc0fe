use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use super::{Body, BodyError};
use crate::fault::cause_of;

/// A [`Body`] as an [`AsyncRead`] and [`AsyncBufRead`], created by [`Body::into_reader`].
#[derive(Debug)]
pub struct BodyReader {
    body: Body,
    chunk: Bytes,
    end: Option<Result<(), BodyError>>,
}

impl BodyReader {
    pub(super) const fn new(body: Body) -> Self {
        Self {
            body,
            chunk: Bytes::new(),
            end: None,
        }
    }
}

impl AsyncBufRead for BodyReader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        // A body may have empty chunks, but a read of no bytes means the end.
        while this.chunk.is_empty() {
            match &this.end {
                Some(Ok(())) => break,
                Some(Err(error)) => return Poll::Ready(Err(error.clone().into())),
                None => match ready!(this.body.poll_chunk(cx)) {
                    Some(Ok(chunk)) => this.chunk = chunk,
                    Some(Err(error)) => this.end = Some(Err(error)),
                    None => this.end = Some(Ok(())),
                },
            }
        }
        Poll::Ready(Ok(&this.chunk))
    }

    fn consume(mut self: Pin<&mut Self>, bytes: usize) {
        let bytes = bytes.min(self.chunk.len());
        self.chunk.advance(bytes);
        if self.chunk.is_empty() {
            // Does not keep this chunk in memory while waiting for the next one.
            self.chunk = Bytes::new();
        }
    }
}

impl AsyncRead for BodyReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let there = ready!(self.as_mut().poll_fill_buf(cx))?;
        let (taken, _) = there.split_at(there.len().min(buffer.remaining()));
        buffer.put_slice(taken);
        let taken = taken.len();
        self.consume(taken);
        Poll::Ready(Ok(()))
    }
}

impl From<BodyError> for io::Error {
    /// Wraps the error; [`io::Error::get_ref`] returns it.
    fn from(error: BodyError) -> Self {
        let kind = match &error {
            BodyError::Incomplete => io::ErrorKind::UnexpectedEof,
            BodyError::TooLarge | BodyError::HeadTooLarge => io::ErrorKind::FileTooLarge,
            BodyError::BareNewline | BodyError::NulByte => io::ErrorKind::InvalidData,
            BodyError::Handler(error) => error.kind(),
            BodyError::Other(error) => error
                .downcast_ref::<Self>()
                .map_or(io::ErrorKind::Other, Self::kind),
        };
        Self::new(kind, error)
    }
}

impl From<io::Error> for BodyError {
    /// Returns the body error that was wrapped, or [`BodyError::Handler`], because a body fails with no other I/O error. A body
    /// of your own that fails with an I/O error yields [`BodyError::other`] of it.
    fn from(error: io::Error) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if let Some(body) = error.downcast_ref::<Self>() {
                return body.clone();
            }
            cause = cause_of(error);
        }
        Self::Handler(error.into())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tower::BoxError;

    use super::*;
    use crate::{body::in_pieces, reply::recover};
    use smtpd_core::reply::Reply;

    #[tokio::test]
    async fn every_byte_is_read_whatever_the_chunks_and_buffers() {
        for size in 1..=8 {
            let body = in_pieces([&b"ab"[..], b"", b"cdefg", b"", b"h"], Ok(())).prepend("");
            let mut reader = body.into_reader();
            let mut read = Vec::new();
            let mut buffer = vec![0; size];
            loop {
                match reader.read(&mut buffer).await.unwrap() {
                    0 => break,
                    taken => read.extend_from_slice(&buffer[..taken]),
                }
            }
            assert_eq!(read, b"abcdefgh", "buffer of {size}");
            assert_eq!(reader.read(&mut buffer).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn a_message_that_breaks_off_never_seems_to_end_well() {
        let mut reader = in_pieces([b"half"], Err(BodyError::Incomplete)).into_reader();
        let mut read = Vec::new();
        for _ in 0..3 {
            let error = reader.read_to_end(&mut read).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(error.to_string(), "message incomplete");
        }
        assert_eq!(read, b"half");
    }

    #[tokio::test]
    async fn a_reader_that_waits_does_not_keep_the_chunk_that_it_has_read() {
        let chunk = std::sync::Arc::new(*b"chunk");
        let alive = std::sync::Arc::downgrade(&chunk);
        let (feed, body) = crate::body::incoming();
        feed.push(Bytes::from_owner(Owner(chunk))).await;
        let mut reader = body.into_reader();
        reader.read_exact(&mut [0; 5]).await.unwrap();
        assert!(alive.upgrade().is_none());
    }

    struct Owner(std::sync::Arc<[u8; 5]>);

    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &*self.0
        }
    }

    #[tokio::test]
    async fn the_reply_is_found_behind_an_io_error() {
        let disk_full = BodyError::other(io::Error::from(io::ErrorKind::StorageFull));
        let table = [
            (BodyError::TooLarge, io::ErrorKind::FileTooLarge, 552),
            (BodyError::HeadTooLarge, io::ErrorKind::FileTooLarge, 552),
            (BodyError::BareNewline, io::ErrorKind::InvalidData, 550),
            (BodyError::NulByte, io::ErrorKind::InvalidData, 554),
            (BodyError::Incomplete, io::ErrorKind::UnexpectedEof, 451),
            (disk_full, io::ErrorKind::StorageFull, 452),
        ];
        for (expected, kind, code) in table {
            let mut reader = in_pieces([b"half"], Err(expected.clone())).into_reader();
            let mut sink = Vec::new();
            let error = tokio::io::copy(&mut reader, &mut sink).await.unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(sink.flush().await.is_ok());

            let wrapped = io::Error::other(error);
            let found = BodyError::from(wrapped);
            assert_eq!(found.to_string(), expected.to_string());
            let error = BoxError::from(io::Error::other(io::Error::from(found)));
            assert_eq!(recover(&error), expected.reply());
            assert_eq!(recover(&error).code().as_u16(), code);
        }
    }

    #[test]
    fn an_io_error_that_no_body_made_is_the_handlers() {
        let error = BodyError::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(error.to_string(), "I/O of the handler failed");
        assert_eq!(error.source().unwrap().to_string(), "no storage space");
        assert!(error.is_fault());
        let error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(matches!(BodyError::from(error), BodyError::Handler(_)));
        let refusal = BodyError::from(io::Error::other(Reply::no_such_user()));
        assert_eq!(refusal.reply(), Reply::no_such_user());
    }
}
