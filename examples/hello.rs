//! The smallest server: accepts mail for anyone, and prints it.
//!
//! `cargo run --example hello`, then `curl --crlf smtp://127.0.0.1:2525 --mail-rcpt you@example.org -T README.md`

use smtpd_tower::{BodyError, Data, Pipeline, Rcpt, Reply, Request, Server, handler_fn};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:2525".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    let pipeline = Pipeline::new()
        .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
        .data(handler_fn(print));
    Server::new("localhost", pipeline).serve(listener).await
}

async fn print(req: Request<Data>) -> Result<Reply, BodyError> {
    let message = req.into_body().collect().await?;
    println!("{}", message.escape_ascii());
    Ok(Reply::ok("Printed"))
}
