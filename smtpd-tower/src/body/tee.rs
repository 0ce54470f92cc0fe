use std::{
    future::Ready,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use pin_project::pin_project;
use tokio::io::AsyncWrite;

use super::{Body, BodyError};
use crate::fault::quietly;

/// What happens to a message when the sink for its copy fails; see [`Body::tee`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SinkFailure {
    /// The message fails too, with [`BodyError::Other`]: no message is accepted without its copy.
    #[default]
    FailMessage,
    /// The message continues without a copy; a warning is logged.
    GiveUp,
}

impl Body {
    /// Writes every byte to `sink` before passing it on.
    ///
    /// A slow sink slows the client down. At the end of the message the sink is shut down, and only then does the body end. A
    /// sink that is dropped without being shut down has not received a whole message: the message broke off, or nothing read it
    /// to its end.
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError, SinkFailure};
    /// use tokio::io::AsyncReadExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
    /// let (sink, mut copy) = tokio::io::duplex(1024);
    /// let body = Body::from("Hello\r\n").tee(sink, SinkFailure::FailMessage);
    /// assert_eq!(body.collect().await?, "Hello\r\n");
    ///
    /// let mut copied = String::new();
    /// copy.read_to_string(&mut copied).await?;
    /// assert_eq!(copied, "Hello\r\n");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn tee(self, sink: impl AsyncWrite + Send + 'static, on_failure: SinkFailure) -> Self {
        self.tee_into(Sink::<Ready<_>, _>::Open(sink), on_failure)
    }

    /// Like [`tee`](Self::tee), with a sink that is opened when the body is first read.
    pub(crate) fn tee_opening<O, W>(self, open: O, on_failure: SinkFailure) -> Self
    where
        O: Future<Output = io::Result<W>> + Send + 'static,
        W: AsyncWrite + Send + 'static,
    {
        self.tee_into(Sink::Opening(open), on_failure)
    }

    fn tee_into<O, W>(self, sink: Sink<O, W>, on_failure: SinkFailure) -> Self
    where
        O: Future<Output = io::Result<W>> + Send + 'static,
        W: AsyncWrite + Send + 'static,
    {
        Self::new(Tee {
            body: self,
            sink,
            on_failure,
            state: State::Reading,
        })
    }
}

#[pin_project]
struct Tee<O, W> {
    body: Body,
    #[pin]
    sink: Sink<O, W>,
    on_failure: SinkFailure,
    state: State,
}

enum State {
    Reading,
    Writing { chunk: Bytes, unwritten: Bytes },
    Closing,
    Ended,
}

#[pin_project(project = SinkProj)]
enum Sink<O, W> {
    Opening(#[pin] O),
    Open(#[pin] W),
    Gone,
}

impl<O, W> Stream for Tee<O, W>
where
    O: Future<Output = io::Result<W>>,
    W: AsyncWrite,
{
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        loop {
            let done = match this.state {
                State::Reading => {
                    *this.state = match ready!(this.body.poll_chunk(cx)) {
                        Some(Ok(chunk)) => State::Writing {
                            unwritten: chunk.clone(),
                            chunk,
                        },
                        Some(Err(error)) => {
                            this.sink.set(Sink::Gone);
                            *this.state = State::Ended;
                            return Poll::Ready(Some(Err(error)));
                        }
                        None => State::Closing,
                    };
                    continue;
                }
                State::Writing { unwritten, .. } => {
                    ready!(this.sink.as_mut().poll_write_all(cx, unwritten))
                }
                State::Closing => ready!(this.sink.as_mut().poll_close(cx)),
                State::Ended => return Poll::Ready(None),
            };
            if let Err(error) = done {
                this.sink.set(Sink::Gone);
                if *this.on_failure == SinkFailure::FailMessage {
                    *this.state = State::Ended;
                    return Poll::Ready(Some(Err(BodyError::other(error))));
                }
                quietly(|| tracing::warn!(%error, "a copy of a message was given up"));
            }
            match std::mem::replace(this.state, State::Reading) {
                State::Writing { chunk, .. } => return Poll::Ready(Some(Ok(chunk))),
                _ => *this.state = State::Ended,
            }
        }
    }
}

impl<O, W> Sink<O, W>
where
    O: Future<Output = io::Result<W>>,
    W: AsyncWrite,
{
    fn poll_open(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Pin<&mut W>>>> {
        if let SinkProj::Opening(open) = self.as_mut().project() {
            let sink = ready!(open.poll(cx))?;
            self.set(Self::Open(sink));
        }
        Poll::Ready(Ok(match self.project() {
            SinkProj::Open(sink) => Some(sink),
            _ => None,
        }))
    }

    fn poll_write_all(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        unwritten: &mut Bytes,
    ) -> Poll<io::Result<()>> {
        let Some(mut sink) = ready!(self.poll_open(cx))? else {
            return Poll::Ready(Ok(()));
        };
        while !unwritten.is_empty() {
            match ready!(sink.as_mut().poll_write(cx, unwritten))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => unwritten.advance(written.min(unwritten.len())),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Flushes it first.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.poll_open(cx))? {
            Some(sink) => sink.poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio_test::{assert_pending, assert_ready, io::Builder, task};

    use super::*;
    use crate::body::in_pieces;

    fn message(end: Result<(), BodyError>) -> Body {
        in_pieces([&b"one"[..], b"", b"two"], end)
    }

    #[tokio::test]
    async fn every_byte_is_written_before_it_passes_and_the_sink_shut_down_before_the_end() {
        let (sink, mut copy) = tokio::io::duplex(2);
        let mut body = message(Ok(())).tee(sink, SinkFailure::FailMessage);
        let mut read = Vec::new();
        let mut copied = [0; 2];
        for _ in 0..2 {
            let mut chunk = task::spawn(body.chunk());
            // The sink is full, so the body waits for it.
            assert_pending!(chunk.poll());
            assert_eq!(copy.read(&mut copied).await.unwrap(), 2);
            assert!(chunk.is_woken());
            read.extend(assert_ready!(chunk.poll()).unwrap().unwrap());
            drop(chunk);
            let rest = copy.read(&mut copied).await.unwrap();
            assert_eq!(rest, 1);
            if read.len() == 3 {
                assert_eq!(body.chunk().await.unwrap().unwrap(), "");
            }
        }
        assert_eq!(read, b"onetwo");
        assert!(body.chunk().await.is_none());
        assert!(body.chunk().await.is_none());
        assert_eq!(copy.read(&mut copied).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_failing_sink_fails_the_message_or_is_given_up() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let sinks = || {
            [
                Builder::new().write_error(full()).build(),
                Builder::new().write(b"one").write_error(full()).build(),
            ]
        };
        for sink in sinks() {
            let body = message(Ok(())).tee(sink, SinkFailure::FailMessage);
            let error = body.collect().await.unwrap_err();
            assert!(matches!(error, BodyError::Other(_)));
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::StorageFull);
        }
        for sink in sinks() {
            let body = message(Ok(())).tee(sink, SinkFailure::GiveUp);
            assert_eq!(body.collect().await.unwrap(), "onetwo");
        }
    }

    #[tokio::test]
    async fn a_sink_that_cannot_be_opened_fails_the_message_or_is_given_up() {
        let open = async || io::Result::<Vec<u8>>::Err(io::ErrorKind::PermissionDenied.into());
        let mut body = message(Ok(())).tee_opening(open(), SinkFailure::FailMessage);
        assert!(body.chunk().await.unwrap().is_err());
        assert!(body.chunk().await.is_none());
        let body = message(Ok(())).tee_opening(open(), SinkFailure::GiveUp);
        assert_eq!(body.collect().await.unwrap(), "onetwo");
    }

    /// Records whether it was shut down.
    struct Witness(std::sync::Arc<std::sync::atomic::AtomicBool>);

    impl AsyncWrite for Witness {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn only_a_whole_message_shuts_its_sink_down() {
        for (end, whole) in [(Ok(()), true), (Err(BodyError::Incomplete), false)] {
            let closed = std::sync::Arc::default();
            let sink = Witness(std::sync::Arc::clone(&closed));
            let body = message(end).tee(sink, SinkFailure::GiveUp);
            assert_eq!(body.collect().await.is_ok(), whole);
            assert_eq!(closed.load(std::sync::atomic::Ordering::Relaxed), whole);
        }
    }
}
