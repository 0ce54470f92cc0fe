use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use smtpd_core::{envelope::Envelope, reply::Reply};
use tokio::sync::Notify;
use tower_service::Service;

use crate::{
    body::{Body, BodyError, Gathered},
    phase::{Data, Request},
    session::Session,
};

/// Keeps messages in memory, for tests to inspect. Clones share the messages.
///
/// A message keeps the facts of its session and the values in its [state](Session::state). What the session
/// holds by `Session::hold`, such as a permit, ends with the connection all the same.
///
/// ```
/// use smtpd_tower::{Body, Data, Envelope, Request, Session, deliver::Inbox};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = Inbox::new();
/// let envelope = Envelope::new("a@example.com".parse()?)
///     .with_recipient("b@example.org".parse()?);
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
    max_messages: usize,
    max_bytes: usize,
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
    /// The length of all of them.
    bytes: usize,
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
            max_messages: usize::MAX,
            max_bytes: usize::MAX,
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

    /// Sets how many messages may be in the inbox before this handle defers further ones with 452 4.3.1, until some are taken.
    /// Default: no limit.
    #[must_use]
    pub fn max_messages(self, messages: usize) -> Self {
        Self {
            max_messages: messages,
            ..self
        }
    }

    /// Sets how many bytes the messages in the inbox may have together before this handle defers further ones with 452 4.3.1,
    /// until some are taken. Default: no limit.
    #[must_use]
    pub fn max_bytes(self, bytes: usize) -> Self {
        Self {
            max_bytes: bytes,
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
}

impl Inbox {
    /// Returns whether a message of so many bytes fits in. An empty one is refused as well if there is no room for another.
    fn has_room(&self, kept: &Kept, bytes: usize) -> bool {
        kept.messages.len() < self.max_messages
            && kept.bytes.saturating_add(bytes) <= self.max_bytes
    }

    /// Reads a message, which is refused as soon as it does not fit in: if there is no room for any, before it is sent.
    fn poll_receive(
        &self,
        body: &mut Body,
        message: &mut Gathered,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BodyError>> {
        loop {
            if !self.has_room(&self.shared.lock(), message.len()) {
                return Poll::Ready(Err(Reply::storage_full().into()));
            }
            let Some(chunk) = ready!(Pin::new(&mut *body).poll_next(cx)).transpose()? else {
                return Poll::Ready(Ok(()));
            };
            if chunk.len() > self.limit - message.len() {
                return Poll::Ready(Err(BodyError::TooLarge));
            }
            message.push(&chunk)?;
        }
    }

    /// Keeps a message, unless others have taken its room.
    fn keep(&self, delivered: Delivered) -> Reply {
        let mut kept = self.shared.lock();
        let bytes = delivered.message.len();
        if !self.has_room(&kept, bytes) {
            return Reply::storage_full();
        }
        kept.bytes += bytes;
        kept.messages.push(delivered);
        drop(kept);
        self.shared.arrived.notify_waiters();
        Reply::OK
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
        let (envelope, body) = data.into_parts();
        InboxFuture {
            inbox: self.clone(),
            session,
            envelope,
            message: Gathered::new(body.budget().clone()),
            body: Some(body),
        }
    }
}

/// The future of [`Inbox`].
#[derive(Debug)]
pub struct InboxFuture {
    inbox: Inbox,
    session: Session,
    envelope: Arc<Envelope>,
    /// Taken at the end.
    body: Option<Body>,
    message: Gathered,
}

impl Future for InboxFuture {
    type Output = Result<Reply, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // Polled after completion, it stays pending like a fused future.
        let Some(body) = &mut this.body else {
            return Poll::Pending;
        };
        let received = this.inbox.poll_receive(body, &mut this.message, cx);
        let reply = match ready!(received) {
            Ok(()) => this.inbox.keep(Delivered {
                session: this.session.clone(),
                envelope: this.envelope.clone(),
                message: std::mem::take(&mut this.message).into_bytes(),
            }),
            Err(error) => this.session.reply_to(error),
        };
        this.body = None;
        Poll::Ready(Ok(reply))
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

    #[tokio::test]
    async fn a_full_inbox_defers_messages_until_some_are_taken() {
        for inbox in [Inbox::new().max_messages(2), Inbox::new().max_bytes(6)] {
            for _ in 0..2 {
                assert_eq!(deliver(&inbox, Body::from("one")).await, 250);
            }
            assert_eq!(deliver(&inbox, Body::from("two")).await, 452);
            assert_eq!(inbox.take().len(), 2);
            assert_eq!(deliver(&inbox, Body::from("two")).await, 250);
        }
        assert_eq!(
            deliver(&Inbox::new().max_messages(0), Body::from("")).await,
            452
        );
        assert_eq!(
            deliver(&Inbox::new().max_bytes(2), Body::from("one")).await,
            452
        );
        assert_eq!(
            deliver(&Inbox::new().max_bytes(3), Body::from("one")).await,
            250
        );
    }

    #[test]
    fn a_full_inbox_replies_before_the_message_is_sent() {
        let inbox = Inbox::new().max_messages(0);
        let (feed, body) = incoming();
        let request = Request::new(Session::local(), Data::new(Envelope::default(), body));
        let mut answer = task::spawn(inbox.clone().call(request));
        let reply = assert_ready_ok!(answer.poll());
        assert_eq!(reply, Reply::storage_full());
        assert!(
            task::spawn(std::future::poll_fn(|cx| feed.poll_wanted(cx)))
                .poll()
                .is_pending()
        );
    }

    #[test]
    fn messages_that_arrive_together_do_not_exceed_the_limit() {
        let inbox = Inbox::new().max_messages(1);
        let mut answers: Vec<_> = (0..2)
            .map(|_| {
                let (feed, body) = incoming();
                let data = Data::new(Envelope::default(), body);
                let request = Request::new(Session::local(), data);
                let mut answer = task::spawn(inbox.clone().call(request));
                assert_pending!(answer.poll());
                feed.finish(Ok(()));
                answer
            })
            .collect();
        let codes: Vec<_> = answers
            .iter_mut()
            .map(|answer| assert_ready_ok!(answer.poll()).code().as_u16())
            .collect();
        assert_eq!(codes, [250, 452]);
    }

    #[test]
    fn a_delivery_that_is_polled_after_its_end_keeps_nothing_more() {
        let inbox = Inbox::new();
        let data = Data::new(Envelope::default(), Body::from("once"));
        let request = Request::new(Session::local(), data);
        let mut answer = task::spawn(inbox.clone().call(request));
        assert_ready_ok!(answer.poll());
        assert_pending!(answer.poll());
        assert_eq!(texts(&inbox.messages()), [b"once"]);
    }
}
