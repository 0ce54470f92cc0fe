use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use smtpd_core::reply::Reply;
use tokio::time::{Sleep, sleep};
use tower::BoxError;
use tower_service::Service;

use crate::{
    fault::{caught, local_error, timed_out},
    phase::{Phase, Request},
    service::{BoxPhaseService, PhaseFuture},
    session::{Session, SessionError},
};

/// The future of a [`Router`](super::Router) that has chosen a single service.
pub struct RouteFuture<P: Phase> {
    state: State<P>,
}

enum State<P: Phase> {
    Asking(Asking<P>),
    Answer(Option<P::Response>),
}

// Nothing in it is pinned in place: the service's future is boxed.
impl<P: Phase> Unpin for RouteFuture<P> {}

impl<P: Phase> RouteFuture<P> {
    /// The service responds, once it is ready.
    pub(super) fn ask(
        service: BoxPhaseService<P>,
        request: Request<P>,
        ready_limit: Duration,
    ) -> Self {
        let session = request.session().clone();
        let call = Call::Readying(Readying {
            service,
            request: Some(request),
            limit: ready_limit,
            timer: None,
        });
        Self {
            state: State::Asking(Asking {
                session,
                call: Some(call),
            }),
        }
    }

    /// The router replies by itself.
    pub(super) const fn answer(response: P::Response) -> Self {
        Self {
            state: State::Answer(Some(response)),
        }
    }

    /// Drops the call because it takes too long, and replies in its place.
    pub(super) fn give_up(&mut self) {
        if let State::Asking(asking) = &self.state {
            let error = SessionError::ServiceTimeout { phase: P::KIND };
            asking.session.report(&error);
            self.state = State::Answer(Some(timed_out().into()));
        }
    }
}

impl<P: Phase> Future for RouteFuture<P> {
    type Output = Result<P::Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut self.state {
            State::Asking(asking) => ready!(asking.poll(cx)),
            // Polled after completion, it stays pending like a fused future.
            State::Answer(answer) => {
                return answer
                    .take()
                    .map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer)));
            }
        };
        // Drops the call with the message that it holds: other readers must not wait for it.
        self.state = State::Answer(None);
        Poll::Ready(answer)
    }
}

/// A service that was asked. What panics in it is its own reply, and nobody else's: not in its destructor either.
struct Asking<P: Phase> {
    session: Session,
    /// `None` while it is dropped.
    call: Option<Call<P>>,
}

impl<P: Phase> Asking<P> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<P::Response, BoxError>> {
        let Some(call) = &mut self.call else {
            return Poll::Pending;
        };
        caught(|| call.poll(cx)).unwrap_or_else(|panic| {
            self.report(panic);
            Poll::Ready(Ok(local_error().into()))
        })
    }

    fn report(&self, panic: String) {
        self.session.report(&SessionError::Panic {
            phase: Some(P::KIND),
            message: panic,
        });
    }
}

impl<P: Phase> Drop for Asking<P> {
    fn drop(&mut self) {
        if let Err(panic) = caught(|| self.call = None) {
            self.report(panic);
        }
    }
}

enum Call<P: Phase> {
    Readying(Readying<P>),
    Called(PhaseFuture<P>),
    Busy,
}

struct Readying<P: Phase> {
    service: BoxPhaseService<P>,
    request: Option<Request<P>>,
    limit: Duration,
    /// Set if the service was not ready at once.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<P: Phase> Call<P> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<P::Response, BoxError>> {
        if let Self::Readying(readying) = self {
            *self = ready!(readying.poll(cx))?.map_or(Self::Busy, Self::Called);
        }
        match self {
            Self::Called(answer) => answer.as_mut().poll(cx),
            _ => Poll::Ready(Ok(Reply::busy().into())),
        }
    }
}

impl<P: Phase> Readying<P> {
    /// Calls the service once it is ready. Ready with `None` if that takes too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<PhaseFuture<P>>, BoxError>> {
        if let Poll::Ready(ready) = self.service.poll_ready(cx) {
            return Poll::Ready(ready.map(|()| {
                let request = self.request.take()?;
                Some(self.service.call(request))
            }));
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Ok(None))
    }
}

impl<P: Phase> fmt::Debug for RouteFuture<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteFuture").field(&P::KIND).finish()
    }
}
