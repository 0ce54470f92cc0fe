use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::{phase::Request, reply::Answer, session::Session};

/// Delays replies that refuse, each longer than the last, which slows down the guessing of addresses and passwords.
///
/// It fits every phase, and counts the 4yz and 5yz replies of the whole session, at every tarpit that they pass. The first is
/// delayed by one `delay`, the second by two, and so on up to [`max_delay`](Self::max_delay). Positive replies and errors are not
/// delayed, nor is an AUTH whose secret the engine has yet to verify.
///
/// # What it costs
///
/// A client that waits holds its connection, its session's permit under the server's limit, and its task, for up to the maximum
/// with each refusal; it costs no thread and hardly any further memory. An attacker who opens many connections and has them all
/// refused reaches that limit sooner: keep the maximum small, and limit the connections per address. A graceful shutdown waits
/// for the delay too. Keep the maximum below [`Timeouts::call`] and [`Timeouts::data_start`], after which the engine replies by
/// itself.
///
/// The service has completed before the delay: a `concurrency_limit` inside of this layer is free meanwhile, one outside is not.
/// So put it outermost, and only once: `Pipeline::layer` puts it around every phase.
///
/// [`Timeouts::call`]: smtpd_core::Timeouts::call
/// [`Timeouts::data_start`]: smtpd_core::Timeouts::data_start
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_tower::{Rcpt, Request, Session, handler_fn, layer::{DomainFilterLayer, TarpitLayer}};
/// use tokio::time::Instant;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new()
///     .layer(TarpitLayer::new(Duration::from_secs(2)))
///     .layer(DomainFilterLayer::parse(["example.org"])?)
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let session = Session::local();
/// let ask = |path| rcpt.clone().oneshot(Request::new(session.clone(), Rcpt::new(path)));
///
/// let start = Instant::now();
/// assert_eq!(ask("user@example.org".parse()?).await?.code().as_u16(), 250);
/// assert_eq!(start.elapsed().as_secs(), 0);
/// assert_eq!(ask("a@example.com".parse()?).await?.code().as_u16(), 550);
/// assert_eq!(start.elapsed().as_secs(), 2);
/// assert_eq!(ask("b@example.com".parse()?).await?.code().as_u16(), 550);
/// assert_eq!(start.elapsed().as_secs(), 2 + 4);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TarpitLayer {
    delay: Duration,
    max_delay: Duration,
}

impl TarpitLayer {
    /// Delays the first refusal by `delay`, and each further one by `delay` more.
    pub const fn new(delay: Duration) -> Self {
        Self {
            delay,
            max_delay: Duration::from_secs(30),
        }
    }

    /// Sets the longest delay. Default: 30 seconds.
    #[must_use]
    pub const fn max_delay(self, max_delay: Duration) -> Self {
        Self { max_delay, ..self }
    }

    /// Counts a refusal, and returns how long to delay it.
    fn refused(&self, session: &Session) -> Duration {
        let count = session.state().update(|refusals: &mut Refusals| {
            refusals.0 = refusals.0.saturating_add(1);
            refusals.0
        });
        self.delay.saturating_mul(count).min(self.max_delay)
    }
}

/// The number of refusals in the session.
#[derive(Default)]
struct Refusals(u32);

impl<S> Layer<S> for TarpitLayer {
    type Service = Tarpit<S>;

    fn layer(&self, inner: S) -> Tarpit<S> {
        Tarpit {
            inner,
            tarpit: *self,
        }
    }
}

/// The service of [`TarpitLayer`].
#[derive(Clone, Debug)]
pub struct Tarpit<S> {
    inner: S,
    tarpit: TarpitLayer,
}

impl<S, P> Service<Request<P>> for Tarpit<S>
where
    S: Service<Request<P>>,
    S::Response: Answer,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TarpitFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        TarpitFuture {
            tarpit: self.tarpit,
            session: request.session().clone(),
            state: State::Inner(self.inner.call(request)),
        }
    }
}

/// The future of [`Tarpit`]: waits for the service, then for the delay.
#[pin_project]
#[derive(Debug)]
pub struct TarpitFuture<F, R> {
    tarpit: TarpitLayer,
    session: Session,
    #[pin]
    state: State<F, R>,
}

#[pin_project(project = StateProj)]
#[derive(Debug)]
enum State<F, R> {
    Inner(#[pin] F),
    Wait {
        #[pin]
        sleep: Sleep,
        response: Option<R>,
    },
}

impl<F, R, E> Future for TarpitFuture<F, R>
where
    F: Future<Output = Result<R, E>>,
    R: Answer,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let response = match this.state.as_mut().project() {
                StateProj::Inner(inner) => match ready!(inner.poll(cx)) {
                    Ok(response) if refuses(&response) => response,
                    result => return Poll::Ready(result),
                },
                StateProj::Wait { sleep, response } => {
                    ready!(sleep.poll(cx));
                    // Polled after completion, it stays pending like a fused future.
                    return response
                        .take()
                        .map_or(Poll::Pending, |response| Poll::Ready(Ok(response)));
                }
            };
            let wait = State::Wait {
                sleep: sleep(this.tarpit.refused(this.session)),
                response: Some(response),
            };
            this.state.set(wait);
        }
    }
}

fn refuses(response: &impl Answer) -> bool {
    response.reply().is_some_and(|reply| !reply.is_positive())
}

#[cfg(test)]
mod tests {
    use smtpd_core::{AuthOutcome, DataReply, Reply, ReversePath};
    use tokio::time::Instant;
    use tokio_test::{assert_pending, assert_ready_ok};
    use tower::{BoxError, ServiceExt, service_fn};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::phase::{Connect, Mail};

    const SECOND: Duration = Duration::from_secs(1);

    /// Calls the service, and returns how many milliseconds its reply took.
    async fn time<R: Answer + Clone>(
        layer: TarpitLayer,
        session: &Session,
        answer: Result<R, &'static str>,
    ) -> u128 {
        let start = Instant::now();
        let failed = answer.is_err();
        let inner = service_fn(move |_: Request<Connect>| std::future::ready(answer.clone()));
        let request = Request::new(session.clone(), Connect::new());
        let heard = layer.layer(inner).oneshot(request).await;
        assert_eq!(heard.is_err(), failed);
        start.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn each_refusal_waits_longer_up_to_the_maximum() {
        let session = Session::local();
        let layer = TarpitLayer::new(SECOND).max_delay(Duration::from_millis(2500));
        let table = [
            (Ok(Reply::OK), 0),
            (Ok(Reply::no_such_user()), 1000),
            (Ok(Reply::OK), 0),
            (Err("db down"), 0),
            (Ok(Reply::busy()), 2000),
            (Ok(Reply::closing("Bye")), 2500),
            (Ok(Reply::no_such_user()), 2500),
            (Ok(Reply::OK), 0),
        ];
        for (answer, expected) in table {
            let shown = format!("{answer:?}");
            assert_eq!(time(layer, &session, answer).await, expected, "{shown}");
        }
        let other = Session::local();
        assert_eq!(time(layer, &other, Ok(Reply::busy())).await, 1000);
        let short = TarpitLayer::new(Duration::from_secs(3600));
        assert_eq!(time(short, &other, Ok(Reply::busy())).await, 30_000);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_of_every_kind_are_judged() {
        let session = Session::local();
        let layer = TarpitLayer::new(SECOND);
        let refusal = Reply::no_such_user;
        let data =
            [refusal(), refusal()].map(|reply| time(layer, &session, Ok(DataReply::from(reply))));
        for (answer, expected) in data.into_iter().zip([1000, 2000]) {
            assert_eq!(answer.await, expected);
        }
        let auth = |outcome: fn() -> AuthOutcome| {
            let inner = service_fn(move |_: Request<Mail>| {
                std::future::ready(Ok::<_, BoxError>(outcome()))
            });
            let request = Request::new(session.clone(), Mail::new(ReversePath::Null));
            layer.layer(inner).oneshot(request)
        };
        let start = Instant::now();
        assert!(auth(|| AuthOutcome::Accept("alice".into())).await.is_ok());
        assert_eq!(start.elapsed().as_millis(), 0);
        assert!(auth(|| Reply::auth_failed().into()).await.is_ok());
        assert_eq!(start.elapsed().as_millis(), 3000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_keeps_the_service_from_others() {
        let limit = tower::limit::ConcurrencyLimitLayer::new(1);
        let stack = tower::ServiceBuilder::new()
            .layer(TarpitLayer::new(SECOND))
            .layer(limit)
            .into_inner();
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(stack);
        assert_ready_ok!(service.poll_ready());
        let refused = tokio::spawn(service.call(Request::new(Session::local(), Connect::new())));
        let (_, respond) = handle.next_request().await.unwrap();
        assert_pending!(service.poll_ready());
        respond.send_response(Reply::busy());
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert!(!refused.is_finished());
        assert_ready_ok!(service.poll_ready());
        assert_eq!(refused.await.unwrap().unwrap(), Reply::busy());
    }
}
