//! Mail into a web service: each message is POSTed as it arrives, and accepted only once the service has responded with 2xx.
//!
//! `cargo run --example webhook -- 127.0.0.1:2525 http://127.0.0.1:8080/inbox`, then
//! `curl --crlf smtp://127.0.0.1:2525 --mail-rcpt you@example.org -T README.md`
//!
//! The envelope is in the fields `smtp-sender` and `smtp-recipient`, one of the latter for each recipient. If `WEBHOOK_SECRET` is
//! set to a key such as `whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`, the requests are signed, and have JSON with the parsed message.
//! If the service is away, the client receives 451 and tries again later: nothing is lost, because nothing has been accepted. If
//! it responds with 422, the message is rejected.

use smtpd_tower::{
    BoxError, Pipeline, Rcpt, Request, Server,
    deliver::{Webhook, WebhookFormat},
    handler_fn,
    layer::ReceivedLayer,
    system_hostname,
};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let listener = TcpListener::bind(next("127.0.0.1:2525")).await?;
    let mut webhook = Webhook::new(&next("http://127.0.0.1:8080/"))?.response_as_reply(true);
    if let Ok(secret) = std::env::var("WEBHOOK_SECRET") {
        webhook = webhook
            .secret(secret.parse()?)
            .format(WebhookFormat::ParsedJson);
    }
    println!("listening on {}", listener.local_addr()?);
    server(webhook).serve(listener).await?;
    Ok(())
}

pub fn server(webhook: Webhook) -> Server {
    let data = ServiceBuilder::new()
        .layer(ReceivedLayer::new()) // and the id of the message
        .service(webhook);
    let rcpt = handler_fn(async |_: Request<Rcpt>| {});
    Server::new(system_hostname(), Pipeline::new().rcpt(rcpt).data(data))
}
