use std::{
    convert::Infallible,
    fmt,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use smtpd_core::{
    AuthOutcome, DataReply, Reply,
    sasl::{Identity, Secret},
};
use tower_service::Service;

use crate::{BodyError, Phase, Request};

/// What a handler may return for a phase whose response is `R`.
///
/// `()` is 250; a [`Reply`] is itself; of a `Result` either side counts. A message may be answered with a [`DataReply`], one
/// reply for each recipient. AUTH is answered by an [`Identity`] (accepted), a
/// [`Secret`] (for the mechanism to verify), an [`AuthOutcome`], or a [`Reply`] that refuses.
///
/// ```
/// use smtpd_tower::{BodyError, DataReply, IntoReply, Reply};
///
/// assert_eq!(IntoReply::<Reply>::into_reply(()), Reply::OK);
/// assert_eq!(IntoReply::<Reply>::into_reply(Err::<(), _>(Reply::no_such_user())), Reply::no_such_user());
/// let broken: DataReply = Err::<(), _>(BodyError::TooLarge).into_reply();
/// assert_eq!(broken.merged().code().as_u16(), 552);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an answer to this SMTP phase",
    label = "the handler returns this",
    note = "handlers answer with `()`, `Reply`, or a `Result` of these; DATA also with `DataReply`; AUTH with `Identity`, `Secret`, `AuthOutcome` or a refusing `Reply`",
    note = "for a text of your own use `Reply::ok(\"...\")`, `Reply::rejected(\"...\")` or `Reply::try_again(\"...\")`",
    note = "an error of another kind becomes an answer by `.map_err(|error| Reply::try_again(\"...\"))`, or by `impl From<YourError> for Reply` and `?`"
)]
pub trait IntoReply<R = Reply> {
    /// The response that it stands for.
    fn into_reply(self) -> R;
}

impl<R: From<Self>> IntoReply<R> for Reply {
    fn into_reply(self) -> R {
        self.into()
    }
}

impl IntoReply for () {
    fn into_reply(self) -> Reply {
        Reply::OK
    }
}

impl IntoReply<DataReply> for () {
    fn into_reply(self) -> DataReply {
        Reply::OK.into()
    }
}

impl IntoReply<Self> for DataReply {
    fn into_reply(self) -> Self {
        self
    }
}

impl<R: From<Reply>> IntoReply<R> for BodyError {
    fn into_reply(self) -> R {
        self.reply().into()
    }
}

impl IntoReply<Self> for AuthOutcome {
    fn into_reply(self) -> Self {
        self
    }
}

impl IntoReply<AuthOutcome> for Identity {
    fn into_reply(self) -> AuthOutcome {
        AuthOutcome::Accept(self)
    }
}

impl IntoReply<AuthOutcome> for Secret {
    fn into_reply(self) -> AuthOutcome {
        AuthOutcome::Verify(self)
    }
}

impl<R> IntoReply<R> for Infallible {
    fn into_reply(self) -> R {
        match self {}
    }
}

impl<R, T: IntoReply<R>, E: IntoReply<R>> IntoReply<R> for Result<T, E> {
    fn into_reply(self) -> R {
        match self {
            Ok(answer) => answer.into_reply(),
            Err(answer) => answer.into_reply(),
        }
    }
}

/// Makes a service of `async fn(Request<P>) -> impl IntoReply`, a function or a closure. It never fails: what goes wrong
/// in it is a [`Reply`] too.
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
/// State comes by a closure that captures it:
///
/// ```
/// # use std::{collections::HashSet, sync::Arc};
/// # use smtpd_tower::{Pipeline, Rcpt, Reply, Request, handler_fn};
/// let users = Arc::new(HashSet::from(["alice@example.org"]));
/// let pipeline = Pipeline::new().rcpt(handler_fn(move |request: Request<Rcpt>| {
///     let known = users.contains(request.recipient().as_str());
///     async move { if known { Ok(()) } else { Err(Reply::no_such_user()) } }
/// }));
/// ```
pub const fn handler_fn<F>(f: F) -> HandlerFn<F> {
    HandlerFn { f }
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
    type Future = HandlerFuture<Fut, P::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        HandlerFuture {
            answer: (self.f)(request),
            response: PhantomData,
        }
    }
}

/// The future of [`HandlerFn`].
#[pin_project]
#[derive(Debug)]
pub struct HandlerFuture<F, R> {
    #[pin]
    answer: F,
    response: PhantomData<fn() -> R>,
}

impl<F, R> Future for HandlerFuture<F, R>
where
    F: Future,
    F::Output: IntoReply<R>,
{
    type Output = Result<R, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(ready!(self.project().answer.poll(cx)).into_reply()))
    }
}
