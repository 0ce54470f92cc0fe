use std::task::{Context, Poll};

use smtpd_tower::{Phase, Pipeline, Reply, Request};
use tower::{Layer, Service};

#[derive(Clone)]
struct Log<S = ()>(S);

impl<S> Layer<S> for Log {
    type Service = Log<S>;

    fn layer(&self, inner: S) -> Log<S> {
        Log(inner)
    }
}

impl<P: Phase, S: Service<Request<P>, Response = Reply>> Service<Request<P>> for Log<S> {
    type Response = Reply;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> S::Future {
        self.0.call(request)
    }
}

fn main() {
    let _ = Pipeline::new().layer(Log(()));
}
