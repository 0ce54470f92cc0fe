use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tower::BoxError;
use tower_service::Service;

use crate::{
    fault::caught,
    phase::{Phase, Request},
};

/// A service for phase `P`. Use it as a bound: it is implemented for every [`Service`] that meets its requirements, and cannot be
/// implemented by hand.
///
/// [The guide](crate::guide::compile_errors) explains what the compiler says of a type that is none.
///
/// ```
/// use smtpd_tower::{Pipeline, Rcpt, Request, handler_fn, service::PhaseService};
///
/// fn server_for(rcpt: impl PhaseService<Rcpt>) -> Pipeline {
///     Pipeline::new().rcpt(rcpt)
/// }
/// let pipeline = server_for(handler_fn(async |_: Request<Rcpt>| {}));
/// ```
///
/// The response of such a service is only known to *convert into* the response of the phase. A layer that refuses has to create
/// such a response, so it cannot wrap it. [`BoxPhaseService::new`] makes a service with exactly that response:
///
/// ```
/// use smtpd_tower::{
///     Data, Pipeline,
///     deliver::Inbox,
///     layer::SizeLimitLayer,
///     service::{BoxPhaseService, PhaseService},
/// };
/// use tower::ServiceBuilder;
///
/// fn small(deliver: impl PhaseService<Data>) -> Pipeline {
///     let data = ServiceBuilder::new()
///         .layer(SizeLimitLayer::new(100_000))
///         .service(BoxPhaseService::new(deliver));
///     Pipeline::new().data(data)
/// }
/// let pipeline = small(Inbox::new());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot serve the SMTP phase `{P}`",
    label = "not a service for this phase",
    note = "it must be `Service<Request<{P}>>` with the response of the phase, and `Clone + Send + Sync + 'static`",
    note = "an async function becomes a service by `handler_fn(...)`",
    note = "tower's `rate_limit` is not `Clone`: put `buffer` around it, or take `RateLimitLayer` of this crate",
    note = "a layer that fits one phase goes around the service of that phase, by `ServiceBuilder`; `Pipeline::layer` wraps every phase"
)]
pub trait PhaseService<P: Phase>:
    Service<Request<P>, Response: Into<P::Response>, Error: Into<BoxError>, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<P, S> PhaseService<P> for S
where
    P: Phase,
    S: Service<
            Request<P>,
            Response: Into<P::Response>,
            Error: Into<BoxError>,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static,
{
}

/// A service for phase `P` with its type erased, like tower's `BoxCloneSyncService`. A [`Pipeline`](crate::service::Pipeline)
/// stores its services in this form, and its layers wrap them.
///
/// ```
/// use smtpd_tower::{
///     Mail, Request, handler_fn, layer::RequireAuthLayer,
///     service::BoxPhaseService,
/// };
/// use tower::Layer;
///
/// let open =
///     BoxPhaseService::<Mail>::new(handler_fn(async |_: Request<Mail>| {}));
/// let closed = BoxPhaseService::new(RequireAuthLayer::new().layer(open.clone()));
/// let chosen = [open, closed]; // services of one type
/// ```
pub struct BoxPhaseService<P: Phase> {
    /// What every request gets a clone of. Never called itself, so all clones of this share it.
    template: Arc<dyn Erased<P>>,
    /// The clone whose readiness this one reports.
    own: Option<Box<dyn Erased<P>>>,
}

/// The future of a call.
pub(crate) type PhaseFuture<P> =
    Pin<Box<dyn Future<Output = Result<<P as Phase>::Response, BoxError>> + Send>>;

/// The state of a request that was made to a fresh clone.
pub(crate) enum Asked<P: Phase> {
    /// With the message of a panic in its drop, if there was one.
    Answered(Result<P::Response, BoxError>, Option<String>),
    Called(PhaseFuture<P>),
    /// The clone is not ready, and has not been called with the request.
    NotReady(Box<dyn Erased<P>>, Request<P>),
}

/// A service of any type.
pub(crate) trait Erased<P: Phase>: Send + Sync {
    fn boxed_clone(&self) -> Box<dyn Erased<P>>;
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>;
    fn call(&mut self, request: Request<P>) -> PhaseFuture<P>;
    fn ask(&self, request: Request<P>, cx: &mut Context<'_>) -> Asked<P>;
}

impl<P: Phase> BoxPhaseService<P> {
    /// Erases the type of a service.
    pub fn new<S: PhaseService<P>>(service: S) -> Self {
        Self {
            template: Arc::new(service),
            own: None,
        }
    }

    /// Calls a clone that is created for this request and dropped after it. Only the future of the answer is boxed, and the clone
    /// if it is not ready.
    pub(crate) fn ask(&self, request: Request<P>, cx: &mut Context<'_>) -> Asked<P> {
        self.template.ask(request, cx)
    }

    fn own(&mut self) -> &mut dyn Erased<P> {
        let template = &self.template;
        &mut **self.own.get_or_insert_with(|| template.boxed_clone())
    }
}

impl<P: Phase> Clone for BoxPhaseService<P> {
    /// A clone has to become ready by itself.
    fn clone(&self) -> Self {
        Self {
            template: self.template.clone(),
            own: None,
        }
    }
}

impl<P: Phase> fmt::Debug for BoxPhaseService<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxPhaseService").field(&P::KIND).finish()
    }
}

impl<P: Phase> Service<Request<P>> for BoxPhaseService<P> {
    type Response = P::Response;
    type Error = BoxError;
    type Future = PhaseFuture<P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.own().poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> PhaseFuture<P> {
        self.own().call(request)
    }
}

impl<P: Phase, S: PhaseService<P>> Erased<P> for S {
    fn boxed_clone(&self) -> Box<dyn Erased<P>> {
        Box::new(self.clone())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::poll_ready(self, cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<P>) -> PhaseFuture<P> {
        Box::pin(Answering::new(Service::call(self, request)))
    }

    fn ask(&self, request: Request<P>, cx: &mut Context<'_>) -> Asked<P> {
        let mut service = self.clone();
        match Erased::poll_ready(&mut service, cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Asked::Answered(Err(error), None),
            Poll::Pending => return Asked::NotReady(Box::new(service), request),
        }
        let mut answer = Box::pin(Answering::new(Service::call(&mut service, request)));
        match answer.as_mut().poll(cx) {
            // The answer stands, whatever happens to the service.
            Poll::Ready(result) => {
                Asked::Answered(result, caught(|| drop((answer, service))).err())
            }
            Poll::Pending => Asked::Called(answer),
        }
    }
}

/// The future of a service, converting its answer to the response of the phase.
#[pin_project]
struct Answering<F, R> {
    #[pin]
    answer: F,
    response: PhantomData<fn() -> R>,
}

impl<F, R> Answering<F, R> {
    const fn new(answer: F) -> Self {
        Self {
            answer,
            response: PhantomData,
        }
    }
}

impl<F, T, E, R> Future for Answering<F, R>
where
    F: Future<Output = Result<T, E>>,
    T: Into<R>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().answer.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer.into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
        }
    }
}
