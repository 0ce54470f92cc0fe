//! How a service is asked: a clone for each command, ready within a limit, called within a limit, dropped.
//!
//! A clone that was kept for the session, or made ready before the command came, could hold a permit while its client says
//! nothing, and starve all others.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll, ready},
    time::Duration,
};

use smtpd_core::{Code, Reply, Status};
use tokio::time::timeout;
use tower::BoxError;

use crate::{
    Phase, PhaseService, Request,
    phase_service::{Asked, Erased, PhaseFuture},
    recover::{self, panic_message, recover},
};

/// Why a service has not answered.
#[derive(Debug)]
pub(crate) enum Failure {
    Error(BoxError),
    NotReady,
    TimedOut,
    Panic(String),
}

impl Failure {
    fn panic(panic: &(dyn Any + Send)) -> Self {
        Self::Panic(panic_message(panic))
    }

    pub(super) fn reply(&self) -> Reply {
        match self {
            Self::Error(error) => recover(error),
            Self::NotReady => Reply::busy(),
            Self::TimedOut => recover::timed_out(),
            Self::Panic(_) => Reply::new(
                Code::SERVICE_UNAVAILABLE,
                Status::MAIL_SYSTEM,
                "Internal error, closing the connection",
            ),
        }
    }

    /// Whether it is a refusal that merely travels as an error.
    pub(super) fn is_decision(&self) -> bool {
        matches!(self, Self::Error(error) if recover::known(&**error).is_some())
    }
}

/// What has come of asking a service.
pub(super) enum Outcome<P: Phase> {
    Answered(Result<P::Response, Failure>),
    Pending(Call<P>),
}

/// One call of a service that has not answered at once. A panic in it is an error: it must cost its own session, and
/// nothing else.
pub(super) enum Call<P: Phase> {
    /// The request waits for the service to become ready.
    Waiting(Box<dyn Erased<P>>, Option<Request<P>>),
    Called(PhaseFuture<P>),
}

impl<P: Phase> Call<P> {
    /// Asks the service, without any limit: what has not answered by that is handed to [`finish`](Self::finish).
    pub(super) fn start(
        service: &PhaseService<P>,
        request: Request<P>,
        cx: &mut Context<'_>,
    ) -> Outcome<P> {
        match catch_unwind(AssertUnwindSafe(|| service.ask(request, cx))) {
            Ok(Asked::Answered(result)) => Outcome::Answered(result.map_err(Failure::Error)),
            Ok(Asked::Called(answer)) => Outcome::Pending(Self::Called(answer)),
            Ok(Asked::NotReady(service, request)) => {
                Outcome::Pending(Self::Waiting(service, Some(request)))
            }
            Err(panic) => Outcome::Answered(Err(Failure::panic(&*panic))),
        }
    }

    /// Whether the service is not ready yet.
    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(..))
    }

    /// The answer, without any limit.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<P::Response, Failure>> {
        ready!(self.poll_called(cx))?;
        match self {
            Self::Called(answer) => caught(|| answer.as_mut().poll(cx)),
            Self::Waiting(..) => Poll::Pending,
        }
    }

    /// Waits for the answer. `call` is the limit of the answer alone; readiness has its own.
    pub(super) async fn finish(
        mut self,
        ready: Duration,
        call: Duration,
    ) -> Result<P::Response, Failure> {
        match timeout(ready, poll_fn(|cx| self.poll_called(cx))).await {
            Ok(called) => called?,
            Err(_) => return Err(Failure::NotReady),
        }
        timeout(call, poll_fn(|cx| self.poll(cx)))
            .await
            .unwrap_or(Err(Failure::TimedOut))
    }

    /// Calls the service as soon as it is ready.
    fn poll_called(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Self::Waiting(service, request) = self else {
            return Poll::Ready(Ok(()));
        };
        ready!(caught(|| service.poll_ready(cx)))?;
        if let Some(request) = request.take() {
            let called = caught(|| Poll::Ready(Ok(service.call(request))));
            *self = Self::Called(ready!(called)?);
        }
        Poll::Ready(Ok(()))
    }
}

/// Runs that at once, with the context of the task.
pub(super) async fn in_context<T>(run: impl FnOnce(&mut Context<'_>) -> T) -> T {
    let mut run = Some(run);
    poll_fn(|cx| match run.take() {
        Some(run) => Poll::Ready(run(cx)),
        None => Poll::Pending,
    })
    .await
}

fn caught<T>(poll: impl FnOnce() -> Poll<Result<T, BoxError>>) -> Poll<Result<T, Failure>> {
    match catch_unwind(AssertUnwindSafe(poll)) {
        Ok(polled) => polled.map_err(Failure::Error),
        Err(panic) => Poll::Ready(Err(Failure::panic(&*panic))),
    }
}
