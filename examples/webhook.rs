//! Mail into a web service: each message is POSTed as received, retried on failure, and accepted only once the backend has it.
//!
//! `cargo run --example webhook -- 127.0.0.1:2525 http://127.0.0.1:8080/inbox`, then
//! `curl --crlf smtp://127.0.0.1:2525 --mail-rcpt you@example.org -T README.md`
//!
//! The envelope is in the fields `Envelope-From` and `Envelope-To`, one of the latter for each recipient. A repeated request has
//! the same `Idempotency-Key`. After three attempts the client receives 451 and tries again later: nothing is lost, because
//! nothing has been accepted. If the backend responds with 422, the message is rejected.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use smtpd_tower::{
    BodyError, BoxError, Data, Envelope, Pipeline, Rcpt, Reply, Request, Server, handler_fn,
    layer::{QueueId, ReceivedLayer},
    system_hostname,
};
use tokio::{
    net::TcpListener,
    time::{Sleep, sleep},
};
use tower::{Service, ServiceBuilder, ServiceExt, retry::Policy};

type Post = http::Request<Full<Bytes>>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let listener = TcpListener::bind(next("127.0.0.1:2525")).await?;
    let backend = next("http://127.0.0.1:8080/").parse()?;
    println!("listening on {}", listener.local_addr()?);
    server(backend).serve(listener).await?;
    Ok(())
}

pub fn server(backend: Uri) -> Server {
    let web = ServiceBuilder::new()
        .retry(Again::new(3, Duration::from_millis(100)))
        .timeout(Duration::from_secs(10)) // for each attempt
        .service(Client::builder(TokioExecutor::new()).build_http());
    let forward = move |request| forward(web.clone(), backend.clone(), request);
    let data = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(32) // a message that may be sent again is kept in memory
        .layer(ReceivedLayer::new())
        .service(handler_fn(forward));
    let rcpt = handler_fn(async |_: Request<Rcpt>| {});
    Server::new(system_hostname(), Pipeline::new().rcpt(rcpt).data(data))
}

async fn forward<S, B>(web: S, backend: Uri, request: Request<Data>) -> Result<Reply, BodyError>
where
    S: Service<Post, Response = Response<B>, Error = BoxError>,
{
    let id = request.session().transaction().get::<QueueId>();
    let envelope = request.envelope().clone();
    let message = request.into_body().collect().await?;
    let post = post(backend, id, &envelope, message)
        .map_err(|_| Reply::rejected("Addresses that do not fit into HTTP"))?;
    let status = web.oneshot(post).await.map(|response| response.status());
    Ok(match status {
        Ok(status) if status.is_success() => Reply::ok("Posted"),
        Ok(StatusCode::UNPROCESSABLE_ENTITY) => Reply::rejected("Not for this service"),
        _ => Reply::try_again("The service behind is away"),
    })
}

fn post(to: Uri, id: Option<QueueId>, envelope: &Envelope, message: Bytes) -> http::Result<Post> {
    let sender = HeaderValue::from_bytes(envelope.sender().as_str().as_bytes())?;
    let mut post = http::Request::post(to)
        .header("content-type", "message/rfc822")
        .header(
            "idempotency-key",
            id.unwrap_or_else(QueueId::unique).as_str(),
        )
        .header("envelope-from", sender);
    for recipient in envelope.recipients() {
        let path = HeaderValue::from_bytes(recipient.path().as_str().as_bytes())?;
        post = post.header("envelope-to", path);
    }
    post.body(Full::new(message))
}

/// The number of attempts; the pauses between them grow fourfold.
#[derive(Clone, Debug)]
struct Again {
    left: u32,
    pause: Duration,
}

impl Again {
    fn new(tries: u32, pause: Duration) -> Self {
        Self {
            left: tries - 1,
            pause,
        }
    }
}

impl<B> Policy<Post, Response<B>, BoxError> for Again {
    type Future = Sleep;

    fn retry(&mut self, _: &mut Post, result: &mut Result<Response<B>, BoxError>) -> Option<Sleep> {
        let done = matches!(result, Ok(response) if !response.status().is_server_error());
        if done || self.left == 0 {
            return None;
        }
        let pause = self.pause;
        (self.left, self.pause) = (self.left - 1, pause.saturating_mul(4));
        Some(sleep(pause))
    }

    fn clone_request(&mut self, post: &Post) -> Option<Post> {
        Some(post.clone())
    }
}
