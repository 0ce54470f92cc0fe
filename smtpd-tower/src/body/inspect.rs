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
    /// Calls `see` with each chunk that passes: for counting, hashing, progress.
    ///
    /// `see` is called for the whole message only if the body is read to its end.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    ///
    /// use sha2::{Digest, Sha256};
    /// use smtpd_tower::{
    ///     Body, BodyError, Data, Envelope, Reply, Request, Session, handler_fn,
    /// };
    /// use tower::ServiceExt;
    ///
    /// /// Passes the message on chunk by chunk, and returns its SHA-256.
    /// async fn hashed(request: Request<Data>) -> Result<Reply, BodyError> {
    ///     let hash = Arc::new(Mutex::new(Sha256::new()));
    ///     let hashing = hash.clone();
    ///     deliver(
    ///         request
    ///             .into_body()
    ///             .inspect(move |piece| hashing.lock().unwrap().update(piece)),
    ///     )
    ///     .await?;
    ///     let hash = std::mem::take(&mut *hash.lock().unwrap()).finalize();
    ///     Ok(Reply::queued(
    ///         hash.iter().map(|octet| format!("{octet:02x}")).collect::<String>(),
    ///     ))
    /// }
    /// # async fn deliver(mut body: Body) -> Result<(), BodyError> { while body.chunk().await.transpose()?.is_some() {} Ok(()) }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let message = Data::new(Envelope::default(), Body::from("Hello\r\n"));
    /// let reply =
    ///     handler_fn(hashed).oneshot(Request::new(Session::local(), message)).await?;
    /// assert!(reply.merged().text().starts_with("Queued as 05ade08fcfb104f4"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn inspect(self, mut see: impl FnMut(&Bytes) + Send + 'static) -> Self {
        self.try_inspect(move |chunk| {
            see(chunk);
            Ok(())
        })
    }

    /// Like [`inspect`](Self::inspect), but `see` may end the message: with [`BodyError::refused`], or with an error of its own.
    /// The reader of the body receives that error in place of the chunk. [`MapBodyLayer`](crate::layer::MapBodyLayer) shows such
    /// a filter.
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError, Reply};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let body =
    ///     Body::from("MZ\0\0").try_inspect(|piece| match piece.starts_with(b"MZ") {
    ///         true => Err(BodyError::refused(Reply::rejected("No programs, please"))),
    ///         false => Ok(()),
    ///     });
    /// assert_eq!(
    ///     body.collect().await.unwrap_err().reply().text(),
    ///     "No programs, please"
    /// );
    /// # }
    /// ```
    #[must_use]
    pub fn try_inspect(
        self,
        see: impl FnMut(&Bytes) -> Result<(), BodyError> + Send + 'static,
    ) -> Self {
        Self::new(Inspect {
            body: Some(self),
            see,
        })
    }

    /// Returns the body, and the number of its bytes that have passed so far.
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
    /// let (body, passed) = Body::from("Hello\r\n").counted();
    /// assert_eq!(passed.bytes(), 0);
    /// body.collect().await?;
    /// assert_eq!(passed.bytes(), 7);
    /// # Ok(()) }
    /// ```
    pub fn counted(self) -> (Self, ByteCount) {
        let count = ByteCount::default();
        let passed = count.clone();
        let body = self.inspect(move |chunk| {
            let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            passed.0.fetch_add(bytes, Ordering::Relaxed);
        });
        (body, count)
    }
}

/// The number of bytes of a body that have passed; see [`Body::counted`]. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct ByteCount(Arc<AtomicU64>);

impl ByteCount {
    /// Returns the current number.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[pin_project]
struct Inspect<F> {
    /// `None` after an error of `see`.
    body: Option<Body>,
    see: F,
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
                2 => Err(smtpd_core::Reply::rejected("No").into()),
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
