//! The message as it arrives.

mod beginning;
#[cfg(test)]
mod explore;
mod head;
mod incoming;
mod inspect;
mod prepend_by_head;
mod prepend_header;
mod reader;
#[cfg(feature = "spool")]
mod spool;
#[cfg(feature = "spool")]
mod spooled_file;
mod tee;

use std::{
    error::Error,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use smtpd_core::{Code, MessageError, Reply, Status};
use sync_wrapper::SyncWrapper;

use self::incoming::Incoming;
#[cfg(feature = "spool")]
pub use self::spool::{Spooled, Spooling};
pub(crate) use self::{
    beginning::{Beginning, Begins},
    incoming::{Feed, Pieces, Served, incoming},
};
pub use self::{
    head::{Head, HeaderField, HeaderFields},
    inspect::OctetCount,
    reader::BodyReader,
    tee::SinkFailure,
};
use crate::{Data, Session, fault::quietly, recover};

/// The message as it arrives, dots undone: a stream of octets in pieces of any size.
///
/// Nothing is read from the client before a piece is asked for: the first poll makes the server send 354, and a service
/// that stops polling stops the client. Only when the stream has ended with `None` has the whole message come; a client
/// that goes away yields [`BodyError::Incomplete`] as the last item, so what commits at the end can never store half a
/// message.
///
/// | to have | take |
/// |---|---|
/// | piece by piece | [`chunk`](Self::chunk), or it as a [`Stream`] |
/// | as an `AsyncRead` | [`into_reader`](Self::into_reader) |
/// | in memory | [`collect`](Self::collect), [`collect_to`](Self::collect_to) |
/// | in memory or a temporary file | `spool` (feature `spool`) |
/// | the header section first | [`head`](Self::head) |
/// | as MIME | `mime::Parsed` (feature `mime`) |
/// | header fields before it | [`prepend_header`](Self::prepend_header) |
/// | other bytes before it | [`prepend`](Self::prepend) |
/// | a look at what passes | [`inspect`](Self::inspect), [`counted`](Self::counted) |
/// | to refuse it as it passes | [`try_inspect`](Self::try_inspect) |
/// | a copy of what passes | [`tee`](Self::tee) |
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
    front: Option<Bytes>,
    source: Source,
}

enum Source {
    Fixed(Option<Bytes>),
    Incoming(Incoming),
    // Only ever reached through `&mut`, so the wrapper makes the body `Sync` for free.
    Stream(SyncWrapper<Pin<Box<PieceStream>>>),
}

type PieceStream = dyn Stream<Item = Result<Bytes, BodyError>> + Send;

impl Body {
    /// A body of that stream, for instance one that changes another body.
    pub fn new(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Source::Stream(SyncWrapper::new(Box::pin(stream))).into()
    }

    /// The next piece; `None` when the message has come whole.
    ///
    /// # Errors
    ///
    /// See [`BodyError`]. After an error there is no more.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, BodyError>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The whole message in memory. How large it can get is up to the server's limit for a message.
    ///
    /// # Errors
    ///
    /// See [`BodyError`].
    pub async fn collect(self) -> Result<Bytes, BodyError> {
        self.collect_to(usize::MAX).await
    }

    /// The whole message in memory, if it has no more than `limit` octets.
    ///
    /// # Errors
    ///
    /// [`BodyError::TooLarge`] as soon as it has more; else see [`BodyError`].
    pub async fn collect_to(mut self, limit: usize) -> Result<Bytes, BodyError> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.chunk().await {
            let piece = piece?;
            if piece.len() > limit - whole.len() {
                return Err(BodyError::TooLarge);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// The same body with these bytes before it, whatever they are. For header fields, use
    /// [`prepend_header`](Self::prepend_header).
    #[must_use]
    pub fn prepend(mut self, octets: impl Into<Bytes>) -> Self {
        let octets = octets.into();
        if octets.is_empty() {
            return self;
        }
        self.front = Some(match self.front {
            Some(front) => [octets, front].concat().into(),
            None => octets,
        });
        self
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(front) = self.front.take() {
            return Poll::Ready(Some(Ok(front)));
        }
        match &mut self.source {
            Source::Fixed(octets) => Poll::Ready(octets.take().map(Ok)),
            Source::Incoming(incoming) => incoming.poll_next(cx),
            Source::Stream(stream) => stream.get_mut().as_mut().poll_next(cx),
        }
    }
}

impl Default for Body {
    /// A message without an octet.
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
        }
    }
}

impl From<Bytes> for Body {
    fn from(octets: Bytes) -> Self {
        Source::Fixed(Some(octets).filter(|octets| !octets.is_empty())).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(octets: Vec<u8>) -> Self {
        Bytes::from(octets).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

/// Why a message did not come whole, or why the handler that reads it failed.
///
/// ```
/// use smtpd_tower::{Body, BodyError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let error = Body::from("Hello\r\n").collect_to(3).await.unwrap_err();
/// assert!(matches!(error, BodyError::TooLarge));
/// assert_eq!(error.reply().code().as_u16(), 552);
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BodyError {
    /// The client went away, was too slow, or gave the message up before its end. It must not be delivered.
    ///
    /// The service has 10 seconds to clean up. A client that has given the message up by RSET or EHLO waits for that before it
    /// is answered, so do not take long.
    Incomplete,
    /// It has more octets than the server's limit, or than a limit of the reader's own.
    TooLarge,
    /// Its header section is larger than the reader of it would have it; see [`Body::head`].
    HeadTooLarge,
    /// It holds a bare CR or LF, which the server refuses ([`BareNewline::Reject`](smtpd_core::BareNewline::Reject)).
    BareNewline,
    /// It holds a NUL byte, which the server refuses ([`NulByte::Reject`](smtpd_core::NulByte::Reject)).
    NulByte,
    /// Not the message: an I/O error of a handler's own, which `?` has made a `BodyError`. Where a [`Reply`] is among its
    /// sources, the client receives that reply, else 451.
    Handler(Arc<io::Error>),
    /// A body of the user's own failed, or refuses the message: see [`other`](Self::other), [`refused`](Self::refused).
    Other(Arc<dyn Error + Send + Sync>),
}

impl BodyError {
    /// A failure of a body of your own. Where a [`Reply`] is among its sources it is a decision, and the client receives that
    /// reply; else it is a fault, and the client receives 451.
    pub fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other(error.into().into())
    }

    /// A refusal by a body of your own, as by a filter that looks at what passes: whatever reads the body, the client receives
    /// that reply.
    ///
    /// ```
    /// use smtpd_tower::{BodyError, Reply};
    ///
    /// assert_eq!(BodyError::refused(Reply::rejected("Virus found")).reply(), Reply::rejected("Virus found"));
    /// ```
    pub fn refused(reply: Reply) -> Self {
        Self::other(reply)
    }

    /// The reply that belongs to it. Of [`Handler`](Self::Handler) and [`Other`](Self::Other) it is the reply among its
    /// sources, or else 451 4.3.0.
    pub fn reply(&self) -> Reply {
        self.decision().unwrap_or_else(recover::local_error)
    }

    /// Whether it is a fault on this side: neither the client's, nor a refusal.
    ///
    /// ```
    /// use smtpd_tower::{BodyError, Reply};
    ///
    /// assert!(BodyError::other("connection to the scanner lost").is_fault());
    /// assert!(!BodyError::refused(Reply::rejected("Virus found")).is_fault());
    /// assert!(!BodyError::Incomplete.is_fault());
    /// ```
    pub fn is_fault(&self) -> bool {
        self.decision().is_none()
    }

    /// Its reply, and a fault told of: for services whose answer does not show it.
    pub(crate) fn answer(self, session: &Session) -> Reply {
        let reply = self.reply();
        if self.is_fault() {
            session.report_fault::<Data>(self);
        }
        reply
    }

    /// Its reply, if it is no fault on this side.
    pub(crate) fn decision(&self) -> Option<Reply> {
        Some(match self {
            Self::TooLarge => MessageError::TooLarge.reply(),
            Self::HeadTooLarge => Reply::new(
                Code::EXCEEDED_STORAGE,
                Status::MESSAGE_TOO_BIG,
                "Message header too large",
            ),
            Self::BareNewline => MessageError::BareNewline.reply(),
            Self::NulByte => MessageError::NulByte.reply(),
            Self::Incomplete => Reply::new(
                Code::LOCAL_ERROR,
                Status::BAD_CONNECTION,
                "Message incomplete",
            ),
            Self::Handler(error) => return recover::known(&**error),
            Self::Other(error) => return recover::known(&**error),
        })
    }
}

impl From<MessageError> for BodyError {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::TooLarge => Self::TooLarge,
            MessageError::BareNewline => Self::BareNewline,
            MessageError::NulByte => Self::NulByte,
            other => Self::Other(Arc::new(other)),
        }
    }
}

impl From<Reply> for BodyError {
    /// See [`refused`](Self::refused).
    fn from(reply: Reply) -> Self {
        Self::refused(reply)
    }
}

impl From<BodyError> for Reply {
    /// Its [`reply`](BodyError::reply). A fault is written to the log here, for the reply shows nothing of it; return the
    /// error itself, and [`Server::on_error`](crate::Server::on_error) hears of it too.
    fn from(error: BodyError) -> Self {
        if error.is_fault() {
            quietly(|| {
                let cause = error.source().map(ToString::to_string);
                let cause = cause.map(|cause| cause.escape_debug().to_string());
                tracing::error!(cause, "{error}");
            });
        }
        error.reply()
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incomplete => "message incomplete",
            Self::TooLarge => "message too large",
            Self::HeadTooLarge => "message header too large",
            Self::BareNewline => "message holds a bare CR or LF",
            Self::NulByte => "message holds a NUL byte",
            Self::Handler(_) => "I/O of the handler failed",
            Self::Other(_) => "message body failed",
        })
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Handler(error) => Some(&**error),
            Self::Other(error) => Some(&**error),
            _ => None,
        }
    }
}

/// A message that has come in these pieces, and has ended so.
#[cfg(test)]
pub(crate) fn in_pieces<'a, T: AsRef<[u8]> + ?Sized + 'a>(
    pieces: impl IntoIterator<Item = &'a T>,
    end: Result<(), BodyError>,
) -> Body {
    let (feed, body) = incoming();
    for piece in pieces {
        let piece = Bytes::copy_from_slice(piece.as_ref());
        tokio_test::assert_ready!(tokio_test::task::spawn(feed.push(piece)).poll());
    }
    feed.finish(end);
    body
}

#[cfg(test)]
mod tests {
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
}
