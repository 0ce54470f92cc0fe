use std::{
    any::type_name,
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use smtpd_core::reply::Reply;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    phase::{Phase, Request},
    reply::{IntoReply, decided},
    service::{BoxPhaseService, PhaseService},
};

/// Creates a layer from `async fn(Request<P>, Next<P>) -> Result<impl IntoReply, BoxError>`, a function or a closure, without a
/// service and a future of your own.
///
/// The function may reply by itself, or call the inner service by [`Next::run`]; it may change the request before and the
/// response after the call. `?` passes on an error of the service. A [`Reply`](smtpd_core::Reply) is an error as well, so `?`
/// also returns refusals: the layer turns such an error into the response, so that layers outside see the reply. Any other error
/// stays one.
///
/// ```
/// use smtpd_tower::{
///     BoxError, Rcpt, Reply, Request, Session, handler_fn,
///     layer::{self, Next},
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// async fn no_postmaster(
///     request: Request<Rcpt>,
///     next: Next<Rcpt>,
/// ) -> Result<Reply, BoxError> {
///     if request.recipient().as_str().starts_with("root@") {
///         return Ok(Reply::rejected("Nobody reads that"));
///     }
///     let reply = next.run(request).await?;
///     Ok(reply.with_text("Welcome"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let rcpt = ServiceBuilder::new()
///     .layer(layer::from_fn(no_postmaster))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let ask = |path| {
///     rcpt.clone().oneshot(Request::new(Session::local(), Rcpt::new(path)))
/// };
///
/// assert_eq!(
///     ask("user@example.org".parse()?).await?.to_string(),
///     "250 2.0.0 Welcome"
/// );
/// assert_eq!(
///     ask("root@example.org".parse()?).await?.to_string(),
///     "554 5.7.1 Nobody reads that"
/// );
/// # Ok(()) }
/// ```
///
/// [`from_fn_with`](super::from_fn_with()) passes state to the function. A closure can capture it as well, as with
/// [`handler_fn`](crate::service::handler_fn):
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
///
/// use smtpd_tower::{Data, Request, layer::{self, Next}};
///
/// let messages = Arc::new(AtomicU64::new(0));
/// let count = layer::from_fn(move |request: Request<Data>, next: Next<Data>| {
///     let messages = messages.clone();
///     async move {
///         let reply = next.run(request).await?;
///         messages.fetch_add(u64::from(reply.is_accepted()), Ordering::Relaxed);
///         Ok(reply)
///     }
/// });
/// ```
///
/// Such a layer is for one phase. [`Pipeline::layer`](crate::service::Pipeline::layer) requires a layer for all phases, which no
/// function is, but a function that is generic over the phase makes a layer for each:
///
/// ```
/// use smtpd_tower::{
///     BoxError, Data, Phase, Pipeline, Rcpt, Reply, Request, handler_fn,
///     layer::{self, Next},
///     reply::Answer,
/// };
/// use tower::ServiceBuilder;
///
/// async fn log<P: Phase>(
///     request: Request<P>,
///     next: Next<P>,
/// ) -> Result<P::Response, BoxError> {
///     let response = next.run(request).await?;
///     println!("{}: {:?}", P::KIND, response.reply());
///     Ok(response)
/// }
///
/// let rcpt = ServiceBuilder::new()
///     .layer(layer::from_fn(log))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let data = ServiceBuilder::new()
///     .layer(layer::from_fn(log))
///     .service(handler_fn(async |_: Request<Data>| Reply::OK));
/// let pipeline = Pipeline::new().rcpt(rcpt).data(data);
/// ```
///
/// The price is two allocations per request, because the type of the service is erased. The service is made ready within the
/// call, by [`Next::run`], so `load_shed` belongs inside of this layer.
pub const fn from_fn<P, F, Fut, T>(f: F) -> FromFnLayer<P, F>
where
    P: Phase,
    F: Fn(Request<P>, Next<P>) -> Fut,
    Fut: Future<Output = Result<T, BoxError>>,
    T: IntoReply<P::Response>,
{
    FromFnLayer {
        f,
        phase: PhantomData,
    }
}

/// The inner service of a layer made by [`from_fn`].
pub struct Next<P: Phase> {
    service: BoxPhaseService<P>,
}

impl<P: Phase> Next<P> {
    pub(super) const fn new(service: BoxPhaseService<P>) -> Self {
        Self { service }
    }

    /// Waits until the service is ready, and calls it.
    ///
    /// # Errors
    ///
    /// Returns the error of the service.
    pub async fn run(mut self, request: Request<P>) -> Result<P::Response, BoxError> {
        poll_fn(|cx| self.service.poll_ready(cx)).await?;
        let answer = self.service.call(request);
        drop(self.service); // and what it holds besides the call
        answer.await
    }
}

// By hand, here and below: a payload may not be Clone, and a closure has no Debug.
impl<P: Phase> Clone for Next<P> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
        }
    }
}

impl<P: Phase> fmt::Debug for Next<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Next").field(&self.service).finish()
    }
}

/// The layer of [`from_fn`].
pub struct FromFnLayer<P, F> {
    f: F,
    phase: PhantomData<fn(P)>,
}

impl<P, F: Clone> Clone for FromFnLayer<P, F> {
    fn clone(&self) -> Self {
        Self {
            f: self.f.clone(),
            phase: PhantomData,
        }
    }
}

impl<P: Phase, F> fmt::Debug for FromFnLayer<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFnLayer")
            .field("f", &type_name::<F>())
            .field("phase", &P::KIND)
            .finish()
    }
}

impl<S, P, F> Layer<S> for FromFnLayer<P, F>
where
    S: PhaseService<P>,
    P: Phase,
    F: Clone,
{
    type Service = FromFn<P, F>;

    fn layer(&self, inner: S) -> FromFn<P, F> {
        FromFn {
            inner: BoxPhaseService::new(inner),
            f: self.f.clone(),
        }
    }
}

/// The service of [`FromFnLayer`].
pub struct FromFn<P: Phase, F> {
    inner: BoxPhaseService<P>,
    f: F,
}

impl<P: Phase, F: Clone> Clone for FromFn<P, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            f: self.f.clone(),
        }
    }
}

impl<P: Phase, F> fmt::Debug for FromFn<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn")
            .field("inner", &self.inner)
            .field("f", &type_name::<F>())
            .finish()
    }
}

impl<P, F, Fut, T> Service<Request<P>> for FromFn<P, F>
where
    P: Phase,
    F: Fn(Request<P>, Next<P>) -> Fut,
    Fut: Future<Output = Result<T, BoxError>>,
    T: IntoReply<P::Response>,
{
    type Response = P::Response;
    type Error = BoxError;
    type Future = FromFnFuture<Fut, P::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let next = Next::new(self.inner.clone());
        FromFnFuture::new((self.f)(request, next))
    }
}

/// The future of [`FromFn`] and [`FromFnWith`](super::FromFnWith).
#[pin_project]
#[derive(Debug)]
pub struct FromFnFuture<A, R> {
    #[pin]
    answer: A,
    response: PhantomData<fn() -> R>,
}

impl<A, R> FromFnFuture<A, R> {
    pub(super) const fn new(answer: A) -> Self {
        Self {
            answer,
            response: PhantomData,
        }
    }
}

impl<A, R, T> Future for FromFnFuture<A, R>
where
    A: Future<Output = Result<T, BoxError>>,
    T: IntoReply<R>,
    R: From<Reply>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.project().answer.poll(cx)) {
            Err(error) => decided(error),
            Ok(answer) => match answer.fault() {
                Some(fault) => Err(fault),
                None => Ok(answer.into_reply()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use smtpd_core::{
        connection::AuthOutcome,
        envelope::Envelope,
        reply::DataReply,
        sasl::{Credentials, Identity, MechanismName},
    };
    use tokio_test::{assert_pending, assert_ready, task};
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;
    use crate::{
        body::{Body, BodyError},
        phase::{Auth, Connect, Data, Rcpt},
        service::{Pipeline, handler_fn},
        session::Session,
    };

    fn connect() -> Request<Connect> {
        Request::new(Session::local(), Connect::new())
    }

    #[tokio::test]
    async fn the_service_is_called_when_ready_and_only_by_the_function() {
        let layer = from_fn(async |request: Request<Connect>, next| {
            if request.session().identity().is_some() {
                return Ok(Reply::busy());
            }
            next.run(request).await
        });
        let inner = service_fn(|_: Request<Connect>| async { Err::<Reply, _>("db down") });
        let service = layer.layer(inner);
        let error = service.clone().oneshot(connect()).await.unwrap_err();
        assert_eq!(error.to_string(), "db down");
        let known = Session::local().with_identity("alice");
        let request = Request::new(known, Connect::new());
        assert_eq!(service.oneshot(request).await.unwrap(), Reply::busy());
    }

    #[tokio::test]
    async fn a_refusal_by_question_mark_is_an_error_to_layers_outside() {
        async fn check(request: Request<Connect>, next: Next<Connect>) -> Result<Reply, BoxError> {
            if request.session().identity().is_none() {
                Err(Reply::auth_required())?;
            }
            next.run(request).await
        }
        let thrown = |error: BoxError| {
            let error = Arc::new(Mutex::new(Some(error)));
            service_fn(move |_: Request<Connect>| {
                let error = error.lock().unwrap().take();
                std::future::ready(Err::<Reply, _>(error.unwrap()))
            })
        };
        let service = from_fn(check).layer(handler_fn(async |_: Request<Connect>| {}));
        assert_eq!(
            service.oneshot(connect()).await.unwrap(),
            Reply::auth_required()
        );

        async fn pass(request: Request<Connect>, next: Next<Connect>) -> Result<Reply, BoxError> {
            next.run(request).await
        }
        // Thrown by the service within, and deeper in the chain.
        let deep = BodyError::other(BodyError::refused(Reply::busy()));
        for (error, expected) in [
            (BoxError::from(Reply::busy()), Ok(Reply::busy())),
            (deep.into(), Ok(Reply::busy())),
            ("db down".into(), Err("db down")),
        ] {
            let answer = from_fn(pass).layer(thrown(error)).oneshot(connect()).await;
            let answer = answer.map_err(|error| error.to_string());
            assert_eq!(answer, expected.map_err(str::to_owned));
        }
    }

    #[tokio::test]
    async fn next_drives_a_service_to_readiness() {
        let (mock, mut handle) = tower_test::mock::pair::<Request<Connect>, Reply>();
        handle.allow(0);
        let service = BoxPhaseService::new(mock);
        let mut asked = task::spawn(Next { service }.run(connect()));
        assert_pending!(asked.poll());
        handle.allow(1);
        assert_pending!(asked.poll());
        let (_, respond) = handle.next_request().await.unwrap();
        respond.send_response(Reply::busy());
        assert_eq!(assert_ready!(asked.poll()).unwrap(), Reply::busy());
    }

    #[tokio::test]
    async fn auth_and_data_have_responses_of_their_own() {
        let auth = ServiceBuilder::new()
            .layer(from_fn(async |request: Request<Auth>, next| {
                match next.run(request).await? {
                    AuthOutcome::Accept(name) => Ok(Identity::new(format!("{name}@example.org"))),
                    _ => Err(Reply::auth_failed().into()),
                }
            }))
            .service(handler_fn(async |_: Request<Auth>| Identity::new("alice")));
        let credentials = Credentials::plain("alice", "hunter2").unwrap();
        let payload = Auth::new(MechanismName::from_static("PLAIN"), credentials);
        let outcome = auth.oneshot(Request::new(Session::local(), payload)).await;
        let Ok(AuthOutcome::Accept(name)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(name.as_str(), "alice@example.org");

        let data = ServiceBuilder::new()
            .layer(from_fn(async |_: Request<Data>, _| {
                Ok(DataReply::each([Reply::OK, Reply::busy()]))
            }))
            .service(handler_fn(async |_: Request<Data>| {}));
        let payload = Data::new(Envelope::default(), Body::from(""));
        let reply = data.oneshot(Request::new(Session::local(), payload)).await;
        assert_eq!(reply.unwrap().replies().len(), 2);
    }

    #[tokio::test]
    async fn one_generic_function_serves_every_phase_and_fits_a_pipeline() {
        async fn pass<P: Phase>(
            request: Request<P>,
            next: Next<P>,
        ) -> Result<P::Response, BoxError> {
            next.run(request).await
        }
        fn wrap<P: Phase>(service: impl PhaseService<P>) -> impl PhaseService<P> {
            from_fn(pass).layer(from_fn(pass).layer(service))
        }
        let _ = Pipeline::new()
            .connect(wrap(handler_fn(async |_: Request<Connect>| {})))
            .auth(wrap(handler_fn(async |_: Request<Auth>| {
                Identity::new("a")
            })))
            .rcpt(wrap(handler_fn(async |_: Request<Rcpt>| {})))
            .data(wrap(handler_fn(async |_: Request<Data>| {})));
        let service = wrap(handler_fn(async |_: Request<Connect>| Reply::busy()));
        let reply: Reply = service
            .oneshot(connect())
            .await
            .map(Into::into)
            .unwrap_or(Reply::OK);
        assert_eq!(reply, Reply::busy());
    }
}
