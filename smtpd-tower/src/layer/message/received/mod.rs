//! The trace header: [`ReceivedLayer`].

mod header;

use std::{
    task::{Context, Poll},
    time::SystemTime,
};

use tower_layer::Layer;
use tower_service::Service;

use self::header::Header;
use crate::{
    phase::{Data, Request},
    session::QueueId,
};

/// Adds the trace header to every message: where it came from, how, and when (RFC 5321 section 4.4).
///
/// It fits DATA only, and refuses nothing. A server that takes responsibility for a message must add this header, also so that
/// loops can be found (RFC 5321 section 6.3). The header includes the name of the client's address if
/// [`ReverseDnsLayer`](crate::layer::ReverseDnsLayer) has found one, and the recipient if there is only one, so that none learns
/// of the others (RFC 5321 section 7.6).
///
/// Text that the client chose can neither end a line nor open a comment in it: such characters become `?`.
///
/// If the message has no header of its own, an empty line ends this one: see
/// [`Body::prepend_header`](crate::body::Body::prepend_header).
///
/// The `id` of the header is a [`QueueId`], kept in the state of the transaction for the delivery and the logs. If there is one
/// already, for instance from a service for MAIL, it is used.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use smtpd_tower::{
///     Body, BodyError, Data, Envelope, Reply, Request, Session,
///     address::{ClientName, ReversePath},
///     handler_fn,
///     layer::ReceivedLayer,
///     session::Greeting,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// async fn deliver(request: Request<Data>) -> Result<Reply, BodyError> {
///     let message = request.into_body().collect().await?;
///     let lines: Vec<_> =
///         std::str::from_utf8(&message).unwrap().lines().collect();
///     assert_eq!(lines[0], "Received: from client.example ([192.0.2.1])");
///     assert!(lines[1].starts_with("\tby localhost (smtpd) with ESMTP id "));
///     assert_eq!(lines[2], "\tfor <user@example.org>;");
///     assert_eq!(lines[3], "\tSun, 22 Nov 2026 20:00:00 +0000");
///     assert_eq!(lines[4], "Subject: hi");
///     Ok(Reply::OK)
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = ReceivedLayer::new()
///     .clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_377_600));
/// let data = ServiceBuilder::new().layer(layer).service(handler_fn(deliver));
///
/// let session = Session::from_peer(([192, 0, 2, 1], 4711))
///     .with_helo("client.example".parse()?, Greeting::Ehlo);
/// let envelope = Envelope::new(ReversePath::Null)
///     .with_recipient("user@example.org".parse()?);
/// let message = Data::new(envelope, Body::from("Subject: hi\r\n\r\nHello\r\n"));
/// assert_eq!(data.oneshot(Request::new(session, message)).await?, Reply::OK);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ReceivedLayer {
    clock: fn() -> SystemTime,
}

impl ReceivedLayer {
    /// Adds the trace header, with the names that the server uses in its greeting.
    pub fn new() -> Self {
        Self {
            clock: SystemTime::now,
        }
    }

    /// Sets the clock, for tests. Default: [`SystemTime::now`].
    #[must_use]
    pub fn clock(self, clock: fn() -> SystemTime) -> Self {
        Self { clock }
    }
}

impl Default for ReceivedLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ReceivedLayer {
    type Service = Received<S>;

    fn layer(&self, inner: S) -> Received<S> {
        Received {
            inner,
            clock: self.clock,
        }
    }
}

/// The service of [`ReceivedLayer`].
#[derive(Clone, Debug)]
pub struct Received<S> {
    inner: S,
    clock: fn() -> SystemTime,
}

impl<S> Service<Request<Data>> for Received<S>
where
    S: Service<Request<Data>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Data>) -> S::Future {
        let time = (self.clock)();
        let header = Header {
            session: request.session(),
            envelope: request.envelope(),
            id: &queue_id(&request, time),
            time,
        };
        let header = header.to_string();
        self.inner
            .call(request.map_body(|body| body.prepend_header(header)))
    }
}

fn queue_id(request: &Request<Data>, time: SystemTime) -> QueueId {
    let transaction = request.session().transaction();
    transaction.get().unwrap_or_else(|| {
        let id = QueueId::at(time);
        transaction.insert(id.clone());
        id
    })
}

#[cfg(test)]
mod tests {
    use smtpd_core::{envelope::Envelope, reply::Reply};
    use tokio_test::assert_ready_ok;
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{body::Body, session::Session};

    async fn received(session: Session) -> (String, QueueId) {
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(ReceivedLayer::new());
        assert_ready_ok!(service.poll_ready());
        let data = Data::new(Envelope::default(), Body::from("Subject: hi\r\n\r\n"));
        let asked = tokio::spawn(service.call(Request::new(session, data)));
        let (request, respond) = handle.next_request().await.unwrap();
        let id = request.session().transaction().get().unwrap();
        let message = request.into_body().collect().await.unwrap();
        respond.send_response(Reply::busy());
        assert_eq!(asked.await.unwrap().unwrap(), Reply::busy());
        (String::from_utf8(message.to_vec()).unwrap(), id)
    }

    #[tokio::test]
    async fn the_header_goes_before_the_message_and_names_its_id() {
        let (message, id) = received(Session::local()).await;
        let by = format!("\r\n\tby localhost (smtpd) with SMTP id {id};\r\n\t");
        assert!(message.starts_with("Received: from "), "{message}");
        assert!(message.contains(&by), "{message}");
        assert!(
            message.ends_with(" +0000\r\nSubject: hi\r\n\r\n"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn every_message_has_its_own_id_unless_it_has_one_already() {
        let session = Session::local();
        let (_, first) = received(session.clone()).await;
        let (_, other) = received(Session::local()).await;
        assert_ne!(first, other);
        let (message, again) = received(session).await;
        assert_eq!(first, again);
        assert!(message.contains(first.as_str()));
    }
}
