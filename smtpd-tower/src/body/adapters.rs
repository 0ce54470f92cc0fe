//! The methods that make something else of a body: another body, a reader, a message that is kept.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::io::AsyncWrite;

#[cfg(feature = "spool")]
use super::Spooling;
use super::{
    Body, BodyError, BodyReader, ByteCount, Head, SinkFailure, head, inspect::Inspect,
    prepend_by_head::PrependByHead, prepend_header::PrependHeader, tee::Tee,
};

impl Body {
    /// Reads the header section and leaves the rest in the body: it is neither buffered nor requested from the client.
    ///
    /// The head ends with the first empty line (RFC 5322 section 2.1), which is part of it; a message without one is all head.
    /// Only CRLF ends a line. [`Head::into_body`] puts the head back, byte for byte.
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError, Data, Reply, Request, handler_fn, Pipeline};
    ///
    /// async fn judge(request: Request<Data>) -> Result<Reply, BodyError> {
    ///     let (head, body) = request.into_body().head(64 * 1024).await?;
    ///     if head
    ///         .field("subject")
    ///         .is_some_and(|subject| subject.value().starts_with(b"[SPAM]"))
    ///     {
    ///         return Ok(Reply::rejected("No, thanks")); // the rest is never kept
    ///     }
    ///     deliver(head.into_body(body)).await?;
    ///     Ok(Reply::OK)
    /// }
    /// # async fn deliver(body: Body) -> Result<(), BodyError> { body.collect().await.map(drop) }
    /// let pipeline = Pipeline::new().data(handler_fn(judge));
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`BodyError::HeadTooLarge`], for which the client receives 552, if the head does not end within `limit` bytes;
    /// otherwise see [`BodyError`].
    pub async fn head(self, limit: usize) -> Result<(Head, Self), BodyError> {
        head::split(self, limit).await
    }

    /// Converts the body into a reader for code that uses [`AsyncRead`](tokio::io::AsyncRead) or
    /// [`AsyncBufRead`](tokio::io::AsyncBufRead).
    ///
    /// A [`BodyError`] is returned as an [`io::Error`] that wraps it, and again by every further read, so an incomplete message
    /// never seems to end cleanly. [`recover`](crate::reply::recover()) and `BodyError::from` find it in there.
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError};
    /// use tokio::io::AsyncBufReadExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
    /// let mut lines =
    ///     Body::from("Subject: hi\r\n\r\nHello\r\n").into_reader().lines();
    /// assert_eq!(lines.next_line().await?.as_deref(), Some("Subject: hi"));
    /// # Ok(()) }
    /// ```
    pub fn into_reader(self) -> BodyReader {
        BodyReader::new(self)
    }

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
    ///     let body = request.into_body();
    ///     let body =
    ///         body.inspect(move |chunk| hashing.lock().unwrap().update(chunk));
    ///     deliver(body).await?;
    ///     let hash = std::mem::take(&mut *hash.lock().unwrap()).finalize();
    ///     let hex = hash.iter().map(|byte| format!("{byte:02x}"));
    ///     Ok(Reply::queued(hex.collect::<String>()))
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
    /// use bytes::Bytes;
    /// use smtpd_tower::{Body, BodyError, Reply};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// // A decision on single bytes does not depend on where chunks end. To find a
    /// // word, keep the end of the chunk before.
    /// let ascii_only = |chunk: &Bytes| match chunk.is_ascii() {
    ///     true => Ok(()),
    ///     false => Err(BodyError::refused(Reply::rejected("ASCII only"))),
    /// };
    /// for (message, is_accepted) in [("Hello\r\n", true), ("Grüße\r\n", false)] {
    ///     let collected = Body::from(message).try_inspect(ascii_only).collect().await;
    ///     assert_eq!(collected.is_ok(), is_accepted);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn try_inspect(
        self,
        see: impl FnMut(&Bytes) -> Result<(), BodyError> + Send + 'static,
    ) -> Self {
        self.wrapped(|body| Inspect::new(body, see))
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
        let body = self.inspect(move |chunk| passed.add(chunk));
        (body, count)
    }

    /// Limits the body to `limit` bytes: in place of the chunk that exceeds it, the body yields [`BodyError::TooLarge`], and
    /// nothing after that. Bytes that were [prepended](Self::prepend) before count too; those prepended afterwards do not.
    ///
    /// To limit every message of a service use [`SizeLimitLayer`](crate::layer::SizeLimitLayer), which also rejects a message by
    /// its declared size, and the server's [`Limits::message_size`](smtpd_core::Limits::message_size).
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let body = || Body::from("Hello\r\n");
    /// assert!(body().limited(7).collect().await.is_ok());
    /// assert!(matches!(body().limited(6).collect().await, Err(BodyError::TooLarge)));
    /// # }
    /// ```
    #[must_use]
    pub fn limited(self, limit: u64) -> Self {
        let mut left = limit;
        self.try_inspect(move |chunk| {
            let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            left = left.checked_sub(bytes).ok_or(BodyError::TooLarge)?;
            Ok(())
        })
    }

    /// Puts header fields, such as a trace header, before the body. Each of them ends with CRLF, which is added to the last one
    /// if it is missing.
    ///
    /// The fields are not checked. A value must not contain a CR or LF that a client chose: the client could otherwise add fields
    /// of its own, or end the header section (RFC 5322 section 2.2).
    ///
    /// If the message begins neither with a header field nor with an empty line, an empty line is added after the fields, because
    /// the text of the message would otherwise be read as part of its header. This applies to messages from `printf text | curl
    /// -T -` and from many devices. An mbox `From ` line above the first field becomes the field `X-Mailbox-Line`, as in Postfix:
    /// the fields below it stay fields.
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
    /// let with_header = |message: &'static str| {
    ///     Body::from(message).prepend_header("X-Scanned: yes\r\n").collect()
    /// };
    /// assert_eq!(
    ///     with_header("Subject: hi\r\n\r\nHello\r\n").await?,
    ///     "X-Scanned: yes\r\nSubject: hi\r\n\r\nHello\r\n"
    /// );
    /// assert_eq!(with_header("Hello\r\n").await?, "X-Scanned: yes\r\n\r\nHello\r\n");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn prepend_header(self, fields: impl Into<Bytes>) -> Self {
        let fields = fields.into();
        if fields.is_empty() {
            return self;
        }
        self.wrapped(|body| PrependHeader::new(body, fields))
    }

    /// Puts the header fields before the body that `make` returns once it has seen the header section. A message that does not
    /// begin with a header field has none, whatever follows. If the header section has more than `limit` bytes, nothing is added,
    /// because it is unknown what is missing. At most `limit` bytes and one chunk of the message are kept.
    pub(crate) fn prepend_by_head(
        self,
        limit: usize,
        make: impl FnOnce(&Head) -> String + Unpin + Send + 'static,
    ) -> Self {
        self.wrapped(|body| PrependByHead::new(body, limit, make))
    }

    /// Writes every byte to `sink` before passing it on.
    ///
    /// A slow sink slows the client down. Once the message has waited a minute in total for it, the sink has failed, and
    /// `on_failure` says what happens; [`TeeLayer::sink_timeout`](crate::layer::TeeLayer::sink_timeout) sets another limit. At
    /// the end of the message the sink is shut down, and only then does the body end. A sink that is dropped without being shut
    /// down has not received a whole message: the message broke off, or nothing read it to its end.
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError, body::SinkFailure};
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
        self.wrapped(|body| Tee::open(body, sink, on_failure))
    }

    /// Like [`tee`](Self::tee), with a sink that is opened when the body is first read.
    /// `timeout` is how long the message waits for it in total.
    pub(crate) fn tee_opening<O, W>(
        self,
        open: O,
        on_failure: SinkFailure,
        timeout: Duration,
    ) -> Self
    where
        O: Future<Output = io::Result<W>> + Send + 'static,
        W: AsyncWrite + Send + 'static,
    {
        self.wrapped(|body| Tee::opening(body, open, on_failure, timeout))
    }

    /// Reads the whole message into memory, or into a temporary file as soon as it has more than `limit` bytes.
    ///
    /// The file has no name, or only for a moment, and is deleted when the last [`Spooled`](super::Spooled) is dropped. A message
    /// in memory takes its length and at most 64 KiB; of one in a file, at most 64 KiB and one chunk are in memory once the file
    /// is there. A slow disk slows down only messages in files, see [`DiskPermits`](crate::disk::DiskPermits).
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BodyError> {
    /// let spooled = Body::from("Hello\r\n").spool(4).await?;
    /// assert_eq!((spooled.len(), spooled.is_in_memory()), (7, false));
    /// for _attempt in 0..2 {
    ///     assert_eq!(spooled.body().collect().await?, "Hello\r\n");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`BodyError::Other`] if the file fails, for which the client receives 452 4.3.1 if the disk is full and 451 4.3.0
    /// otherwise; see also [`BodyError`].
    ///
    /// # Panics
    ///
    /// The future panics outside of a tokio runtime when it needs the file.
    #[cfg(feature = "spool")]
    pub fn spool(self, limit: usize) -> Spooling {
        Spooling::new(self, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::in_pieces;

    #[tokio::test]
    async fn a_limited_body_yields_nothing_of_the_chunk_that_goes_beyond() {
        let body = || in_pieces(["12", "345", "6"], Ok(()));
        assert_eq!(body().limited(6).collect().await.unwrap(), "123456");
        let mut body = body().limited(4);
        assert_eq!(body.chunk().await.unwrap().unwrap(), "12");
        let error = body.chunk().await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::TooLarge));
        assert!(body.chunk().await.is_none());
    }

    #[tokio::test]
    async fn what_is_prepended_before_the_limit_counts_and_what_comes_later_does_not() {
        let before = Body::from("34").prepend("12").limited(3);
        assert!(before.collect().await.is_err());
        let after = Body::from("34").limited(2).prepend("12");
        assert_eq!(after.collect().await.unwrap(), "1234");
    }
}
