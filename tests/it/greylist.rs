//! Greylisting, and the names that it knows clients by, in whole sessions.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use smtpd_tower::{
    Connect, Data, Pipeline, Rcpt, Reply, Request, Server, handler_fn,
    layer::{GreylistLayer, ReverseDnsLayer},
};
use support::*;
use tokio::time::advance;
use tower::ServiceBuilder;

const STRANGER: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);

fn greylisting(greylist: GreylistLayer) -> Server {
    let (at_rcpt, at_data) = greylist.into_rcpt_and_data();
    let rcpt = ServiceBuilder::new()
        .layer(at_rcpt)
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let data =
        ServiceBuilder::new()
            .layer(at_data)
            .service(handler_fn(async |request: Request<Data>| {
                request.into_body().discard().await.map(|_| Reply::OK)
            }));
    server(Pipeline::new().rcpt(rcpt).data(data))
}

async fn greeted(server: &Server) -> Client {
    let mut client = Client::from_peer(server, STRANGER);
    client.expect("220").await;
    client.cmd("EHLO client.example", "250").await;
    client
}

#[tokio::test(start_paused = true)]
async fn a_callout_is_deferred_or_a_bounce_is_not() {
    let server = greylisting(GreylistLayer::new());
    let mut callout = greeted(&server).await;
    callout.cmd("MAIL FROM:<>", "250").await;
    callout.cmd("RCPT TO:<b@example.org>", "250").await;
    callout.cmd("QUIT", "221").await;

    let mut bounce = greeted(&server).await;
    bounce.cmd("MAIL FROM:<>", "250").await;
    bounce.cmd("RCPT TO:<b@example.org>", "250").await;
    // Before any of the message is sent.
    bounce.cmd("DATA", "450 4.7.1 Greylisted").await;
    advance(Duration::from_secs(60)).await;
    bounce.cmd("MAIL FROM:<>", "250").await;
    bounce.cmd("RCPT TO:<b@example.org>", "250").await;
    bounce.cmd("DATA", "354").await;
    bounce.cmd("Subject: bounce\r\n.", "250").await;

    // With a sender, RCPT is deferred.
    let mut other = Client::from_peer(&server, ([203, 0, 113, 1], 4711));
    other.expect("220").await;
    other.cmd("EHLO client.example", "250").await;
    other.cmd("MAIL FROM:<a@example.com>", "250").await;
    other.cmd("RCPT TO:<b@example.org>", "450").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("greylist");
    for expected in ["450", "250"] {
        let greylist = GreylistLayer::new();
        if let Err(error) = greylist.store().load(&path) {
            assert!(error.is_not_found(), "{error}");
        }
        let server = greylisting(greylist.clone());
        let mut client = greeted(&server).await;
        client.cmd("MAIL FROM:<a@example.com>", "250").await;
        client.cmd("RCPT TO:<b@example.org>", expected).await;
        advance(Duration::from_secs(60)).await;
        greylist.store().save(&path).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_panics_ends_the_session_or_goes_unreported() {
    let connect = ServiceBuilder::new()
        .layer(ReverseDnsLayer::new(async |ip: IpAddr| -> Option<String> {
            panic!("no resolver for {ip}")
        }))
        .service(handler_fn(async |_: Request<Connect>| {}));
    let errors = Arc::new(Mutex::new(Vec::new()));
    let reported = errors.clone();
    let server = server(accept_rcpt().connect(connect))
        .on_error(move |_, error| reported.lock().unwrap().push(format!("{error:?}")));
    greeted(&server).await.cmd("QUIT", "221").await;
    let errors = errors.lock().unwrap();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("no resolver for 192.0.2.1"),
        "{errors:?}"
    );
}
