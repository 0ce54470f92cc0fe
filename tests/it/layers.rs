//! Layers in whole sessions: what shows only between the engine and a layer.

use std::time::Duration;

use smtpd_tower::{
    BodyError, Connect, Data, Domains, PeerAddr, Pipeline, Profile, Rcpt, Reply, Request, Server,
    deliver::Inbox,
    handler_fn,
    layer::{
        CatchPanicLayer, ConcurrencyLayer, DenyClientsLayer, HopLimitLayer, MapReplyLayer,
        ReceivedLayer, SessionsPerIpLayer, SizeLimitLayer, SubmissionFieldsLayer,
    },
};
use support::*;
use tower::ServiceBuilder;

/// A client from that address, the greeting not yet read.
fn connect_from(server: &Server, peer: impl Into<PeerAddr>) -> Client {
    let (near, far) = tokio::io::duplex(64 << 10);
    let session = tokio::spawn(server.serve_connection(far, peer.into()));
    let mut client = Client::over(near);
    client.session = Some(session);
    client
}

const ALICE: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);
const BOB: ([u8; 4], u16) = ([192, 0, 2, 2], 4711);

#[tokio::test(start_paused = true)]
async fn a_session_counts_from_its_greeting_to_its_end_however_it_ends() {
    let connect = ServiceBuilder::new()
        .layer(SessionsPerIpLayer::new(1))
        .service(handler_fn(async |_: Request<Connect>| {}));
    let pipeline = accept_rcpt()
        .data(handler_fn(async |req: Request<Data>| {
            req.into_body().collect().await.map(|_| Reply::OK)
        }))
        .connect(connect);
    let server = server(pipeline);
    // How a session ends: by QUIT, by a client that goes away when idle or within a message, by a timeout.
    for end in ["quit", "leave", "leave in data", "say nothing"] {
        let mut first = connect_from(&server, ALICE);
        first.expect("220").await;
        // Long after connect has been answered, through a whole transaction.
        first.begin().await;
        first.send("Subject: hi\r\n").await;
        settle().await;
        let mut second = connect_from(&server, ALICE);
        second
            .expect("421 4.7.0 Too many connections from your address")
            .await;
        second.expect_close().await;
        let mut other = connect_from(&server, BOB);
        other.expect("220").await;
        other.cmd("QUIT", "221").await;
        let session = other.session.take().unwrap();
        session.await.unwrap();

        let session = first.session.take().unwrap();
        if end != "leave in data" {
            first.send(".\r\n").await;
            first.expect("250").await;
        }
        match end {
            "quit" => {
                first.cmd("QUIT", "221").await;
            }
            "say nothing" => {
                first.expect("421").await;
            }
            _ => drop(first),
        }
        session.await.unwrap();
    }
    let mut last = connect_from(&server, ALICE);
    last.expect("220").await;
}

#[tokio::test]
async fn hosts_on_the_list_hear_554_in_place_of_the_greeting() {
    let connect = ServiceBuilder::new()
        .layer(DenyClientsLayer::parse(["192.0.2.0/31"]).unwrap())
        .service(handler_fn(async |_: Request<Connect>| {}));
    let server = server(accept_rcpt().connect(connect));
    let mut client = connect_from(&server, ALICE);
    client.expect("554 5.7.1 Access denied").await;
    connect_from(&server, BOB).expect("220").await;
}

#[tokio::test]
async fn a_message_over_the_limit_of_a_layer_is_refused_and_the_session_goes_on() {
    async fn careless(mut request: Request<Data>) -> Result<Reply, BodyError> {
        while let Some(Ok(_)) = request.body_mut().chunk().await {}
        Ok(Reply::OK)
    }
    let data = ServiceBuilder::new()
        .layer(SizeLimitLayer::new(20))
        .service(handler_fn(careless));
    let mut client = Client::greeted(&server(accept_rcpt().data(data))).await;
    client.begin().await;
    client.send("0123456789\r\n0123456789\r\n.\r\n").await;
    client.expect("552 5.3.4").await;
    client.envelope().await;
    client.cmd("DATA", "354").await;
    // Two dots are one octet.
    client.send("..23456789\r\n1234567\r\n.\r\n").await;
    client.expect("250").await;
    client.cmd("MAIL FROM:<a@example.net> SIZE=21", "250").await;
    client.cmd("RCPT TO:<b@example.org>", "250").await;
    client.cmd("DATA", "552 5.3.4").await;
    client.cmd("QUIT", "221").await;
}

#[tokio::test]
async fn a_panic_that_is_caught_costs_one_recipient_and_not_the_session() {
    let rcpt = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .service(handler_fn(async |request: Request<Rcpt>| {
            assert!(!request.recipient().as_str().starts_with("bug@"));
        }));
    let mut client = Client::greeted(&server(Pipeline::new().rcpt(rcpt))).await;
    client.cmd("EHLO client.example", "250").await;
    client.cmd("MAIL FROM:<a@example.net>", "250").await;
    client.cmd("RCPT TO:<bug@example.org>", "451 4.3.0").await;
    client.cmd("RCPT TO:<user@example.org>", "250").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_is_no_longer_in_flight() {
    let rcpt = ServiceBuilder::new()
        .layer(ConcurrencyLayer::per_ip(1))
        .service(handler_fn(async |_: Request<Rcpt>| {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }));
    let server = server(Pipeline::new().rcpt(rcpt));
    let mut first = connect_from(&server, ALICE);
    let mut second = connect_from(&server, ALICE);
    for client in [&mut first, &mut second] {
        client.expect("220").await;
        client.cmd("EHLO client.example", "250").await;
        client.cmd("MAIL FROM:<a@example.net>", "250").await;
    }
    first.send("RCPT TO:<b@example.org>\r\n").await;
    settle().await;
    second.cmd("RCPT TO:<b@example.org>", "451 4.7.1").await;
    let session = first.session.take().unwrap();
    drop(first);
    session.await.unwrap();
    second.cmd("RCPT TO:<b@example.org>", "250").await;
}

#[tokio::test]
async fn layers_for_any_phase_go_around_all_of_them_at_once() {
    let hide = |reply: Reply| match reply.is_positive() {
        true => reply,
        false => reply.with_text("No"),
    };
    let all = Pipeline::new()
        .layer(ConcurrencyLayer::per_ip(1))
        .layer(ConcurrencyLayer::per_identity(1))
        .layer(DenyClientsLayer::new([]))
        .layer(CatchPanicLayer::new())
        .layer(MapReplyLayer::new(hide));
    let mut client = Client::greeted(&server(all)).await;
    client.cmd("EHLO client.example", "250").await;
    client.cmd("MAIL FROM:<a@example.net>", "250").await;
    client.cmd("RCPT TO:<b@example.org>", "550 5.7.1 No").await;
}

/// The text of the message stays its text, however many layers add to its header, and however it comes.
#[tokio::test]
async fn text_without_a_header_does_not_become_one_in_data_and_bdat() {
    let inbox = Inbox::new();
    let data = ServiceBuilder::new()
        .layer(SubmissionFieldsLayer::new())
        .layer(ReceivedLayer::new())
        .service(inbox.clone());
    let mut client = Client::greeted(&server(accept_rcpt().data(data))).await;
    client.begin().await;
    client.send("Hello: it is me\r\n.\r\n").await;
    client.expect("250").await;
    assert_eq!(text_of(&inbox).await, "Hello: it is me\r\n");
    client.envelope().await;
    client.cmd("DATA", "354").await;
    client.send("Hello, it is me\r\nDate: today\r\n.\r\n").await;
    client.expect("250").await;
    assert_eq!(
        text_of(&inbox).await,
        "\r\nHello, it is me\r\nDate: today\r\n"
    );
    for chunks in [&["From a@b\r\n"][..], &["F", "", "rom", " ", "a@b\r", "\n"]] {
        client.envelope().await;
        for chunk in chunks {
            client
                .send(format!("BDAT {}\r\n{chunk}", chunk.len()))
                .await;
            client.expect("250").await;
        }
        client.cmd("BDAT 0 LAST", "250").await;
        assert_eq!(text_of(&inbox).await, "\r\nFrom a@b\r\n");
    }
}

/// What stands behind the last field that was added.
async fn text_of(inbox: &Inbox) -> String {
    let delivery = inbox.next().await;
    let message = String::from_utf8(delivery.message().to_vec()).unwrap();
    let (_, rest) = message.split_once("Message-ID: <").unwrap();
    let (_, text) = rest.split_once("\r\n").unwrap();
    assert_eq!(
        message.matches("\nDate: ").count(),
        1 + text.matches("\nDate: ").count()
    );
    text.to_owned()
}

#[tokio::test]
async fn a_message_that_loops_is_rejected_and_the_session_goes_on() {
    let data = || {
        handler_fn(async |request: Request<Data>| {
            request.into_body().collect().await.map(|_| Reply::OK)
        })
    };
    let layered = ServiceBuilder::new()
        .layer(HopLimitLayer::new(100))
        .service(data());
    let plain = accept_rcpt().data(data());
    let with_profile = server(plain.clone())
        .domains(Domains::parse(["example.org"]).unwrap())
        .profile(Profile::Mx);
    for (server, limit) in [
        (server(accept_rcpt().data(layered)), 100),
        (with_profile.clone(), 100),
        (with_profile.clone().max_hops(3), 3),
        (with_profile.max_hops(None), 1_000),
        (server(plain.clone()).max_hops(7), 7),
        (server(plain), 1_000),
    ] {
        let mut client = Client::greeted(&server).await;
        client.cmd("EHLO client.example", "250").await;
        for (hops, code) in [(limit, "250"), (limit + 1, "554 5.4.6"), (0, "250")] {
            let code = if hops > 1_000 { "250" } else { code };
            client.envelope().await;
            client.cmd("DATA", "354").await;
            client
                .send("Received: from a\r\n\tby b\r\n".repeat(hops))
                .await;
            client.send("\r\nReceived: not me\r\n.\r\n").await;
            client.expect(code).await;
        }
    }
}
