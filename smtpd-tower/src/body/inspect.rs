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

impl Body {
    /// The same body, whose pieces are shown to `see` as they pass: for counting, hashing, progress.
    ///
    /// Only a body read to its end has shown the whole message.
    ///
    /// ```
    /// use std::{collections::hash_map::DefaultHasher, hash::Hasher, sync::{Arc, Mutex}};
    ///
    /// use smtpd_tower::{Body, BodyError};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
    /// let hasher = Arc::new(Mutex::new(DefaultHasher::new()));
    /// let hashing = hasher.clone();
    /// let body = Body::from("Hello\r\n").inspect(move |piece| hashing.lock().unwrap().write(piece));
    /// body.collect().await?;
    /// assert_ne!(hasher.lock().unwrap().finish(), DefaultHasher::new().finish());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn inspect(self, see: impl FnMut(&Bytes) + Send + 'static) -> Self {
        Self::new(Inspect { body: self, see })
    }

    /// The same body, and how many octets of it have passed so far.
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
    /// let (body, passed) = Body::from("Hello\r\n").counted();
    /// assert_eq!(passed.octets(), 0);
    /// body.collect().await?;
    /// assert_eq!(passed.octets(), 7);
    /// # Ok(()) }
    /// ```
    pub fn counted(self) -> (Self, OctetCount) {
        let count = OctetCount::default();
        let passed = count.clone();
        let body = self.inspect(move |piece| {
            let octets = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            passed.0.fetch_add(octets, Ordering::Relaxed);
        });
        (body, count)
    }
}

/// How many octets of a body have passed; see [`Body::counted`]. Clones show the same number.
#[derive(Clone, Debug, Default)]
pub struct OctetCount(Arc<AtomicU64>);

impl OctetCount {
    /// How many it is by now.
    pub fn octets(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[pin_project]
struct Inspect<F> {
    body: Body,
    see: F,
}

impl<F: FnMut(&Bytes)> Stream for Inspect<F> {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        let piece = ready!(this.body.poll_chunk(cx));
        if let Some(Ok(piece)) = &piece {
            (this.see)(piece);
        }
        Poll::Ready(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::in_pieces;

    #[tokio::test]
    async fn what_has_passed_is_counted_and_nothing_else() {
        let body = in_pieces([&b"12"[..], b"345"], Err(BodyError::Incomplete)).prepend("0");
        let (mut body, count) = body.counted();
        for expected in [1, 3, 6] {
            body.chunk().await.unwrap().unwrap();
            assert_eq!(count.clone().octets(), expected);
        }
        assert!(body.chunk().await.unwrap().is_err());
        assert!(body.chunk().await.is_none());
        assert_eq!(count.octets(), 6);
    }
}
