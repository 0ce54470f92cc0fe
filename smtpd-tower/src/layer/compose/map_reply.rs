use std::{
    any::type_name,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use smtpd_core::reply::Reply;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    phase::Request,
    reply::{Answer, decided},
};

/// Changes the text or the code of a service's replies.
///
/// It fits every phase. At AUTH, only refusals have a reply at this point; if a message has a reply per recipient, each one is
/// changed. A [`Reply`] that the service throws as an error is changed too, and becomes the response. Other errors pass
/// unchanged: [`recover`](crate::reply::recover()) turns them into replies outside of all layers, and these reveal nothing of the
/// cause.
///
/// A refusal that is changed to a positive reply counts as one: at RCPT the recipient is accepted, and at DATA the client
/// considers the message delivered.
///
/// ```
/// use smtpd_tower::{
///     Rcpt, Reply, Request, Session, handler_fn, layer::MapReplyLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// async fn lookup(request: Request<Rcpt>) -> Result<(), Reply> {
///     match request.recipient().as_str() {
///         "alice@example.org" => Ok(()),
///         _ => Err(Reply::no_such_user()
///             .with_text("Not in table users of db1.internal")),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), smtpd_tower::BoxError> {
/// let hide = |reply: Reply| {
///     if reply.is_positive() { reply } else { reply.with_text("Refused") }
/// };
/// let rcpt = ServiceBuilder::new()
///     .layer(MapReplyLayer::new(hide))
///     .service(handler_fn(lookup));
/// let ask = |path| {
///     rcpt.clone().oneshot(Request::new(Session::local(), Rcpt::new(path)))
/// };
///
/// assert_eq!(
///     ask("alice@example.org".parse()?).await?.to_string(),
///     "250 2.0.0 OK"
/// );
/// assert_eq!(
///     ask("bob@example.org".parse()?).await?.to_string(),
///     "550 5.1.1 Refused"
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
pub struct MapReplyLayer<F> {
    map: F,
}

impl<F: Fn(Reply) -> Reply> MapReplyLayer<F> {
    /// Passes each reply through `f`, and sends the result to the client.
    pub const fn new(map: F) -> Self {
        Self { map }
    }
}

// By hand, here and below: a closure has no Debug.
impl<F> fmt::Debug for MapReplyLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MapReplyLayer")
            .field(&type_name::<F>())
            .finish()
    }
}

impl<S, F: Clone> Layer<S> for MapReplyLayer<F> {
    type Service = MapReply<S, F>;

    fn layer(&self, inner: S) -> MapReply<S, F> {
        MapReply {
            inner,
            map: self.map.clone(),
        }
    }
}

/// The service of [`MapReplyLayer`].
#[derive(Clone, Copy)]
pub struct MapReply<S, F> {
    inner: S,
    map: F,
}

impl<S: fmt::Debug, F> fmt::Debug for MapReply<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapReply")
            .field("inner", &self.inner)
            .field("map", &type_name::<F>())
            .finish()
    }
}

impl<S, F, P> Service<Request<P>> for MapReply<S, F>
where
    S: Service<Request<P>, Response: Answer, Error: Into<BoxError>>,
    F: Fn(Reply) -> Reply + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = MapReplyFuture<S::Future, F>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        MapReplyFuture {
            inner: self.inner.call(request),
            map: self.map.clone(),
        }
    }
}

/// The future of [`MapReply`].
#[pin_project]
pub struct MapReplyFuture<A, F> {
    #[pin]
    inner: A,
    map: F,
}

impl<A: fmt::Debug, F> fmt::Debug for MapReplyFuture<A, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapReplyFuture")
            .field("inner", &self.inner)
            .field("map", &type_name::<F>())
            .finish()
    }
}

impl<A, F, R, E> Future for MapReplyFuture<A, F>
where
    A: Future<Output = Result<R, E>>,
    F: Fn(Reply) -> Reply,
    R: Answer,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx)).or_else(|error| decided(error.into()))?;
        Poll::Ready(Ok(response.map_reply(&*this.map)))
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::{
        connection::AuthOutcome,
        envelope::Envelope,
        reply::{Code, DataReply, Status},
        sasl::{Credentials, MechanismName},
    };
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        body::{Body, BodyError},
        phase::{Auth, Connect, Data},
        session::Session,
    };

    /// Turns every refusal into a transient one.
    fn soften(reply: Reply) -> Reply {
        if reply.is_positive() {
            return reply;
        }
        Reply::new(Code::LOCAL_ERROR, Status::DENIED, "Later")
    }

    async fn ask<P, R>(payload: P, response: Result<R, BoxError>) -> Result<R, BoxError>
    where
        P: Send + 'static,
        R: Answer,
    {
        let mut response = Some(response);
        let inner =
            service_fn(move |_: Request<P>| std::future::ready(response.take().expect("once")));
        let request = Request::new(Session::local(), payload);
        MapReplyLayer::new(soften)
            .layer(inner)
            .oneshot(request)
            .await
    }

    #[tokio::test]
    async fn a_reply_is_changed_and_an_error_is_not() {
        let received = ask(Connect::new(), Ok(Reply::no_such_user())).await;
        assert_eq!(received.unwrap().to_string(), "451 4.7.1 Later");
        assert_eq!(ask(Connect::new(), Ok(Reply::OK)).await.unwrap(), Reply::OK);
        let error = ask::<_, Reply>(Connect::new(), Err("db down".into())).await;
        assert_eq!(error.unwrap_err().to_string(), "db down");
    }

    #[tokio::test]
    async fn a_refusal_that_is_thrown_keeps_its_text() {
        let thrown = || Err::<Reply, BoxError>(Reply::no_such_user().into());
        let received = ask(Connect::new(), thrown()).await;
        assert_eq!(received.unwrap().to_string(), "451 4.7.1 Later");
        let deep = BodyError::other(BodyError::refused(Reply::no_such_user()));
        let data = Data::new(Envelope::default(), Body::from(""));
        let received = ask::<_, DataReply>(data, Err(deep.into())).await;
        assert_eq!(received.unwrap().to_string(), "451 4.7.1 Later");
    }

    #[tokio::test]
    async fn every_reply_to_a_message_is_changed() {
        let data = Data::new(Envelope::default(), Body::from(""));
        let given = DataReply::each([Reply::no_such_user(), Reply::OK]);
        let received = ask(data, Ok(given)).await.unwrap();
        let codes: Vec<_> = received
            .replies()
            .iter()
            .map(|r| r.code().as_u16())
            .collect();
        assert_eq!(codes, [451, 250]);
    }

    #[tokio::test]
    async fn at_auth_only_the_refusal_is_changed() {
        let auth = || {
            let credentials = Credentials::plain("alice", "hunter2").unwrap();
            Auth::new(MechanismName::from_static("PLAIN"), credentials)
        };
        let accepted = ask(auth(), Ok(AuthOutcome::Accept("alice".into()))).await;
        assert!(matches!(accepted, Ok(AuthOutcome::Accept(name)) if name.as_str() == "alice"));
        let refused = ask(auth(), Ok(AuthOutcome::Refuse(Reply::auth_failed()))).await;
        assert!(matches!(refused, Ok(AuthOutcome::Refuse(reply)) if reply.text() == "Later"));
    }
}
