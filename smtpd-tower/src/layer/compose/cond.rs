use std::{
    any::type_name,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tower::util::Oneshot;
use tower_layer::Layer;
use tower_service::Service;

use crate::phase::Request;

/// Applies another layer to the requests for which a predicate holds. All others go to the service directly.
///
/// It fits every phase that the other layer fits. The predicate is for a single phase, so a closure cannot be used with
/// [`Pipeline::layer`](crate::service::Pipeline::layer).
///
/// Which branch a request takes is known only when it arrives, so this service is always ready: within the call, it clones the
/// service of that branch, waits until the clone is ready and calls it. Waiting for both branches beforehand would reserve a
/// permit in each, and deadlock if there is only one permit in total. Therefore the time until the service is ready counts
/// against the timeout of the call, and `load_shed` belongs inside of this layer, not outside.
///
/// The error type is that of the other layer, such as tower's `BoxError`.
///
/// ```
/// use smtpd_tower::{
///     Rcpt, Request, Session, handler_fn,
///     layer::{CondLayer, DomainFilterLayer},
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Authenticated clients may write to anyone.
/// let is_stranger =
///     |request: &Request<Rcpt>| request.session().identity().is_none();
/// let rcpt = ServiceBuilder::new()
///     .layer(CondLayer::new(
///         is_stranger,
///         DomainFilterLayer::parse(["example.org"])?,
///     ))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let path: smtpd_tower::address::ForwardPath = "user@example.com".parse()?;
/// let ask = |session| {
///     rcpt.clone().oneshot(Request::new(session, Rcpt::new(path.clone())))
/// };
///
/// assert_eq!(
///     ask(Session::local().with_identity("alice")).await?.code().as_u16(),
///     250
/// );
/// assert_eq!(ask(Session::local()).await?.code().as_u16(), 550);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
pub struct CondLayer<F, L> {
    predicate: F,
    layer: L,
}

impl<F, L> CondLayer<F, L> {
    /// Applies `layer` to requests for which `predicate`, a function from `&Request<P>` to `bool`, returns true.
    pub const fn new(predicate: F, layer: L) -> Self {
        Self { predicate, layer }
    }
}

// By hand: a closure has no Debug.
impl<F, L: fmt::Debug> fmt::Debug for CondLayer<F, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CondLayer")
            .field("predicate", &type_name::<F>())
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, F, L> Layer<S> for CondLayer<F, L>
where
    S: Clone,
    F: Clone,
    L: Layer<S>,
{
    type Service = Cond<S, L::Service, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Cond {
            layered: self.layer.layer(inner.clone()),
            inner,
            predicate: self.predicate.clone(),
        }
    }
}

/// The service of [`CondLayer`]: `S` without and `T` with the other layer.
#[derive(Clone, Copy)]
pub struct Cond<S, T, F> {
    inner: S,
    layered: T,
    predicate: F,
}

impl<S: fmt::Debug, T: fmt::Debug, F> fmt::Debug for Cond<S, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cond")
            .field("inner", &self.inner)
            .field("layered", &self.layered)
            .field("predicate", &type_name::<F>())
            .finish()
    }
}

impl<S, T, F, P> Service<Request<P>> for Cond<S, T, F>
where
    S: Service<Request<P>, Response = T::Response, Error: Into<T::Error>> + Clone,
    T: Service<Request<P>> + Clone,
    F: Fn(&Request<P>) -> bool,
{
    type Response = T::Response;
    type Error = T::Error;
    type Future = CondFuture<Oneshot<S, Request<P>>, Oneshot<T, Request<P>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), T::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let state = if (self.predicate)(&request) {
            State::Layered(Oneshot::new(self.layered.clone(), request))
        } else {
            State::Plain(Oneshot::new(self.inner.clone(), request))
        };
        CondFuture { state }
    }
}

/// The future of [`Cond`]: waits for the service without (`A`) or with (`B`) the other layer.
#[pin_project]
#[derive(Debug)]
pub struct CondFuture<A, B> {
    #[pin]
    state: State<A, B>,
}

#[pin_project(project = StateProj)]
#[derive(Debug)]
enum State<A, B> {
    Plain(#[pin] A),
    Layered(#[pin] B),
}

impl<A, B, R, D, E> Future for CondFuture<A, B>
where
    A: Future<Output = Result<R, D>>,
    B: Future<Output = Result<R, E>>,
    D: Into<E>,
{
    type Output = Result<R, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Plain(answer) => answer.poll(cx).map_err(Into::into),
            StateProj::Layered(answer) => answer.poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use smtpd_core::reply::Reply;
    use tokio_test::{assert_pending, assert_ready, task};
    use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn, timeout::TimeoutLayer};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{layer::RequireAuthLayer, phase::Connect, session::Session};

    fn is_inet(request: &Request<Connect>) -> bool {
        request.session().client_addr().ip().is_some()
    }

    fn inet() -> Request<Connect> {
        Request::new(Session::local(), Connect::new())
    }

    fn unix() -> Request<Connect> {
        let peer = crate::net::PeerAddr::Unix(None);
        Request::new(Session::from_peer(peer), Connect::new())
    }

    #[tokio::test]
    async fn only_matching_requests_pass_the_layer() {
        let layer = CondLayer::new(is_inet, RequireAuthLayer::new());
        let (mut service, mut handle) = spawn_layer::<Request<Connect>, Reply, _>(layer);
        let refused = service.call(inet()).await.unwrap();
        assert_eq!(refused, Reply::auth_required());
        let mut asked = task::spawn(service.call(unix()));
        assert_pending!(asked.poll());
        let (_, respond) = assert_ready!(handle.poll_request()).unwrap();
        respond.send_response(Reply::busy());
        assert_eq!(assert_ready!(asked.poll()).unwrap(), Reply::busy());
    }

    #[tokio::test]
    async fn the_service_is_called_only_when_it_is_ready() {
        let layer = CondLayer::new(is_inet, RequireAuthLayer::new());
        let (mut service, mut handle) = spawn_layer::<Request<Connect>, Reply, _>(layer);
        handle.allow(0);
        // A call to an instance that is not ready would panic.
        let mut asked = task::spawn(service.call(unix()));
        assert_pending!(asked.poll());
        assert_pending!(handle.poll_request());
        handle.allow(1);
        assert_pending!(asked.poll());
        assert!(assert_ready!(handle.poll_request()).is_some());
    }

    #[tokio::test]
    async fn two_branches_to_a_service_with_one_permit_do_not_deadlock() {
        let service = ServiceBuilder::new()
            .layer(CondLayer::new(is_inet, TimeoutLayer::new(Duration::MAX)))
            .concurrency_limit(1)
            .service(service_fn(async |_: Request<Connect>| {
                Ok::<_, Infallible>(Reply::OK)
            }));
        for request in [inet(), unix(), inet()] {
            let mut asked = task::spawn(service.clone().oneshot(request));
            assert_eq!(assert_ready!(asked.poll()).unwrap(), Reply::OK);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn errors_are_those_of_the_layer() {
        let service = ServiceBuilder::new()
            .layer(CondLayer::new(
                is_inet,
                TimeoutLayer::new(Duration::from_secs(1)),
            ))
            .service(service_fn(async |_: Request<Connect>| {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok::<_, Infallible>(Reply::OK)
            }));
        assert_eq!(service.clone().oneshot(unix()).await.unwrap(), Reply::OK);
        let error: BoxError = service.oneshot(inet()).await.unwrap_err();
        assert!(error.is::<tower::timeout::error::Elapsed>());
    }
}
