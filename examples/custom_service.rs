//! A service as a type: one blocklist of domains, for senders and for recipients.
//!
//! `cargo run --example custom_service -- 127.0.0.1:2525 spam.example`

use std::{
    collections::HashSet,
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use smtpd_tower::{
    Mail, Pipeline, Rcpt, Reply, Request, Server, address::Mailbox, deliver::Discard,
    system_hostname,
};
use tokio::net::TcpListener;
use tower::Service;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:2525".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    let blocklist = Blocklist::new(arguments);
    // A service is cloned for each command; state that the clones share is behind an `Arc`.
    let pipeline = Pipeline::new()
        .mail(blocklist.clone())
        .rcpt(blocklist)
        .data(Discard);
    Server::new(system_hostname(), pipeline)
        .serve(listener)
        .await
}

/// Domains from which, and to which, no mail is accepted.
#[derive(Clone, Debug)]
struct Blocklist {
    domains: Arc<HashSet<String>>,
}

impl Blocklist {
    fn new(domains: impl IntoIterator<Item = String>) -> Self {
        let domains = domains
            .into_iter()
            .map(|domain| domain.to_ascii_lowercase());
        Self {
            domains: Arc::new(domains.collect()),
        }
    }

    /// `<>` and `<Postmaster>` have no domain, and are never blocked.
    fn check(&self, mailbox: Option<&Mailbox>) -> Reply {
        let blocked = mailbox.is_some_and(|mailbox| {
            self.domains
                .contains(&mailbox.domain().as_str().to_ascii_lowercase())
        });
        if blocked {
            Reply::rejected("Blocked here")
        } else {
            Reply::OK
        }
    }
}

impl Service<Request<Mail>> for Blocklist {
    type Response = Reply;
    type Error = Infallible;
    type Future = Ready<Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Mail>) -> Self::Future {
        ready(Ok(self.check(request.sender().mailbox())))
    }
}

impl Service<Request<Rcpt>> for Blocklist {
    type Response = Reply;
    type Error = Infallible;
    type Future = Ready<Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Rcpt>) -> Self::Future {
        ready(Ok(self.check(request.recipient().mailbox())))
    }
}
