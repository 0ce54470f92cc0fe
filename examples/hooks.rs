//! Hooks beside the phases: the end of a session, an aborted transaction, an incomplete message, errors, and a verb of your own.
//!
//! `cargo run --example hooks -- 127.0.0.1:2525`, then by hand, as with `nc -C 127.0.0.1 2525`: `XUPTIME`; `RSET` after MAIL;
//! DATA and a disconnect instead of the final dot; QUIT.

use smtpd_tower::{
    BodyError, Command, Data, Pipeline, Rcpt, Reply, Request, Server, handler_fn, system_hostname,
};
use tokio::{net::TcpListener, time::Instant};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:2525".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);

    let started = Instant::now();
    let pipeline = Pipeline::new()
        .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
        .data(handler_fn(take))
        .command(handler_fn(move |request| verb(started, request)));
    Server::new(system_hostname(), pipeline)
        .on_reset(|session, envelope| {
            let (sender, recipients) = (envelope.sender(), envelope.recipients().len());
            println!("{} given up: from <{sender}> to {recipients}", session.id());
        })
        .on_error(|session, error| println!("{} failed: {error}", session.id()))
        // Once per session, whatever ended it.
        .on_close(|session, end| {
            println!(
                "{} ended: {}, {} messages, {} bytes in, {} out, {:?}",
                session.id(),
                end.reason,
                end.messages,
                end.received,
                end.sent,
                end.duration
            );
        })
        .serve(listener)
        .await
}

/// A body that has not ended with `None` is incomplete, and the error says why.
async fn take(mut request: Request<Data>) -> Result<Reply, BodyError> {
    let mut bytes = 0;
    while let Some(chunk) = request.body_mut().chunk().await {
        match chunk {
            Ok(chunk) => bytes += chunk.len(),
            Err(BodyError::Incomplete) => {
                println!("{} broke off after {bytes}", request.session().id());
                return Err(BodyError::Incomplete);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Reply::ok(format!("{bytes} bytes")))
}

/// VRFY, EXPN, HELP and unknown verbs arrive here; unknown ones keep their default reply.
async fn verb(started: Instant, request: Request<Command>) -> Reply {
    match request.verb() {
        "XUPTIME" => Reply::ok(format!("{} seconds", started.elapsed().as_secs())),
        "VRFY" if request.argument() == "alice" => Reply::ok("<alice@example.org>"),
        _ => request.default_reply().clone(),
    }
}
