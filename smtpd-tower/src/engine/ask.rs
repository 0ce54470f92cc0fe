//! How a service is asked: a clone for each command, ready within a limit, called within a limit, dropped.
//!
//! A clone that was kept for the session, or made ready before the command came, could hold a permit while its client says
//! nothing, and starve all others.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use pin_project::pin_project;
use smtpd_core::{Code, Reply, Status};
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
        matches!(self, Self::Error(error) if recover::known(error).is_some())
    }
}

/// Asks a service. `call` is the limit of the answer alone; readiness has its own.
pub(super) async fn ask<P: Phase>(
    mut service: PhaseService<P>,
    request: Request<P>,
    ready: Duration,
    call: Option<Duration>,
) -> Result<P::Response, Failure> {
    match within(ready, poll_fn(|cx| service.poll_ready(cx))).await {
        None => return Err(Failure::NotReady),
        Some(Err(error)) => return Err(Failure::Error(error)),
        Some(Ok(())) => {}
    }
    let answer = service.call(request);
    let answer = match call {
        Some(limit) => within(limit, answer).await,
        None => Some(answer.await),
    };
    answer.ok_or(Failure::TimedOut)?.map_err(Failure::Error)
}

/// Awaits a future, but not for longer than that. What is ready at once costs no timer.
async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    match poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
        Poll::Ready(output) => Some(output),
        Poll::Pending => tokio::time::timeout(limit, future).await.ok(),
    }
}

/// A future whose panic is an error: it must cost its own session, and nothing else.
#[pin_project]
pub(super) struct CatchPanic<F>(#[pin] pub(super) F);

impl<F, T> Future for CatchPanic<F>
where
    F: Future<Output = Result<T, Failure>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.project().0;
        // The future is dropped after a panic, so nobody sees it in a broken state.
        catch_unwind(AssertUnwindSafe(|| future.poll(cx)))
            .unwrap_or_else(|panic| Poll::Ready(Err(Failure::Panic(panic_message(&*panic)))))
    }
}
