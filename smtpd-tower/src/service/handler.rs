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
    reply::IntoReply,
    session::Session,
};

/// Makes a service of `async fn(Request<P>) -> impl IntoReply`, a function or a closure. The service never fails: what goes
/// wrong in the function is a [`Reply`](smtpd_core::Reply) too, and a [fault](IntoReply::fault) among it is told to the log and to
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
/// [`handler_fn_with`] hands a clone of some state to each call. A closure can capture it as well, and clones what its future
/// takes along:
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
/// An async closure that captures is none of a service: it lends what it has captured to its future, and the future of a
/// call has to live without the service. "Async closure does not implement `FnMut` because it captures state from its
/// environment" says the compiler of
///
/// ```compile_fail
/// # use std::{collections::HashSet, sync::Arc};
/// # use smtpd_tower::{Pipeline, Rcpt, Reply, Request, handler_fn};
/// # let users = Arc::new(HashSet::from(["alice@example.org"]));
/// let pipeline = Pipeline::new().rcpt(handler_fn(async move |request: Request<Rcpt>| {
///     let known = users.contains(request.recipient().as_str());
///     if known { Ok(()) } else { Err(Reply::no_such_user()) }
/// }));
/// ```
///
/// # As an argument
///
/// A function that takes a handler, or any other service, takes an `impl` [`ServePhase<P>`](crate::service::ServePhase); before a layer
/// that refuses goes around it, [`PhaseService::new(service)`](crate::service::PhaseService::new) does.
///
/// # Any error by `?`
///
/// `?` takes what becomes the error of the function's `Result`: of `Result<_, Reply>` all that becomes a [`Reply`](smtpd_core::Reply), of
/// `Result<_, BodyError>` a `Reply`, an [`io::Error`](std::io::Error) and what a body fails with. For a function that fails
/// with whatever it calls, there is tower's [`service_fn`](tower::service_fn) in place of `handler_fn`:
/// [`recover`](crate::reply::recover()) finds the reply in the error, and what has none is 451 and told to `on_error`.
///
/// ```
/// use smtpd_tower::{BoxError, Data, Pipeline, Reply, Request};
/// use tokio::{fs::File, io};
/// use tower::service_fn;
///
/// async fn store(request: Request<Data>) -> Result<Reply, BoxError> {
///     if request.envelope().sender().is_null() {
///         return Err(Reply::rejected("No reports here").into()); // the client receives this
///     }
///     let mut file = File::create("/var/mail/last").await?; // a fault: 451, and told to `on_error`
///     let octets = io::copy(&mut request.into_body().into_reader(), &mut file).await?; // what belongs to it
///     file.sync_all().await?;
///     Ok(Reply::ok(format!("{octets} octets")))
/// }
/// let pipeline = Pipeline::new().data(service_fn(store));
/// ```
pub const fn handler_fn<F>(f: F) -> HandlerFn<F> {
    HandlerFn { f }
}

/// The same with state: makes a service of `async fn(S, Request<P>) -> impl IntoReply`, which gets a clone of the state in
/// each call. So the state is an `Arc`, or a pool that is one.
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
        HandlerFuture {
            session: Fut::Output::HAS_FAULTS.then(|| request.session().clone()),
            answer: (self.f)(request),
            phase: PhantomData,
        }
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
        HandlerFuture {
            session: Fut::Output::HAS_FAULTS.then(|| request.session().clone()),
            answer: (self.f)(self.state.clone(), request),
            phase: PhantomData,
        }
    }
}

/// The future of [`HandlerFn`] and [`HandlerFnWith`].
#[pin_project]
#[derive(Debug)]
pub struct HandlerFuture<F, P> {
    /// Whom a fault is told of, where there may be one.
    session: Option<Session>,
    #[pin]
    answer: F,
    phase: PhantomData<fn() -> P>,
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
