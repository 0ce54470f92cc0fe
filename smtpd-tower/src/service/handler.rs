use std::{
    convert::Infallible,
    fmt,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tower_service::Service;

use crate::{
    phase::{Phase, Request},
    reply::{Internal, IntoReply},
    session::Session,
};

/// Makes a service from `async fn(Request<P>) -> impl IntoReply`, a function or a closure. The service never fails: an error of
/// the function is a [`Reply`](smtpd_core::Reply) too, and if it is a [fault](IntoReply::fault), it is reported to the log and to
/// [`Server::on_error`](crate::server::Server::on_error).
///
/// ```
/// use smtpd_tower::{Pipeline, Rcpt, Reply, Request, handler_fn};
///
/// async fn rcpt(request: Request<Rcpt>) -> Result<(), Reply> {
///     if request.recipient().as_str().starts_with("nobody@") {
///         return Err(Reply::no_such_user());
///     }
///     Ok(())
/// }
/// let pipeline = Pipeline::new().rcpt(handler_fn(rcpt));
/// ```
///
/// # State
///
/// [`handler_fn_with`] passes a clone of some state to each call. A closure can also capture the state, and clone it for its
/// future:
///
/// ```
/// use std::{collections::HashSet, sync::Arc};
///
/// use smtpd_tower::{Pipeline, Rcpt, Reply, Request, handler_fn};
///
/// let users = Arc::new(HashSet::from(["alice@example.org"]));
/// let pipeline = Pipeline::new().rcpt(handler_fn(move |request: Request<Rcpt>| {
///     let users = users.clone();
///     async move {
///         let known = users.contains(request.recipient().as_str());
///         if known { Ok(()) } else { Err(Reply::no_such_user()) }
///     }
/// }));
/// ```
///
/// An async closure that captures its environment is not a service: its future borrows what it has captured, and the future of a
/// call has to live without the service. The compiler reports "Async closure does not implement `FnMut` because it captures state
/// from its environment" for
///
/// ```compile_fail
/// # use std::{collections::HashSet, sync::Arc};
/// # use smtpd_tower::{Pipeline, Rcpt, Reply, Request, handler_fn};
/// # let users = Arc::new(HashSet::from(["alice@example.org"]));
/// let pipeline =
///     Pipeline::new().rcpt(handler_fn(async move |request: Request<Rcpt>| {
///         let known = users.contains(request.recipient().as_str());
///         if known { Ok(()) } else { Err(Reply::no_such_user()) }
///     }));
/// ```
///
/// # As an argument
///
/// A function that takes a handler, or any other service, takes an `impl` [`PhaseService<P>`](crate::service::PhaseService). To
/// wrap it in a layer that refuses, convert it with [`BoxPhaseService::new(service)`](crate::service::BoxPhaseService::new)
/// first.
///
/// # Any error by `?`
///
/// `?` accepts whatever converts to the error of the function's `Result`. For `Result<_, Reply>`, this is everything that
/// converts to a [`Reply`](smtpd_core::Reply); for `Result<_, BodyError>`, the [errors of a body](crate::body::BodyError), a
/// `Reply` and an [`io::Error`](std::io::Error). For a function that may fail with any error, use tower's
/// [`service_fn`](tower::service_fn) instead of `handler_fn`: [`recover`](crate::reply::recover()) finds the reply in the error;
/// an error without one becomes 451 and is reported to `on_error`.
///
/// ```
/// use smtpd_tower::{BoxError, Data, Pipeline, Reply, Request};
/// use tokio::{fs::File, io};
/// use tower::service_fn;
///
/// async fn store(request: Request<Data>) -> Result<Reply, BoxError> {
///     if request.envelope().sender().is_null() {
///         // The client receives this.
///         return Err(Reply::rejected("No reports here").into());
///     }
///     // An error here is a fault: 451, and reported to `on_error`.
///     let mut file = File::create("/var/mail/last").await?;
///     // `recover` finds the reply to an error of the body.
///     let bytes =
///         io::copy(&mut request.into_body().into_reader(), &mut file).await?;
///     file.sync_all().await?;
///     Ok(Reply::ok(format!("{bytes} bytes")))
/// }
/// let pipeline = Pipeline::new().data(service_fn(store));
/// ```
pub const fn handler_fn<F>(f: F) -> HandlerFn<F> {
    HandlerFn { f }
}

/// Like [`handler_fn`], with state: makes a service from `async fn(S, Request<P>) -> impl IntoReply`, which receives a clone of
/// the state in each call. Wrap state that is expensive to clone in an `Arc`.
///
/// ```
/// use std::{collections::HashSet, sync::Arc};
///
/// use smtpd_tower::{Pipeline, Rcpt, Reply, Request, handler_fn_with};
///
/// type Users = Arc<HashSet<&'static str>>;
///
/// async fn rcpt(users: Users, request: Request<Rcpt>) -> Result<(), Reply> {
///     match users.contains(request.recipient().as_str()) {
///         true => Ok(()),
///         false => Err(Reply::no_such_user()),
///     }
/// }
/// let users = Users::new(HashSet::from(["alice@example.org"]));
/// let pipeline = Pipeline::new().rcpt(handler_fn_with(users, rcpt));
/// ```
pub const fn handler_fn_with<S, F>(state: S, f: F) -> HandlerFnWith<S, F> {
    HandlerFnWith { state, f }
}

/// The service of [`handler_fn`].
#[derive(Clone, Copy)]
pub struct HandlerFn<F> {
    f: F,
}

impl<F> fmt::Debug for HandlerFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HandlerFn")
            .field(&std::any::type_name::<F>())
            .finish()
    }
}

impl<F, Fut, P> Service<Request<P>> for HandlerFn<F>
where
    P: Phase,
    F: FnMut(Request<P>) -> Fut,
    Fut: Future,
    Fut::Output: IntoReply<P::Response>,
{
    type Response = P::Response;
    type Error = Infallible;
    type Future = HandlerFuture<Fut, P>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        HandlerFuture::new(request, |request| (self.f)(request))
    }
}

/// The service of [`handler_fn_with`].
#[derive(Clone, Copy)]
pub struct HandlerFnWith<S, F> {
    state: S,
    f: F,
}

// The state may hold secrets.
impl<S, F> fmt::Debug for HandlerFnWith<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HandlerFnWith")
            .field(&std::any::type_name::<F>())
            .finish()
    }
}

impl<S, F, Fut, P> Service<Request<P>> for HandlerFnWith<S, F>
where
    P: Phase,
    S: Clone,
    F: FnMut(S, Request<P>) -> Fut,
    Fut: Future,
    Fut::Output: IntoReply<P::Response>,
{
    type Response = P::Response;
    type Error = Infallible;
    type Future = HandlerFuture<Fut, P>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        HandlerFuture::new(request, |request| (self.f)(self.state.clone(), request))
    }
}

/// The future of [`HandlerFn`] and [`HandlerFnWith`].
#[pin_project]
#[derive(Debug)]
pub struct HandlerFuture<F, P> {
    /// Where to report a fault, if there may be one.
    session: Option<Session>,
    #[pin]
    answer: F,
    phase: PhantomData<fn() -> P>,
}

impl<F, P> HandlerFuture<F, P>
where
    P: Phase,
    F: Future,
    F::Output: IntoReply<P::Response>,
{
    fn new(request: Request<P>, call: impl FnOnce(Request<P>) -> F) -> Self {
        Self {
            session: F::Output::has_faults(Internal).then(|| request.session().clone()),
            answer: call(request),
            phase: PhantomData,
        }
    }
}

impl<F, P> Future for HandlerFuture<F, P>
where
    P: Phase,
    F: Future,
    F::Output: IntoReply<P::Response>,
{
    type Output = Result<P::Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(cx));
        if let Some(session) = this.session
            && let Some(fault) = answer.fault()
        {
            session.report_fault(P::KIND, fault);
        }
        Poll::Ready(Ok(answer.into_reply()))
    }
}
