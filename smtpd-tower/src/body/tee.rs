use std::{
    future::Ready,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use pin_project::pin_project;
use tokio::{
    io::AsyncWrite,
    time::{Instant, Sleep, sleep},
};

use super::{Body, BodyError};
use crate::fault::quietly;

/// What happens to a message when the sink for its copy fails, or takes too long; see [`Body::tee`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SinkFailure {
    /// The message fails too, with [`BodyError::Other`]: no message is accepted without its copy.
    #[default]
    FailMessage,
    /// The message continues without a copy; a warning is logged.
    GiveUp,
}

/// How long a message waits for the sink of its copy in total, unless something else is set.
pub(crate) const SINK_TIMEOUT: Duration = Duration::from_secs(60);

/// The stream of [`Body::tee`].
#[pin_project]
pub(super) struct Tee<O, W> {
    body: Body,
    #[pin]
    sink: Sink<O, W>,
    patience: Patience,
    on_failure: SinkFailure,
    state: State,
}

impl<W> Tee<Ready<io::Result<W>>, W> {
    pub(super) const fn open(body: Body, sink: W, on_failure: SinkFailure) -> Self {
        Self::new(body, Sink::Open(sink), on_failure, SINK_TIMEOUT)
    }
}

impl<O, W> Tee<O, W> {
    pub(super) const fn opening(
        body: Body,
        open: O,
        on_failure: SinkFailure,
        timeout: Duration,
    ) -> Self {
        Self::new(body, Sink::Opening(open), on_failure, timeout)
    }

    const fn new(body: Body, sink: Sink<O, W>, on_failure: SinkFailure, timeout: Duration) -> Self {
        Self {
            body,
            sink,
            patience: Patience {
                left: timeout,
                wait: None,
            },
            on_failure,
            state: State::Reading,
        }
    }
}

enum State {
    Reading,
    Writing { chunk: Bytes, unwritten: Bytes },
    Closing,
    Ended,
}

/// How long the message may still wait for the sink. Waits add up: a sink that is slow all the time is as bad as one that hangs.
struct Patience {
    left: Duration,
    /// Since when the sink is awaited, if it is. Boxed, because most sinks are not.
    wait: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Patience {
    /// Ready with the sink's result, or with an error once the sink has taken too long.
    fn poll(&mut self, cx: &mut Context<'_>, sink: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if sink.is_ready() {
            if let Some((since, _)) = self.wait.take() {
                self.left = self.left.saturating_sub(since.elapsed());
            }
            return sink;
        }
        let left = self.left;
        let begin = || (Instant::now(), Box::pin(sleep(left)));
        let (_, sleep) = self.wait.get_or_insert_with(begin);
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the sink of a copy took too long",
        )))
    }
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
                    this.sink.as_mut().poll_write_all(cx, unwritten)
                }
                State::Closing => this.sink.as_mut().poll_close(cx),
                State::Ended => return Poll::Ready(None),
            };
            let done = ready!(this.patience.poll(cx, done));
            if let Err(error) = done {
                this.sink.set(Sink::Gone);
                if *this.on_failure == SinkFailure::FailMessage {
                    *this.state = State::Ended;
                    return Poll::Ready(Some(Err(BodyError::other(error))));
                }
                let error = error.to_string();
                let error = error.escape_debug();
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
        let mut body = message(Ok(())).tee_opening(open(), SinkFailure::FailMessage, SINK_TIMEOUT);
        assert!(body.chunk().await.unwrap().is_err());
        assert!(body.chunk().await.is_none());
        let body = message(Ok(())).tee_opening(open(), SinkFailure::GiveUp, SINK_TIMEOUT);
        assert_eq!(body.collect().await.unwrap(), "onetwo");
    }

    /// Waits before each byte, and before it is shut down.
    struct Slow {
        wait: Duration,
        sleep: Option<Pin<Box<Sleep>>>,
    }

    impl Slow {
        fn new(wait: Duration) -> Self {
            Self { wait, sleep: None }
        }

        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            let wait = self.wait;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(wait)));
            ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
            Poll::Ready(())
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            ready!(self.poll(cx));
            Poll::Ready(Ok(1))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll(cx).map(Ok)
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_hangs_or_is_slow_all_the_time_keeps_the_message_for_ever() {
        // Six bytes and the end: seven waits.
        for (wait, expected) in [
            (SECOND * 8, Ok(56)),
            (SECOND * 9, Err(60)),
            (Duration::MAX, Err(60)),
        ] {
            let strict = message(Ok(())).tee(Slow::new(wait), SinkFailure::FailMessage);
            let lenient = message(Ok(())).tee(Slow::new(wait), SinkFailure::GiveUp);
            let start = Instant::now();
            let read = strict.collect().await;
            let waited = start.elapsed().as_secs();
            assert_eq!(read.as_ref().map(|_| waited).map_err(|_| waited), expected);
            if let Err(error) = read {
                assert!(error.is_fault());
                assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
            }
            let start = Instant::now();
            assert_eq!(lenient.collect().await.unwrap(), "onetwo");
            let (Ok(expected) | Err(expected)) = expected;
            assert_eq!(start.elapsed().as_secs(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_is_never_open_keeps_the_message_for_ever() {
        let hangs = std::future::pending::<io::Result<Vec<u8>>>;
        let limit = SECOND * 5;
        let body = message(Ok(())).tee_opening(hangs(), SinkFailure::GiveUp, limit);
        let start = Instant::now();
        assert_eq!(body.collect().await.unwrap(), "onetwo");
        assert_eq!(start.elapsed(), limit);
        let body = message(Ok(())).tee_opening(hangs(), SinkFailure::FailMessage, limit);
        assert!(body.collect().await.is_err());
    }

    /// A message that the client sends slowly.
    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_slow_client_is_charged_to_the_sink() {
        let (feed, body) = crate::body::incoming();
        let body = body.tee(Slow::new(SECOND), SinkFailure::FailMessage);
        let read = tokio::spawn(body.collect());
        for _ in 0..3 {
            tokio::time::sleep(SECOND * 100).await;
            feed.push(Bytes::from_static(b"abc")).await;
        }
        tokio::time::sleep(SECOND * 100).await;
        feed.finish(Ok(()));
        assert_eq!(read.await.unwrap().unwrap(), "abcabcabc");
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
