//! Mail for several services, in whole sessions.

#[path = "../../examples/router.rs"]
#[allow(dead_code, reason = "`main` is not called here")]
mod example;

use std::{
    future::pending,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use smtpd_tower::{
    Body, BodyError, Data, Pipeline, Profile, Reply, Request, Server, Session,
    deliver::Inbox,
    handler_fn,
    layer::MapBodyLayer,
    router::Router,
    service::{BoxPhaseService, PhaseService},
};
use support::*;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tower::Layer;

const FOR_THREE: [&str; 4] = [
    "MAIL FROM:<sender@example.com>",
    "RCPT TO:<alice@example.org>",
    "RCPT TO:<list@example.org>",
    "RCPT TO:<bob@example.net>",
];

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
    client.expect("250 2.0.0 Posted 22 bytes").await;
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
    let bytes = Arc::new(AtomicUsize::new(0));
    let count = |bytes: &Arc<AtomicUsize>| {
        let bytes = bytes.clone();
        handler_fn(move |mut request: Request<Data>| {
            let bytes = bytes.clone();
            async move {
                while let Some(piece) = request.body_mut().chunk().await {
                    bytes.fetch_add(piece?.len(), Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
                Ok::<_, smtpd_tower::BodyError>(())
            }
        })
    };
    let data = Router::new()
        .domain("example.org".parse().unwrap(), count(&bytes))
        .domain("example.net".parse().unwrap(), count(&bytes))
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
    assert_eq!(bytes.load(Ordering::Relaxed), 2 * 12 * LINES);
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

/// What was reported to `on_error`.
type Errors = Arc<Mutex<Vec<String>>>;

/// A server with a route for `list@example.org`, and an inbox for the rest of that domain.
fn with_list(list: impl PhaseService<Data>, profile: Option<Profile>) -> (Server, Inbox, Errors) {
    let (inbox, errors) = (Inbox::new(), Errors::default());
    let data = Router::new()
        .address("list@example.org".parse().unwrap(), list)
        .domain("example.org".parse().unwrap(), inbox.clone());
    let log = errors.clone();
    let server = server(accept_rcpt().data(data)).on_error(move |_: &Session, error| {
        log.lock().unwrap().push(error.to_string());
    });
    let server = match profile {
        Some(profile) => server.profile(profile),
        None => server,
    };
    (server, inbox, errors)
}

const HELLO: &str = "Hello\r\n";

/// Sends a message to these recipients, and returns the codes of the replies.
async fn told(server: &Server, lmtp: bool, recipients: &[&str], text: &str) -> Vec<String> {
    let mut client = Client::greeted(server).await;
    let hello = if lmtp { "LHLO c.test" } else { "EHLO c.test" };
    client.cmd(hello, "250").await;
    client.cmd(FOR_THREE[0], "250").await;
    for recipient in recipients {
        client.cmd(&format!("RCPT TO:<{recipient}>"), "250").await;
    }
    client.cmd("DATA", "354").await;
    client.send(text).await;
    client.send(".\r\n").await;
    let mut codes = Vec::new();
    for _ in 0..if lmtp { recipients.len() } else { 1 } {
        codes.push(client.reply().await[..9].to_owned());
    }
    client.cmd("NOOP", "250").await;
    codes
}

const LIST_LAST: [&str; 2] = ["alice@example.org", "list@example.org"];

async fn read_and_hang(request: Request<Data>) -> Result<(), BodyError> {
    request.into_body().discard().await?;
    pending().await
}

async fn hang_unread(_: Request<Data>) {
    pending().await
}

async fn read_and_panic(request: Request<Data>) -> Result<(), BodyError> {
    request.into_body().discard().await?;
    panic!("on purpose")
}

async fn panic_unread(_: Request<Data>) {
    panic!("on purpose")
}

#[tokio::test(start_paused = true)]
async fn one_route_that_hangs_or_panics_takes_the_replies_of_the_others() {
    let services: [(BoxPhaseService<Data>, _); 4] = [
        (
            BoxPhaseService::new(handler_fn(read_and_hang)),
            "data service took too long",
        ),
        (
            BoxPhaseService::new(handler_fn(hang_unread)),
            "data service took too long",
        ),
        (
            BoxPhaseService::new(handler_fn(read_and_panic)),
            "data service panicked: on purpose",
        ),
        (
            BoxPhaseService::new(handler_fn(panic_unread)),
            "data service panicked: on purpose",
        ),
    ];
    for (service, error) in services {
        for (profile, expected) in [
            (Some(Profile::Lmtp), &["250 2.0.0", "451 4.3.0"][..]),
            (None, &["451 4.3.0"]),
        ] {
            let (server, inbox, errors) = with_list(service.clone(), profile);
            let codes = told(&server, profile.is_some(), &LIST_LAST, HELLO).await;
            assert_eq!(codes, expected, "{error}");
            assert_eq!(inbox.next().await.message(), HELLO);
            assert_eq!(*errors.lock().unwrap(), [error]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_route_that_reads_nothing_keeps_a_long_message_from_the_others() {
    let long = "0123456789\r\n".repeat(30_000);
    let (server, inbox, _) = with_list(handler_fn(hang_unread), Some(Profile::Lmtp));
    let begun = Instant::now();
    let codes = told(&server, true, &LIST_LAST, &long).await;
    assert_eq!(codes, ["250 2.0.0", "451 4.3.0"]);
    assert_eq!(inbox.next().await.message(), &long);
    assert!(begun.elapsed() < 300 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_route_for_all_recipients_is_treated_as_one_of_several() {
    let hang = BoxPhaseService::new(handler_fn(read_and_hang));
    let unread = BoxPhaseService::new(handler_fn(hang_unread));
    let panic = BoxPhaseService::new(handler_fn(read_and_panic));
    let (late, panicked) = (
        "data service took too long",
        "data service panicked: on purpose",
    );
    for (service, limit, error, seconds) in [
        (&hang, Some(60), late, 60),
        (&hang, None, late, 540),
        (&panic, Some(60), panicked, 0),
        (&panic, None, panicked, 0),
    ] {
        let errors = Errors::default();
        let log = errors.clone();
        let mut data = Router::new().domain("example.org".parse().unwrap(), service.clone());
        if let Some(limit) = limit {
            data = data.route_timeout(limit * SECOND);
        }
        // A layer around it changes the body, and then there is a stream of its own.
        for layer in [false, true] {
            let inspect = MapBodyLayer::new(move |body: Body| match layer {
                true => body.inspect(|_| ()),
                false => body,
            });
            let data = inspect.layer(data.clone());
            let log = log.clone();
            let server = server(accept_rcpt().data(data)).on_error(move |_: &Session, error| {
                log.lock().unwrap().push(error.to_string());
            });
            let begun = Instant::now();
            let codes = told(&server, false, &LIST_LAST, HELLO).await;
            assert_eq!(codes, ["451 4.3.0"]);
            assert_eq!(std::mem::take(&mut *errors.lock().unwrap()), [error]);
            assert_eq!(
                begun.elapsed().as_secs(),
                seconds,
                "{error} {limit:?} {layer}"
            );
        }
    }
    let data = Router::new()
        .domain("example.org".parse().unwrap(), unread)
        .route_timeout(20 * SECOND);
    let begun = Instant::now();
    let mut client = Client::greeted(&server(accept_rcpt().data(data))).await;
    client.cmd("EHLO c.test", "250").await;
    for command in &FOR_THREE[..3] {
        client.cmd(command, "250").await;
    }
    client.cmd("DATA", "451 4.3.0").await;
    assert_eq!(begun.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_server_with_a_short_timeout_replaces_the_replies_before_the_router_does() {
    let (server, inbox, _) = with_list(handler_fn(read_and_hang), Some(Profile::Lmtp));
    let server =
        server.configure(|config| config.timeouts(|timeouts| timeouts.delivery = 8 * SECOND));
    let begun = Instant::now();
    let codes = told(&server, true, &LIST_LAST, HELLO).await;
    assert_eq!(codes, ["250 2.0.0", "451 4.3.0"]);
    assert_eq!(inbox.len(), 1);
    assert_eq!(begun.elapsed().as_secs(), 6);
}

/// The server waits 85 seconds for the first poll of a body.
#[tokio::test(start_paused = true)]
async fn an_early_reply_is_lost_because_no_other_route_reads() {
    let accept = handler_fn(async |_: Request<Data>| {});
    let data = Router::new()
        .address("list@example.org".parse().unwrap(), handler_fn(hang_unread))
        .domain("example.org".parse().unwrap(), accept);
    let server = server(accept_rcpt().data(data)).profile(Profile::Lmtp);
    let codes = told(&server, true, &LIST_LAST, HELLO).await;
    assert_eq!(codes, ["250 2.0.0", "451 4.3.0"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_taken_for_a_route_that_hangs() {
    for (recipients, inspected) in [(2, false), (1, false), (1, true)] {
        let (inbox, errors) = (Inbox::new(), Errors::default());
        let data = Router::new()
            .address("list@example.org".parse().unwrap(), Inbox::new())
            .domain("example.org".parse().unwrap(), inbox.clone())
            .route_timeout(20 * SECOND);
        let inspect = MapBodyLayer::new(move |body: Body| match inspected {
            true => body.inspect(|_| ()),
            false => body,
        });
        let pipeline = accept_rcpt().data(inspect.layer(data));
        let log = errors.clone();
        let server = server(pipeline).on_error(move |_: &Session, error| {
            log.lock().unwrap().push(error.to_string());
        });
        let recipients = &LIST_LAST[..recipients];
        let mut client = Client::greeted(&server).await;
        client.cmd("EHLO c.test", "250").await;
        client.cmd(FOR_THREE[0], "250").await;
        for recipient in recipients {
            client.cmd(&format!("RCPT TO:<{recipient}>"), "250").await;
        }
        client.cmd("DATA", "354").await;
        for _ in 0..3 {
            sleep(290 * SECOND).await;
            client.send(HELLO).await;
        }
        client.cmd(".", "250").await;
        assert_eq!(inbox.len(), 1);
        assert!(errors.lock().unwrap().is_empty());
    }
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "in drop");
    }
}

/// A panic while another one unwinds aborts the process.
#[tokio::test(start_paused = true)]
async fn two_routes_that_panic_when_a_client_leaves_abort_the_server() {
    let hang = || {
        handler_fn(async |request: Request<Data>| {
            let _bomb = Bomb;
            read_and_hang(request).await
        })
    };
    let errors = Errors::default();
    let log = errors.clone();
    let data = Router::new()
        .address("list@example.org".parse().unwrap(), hang())
        .domain("example.org".parse().unwrap(), hang());
    let server = server(accept_rcpt().data(data)).on_error(move |_: &Session, error| {
        log.lock().unwrap().push(error.to_string());
    });
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c.test", "250").await;
    for command in &FOR_THREE[..3] {
        client.cmd(command, "250").await;
    }
    client.cmd("DATA", "354").await;
    client.send("Hel").await;
    let session = client.take_session();
    drop(client);
    timeout(60 * SECOND, session).await.unwrap().unwrap();
    let errors = errors.lock().unwrap();
    assert_eq!(
        errors
            .iter()
            .filter(|error| error.contains("in drop"))
            .count(),
        2,
        "{errors:?}"
    );
}
