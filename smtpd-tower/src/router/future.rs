use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use smtpd_core::Reply;
use tokio::time::{Sleep, sleep};
use tower::BoxError;
use tower_service::Service;

use crate::{
    phase::{Phase, Request},
    service::PhaseService,
};

/// The future of a [`Router`](super::Router) that has chosen a single service.
#[pin_project]
pub struct RouteFuture<P: Phase> {
    #[pin]
    state: State<P>,
}

#[pin_project(project = StateProj)]
enum State<P: Phase> {
    Readying(Readying<P>),
    Called(#[pin] Called<P>),
    Answer(Option<P::Response>),
}

struct Readying<P: Phase> {
    service: PhaseService<P>,
    request: Option<Request<P>>,
    limit: Duration,
    /// Set if the service was not ready at once.
    timer: Option<Pin<Box<Sleep>>>,
}

type Called<P> = <PhaseService<P> as Service<Request<P>>>::Future;

impl<P: Phase> RouteFuture<P> {
    /// The service responds, once it is ready.
    pub(super) const fn ask(
        service: PhaseService<P>,
        request: Request<P>,
        limit: Duration,
    ) -> Self {
        Self {
            state: State::Readying(Readying {
                service,
                request: Some(request),
                limit,
                timer: None,
            }),
        }
    }

    /// The router replies by itself.
    pub(super) const fn answer(response: P::Response) -> Self {
        Self {
            state: State::Answer(Some(response)),
        }
    }
}

impl<P: Phase> Future for RouteFuture<P> {
    type Output = Result<P::Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut state = self.as_mut().project().state;
            let answer = match state.as_mut().project() {
                StateProj::Readying(readying) => match ready!(readying.poll(cx)) {
                    Ok(next) => {
                        state.set(next);
                        continue;
                    }
                    Err(error) => Err(error),
                },
                StateProj::Called(future) => ready!(future.poll(cx)),
                // Polled after completion, it stays pending like a fused future.
                StateProj::Answer(answer) => {
                    return answer
                        .take()
                        .map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer)));
                }
            };
            // Drops the call with the message that it holds: other readers must not wait for it.
            state.set(State::Answer(None));
            return Poll::Ready(answer);
        }
    }
}

impl<P: Phase> Readying<P> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<State<P>, BoxError>> {
        if let Poll::Ready(ready) = self.service.poll_ready(cx) {
            return Poll::Ready(ready.map(|()| match self.request.take() {
                Some(request) => State::Called(self.service.call(request)),
                None => State::Answer(None),
            }));
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Ok(State::Answer(Some(Reply::busy().into()))))
    }
}

impl<P: Phase> fmt::Debug for RouteFuture<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteFuture").field(&P::KIND).finish()
    }
}
