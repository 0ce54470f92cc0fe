//! The message as it arrives.
//!
//! | type | what it is |
//! |---|---|
//! | [`Body`] | the stream of the message |
//! | [`BodyError`] | why a message did not arrive whole, or why its reader failed |
//! | [`BodyReader`] | the body as an `AsyncRead` |
//! | [`Head`], [`HeaderField`], [`HeaderFields`] | the header section, and its fields, which can be changed |
//! | [`FieldNameError`] | why a text is not the name of a field |
//! | [`ByteCount`] | the number of bytes that have passed so far |
//! | [`SinkFailure`] | what to do if the sink of a copy fails |
//! | `Spooled`, `Spooling` (feature `spool`) | a whole message, in memory or in a temporary file |

mod adapters;
mod beginning;
#[cfg(feature = "spool")]
mod blocks;
mod edit_head;
mod error;
mod gathered;
mod head;
mod incoming;
mod inspect;
mod prepend_by_head;
mod prepend_header;
mod reader;
#[cfg(feature = "spool")]
mod spool;
#[cfg(feature = "spool")]
mod spooled;
mod tee;
mod watch;

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use sync_wrapper::SyncWrapper;

use self::incoming::Incoming;
#[cfg(feature = "spool")]
pub(crate) use self::spool::check as check_spool;
#[cfg(feature = "queue")]
pub(crate) use self::spooled::ReadAt;
pub(crate) use self::{
    beginning::{Beginning, Begins},
    error::{known_reply, thrown_reply},
    gathered::Gathered,
    incoming::{Due, Feed, Pieces, Served, incoming},
    tee::SINK_TIMEOUT,
    watch::Watch,
};
pub use self::{
    error::BodyError,
    head::{Head, HeaderField, HeaderFields},
    inspect::ByteCount,
    reader::BodyReader,
    tee::SinkFailure,
};
#[cfg(feature = "spool")]
pub use self::{spool::Spooling, spooled::Spooled};
#[doc(inline)]
pub use crate::header::FieldNameError;
use crate::memory::MemoryBudget;

/// The message as it arrives, without dot stuffing: a stream of bytes in chunks of any size.
///
/// The first poll makes the server send 354, and a service that stops polling stops the client, of which no more than 68 KiB are
/// read ahead. The whole message has arrived only when the stream has ended with `None`. If the client disconnects, the last item
/// is [`BodyError::Incomplete`], so a service that commits at the end can never store an incomplete message.
///
/// [The guide](crate::guide::bodies) explains how to read it, and what each way costs.
///
/// | to | use |
/// |---|---|
/// | read it chunk by chunk | [`chunk`](Self::chunk), or the body as a [`Stream`] |
/// | read it as an `AsyncRead` | [`into_reader`](Self::into_reader) |
/// | read it into memory | [`collect`](Self::collect), [`collect_to`](Self::collect_to) |
/// | read at most a number of bytes | [`limited`](Self::limited) |
/// | drop it | [`discard`](Self::discard) |
/// | keep it in memory or a temporary file | `spool` (feature `spool`) |
/// | read the header section first | [`head`](Self::head) |
/// | parse it as MIME | `mime::Parsed` (feature `mime`) |
/// | add header fields | [`prepend_header`](Self::prepend_header) |
/// | change header fields | [`head`](Self::head), then [`Head::insert`], [`Head::replace`] or [`Head::remove`] |
/// | add other bytes before it | [`prepend`](Self::prepend) |
/// | inspect what passes | [`inspect`](Self::inspect), [`counted`](Self::counted) |
/// | refuse it as it passes | [`try_inspect`](Self::try_inspect) |
/// | copy what passes | [`tee`](Self::tee) |
///
/// ```
/// use smtpd_tower::{Body, BodyError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
/// let mut body = Body::from("Subject: hi\r\n\r\nHello\r\n");
/// let mut size = 0;
/// while let Some(piece) = body.chunk().await {
///     size += piece?.len();
/// }
/// assert_eq!(size, 22);
/// # Ok(()) }
/// ```
pub struct Body {
    front: Option<Front>,
    source: Source,
    /// Whoever keeps the message counts there.
    budget: MemoryBudget,
}

/// What was put before a body. Usually this is one chunk, which needs no queue.
struct Front {
    first: Bytes,
    /// What follows, the last one first.
    rest: Vec<Bytes>,
}

enum Source {
    Fixed(Option<Bytes>),
    Incoming(Incoming),
    // Only ever reached through `&mut`, so the wrapper makes the body `Sync` for free.
    Stream(SyncWrapper<Pin<Box<ChunkStream>>>),
}

type ChunkStream = dyn Stream<Item = Result<Bytes, BodyError>> + Send;

impl Body {
    /// Creates a body from a stream, for instance one that changes another body.
    ///
    /// Where such a body is kept in memory, it counts against [`MemoryBudget::shared`], and not against a budget of the server's
    /// own.
    pub fn new(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Source::Stream(SyncWrapper::new(Box::pin(stream))).into()
    }

    /// Returns the next chunk, or `None` when the whole message has arrived.
    ///
    /// # Errors
    ///
    /// See [`BodyError`]. There is nothing after an error.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, BodyError>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// Reads the whole message into memory. The server's limit for a message is the only limit on its size, and the
    /// [`MemoryBudget`] limits all messages together: the bytes that this returns count until the last clone of them is dropped.
    ///
    /// # Errors
    ///
    /// Returns an error for which the client receives 452 if the message exceeds the budget; otherwise see [`BodyError`].
    pub async fn collect(self) -> Result<Bytes, BodyError> {
        self.collect_to(usize::MAX).await
    }

    /// Reads the whole message into memory, if it has at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// Returns [`BodyError::TooLarge`] as soon as the message has more, and an error for which the client receives 452 if it
    /// exceeds the [`MemoryBudget`]; otherwise see [`BodyError`].
    pub async fn collect_to(mut self, limit: usize) -> Result<Bytes, BodyError> {
        let mut whole = Gathered::new(self.budget.clone());
        while let Some(chunk) = self.chunk().await {
            let chunk = chunk?;
            if chunk.len() > limit - whole.len() {
                return Err(BodyError::TooLarge);
            }
            whole.push(&chunk)?;
        }
        Ok(whole.into_bytes())
    }

    /// Reads the message to its end and drops it, for a service that accepts a message without using it. Keeps one chunk in
    /// memory at a time.
    ///
    /// A service that accepts a message has to know that it arrived whole, so it reads to the end even what it drops: errors in
    /// the message and refusals by a layer that filters the body show up on the way. The server [logs a
    /// warning](crate::guide::responsibility#read-to-the-end) about a message that is accepted without being read to its end.
    ///
    /// # Errors
    ///
    /// See [`BodyError`].
    ///
    /// ```
    /// use smtpd_tower::{Data, Pipeline, Request, handler_fn};
    ///
    /// let pipeline =
    ///     Pipeline::new().data(handler_fn(async |request: Request<Data>| {
    ///         request.into_body().discard().await
    ///     }));
    /// ```
    pub async fn discard(mut self) -> Result<(), BodyError> {
        while let Some(chunk) = self.chunk().await {
            chunk?;
        }
        Ok(())
    }

    /// Puts any bytes before the body, as a chunk of their own: they are not copied. For header fields, use
    /// [`prepend_header`](Self::prepend_header).
    #[must_use]
    pub fn prepend(mut self, bytes: impl Into<Bytes>) -> Self {
        self.put_back(bytes.into());
        self
    }

    /// Sets the budget of whoever keeps the message in memory.
    pub(crate) fn with_budget(mut self, budget: MemoryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Returns a body that `make` makes of this one, with the same budget.
    pub(crate) fn wrapped<S>(self, make: impl FnOnce(Self) -> S) -> Self
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    {
        let budget = self.budget.clone();
        Self::new(make(self)).with_budget(budget)
    }

    pub(crate) const fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Puts a chunk before the body.
    fn put_back(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        match &mut self.front {
            Some(front) => front.push(chunk),
            None => {
                self.front = Some(Front {
                    first: chunk,
                    rest: Vec::new(),
                });
            }
        }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(front) = &mut self.front {
            let chunk = match front.rest.pop() {
                Some(next) => Some(std::mem::replace(&mut front.first, next)),
                None => self.front.take().map(|front| front.first),
            };
            return Poll::Ready(chunk.map(Ok));
        }
        match &mut self.source {
            Source::Fixed(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Source::Incoming(incoming) => incoming.poll_next(cx),
            Source::Stream(stream) => stream.get_mut().as_mut().poll_next(cx),
        }
    }
}

impl Front {
    fn push(&mut self, chunk: Bytes) {
        self.rest.push(std::mem::replace(&mut self.first, chunk));
    }
}

impl Default for Body {
    /// Returns an empty message.
    fn default() -> Self {
        Source::Fixed(None).into()
    }
}

impl Stream for Body {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(cx)
    }
}

impl From<Source> for Body {
    fn from(source: Source) -> Self {
        Self {
            front: None,
            source,
            budget: MemoryBudget::shared(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Source::Fixed(Some(bytes).filter(|bytes| !bytes.is_empty())).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

/// Creates a message that arrives in these chunks, and ends with `end`.
#[cfg(test)]
pub(crate) fn in_pieces<'a, T: AsRef<[u8]> + ?Sized + 'a>(
    chunks: impl IntoIterator<Item = &'a T>,
    end: Result<(), BodyError>,
) -> Body {
    let (feed, body) = incoming();
    for chunk in chunks {
        let chunk = Bytes::copy_from_slice(chunk.as_ref());
        tokio_test::assert_ready!(tokio_test::task::spawn(feed.push(chunk)).poll());
    }
    feed.finish(end);
    body
}

#[cfg(test)]
mod tests {
    mod explore;

    use super::*;

    #[tokio::test]
    async fn a_body_is_collected_up_to_a_limit() {
        let body = || Body::from("56789").prepend("34").prepend("12");
        assert_eq!(body().collect().await.unwrap(), "123456789");
        assert_eq!(body().collect_to(9).await.unwrap(), "123456789");
        assert!(matches!(
            body().collect_to(8).await,
            Err(BodyError::TooLarge)
        ));
        assert_eq!(Body::from("").collect().await.unwrap(), "");
    }

    #[tokio::test]
    async fn what_is_put_before_a_body_is_not_copied() {
        let (one, two, message) = (vec![1; 10], vec![2; 10], vec![3; 60_000]);
        let places = [&two, &one, &message].map(Vec::as_ptr);
        let mut body = Body::from(message).prepend(one).prepend(two).prepend("");
        for place in places {
            assert_eq!(body.chunk().await.unwrap().unwrap().as_ptr(), place);
        }
        assert!(body.chunk().await.is_none());
        assert!(body.front.is_none());
    }

    #[tokio::test]
    async fn a_message_that_is_discarded_still_has_to_come_whole() {
        assert!(in_pieces(["one", "two"], Ok(())).discard().await.is_ok());
        let broken = in_pieces(["one", "two"], Err(BodyError::BareNewline));
        let error = broken.discard().await.unwrap_err();
        assert!(matches!(error, BodyError::BareNewline));
        let refused = in_pieces(["one", "two"], Ok(())).try_inspect(|chunk| match &**chunk {
            b"two" => Err(BodyError::TooLarge),
            _ => Ok(()),
        });
        let error = refused.discard().await.unwrap_err();
        assert!(matches!(error, BodyError::TooLarge));
    }
}
