use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use smtpd_core::reply::Reply;
use tokio::time::{Sleep, sleep};
use tower::BoxError;
use tower_service::Service;

use super::{GreylistVerdict, settings::Settings};
use crate::phase::{Rcpt, Request};

/// The future of [`Greylist`](super::Greylist) and [`GreylistData`](super::GreylistData): waits for the store, then for the
/// service.
#[pin_project]
#[derive(Debug)]
pub struct GreylistFuture<C, S, F, P = Rcpt> {
    #[pin]
    state: State<C, S, F, P>,
}

#[pin_project(project = StateProj)]
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "layers do not box, and the size of `F` is not known here"
)]
enum State<C, S, F, P> {
    Check {
        #[pin]
        check: C,
        /// Set if the store has not answered at once.
        timer: Option<Pin<Box<Sleep>>>,
        then: Option<Then<S, P>>,
    },
    Inner(#[pin] F),
}

#[derive(Debug)]
struct Then<S, P> {
    service: S,
    request: Request<P>,
    settings: Arc<Settings>,
}

impl<C, S, F, P> GreylistFuture<C, S, F, P> {
    pub(super) const fn inner(future: F) -> Self {
        Self {
            state: State::Inner(future),
        }
    }

    pub(super) const fn check(
        check: C,
        service: S,
        request: Request<P>,
        settings: Arc<Settings>,
    ) -> Self {
        let then = Then {
            service,
            request,
            settings,
        };
        Self {
            state: State::Check {
                check,
                timer: None,
                then: Some(then),
            },
        }
    }
}

impl<C, S, F, P> Future for GreylistFuture<C, S, F, P>
where
    C: Future<Output = Result<GreylistVerdict, BoxError>>,
    S: Service<Request<P>, Future = F>,
    S::Response: From<Reply>,
    F: Future<Output = Result<S::Response, S::Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let inner = match state.as_mut().project() {
                StateProj::Inner(inner) => return inner.poll(cx),
                StateProj::Check { check, timer, then } => {
                    let Some(waiting) = then else {
                        // Already completed, or the call below has panicked.
                        return Poll::Pending;
                    };
                    let checked = match check.poll(cx) {
                        Poll::Ready(checked) => checked,
                        Poll::Pending => {
                            let limit = waiting.settings.limit;
                            let timer = timer.get_or_insert_with(|| Box::pin(sleep(limit)));
                            ready!(timer.as_mut().poll(cx));
                            Err("no answer in time".into())
                        }
                    };
                    let refusal = waiting.settings.refusal(checked);
                    let Some(mut then) = then.take() else {
                        return Poll::Pending;
                    };
                    if let Some(reply) = refusal {
                        return Poll::Ready(Ok(reply.into()));
                    }
                    then.service.call(then.request)
                }
            };
            state.set(State::Inner(inner));
        }
    }
}
