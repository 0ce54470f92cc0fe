use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use pin_project::pin_project;

use super::{Body, BodyError};

/// The number of bytes of a body that have passed; see [`Body::counted`]. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct ByteCount(Arc<AtomicU64>);

impl ByteCount {
    /// Returns the current number.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, chunk: &Bytes) {
        let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The stream of [`Body::try_inspect`].
#[pin_project]
pub(super) struct Inspect<F> {
    /// `None` after an error of `see`.
    body: Option<Body>,
    see: F,
}

impl<F> Inspect<F> {
    pub(super) const fn new(body: Body, see: F) -> Self {
        Self {
            body: Some(body),
            see,
        }
    }
}

impl<F: FnMut(&Bytes) -> Result<(), BodyError>> Stream for Inspect<F> {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        let Some(body) = this.body else {
            return Poll::Ready(None);
        };
        let chunk = ready!(body.poll_chunk(cx));
        if let Some(Ok(bytes)) = &chunk
            && let Err(error) = (this.see)(bytes)
        {
            *this.body = None;
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::in_pieces;

    #[tokio::test]
    async fn a_body_that_was_refused_yields_nothing_more() {
        let mut chunks = 0;
        let mut body = in_pieces(["one", "two", "three"], Ok(())).try_inspect(move |_| {
            chunks += 1;
            match chunks {
                2 => Err(smtpd_core::reply::Reply::rejected("No").into()),
                _ => Ok(()),
            }
        });
        assert_eq!(body.chunk().await.unwrap().unwrap(), "one");
        let error = body.chunk().await.unwrap().unwrap_err();
        assert_eq!(error.reply().text(), "No");
        assert!(body.chunk().await.is_none());
    }

    #[tokio::test]
    async fn what_has_passed_is_counted_and_nothing_else() {
        let body = in_pieces([&b"12"[..], b"345"], Err(BodyError::Incomplete)).prepend("0");
        let (mut body, count) = body.counted();
        for expected in [1, 3, 6] {
            body.chunk().await.unwrap().unwrap();
            assert_eq!(count.clone().bytes(), expected);
        }
        assert!(body.chunk().await.unwrap().is_err());
        assert!(body.chunk().await.is_none());
        assert_eq!(count.bytes(), 6);
    }
}
