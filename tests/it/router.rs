//! Mail for several services, in whole sessions.

#[path = "../../examples/router.rs"]
#[allow(dead_code, reason = "`main` is not called here")]
mod example;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use smtpd_tower::{
    BodyError, Data, Pipeline, Reply, Request, Server, deliver::Inbox, handler_fn, router::Router,
};
use support::*;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

const FOR_THREE: [&str; 4] = [
    "MAIL FROM:<sender@example.com>",
    "RCPT TO:<alice@example.org>",
    "RCPT TO:<list@example.org>",
    "RCPT TO:<bob@example.net>",
];

async fn lmtp(server: &Server) -> Client<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(server.serve_lmtp(listener));
    let mut client = Client::over(TcpStream::connect(addr).await.unwrap());
    client.expect("220").await;
    client.cmd("LHLO client.example", "250").await;
    client
}

fn stored(maildir: &Path) -> Vec<String> {
    let files = std::fs::read_dir(maildir.join("new")).unwrap();
    files
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect()
}

#[tokio::test]
async fn the_example_gives_each_recipient_the_reply_of_its_service() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = lmtp(&example::server(dir.path()).unwrap()).await;
    for command in FOR_THREE {
        client.cmd(command, "250").await;
    }
    client
        .cmd("RCPT TO:<nobody@example.org>", "550 5.1.1")
        .await;
    client.cmd("RCPT TO:<alice@example.com>", "550 5.7.1").await;
    client.cmd("DATA", "354").await;
    client.send("Subject: hi\r\n\r\nHello\r\n.\r\n").await;
    let for_alice = client.expect("250 2.0.0").await;
    client.expect("250 2.0.0 Posted 22 octets").await;
    let for_bob = client.expect("250 2.0.0").await;
    assert!(!for_alice.contains("Posted") && !for_bob.contains("Posted"));
    for (maildir, recipient) in [("org", "alice@example.org"), ("net", "bob@example.net")] {
        let mail = stored(&dir.path().join(maildir));
        assert_eq!(mail.len(), 1);
        assert!(mail[0].contains(&format!("Delivered-To: {recipient}\r\n")));
        assert_eq!(mail[0].matches("Delivered-To").count(), 1);
        assert!(mail[0].ends_with("Subject: hi\r\n\r\nHello\r\n"));
    }
    client.cmd("NOOP", "250").await;
}

fn routes(list: Reply) -> (Server, Inbox) {
    let inbox = Inbox::new();
    let list = handler_fn(move |request: Request<Data>| {
        let reply = list.clone();
        async move { request.into_body().collect().await.map(|_| reply) }
    });
    let data = Router::new()
        .address("list@example.org".parse().unwrap(), list)
        .domain("example.org".parse().unwrap(), inbox.clone());
    (server(accept_rcpt().data(data)), inbox)
}

#[tokio::test]
async fn over_smtp_there_is_one_reply_for_all_services() {
    for (list, expected) in [
        (Reply::OK, "250 2.0.0 OK"),
        (Reply::mailbox_full(), "452 4.2.2"),
        (Reply::rejected("Not a member"), "554 5.7.1 Not a member"),
    ] {
        let (server, inbox) = routes(list);
        let mut client = Client::greeted(&server).await;
        client.cmd("EHLO client.example", "250").await;
        for command in &FOR_THREE[..3] {
            client.cmd(command, "250").await;
        }
        client.cmd("DATA", "354").await;
        client.send("Hello\r\n.\r\n").await;
        client.expect(expected).await;
        assert_eq!(inbox.next().await.message(), "Hello\r\n");
        client.cmd("NOOP", "250").await;
    }
}

#[tokio::test]
async fn over_smtp_a_recipient_without_a_route_is_refused_instead_of_354() {
    let (server, inbox) = routes(Reply::OK);
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO client.example", "250").await;
    for command in FOR_THREE {
        client.cmd(command, "250").await;
    }
    client.cmd("DATA", "451 4.3.0").await;
    client.cmd("NOOP", "250").await;
    assert!(inbox.is_empty());
}

#[tokio::test]
async fn a_long_message_reaches_all_services_through_a_small_window() {
    const LINES: usize = 50_000;
    let octets = Arc::new(AtomicUsize::new(0));
    let count = |octets: &Arc<AtomicUsize>| {
        let octets = octets.clone();
        handler_fn(move |mut request: Request<Data>| {
            let octets = octets.clone();
            async move {
                while let Some(piece) = request.body_mut().chunk().await {
                    octets.fetch_add(piece?.len(), Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
                Ok::<_, smtpd_tower::BodyError>(())
            }
        })
    };
    let data = Router::new()
        .domain("example.org".parse().unwrap(), count(&octets))
        .domain("example.net".parse().unwrap(), count(&octets))
        .read_ahead(1000);
    let pipeline: Pipeline = accept_rcpt().data(data);
    let mut client = Client::greeted(&server(pipeline)).await;
    client.cmd("EHLO client.example", "250").await;
    for command in FOR_THREE {
        client.cmd(command, "250").await;
    }
    client.cmd("DATA", "354").await;
    client.send("0123456789\r\n".repeat(LINES)).await;
    client.send(".\r\n").await;
    client.expect("250").await;
    assert_eq!(octets.load(Ordering::Relaxed), 2 * 12 * LINES);
}

/// Two services read the message in tasks of their own. One looks last, gives that up, and keeps its body.
#[tokio::test(start_paused = true)]
async fn a_service_that_gives_up_waiting_for_a_piece_does_not_hold_up_another() {
    let (seen, mut sights) = mpsc::unbounded_channel();
    let reader = handler_fn(move |request: Request<Data>| {
        let (mut body, seen) = (request.into_body(), seen.clone());
        let reading = tokio::spawn(async move {
            while let Some(piece) = body.chunk().await.transpose()? {
                seen.send((piece, Instant::now())).unwrap();
            }
            Ok::<_, BodyError>(())
        });
        async { reading.await.unwrap() }
    });
    let idler = handler_fn(async |request: Request<Data>| {
        let mut body = request.into_body();
        let idling = tokio::spawn(async move {
            sleep(SECOND).await;
            assert!(timeout(SECOND, body.chunk()).await.is_err());
            sleep(60 * SECOND).await;
            body.collect().await
        });
        idling.await.unwrap().map(drop)
    });
    let data = Router::new()
        .address("alice@example.org".parse().unwrap(), reader)
        .address("list@example.org".parse().unwrap(), idler);
    let mut client = Client::greeted(&server(accept_rcpt().data(data))).await;
    client.cmd("EHLO client.example", "250").await;
    for command in &FOR_THREE[..3] {
        client.cmd(command, "250").await;
    }
    client.cmd("DATA", "354").await;
    sleep(10 * SECOND).await;
    let sent = Instant::now();
    client.send("Hello\r\n").await;
    let (piece, seen) = sights.recv().await.unwrap();
    assert_eq!((&*piece, seen - sent), (&b"Hello\r\n"[..], Duration::ZERO));
    client.cmd(".", "250").await;
}
