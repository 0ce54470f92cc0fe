//! A layer for every phase that counts replies and measures how long they take, and a page with these metrics for Prometheus.
//!
//! `cargo run --example metrics_layer -- 127.0.0.1:2525 127.0.0.1:9100`, then
//! `curl --crlf smtp://127.0.0.1:2525 --mail-rcpt you@example.org -T README.md` and `curl http://127.0.0.1:9100/metrics`
//!
//! | metric | labels |
//! |---|---|
//! | `smtp_replies_total` | `phase`, and `class`: `2yz`, `4yz`, `5yz`, `pending`, `error`, `cancelled` |
//! | `smtp_latency_seconds` | `phase` |
//! | `smtp_sessions` | |
//!
//! No label has a value that a client chooses, so no client can add a time series. Whoever reaches the page can read it, so keep
//! its address private.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use pin_project::pin_project;
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use smtpd_tower::{
    BoxError, Pipeline, Rcpt, Request, Server,
    deliver::Discard,
    handler_fn,
    phase::Phase,
    reply::{Answer, Verdict},
    server::{Handle, system_hostname},
};
use tokio::{net::TcpListener, time::Instant};
use tower::{Layer, Service};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let smtp = TcpListener::bind(next("127.0.0.1:2525")).await?;
    let http = TcpListener::bind(next("127.0.0.1:9100")).await?;
    println!("listening on {}", smtp.local_addr()?);
    println!("metrics at http://{}/metrics", http.local_addr()?);
    let metrics = MetricsLayer::default();
    let rcpt = handler_fn(async |_: Request<Rcpt>| {});
    let pipeline = Pipeline::new().rcpt(rcpt).data(Discard);
    let server = Server::new(system_hostname(), pipeline.layer(metrics.clone()));
    let web = axum::serve(http, routes(metrics, server.handle()));
    tokio::try_join!(server.serve(smtp), web)?;
    Ok(())
}

pub fn routes(metrics: MetricsLayer, handle: Handle) -> Router {
    let page = get(page).with_state((metrics, handle));
    Router::new().route("/metrics", page)
}

async fn page(
    State((metrics, handle)): State<(MetricsLayer, Handle)>,
) -> Result<impl IntoResponse, StatusCode> {
    let sessions = i64::try_from(handle.sessions()).unwrap_or(i64::MAX);
    metrics.sessions.set(sessions);
    let mut page = String::new();
    encode(&mut page, &metrics.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], page))
}

/// Puts a [`Measured`] around a service. Clones share the metrics.
#[derive(Clone)]
pub struct MetricsLayer {
    replies: Family<[(&'static str, &'static str); 2], Counter>,
    latency: Family<[(&'static str, &'static str); 1], Histogram>,
    sessions: Gauge,
    registry: Arc<Registry>,
}

impl Default for MetricsLayer {
    fn default() -> Self {
        // From 1 ms to 262 s: DATA takes as long as the client needs to send the message.
        let histogram: fn() -> _ = || Histogram::new(exponential_buckets(0.001, 4.0, 10));
        let latency = Family::new_with_constructor(histogram);
        let (replies, sessions) = (Family::default(), Gauge::default());
        let mut registry = Registry::with_prefix("smtp");
        registry.register("replies", "Replies of services", replies.clone());
        let help = "Time until a service replied";
        registry.register_with_unit("latency", help, Unit::Seconds, latency.clone());
        registry.register("sessions", "Open sessions", sessions.clone());
        Self {
            replies,
            latency,
            sessions,
            registry: Arc::new(registry),
        }
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        let metrics = self.clone();
        Measured { inner, metrics }
    }
}

#[derive(Clone)]
pub struct Measured<S> {
    inner: S,
    metrics: MetricsLayer,
}

impl<P, S> Service<Request<P>> for Measured<S>
where
    P: Phase,
    S: Service<Request<P>, Response: Answer, Error: Into<BoxError>>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = MeasuredFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let call = Some(Call {
            metrics: self.metrics.clone(),
            phase: P::KIND.as_str(),
            start: Instant::now(),
            class: "cancelled",
        });
        let answer = self.inner.call(request);
        MeasuredFuture { answer, call }
    }
}

#[pin_project]
pub struct MeasuredFuture<F> {
    #[pin]
    answer: F,
    call: Option<Call>,
}

impl<R, E, F> Future for MeasuredFuture<F>
where
    R: Answer,
    E: Into<BoxError>,
    F: Future<Output = Result<R, E>>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(cx)).map_err(Into::into);
        if let Some(mut call) = this.call.take() {
            call.class = class(Verdict::of(&answer));
        }
        Poll::Ready(answer)
    }
}

/// AUTH may have no reply yet: the mechanism decides last. A refusal that a service throws as an error is one all the same.
const fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accepted => "2yz",
        Verdict::Deferred => "4yz",
        Verdict::Rejected => "5yz",
        Verdict::Undecided => "pending",
        _ => "error",
    }
}

/// A call of a service, which is counted when it is dropped: also if the client has gone, and nobody waits for the reply.
struct Call {
    metrics: MetricsLayer,
    phase: &'static str,
    start: Instant,
    class: &'static str,
}

impl Drop for Call {
    fn drop(&mut self) {
        let phase = ("phase", self.phase);
        let labels = [phase, ("class", self.class)];
        self.metrics.replies.get_or_create(&labels).inc();
        let seconds = self.start.elapsed().as_secs_f64();
        self.metrics
            .latency
            .get_or_create(&[phase])
            .observe(seconds);
    }
}
