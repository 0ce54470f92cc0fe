use std::{
    any::type_name,
    fmt,
    marker::PhantomData,
    task::{Context, Poll},
};

use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use super::from_fn::{FromFnFuture, Next};
use crate::{
    phase::{Phase, Request},
    reply::IntoReply,
    service::{BoxPhaseService, PhaseService},
};

/// Like [`from_fn`](super::from_fn()), with state: creates a layer from `async fn(S, Request<P>, Next<P>) -> Result<impl
/// IntoReply, BoxError>`, which receives a clone of the state in each call. Wrap anything expensive to clone in an `Arc`.
///
/// ```
/// use std::{collections::HashSet, sync::Arc};
///
/// use smtpd_tower::{
///     BoxError, Rcpt, Reply, Request, Session, handler_fn,
///     layer::{self, Next},
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// type Closed = Arc<HashSet<&'static str>>;
///
/// async fn no_closed(
///     closed: Closed,
///     request: Request<Rcpt>,
///     next: Next<Rcpt>,
/// ) -> Result<Reply, BoxError> {
///     match closed.contains(request.recipient().as_str()) {
///         true => Ok(Reply::no_such_user()),
///         false => next.run(request).await,
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let closed = Closed::new(HashSet::from(["eve@example.org"]));
/// let rcpt = ServiceBuilder::new()
///     .layer(layer::from_fn_with(closed, no_closed))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let ask = |path| {
///     rcpt.clone().oneshot(Request::new(Session::local(), Rcpt::new(path)))
/// };
///
/// assert_eq!(ask("bob@example.org".parse()?).await?, Reply::OK);
/// assert_eq!(ask("eve@example.org".parse()?).await?, Reply::no_such_user());
/// # Ok(()) }
/// ```
pub const fn from_fn_with<S, P, F, Fut, T>(state: S, f: F) -> FromFnWithLayer<S, P, F>
where
    S: Clone,
    P: Phase,
    F: Fn(S, Request<P>, Next<P>) -> Fut,
    Fut: Future<Output = Result<T, BoxError>>,
    T: IntoReply<P::Response>,
{
    FromFnWithLayer {
        state,
        f,
        phase: PhantomData,
    }
}

/// The layer of [`from_fn_with`].
pub struct FromFnWithLayer<S, P, F> {
    state: S,
    f: F,
    phase: PhantomData<fn(P)>,
}

// By hand, here and below: a payload may not be Clone, a closure has no Debug, and the state may hold secrets.
impl<S: Clone, P, F: Clone> Clone for FromFnWithLayer<S, P, F> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            f: self.f.clone(),
            phase: PhantomData,
        }
    }
}

impl<S, P: Phase, F> fmt::Debug for FromFnWithLayer<S, P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFnWithLayer")
            .field("f", &type_name::<F>())
            .field("phase", &P::KIND)
            .finish_non_exhaustive()
    }
}

impl<I, S, P, F> Layer<I> for FromFnWithLayer<S, P, F>
where
    I: PhaseService<P>,
    S: Clone,
    P: Phase,
    F: Clone,
{
    type Service = FromFnWith<S, P, F>;

    fn layer(&self, inner: I) -> FromFnWith<S, P, F> {
        FromFnWith {
            inner: BoxPhaseService::new(inner),
            state: self.state.clone(),
            f: self.f.clone(),
        }
    }
}

/// The service of [`FromFnWithLayer`].
pub struct FromFnWith<S, P: Phase, F> {
    inner: BoxPhaseService<P>,
    state: S,
    f: F,
}

impl<S: Clone, P: Phase, F: Clone> Clone for FromFnWith<S, P, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            state: self.state.clone(),
            f: self.f.clone(),
        }
    }
}

impl<S, P: Phase, F> fmt::Debug for FromFnWith<S, P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFnWith")
            .field("inner", &self.inner)
            .field("f", &type_name::<F>())
            .finish_non_exhaustive()
    }
}

impl<S, P, F, Fut, T> Service<Request<P>> for FromFnWith<S, P, F>
where
    S: Clone,
    P: Phase,
    F: Fn(S, Request<P>, Next<P>) -> Fut,
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
        FromFnFuture::new((self.f)(self.state.clone(), request, next))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use smtpd_core::reply::Reply;
    use tower::ServiceExt;

    use super::*;
    use crate::{phase::Connect, service::handler_fn, session::Session};

    fn connect() -> Request<Connect> {
        Request::new(Session::local(), Connect::new())
    }

    #[tokio::test]
    async fn all_clones_of_the_service_share_one_state() {
        async fn count(
            calls: Arc<AtomicUsize>,
            request: Request<Connect>,
            next: Next<Connect>,
        ) -> Result<Reply, BoxError> {
            match calls.fetch_add(1, Ordering::SeqCst) {
                0 => next.run(request).await,
                _ => Ok(Reply::busy()),
            }
        }
        let calls = Arc::new(AtomicUsize::new(0));
        let layer = from_fn_with(calls.clone(), count);
        let service = layer.layer(handler_fn(async |_: Request<Connect>| {}));
        for reply in [Reply::OK, Reply::busy()] {
            assert_eq!(service.clone().oneshot(connect()).await.unwrap(), reply);
        }
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn debug_shows_nothing_of_the_state() {
        let layer = from_fn_with(
            String::from("hunter2"),
            async |_, request, next: Next<Connect>| next.run(request).await,
        );
        let service = layer.layer(handler_fn(async |_: Request<Connect>| {}));
        let shown = format!("{layer:?} {service:?}");
        assert!(shown.contains("FromFnWith {"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
