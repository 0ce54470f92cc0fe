//! How a service is called: a clone for each command, made ready, called, and dropped. The connection measures the time and
//! enforces its limits.
//!
//! A clone that was kept for the session, or made ready before the command arrived, could hold a permit while its client is idle,
//! and starve all others.

use std::task::{Context, Poll, ready};

use smtpd_core::reply::Reply;
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    body::known_reply,
    fault::{self, caught},
    phase::{Phase, Request},
    phase_kind::PhaseKind,
    reply::recover,
    service::{Asked, BoxPhaseService, Erased, PhaseFuture},
    session::{Session, SessionError},
};

/// Why a service has not answered.
#[derive(Debug)]
pub(crate) enum Failure {
    Error(BoxError),
    Panic(String),
}

impl Failure {
    fn reply(&self) -> Reply {
        match self {
            Self::Error(error) => recover(error),
            Self::Panic(_) => fault::internal_error(),
        }
    }

    /// Returns the error to report.
    fn into_error(self, phase: PhaseKind) -> SessionError {
        match self {
            Self::Error(error) => SessionError::Service { phase, error },
            Self::Panic(message) => SessionError::Panic {
                phase: Some(phase),
                message,
            },
        }
    }

    /// Returns whether this is a decision that is merely returned as an error.
    fn is_decision(&self) -> bool {
        matches!(self, Self::Error(error) if known_reply(&**error).is_some())
    }
}

/// The outcome of calling a service.
pub(super) enum Outcome<P: Phase> {
    Answered(Result<P::Response, Failure>),
    /// It answered, and then panicked when it was dropped.
    Panicked(Result<P::Response, Failure>, String),
    Pending(Call<P>),
}

/// A call of a service that has not answered at once. A panic in it is an error: it must cost its own session, and nothing else.
pub(super) enum Call<P: Phase> {
    /// The request waits for the service to become ready, since that time.
    Waiting(Box<dyn Erased<P>>, Option<Request<P>>, Instant),
    Called(PhaseFuture<P>),
}

impl<P: Phase> Call<P> {
    /// Calls the service.
    pub(super) fn start(
        service: &BoxPhaseService<P>,
        request: Request<P>,
        cx: &mut Context<'_>,
    ) -> Outcome<P> {
        match caught(|| service.ask(request, cx)) {
            Ok(Asked::Answered(result, None)) => Outcome::Answered(result.map_err(Failure::Error)),
            Ok(Asked::Answered(result, Some(panic))) => {
                Outcome::Panicked(result.map_err(Failure::Error), panic)
            }
            Ok(Asked::Called(answer)) => Outcome::Pending(Self::Called(answer)),
            Ok(Asked::NotReady(service, request)) => {
                Outcome::Pending(Self::Waiting(service, Some(request), Instant::now()))
            }
            Err(panic) => Outcome::Answered(Err(Failure::Panic(panic))),
        }
    }

    /// Returns whether the service is not ready yet.
    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(..))
    }

    /// Calls the service as soon as it is ready, and polls for its answer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<P::Response, Failure>> {
        ready!(self.poll_called(cx))?;
        match self {
            Self::Called(answer) => flat(caught(|| answer.as_mut().poll(cx))),
            Self::Waiting(..) => Poll::Pending,
        }
    }

    fn poll_called(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Self::Waiting(service, request, since) = self else {
            return Poll::Ready(Ok(()));
        };
        ready!(flat(caught(|| service.poll_ready(cx))))?;
        if let Some(mut request) = request.take() {
            request.postpone(since.elapsed());
            let called = caught(|| service.call(request)).map_err(Failure::Panic)?;
            *self = Self::Called(called);
        }
        Poll::Ready(Ok(()))
    }
}

/// Returns the response, or the one that replaces it if the service has failed. Reports the failure if it is a fault.
pub(super) fn resolve<P: Phase>(
    session: &Session,
    result: Result<P::Response, Failure>,
) -> P::Response {
    result.unwrap_or_else(|failure| {
        let reply = failure.reply();
        if !failure.is_decision() {
            session.report(&failure.into_error(P::KIND));
        }
        reply.into()
    })
}

fn flat<T>(polled: Result<Poll<Result<T, BoxError>>, String>) -> Poll<Result<T, Failure>> {
    match polled {
        Ok(polled) => polled.map_err(Failure::Error),
        Err(panic) => Poll::Ready(Err(Failure::Panic(panic))),
    }
}
