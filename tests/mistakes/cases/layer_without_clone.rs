use std::{
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
};

use smtpd_tower::{Phase, Pipeline, Request};
use tower::Service;

struct Count<S> {
    inner: S,
    requests: AtomicU64,
}

impl<P: Phase, S: Service<Request<P>>> Service<Request<P>> for Count<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> S::Future {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.inner.call(request)
    }
}

#[derive(Clone)]
struct CountLayer;

impl<S> tower::Layer<S> for CountLayer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Count<S> {
        Count { inner, requests: AtomicU64::new(0) }
    }
}

fn main() {
    let _ = Pipeline::new().layer(CountLayer);
}
