use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;

use super::{Body, BodyError, Source, incoming::Waiting};

/// A view of whether a body's reader waits for its client, wherever the reader is.
#[derive(Debug)]
pub(crate) enum Watch {
    /// It never does.
    Never,
    Incoming(Waiting),
    Stream(Arc<AtomicBool>),
}

impl Body {
    /// Returns a view of whether the reader of this body waits. It costs nothing, except for a body from a user's own stream.
    pub(crate) fn watch(&mut self) -> Watch {
        match &self.source {
            Source::Fixed(_) => Watch::Never,
            Source::Incoming(incoming) => Watch::Incoming(incoming.waiting()),
            Source::Stream(_) => {
                let waits = Arc::<AtomicBool>::default();
                *self = std::mem::take(self).wrapped(|body| Watched {
                    body,
                    waits: waits.clone(),
                });
                Watch::Stream(waits)
            }
        }
    }
}

impl Watch {
    /// Returns whether the reader has found nothing when it last polled the body, and nothing has arrived since, as far as is
    /// known.
    pub(crate) fn is_waiting(&self) -> bool {
        match self {
            Self::Never => false,
            Self::Incoming(waiting) => waiting.is_waiting(),
            Self::Stream(waits) => waits.load(Ordering::Relaxed),
        }
    }
}

struct Watched {
    body: Body,
    waits: Arc<AtomicBool>,
}

impl Stream for Watched {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.body.poll_chunk(cx);
        self.waits.store(polled.is_pending(), Ordering::Relaxed);
        polled
    }
}

impl Drop for Watched {
    /// Who has dropped the body waits for nothing of it.
    fn drop(&mut self) {
        self.waits.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::body::incoming;

    #[tokio::test]
    async fn a_reader_waits_from_a_poll_in_vain_until_something_arrives() {
        for is_stream in [false, true] {
            let (feed, mut body) = incoming();
            if is_stream {
                body = body.inspect(|_| ());
            }
            let watch = body.watch();
            assert!(!watch.is_waiting());
            let mut chunk = task::spawn(body.chunk());
            assert_pending!(chunk.poll());
            assert!(watch.is_waiting());
            feed.push(Bytes::from_static(b"one")).await;
            assert_eq!(watch.is_waiting(), is_stream, "a stream has to be polled");
            assert!(assert_ready!(chunk.poll()).is_some());
            assert!(!watch.is_waiting());
            drop(chunk);
            assert_pending!(task::spawn(body.chunk()).poll());
            assert!(watch.is_waiting());
            feed.finish(Ok(()));
            assert!(assert_ready!(task::spawn(body.chunk()).poll()).is_none());
            assert!(!watch.is_waiting());
        }
    }

    #[test]
    fn a_body_that_is_there_is_never_waited_for_and_one_that_is_dropped_no_longer() {
        let mut body = Body::from("text");
        assert!(!body.watch().is_waiting());
        let (_feed, incoming) = incoming();
        let mut body = incoming.inspect(|_| ());
        let watch = body.watch();
        assert_pending!(task::spawn(body.chunk()).poll());
        assert!(watch.is_waiting());
        drop(body);
        assert!(!watch.is_waiting());
    }
}
