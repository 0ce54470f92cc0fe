use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;

/// The future of a layer that either calls the inner service or replies by itself.
#[pin_project]
#[derive(Debug)]
pub struct AnswerFuture<F, R> {
    #[pin]
    state: State<F, R>,
}

#[pin_project(project = StateProj)]
#[derive(Debug)]
enum State<F, R> {
    Inner(#[pin] F),
    Answer(Option<R>),
}

impl<F, R> AnswerFuture<F, R> {
    /// The response of the inner service.
    pub const fn inner(future: F) -> Self {
        Self {
            state: State::Inner(future),
        }
    }

    /// The reply of the layer.
    pub const fn answer(response: R) -> Self {
        Self {
            state: State::Answer(Some(response)),
        }
    }
}

impl<F, R, E> Future for AnswerFuture<F, R>
where
    F: Future<Output = Result<R, E>>,
{
    type Output = Result<R, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Inner(future) => future.poll(cx),
            // Polled after completion, it stays pending like a fused future.
            StateProj::Answer(response) => response
                .take()
                .map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
        }
    }
}
