use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    meter::{CANCELLED, FAILED, RequestMeters},
    phase::{Phase, PhaseKind, Request},
    reply::{Answer, Verdict},
};

/// Measures how long services take, and what they decide, by the facade [`metrics`](https://docs.rs/metrics).
///
/// It fits every phase. It records the histogram `smtp.server.request.duration`, in seconds, with the labels `phase` and `outcome`:
/// `accepted`, `deferred`, `rejected`, `undecided` (an AUTH whose secret the session has yet to compare), `failed` (an error without
/// a reply, a panic, or what a layer has made of these) and `cancelled` (the engine or a layer outside gave up before the answer,
/// because the session has ended or a time was over). The rest is measured by
/// [`Server::metrics`](crate::server::Server::metrics).
///
/// Install a recorder before: the layer registers its metrics when it is created, so that a request costs no look-up. Clones share
/// them. [The guide](crate::guide::metrics) lists all metrics.
///
/// ```
/// use smtpd_tower::{
///     Pipeline, Rcpt, Request, Server, handler_fn, layer::MetricsLayer,
/// };
///
/// let pipeline = Pipeline::new()
///     .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
///     .layer(MetricsLayer::new());
/// let server = Server::new("mx.example.org", pipeline).metrics();
/// ```
#[derive(Clone, Debug)]
pub struct MetricsLayer {
    meters: Arc<RequestMeters>,
}

impl MetricsLayer {
    /// Records by the recorder that is installed now.
    pub fn new() -> Self {
        Self {
            meters: Arc::new(RequestMeters::new()),
        }
    }
}

impl Default for MetricsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Metrics<S> {
        Metrics {
            inner,
            meters: self.meters.clone(),
        }
    }
}

/// The service of [`MetricsLayer`].
#[derive(Clone, Debug)]
pub struct Metrics<S> {
    inner: S,
    meters: Arc<RequestMeters>,
}

impl<S, P> Service<Request<P>> for Metrics<S>
where
    P: Phase,
    S: Service<Request<P>, Response: Answer, Error: 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = MetricsFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let mut timing = Timing {
            meters: self.meters.clone(),
            phase: P::KIND,
            start: Instant::now(),
            outcome: FAILED,
        };
        let inner = self.inner.call(request);
        timing.outcome = CANCELLED;
        MetricsFuture {
            inner,
            timing: Some(timing),
        }
    }
}

/// The future of [`Metrics`].
#[pin_project]
#[derive(Debug)]
pub struct MetricsFuture<F> {
    #[pin]
    inner: F,
    timing: Option<Timing>,
}

impl<F, R, E> Future for MetricsFuture<F>
where
    F: Future<Output = Result<R, E>>,
    R: Answer,
    E: 'static,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        Timing::set(this.timing, FAILED);
        let polled = this.inner.poll(cx);
        let outcome = match &polled {
            Poll::Ready(Ok(response)) => Verdict::outcome(response),
            Poll::Ready(result) => Verdict::of_any(result).as_str(),
            Poll::Pending => CANCELLED,
        };
        Timing::set(this.timing, outcome);
        if polled.is_ready() {
            *this.timing = None;
        }
        polled
    }
}

/// A request in flight, which is recorded when this is dropped.
#[derive(Debug)]
struct Timing {
    meters: Arc<RequestMeters>,
    phase: PhaseKind,
    start: Instant,
    /// What becomes of it if this is dropped now. While the service runs, that is what a panic in it means.
    outcome: &'static str,
}

impl Timing {
    const fn set(timing: &mut Option<Self>, outcome: &'static str) {
        if let Some(timing) = timing {
            timing.outcome = outcome;
        }
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        let (phase, outcome) = (self.phase, self.outcome);
        self.meters.record(phase, outcome, self.start.elapsed());
    }
}
