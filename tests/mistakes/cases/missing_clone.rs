use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use smtpd_tower::{Mail, Pipeline, Reply, Request};
use tower::Service;

struct Senders(Vec<String>);

impl Service<Request<Mail>> for Senders {
    type Response = Reply;
    type Error = Infallible;
    type Future = Ready<Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Mail>) -> Self::Future {
        ready(Ok(Reply::ok(self.0.len().to_string())))
    }
}

fn main() {
    let _ = Pipeline::new().mail(Senders(Vec::new()));
}
