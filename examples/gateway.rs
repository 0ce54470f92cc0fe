//! A gateway: limits the recipients per minute of each client, accepts mail for its own domains, defers unknown clients until
//! they try again (RFC 6647), and stores accepted mail in a Maildir.
//!
//! `cargo run --example gateway -- 127.0.0.1:2525 mail example.org example.net`, then `curl --crlf smtp://127.0.0.1:2525
//! --mail-rcpt you@example.org -T README.md`, and read it with `cat mail/new/*`. Clients on this machine are never deferred.

use std::{path::Path, time::Duration};

use smtpd_tower::{
    Connect, Pipeline, Rcpt, Request, Server,
    deliver::Maildir,
    handler_fn,
    layer::{
        DomainFilterLayer, GreylistLayer, RateLimitLayer, ReceivedLayer, SessionsPerIpLayer,
        TraceLayer,
    },
    limiter::Rate,
    system_hostname,
};
use tokio::{net::TcpListener, signal};
use tower::{BoxError, ServiceBuilder};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // Not by `eprintln!`, which panics if standard error cannot be written.
        .log_internal_errors(false)
        .init();
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let (address, maildir) = (next("127.0.0.1:2525"), next("mail"));
    let domains: Vec<_> = arguments.collect();
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    // After Ctrl-C, messages in progress have half a minute to complete.
    server(maildir.as_ref(), &domains)?
        .serve(listener)
        .with_graceful_shutdown(signal::ctrl_c(), Duration::from_secs(30))
        .await?;
    Ok(())
}

pub fn server(maildir: &Path, domains: &[String]) -> Result<Server, BoxError> {
    let connect = ServiceBuilder::new()
        .layer(SessionsPerIpLayer::new(20))
        .service(handler_fn(async |_: Request<Connect>| {}));
    // The first layer is the outermost. Recipients in other domains and clients over their rate are not remembered.
    let rcpt = ServiceBuilder::new()
        .layer(RateLimitLayer::per_ip(Rate::per_minute(100)?))
        .layer(DomainFilterLayer::parse(domains)?)
        .layer(GreylistLayer::new())
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let data = ServiceBuilder::new()
        .load_shed() // one message more is deferred with 451 instead of waiting
        .concurrency_limit(64)
        .layer(ReceivedLayer::new())
        .service(Maildir::new(maildir));
    let pipeline = Pipeline::new().connect(connect).rcpt(rcpt).data(data);
    let server = Server::new(system_hostname(), pipeline.layer(TraceLayer::new()));
    Ok(server.configure(|config| config.max_message_size(25 << 20)))
}
