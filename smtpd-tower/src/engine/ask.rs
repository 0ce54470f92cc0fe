//! How a service is asked: a clone for each command, ready within a limit, called within a limit, dropped.
//!
//! A clone that was kept for the session, or made ready before the command came, could hold a permit while its client says
//! nothing, and starve all others.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll, ready},
    time::Duration,
};

use smtpd_core::{Code, Reply, Status};
use tokio::time::timeout;
use tower::BoxError;
use tower_service::Service;

use crate::{
    Phase, PhaseService, Request,
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

/// One call of a service. A panic in it is an error: it must cost its own session, and nothing else.
pub(super) struct Call<P: Phase> {
    service: PhaseService<P>,
    /// What the service has not been called with, as it is not ready.
    request: Option<Request<P>>,
    answer: Option<<PhaseService<P> as Service<Request<P>>>::Future>,
}

impl<P: Phase> Call<P> {
    pub(super) const fn new(service: PhaseService<P>, request: Request<P>) -> Self {
        Self {
            service,
            request: Some(request),
            answer: None,
        }
    }

    /// The answer, without any limit: to be polled once, and handed to [`finish`](Self::finish) if that was not enough.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<P::Response, Failure>> {
        ready!(self.poll_called(cx))?;
        match &mut self.answer {
            Some(answer) => caught(|| answer.as_mut().poll(cx)),
            None => Poll::Pending,
        }
    }

    /// Waits for the answer. `call` is the limit of the answer alone; readiness has its own.
    pub(super) async fn finish(
        mut self,
        ready: Duration,
        call: Option<Duration>,
    ) -> Result<P::Response, Failure> {
        match timeout(ready, poll_fn(|cx| self.poll_called(cx))).await {
            Ok(called) => called?,
            Err(_) => return Err(Failure::NotReady),
        }
        let answer = poll_fn(|cx| self.poll(cx));
        match call {
            Some(limit) => timeout(limit, answer)
                .await
                .unwrap_or(Err(Failure::TimedOut)),
            None => answer.await,
        }
    }

    /// Calls the service as soon as it is ready.
    fn poll_called(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if self.request.is_none() {
            return Poll::Ready(Ok(()));
        }
        ready!(caught(|| self.service.poll_ready(cx)))?;
        let called = caught(|| {
            let answer = self
                .request
                .take()
                .map(|request| self.service.call(request));
            Poll::Ready(Ok(answer))
        });
        self.answer = ready!(called)?;
        Poll::Ready(Ok(()))
    }
}

fn caught<T>(poll: impl FnOnce() -> Poll<Result<T, BoxError>>) -> Poll<Result<T, Failure>> {
    match catch_unwind(AssertUnwindSafe(poll)) {
        Ok(polled) => polled.map_err(Failure::Error),
        Err(panic) => Poll::Ready(Err(Failure::Panic(panic_message(&*panic)))),
    }
}
