//! A layer for every phase: prints each reply, and how long it took.
//!
//! `cargo run --example custom_layer -- 127.0.0.1:2525`

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use pin_project::pin_project;
use smtpd_tower::{
    Phase, Pipeline, Rcpt, Request, Server, deliver::Discard, handler_fn, phase::PhaseKind,
    reply::Answer, system_hostname,
};
use tokio::net::TcpListener;
use tower::{Layer, Service};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:2525".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    let pipeline = Pipeline::new()
        .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
        .data(Discard)
        .layer(StopwatchLayer);
    Server::new(system_hostname(), pipeline)
        .serve(listener)
        .await
}

/// Puts a [`Stopwatch`] around a service.
#[derive(Clone, Copy, Debug)]
struct StopwatchLayer;

impl<S> Layer<S> for StopwatchLayer {
    type Service = Stopwatch<S>;

    fn layer(&self, inner: S) -> Stopwatch<S> {
        Stopwatch { inner }
    }
}

#[derive(Clone, Debug)]
struct Stopwatch<S> {
    inner: S,
}

impl<S, P> Service<Request<P>> for Stopwatch<S>
where
    P: Phase,
    S: Service<Request<P>>,
    S::Response: Answer,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = StopwatchFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let peer = request.session().client_addr().to_string();
        StopwatchFuture {
            answer: self.inner.call(request),
            phase: P::KIND,
            peer,
            start: Instant::now(),
        }
    }
}

#[pin_project]
struct StopwatchFuture<F> {
    #[pin]
    answer: F,
    phase: PhaseKind,
    peer: String,
    start: Instant,
}

impl<F, R, E> Future for StopwatchFuture<F>
where
    F: Future<Output = Result<R, E>>,
    R: Answer,
{
    type Output = Result<R, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(cx));
        // AUTH may have no reply yet: the mechanism decides last.
        let reply = answer
            .as_ref()
            .ok()
            .and_then(Answer::reply)
            .map_or_else(|| "-".to_owned(), ToString::to_string);
        println!(
            "{} of {}: {reply} after {:?}",
            this.phase,
            this.peer,
            this.start.elapsed()
        );
        Poll::Ready(answer)
    }
}
