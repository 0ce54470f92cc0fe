use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{mpsc, oneshot};

use crate::body::BodyError;

/// The body of a request.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// All of it.
    Whole(Option<Bytes>),
    /// What a [`Feed`] sends.
    Streamed(Streamed),
}

#[derive(Debug)]
pub(super) struct Streamed {
    wanted: Option<oneshot::Sender<()>>,
    pieces: mpsc::Receiver<Piece>,
    has_ended: bool,
}

/// Sends the chunks of a message. If this is dropped before [`finish`](Self::finish), the request is aborted: the connection ends
/// without the last chunk of the body, so that the service cannot take what it has for a whole message.
#[derive(Debug)]
pub(super) struct Feed {
    wanted: Option<oneshot::Receiver<()>>,
    pieces: mpsc::Sender<Piece>,
}

#[derive(Debug)]
enum Piece {
    Chunk(Bytes),
    End,
}

impl Outgoing {
    pub(super) fn streamed() -> (Feed, Self) {
        let (wants, wanted) = oneshot::channel();
        let (sender, receiver) = mpsc::channel(1);
        let feed = Feed {
            wanted: Some(wanted),
            pieces: sender,
        };
        let streamed = Streamed {
            wanted: Some(wants),
            pieces: receiver,
            has_ended: false,
        };
        (feed, Self::Streamed(streamed))
    }
}

impl Feed {
    /// Waits until the connection is open, and the body is about to be sent. Does not end if the request is dropped.
    pub(super) async fn wanted(&mut self) {
        if let Some(wanted) = self.wanted.take()
            && wanted.await.is_err()
        {
            std::future::pending().await
        }
    }

    /// Sends a chunk. Does not end if the request is dropped.
    pub(super) async fn push(&mut self, chunk: Bytes) {
        self.send(Piece::Chunk(chunk)).await;
    }

    /// Ends the body: the message is whole.
    pub(super) async fn finish(mut self) {
        self.send(Piece::End).await;
    }

    async fn send(&mut self, piece: Piece) {
        if self.pieces.send(piece).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let streamed = match &mut *self {
            Self::Whole(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Self::Streamed(streamed) => streamed,
        };
        if streamed.has_ended {
            return Poll::Ready(None);
        }
        if let Some(wanted) = streamed.wanted.take() {
            let _ = wanted.send(());
        }
        match ready!(streamed.pieces.poll_recv(cx)) {
            Some(Piece::Chunk(chunk)) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            Some(Piece::End) => {
                streamed.has_ended = true;
                Poll::Ready(None)
            }
            None => Poll::Ready(Some(Err(BodyError::Incomplete))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Streamed(streamed) => streamed.has_ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn a_body_that_is_not_finished_ends_with_an_error() {
        for is_finished in [true, false] {
            let (mut feed, mut body) = Outgoing::streamed();
            let mut frame = task::spawn(std::future::poll_fn(|cx| {
                Pin::new(&mut body).poll_frame(cx)
            }));
            assert_pending!(frame.poll());
            assert_ready!(task::spawn(feed.wanted()).poll());
            assert_ready!(task::spawn(feed.push("chunk".into())).poll());
            let chunk = assert_ready!(frame.poll()).unwrap().unwrap();
            assert_eq!(chunk.into_data().unwrap(), "chunk");
            assert_pending!(frame.poll());
            if is_finished {
                assert_ready!(task::spawn(feed.finish()).poll());
                assert!(assert_ready!(frame.poll()).is_none());
                assert!(assert_ready!(frame.poll()).is_none());
            } else {
                drop(feed);
                assert!(assert_ready!(frame.poll()).unwrap().is_err());
            }
        }
    }

    #[test]
    fn no_chunk_is_wanted_before_the_connection_is_open_nor_after_it_has_failed() {
        let (mut feed, body) = Outgoing::streamed();
        let mut wanted = task::spawn(feed.wanted());
        assert_pending!(wanted.poll());
        drop(body);
        assert_pending!(wanted.poll());
        drop(wanted);
        assert_pending!(task::spawn(feed.push("chunk".into())).poll());
    }
}
