//! Prints every line of every session, and each parsed message.
//!
//! `cargo run --example dump -- 127.0.0.1:2525`

use smtpd_tower::{
    BodyError, Data, Pipeline, Rcpt, Reply, Request, Server, handler_fn, mime::Parsed,
    system_hostname,
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:2525".to_owned());
    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);

    let pipeline = Pipeline::new()
        .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
        .data(handler_fn(dump));
    Server::new(system_hostname(), pipeline)
        .configure(|config| config.app_name("dump"))
        .on_wire(|session, line| println!("{} {} {line}", session.id(), session.client_addr()))
        .on_error(|session, error| println!("{} {error}", session.id()))
        .on_close(|session, summary| {
            println!(
                "{} {} after {:?}",
                session.id(),
                summary.reason,
                summary.duration
            )
        })
        .serve(listener)
        .await
}

async fn dump(request: Request<Data>) -> Result<Reply, BodyError> {
    let envelope = request.envelope();
    println!("From <{}>", envelope.sender());
    for recipient in envelope.recipients() {
        println!("To <{}>", recipient.path());
    }
    let parsed = Parsed::new(request.into_body().collect().await?);
    let length = parsed.bytes().len();
    // Everything that a stranger has sent is escaped before it reaches the terminal.
    match parsed.message() {
        Err(error) => println!("{length} bytes that do not parse: {error}"),
        Ok(message) => {
            for header in message.headers() {
                println!("  {}: {:?}", header.name().escape_debug(), header.value());
            }
            for part in &message.parts {
                println!("  part of {} bytes", part.len());
            }
            println!("  {:?}", message.body_text(0).unwrap_or_default());
        }
    }
    Ok(Reply::ok(format!("{length} bytes dumped")))
}
