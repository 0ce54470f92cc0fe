use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use smtpd_core::{Envelope, Reply};
use tokio::sync::Notify;
use tower_service::Service;

use crate::{
    body::{Body, BodyError},
    phase::{Data, Request},
    session::Session,
};

/// Keeps messages in memory, for tests to inspect. Clones share the messages.
///
/// ```
/// use smtpd_tower::{Body, Data, Envelope, Request, Session, deliver::Inbox};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = Inbox::new();
/// let envelope = Envelope::new("a@example.com".parse()?).with_recipient("b@example.org".parse()?);
/// let data = Data::new(envelope, Body::from("Hello\r\n"));
/// inbox.clone().oneshot(Request::new(Session::local(), data)).await?;
///
/// let delivered = inbox.next().await;
/// assert_eq!(delivered.message(), "Hello\r\n");
/// assert_eq!(delivered.envelope().sender().as_str(), "a@example.com");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Inbox {
    limit: usize,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    kept: Mutex<Kept>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    messages: Vec<Delivered>,
    /// How many of them `next` has returned.
    returned: usize,
}

impl Default for Inbox {
    /// See [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

impl Inbox {
    /// Creates an empty inbox, for messages of any size and number.
    pub fn new() -> Self {
        Self {
            limit: usize::MAX,
            shared: Arc::default(),
        }
    }

    /// Sets the size, in bytes, above which this handle rejects messages with 552. Default: no limit.
    ///
    /// Other clones keep their own limit.
    #[must_use]
    pub fn limit(self, bytes: usize) -> Self {
        Self {
            limit: bytes,
            ..self
        }
    }

    /// Returns the messages that were delivered and not taken, in the order of arrival.
    pub fn messages(&self) -> Vec<Delivered> {
        self.shared.lock().messages.clone()
    }

    /// Returns how many messages were delivered and not taken.
    pub fn len(&self) -> usize {
        self.shared.lock().messages.len()
    }

    /// Returns whether no message was delivered, or all were taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes all messages from the inbox and returns them, in the order of arrival.
    pub fn take(&self) -> Vec<Delivered> {
        std::mem::take(&mut *self.shared.lock()).messages
    }

    /// Waits for the next message that was neither taken nor returned by this method, on any clone, and returns it. The message
    /// stays in the inbox. Dropping the future loses no message.
    pub async fn next(&self) -> Delivered {
        loop {
            // Before the check: the future is woken by messages that arrive from now on, whether it has been polled or not.
            let arrived = self.shared.arrived.notified();
            if let Some(delivered) = self.shared.next() {
                return delivered;
            }
            arrived.await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Delivered> {
        let mut kept = self.lock();
        let delivered = kept.messages.get(kept.returned).cloned()?;
        kept.returned += 1;
        Some(delivered)
    }

    fn keep(&self, delivered: Delivered) {
        self.lock().messages.push(delivered);
        self.arrived.notify_waiters();
    }
}

/// A message that an [`Inbox`] has accepted.
#[derive(Clone, Debug)]
pub struct Delivered {
    session: Session,
    envelope: Arc<Envelope>,
    message: Bytes,
}

impl Delivered {
    /// Returns the session as it was at DATA: the client, its HELO name, its TLS connection.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Returns the sender and the recipients.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Returns header and text, as they were received.
    pub const fn message(&self) -> &Bytes {
        &self.message
    }
}

impl Service<Request<Data>> for Inbox {
    type Response = Reply;
    type Error = Infallible;
    type Future = InboxFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Data>) -> InboxFuture {
        let (session, data) = request.into_parts();
        InboxFuture {
            inbox: self.clone(),
            session,
            envelope: data.envelope,
            body: data.body,
            message: BytesMut::new(),
        }
    }
}

/// The future of [`Inbox`].
#[derive(Debug)]
pub struct InboxFuture {
    inbox: Inbox,
    session: Session,
    envelope: Arc<Envelope>,
    body: Body,
    message: BytesMut,
}

impl Future for InboxFuture {
    type Output = Result<Reply, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let Some(chunk) = ready!(Pin::new(&mut this.body).poll_next(cx)) {
            if let Err(error) = chunk.and_then(|chunk| this.append(&chunk)) {
                return Poll::Ready(Ok(this.session.reply_to(error)));
            }
        }
        this.inbox.shared.keep(Delivered {
            session: this.session.clone(),
            envelope: this.envelope.clone(),
            message: std::mem::take(&mut this.message).freeze(),
        });
        Poll::Ready(Ok(Reply::OK))
    }
}

impl InboxFuture {
    fn append(&mut self, chunk: &[u8]) -> Result<(), BodyError> {
        if chunk.len() > self.inbox.limit - self.message.len() {
            return Err(BodyError::TooLarge);
        }
        self.message.extend_from_slice(chunk);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};

    use super::*;
    use crate::body::incoming;

    async fn deliver(inbox: &Inbox, body: Body) -> u16 {
        let session = Session::local().with_identity("user");
        let request = Request::new(session, Data::new(Envelope::default(), body));
        inbox.clone().call(request).await.unwrap().code().as_u16()
    }

    fn texts(messages: &[Delivered]) -> Vec<&[u8]> {
        messages
            .iter()
            .map(|delivered| &**delivered.message())
            .collect()
    }

    #[tokio::test]
    async fn each_message_is_next_once_and_stays_until_taken() {
        let inbox = Inbox::new();
        assert_eq!(deliver(&inbox, Body::from("one")).await, 250);
        let mut next = task::spawn(inbox.next());
        assert_eq!(assert_ready!(next.poll()).message(), "one");
        let mut next = task::spawn(inbox.next());
        assert_pending!(next.poll());
        assert_eq!(deliver(&inbox, Body::from("two").prepend("1+")).await, 250);
        assert!(next.is_woken());
        let delivered = assert_ready!(next.poll());
        assert_eq!(delivered.message(), "1+two");
        assert!(delivered.session().identity().is_some());
        assert_eq!(texts(&inbox.messages()), [&b"one"[..], b"1+two"]);
        assert_eq!(inbox.take().len(), 2);
        assert!(inbox.is_empty());
        deliver(&inbox, Body::from("three")).await;
        assert_eq!(inbox.next().await.message(), "three");
        assert_eq!(inbox.len(), 1);
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_refused() {
        let inbox = Inbox::new().limit(4);
        assert_eq!(deliver(&inbox, Body::from("34").prepend("12")).await, 250);
        assert_eq!(deliver(&inbox, Body::from("345").prepend("12")).await, 552);
        assert_eq!(texts(&inbox.messages()), [b"1234"]);
    }

    #[test]
    fn a_message_that_breaks_off_is_not_kept() {
        let inbox = Inbox::new();
        let (feed, body) = incoming();
        let request = Request::new(Session::local(), Data::new(Envelope::default(), body));
        let mut answer = task::spawn(inbox.clone().call(request));
        assert_pending!(answer.poll());
        assert!(task::spawn(feed.push("half".into())).poll().is_ready());
        assert_pending!(answer.poll());
        drop(feed);
        assert_eq!(assert_ready_ok!(answer.poll()).code().as_u16(), 451);
        assert!(inbox.is_empty());
    }
}
