//! What a data service may take its time over, and what becomes of one that panics.

use std::{
    convert::Infallible,
    future::{Future, pending, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use smtpd_tower::{
    Body, Data, DataReply, Profile, Reply, Request, Server,
    deliver::{Discard, Maildir},
    disk::DiskPermits,
    handler_fn,
    net::PeerAddr,
    service::PhaseService,
};
use support::*;
use tokio::{sync::oneshot, time::Instant};
use tower::{Service, ServiceBuilder, limit::GlobalConcurrencyLimitLayer};

fn into(data: impl PhaseService<Data>) -> Server {
    server(accept_rcpt().data(data))
}

/// A client whose next command is DATA.
async fn with_envelope(server: &Server) -> Client {
    let mut client = Client::greeted(server).await;
    client.cmd("EHLO c", "250").await;
    client.envelope().await;
    client
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_never_ready_is_answered_in_place_of_354() {
    let stuck = ServiceBuilder::new()
        .layer(GlobalConcurrencyLimitLayer::new(0))
        .service(Discard);
    let mut client = with_envelope(&into(stuck)).await;
    let begun = Instant::now();
    client.cmd("DATA", "451 4.3.2").await;
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
    client.cmd("NOOP", "250").await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_becomes_ready_late_is_sent_the_message() {
    let one = ServiceBuilder::new()
        .layer(GlobalConcurrencyLimitLayer::new(1))
        .service(Discard);
    let server = into(one);
    let (mut first, mut second) = (with_envelope(&server).await, with_envelope(&server).await);
    first.cmd("DATA", "354").await;
    second.send("DATA\r\n").await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    first.cmd("one\r\n.", "250").await;
    second.expect("354").await;
    second.cmd("two\r\n.", "250").await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_asks_for_the_message_is_answered_in_place_of_354() {
    let idle = handler_fn(async |_: Request<Data>| pending::<()>().await);
    let mut client = with_envelope(&into(idle)).await;
    let begun = Instant::now();
    client.cmd("DATA", "451 4.3.0").await;
    assert_eq!(begun.elapsed(), Duration::from_secs(85));
    client.cmd("NOOP", "250").await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_answers_is_given_up_after_the_message() {
    let silent = handler_fn(async |request: Request<Data>| {
        let _ = request.into_body().collect().await;
        pending::<()>().await
    });
    let mut client = with_envelope(&into(silent)).await;
    client.cmd("DATA", "354").await;
    client.send("one\r\n").await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    let begun = Instant::now();
    client.cmd("two\r\n.", "451 4.3.0").await;
    assert_eq!(begun.elapsed(), Duration::from_secs(9 * 60));
    client.cmd("NOOP", "250").await;
}

/// A reply that becomes ready while the client is silent in the middle of the message is not delayed by that silence.
#[tokio::test(start_paused = true)]
async fn a_service_that_gives_up_in_the_middle_is_heard_at_the_end() {
    let impatient = handler_fn(async |mut request: Request<Data>| {
        let _ = request.body_mut().chunk().await;
        let more = tokio::time::timeout(Duration::from_secs(60), request.body_mut().chunk());
        match more.await {
            Ok(_) => Ok(()),
            Err(_) => Err(Reply::rejected("Too slow for me")),
        }
    });
    let mut client = with_envelope(&into(impatient)).await;
    client.cmd("DATA", "354").await;
    client.send("one\r\n").await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    client
        .cmd("MAIL FROM:<x@y.z>\r\n.", "554 5.7.1 Too slow")
        .await;
    client.cmd("NOOP", "250").await;
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Panics {
    Unready,
    Called,
    PolledAtFirst,
    PolledLater,
}

impl Service<Request<Data>> for Panics {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        assert_ne!(*self, Self::Unready, "in poll_ready");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Data>) -> Self::Future {
        assert_ne!(*self, Self::Called, "in call");
        let later = *self == Self::PolledLater;
        let mut polls = 0;
        Box::pin(async move {
            let first = poll_fn(|_| {
                polls += 1;
                assert!(later, "in the first poll");
                Poll::Ready(polls)
            });
            first.await;
            let _ = request.body_mut().chunk().await;
            panic!("in a later poll");
        })
    }
}

#[tokio::test]
async fn a_panic_at_any_moment_of_a_delivery_costs_its_session_a_421() {
    for panics in [
        Panics::Unready,
        Panics::Called,
        Panics::PolledAtFirst,
        Panics::PolledLater,
    ] {
        let server = into(panics);
        for _ in 0..2 {
            let mut client = with_envelope(&server).await;
            if panics == Panics::PolledLater {
                client.cmd("DATA", "354").await;
                client.cmd("one\r\n.", "421 4.3.0").await;
            } else {
                client.cmd("DATA", "421 4.3.0").await;
            }
            client.expect_close().await;
        }
    }
}

/// Measures a message whose service passes its body to a future that runs in the same task as the session.
async fn read_beside_the_session(
    session_first: bool,
    looks_first: bool,
    at_once: bool,
) -> Duration {
    let (give, taken) = oneshot::channel();
    let (answer, answered) = oneshot::channel();
    let given = Arc::new(Mutex::new(Some((give, answered))));
    let service = handler_fn(move |request: Request<Data>| {
        let given = given.lock().unwrap().take();
        async move {
            let (give, answered) = given.unwrap();
            let mut body = request.into_body();
            if looks_first {
                let look = poll_fn(|cx| Poll::Ready(Box::pin(body.chunk()).as_mut().poll(cx)));
                assert!(look.await.is_pending());
            }
            give.send(body).unwrap();
            Reply::ok(answered.await.unwrap())
        }
    });
    let (near, far) = tokio::io::duplex(1024);
    let session = into(service).serve_connection(far, PeerAddr::Unknown);
    let consumer = async {
        let body: Body = taken.await.unwrap();
        let whole = body.collect().await.unwrap();
        answer.send(format!("{} bytes", whole.len())).unwrap();
    };
    let client = tokio::spawn(async move {
        let mut client = Client::over(near);
        client.expect("220").await;
        let begun = Instant::now();
        client.begin().await;
        if at_once {
            client.cmd("one\r\ntwo\r\n.", "250 2.0.0 10 bytes").await;
        } else {
            for piece in ["one\r\n", "two\r\n"] {
                client.send(piece).await;
                settle().await;
            }
            client.cmd(".", "250 2.0.0 10 bytes").await;
        }
        client.cmd("QUIT", "221").await;
        begun.elapsed()
    });
    if session_first {
        tokio::join!(biased; session, consumer);
    } else {
        tokio::join!(biased; consumer, session);
    }
    client.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_read_beside_the_session_in_one_task_never_stalls() {
    for number in 0..8 {
        let [session_first, looks_first, at_once] = [1, 2, 4].map(|bit| number & bit != 0);
        let took = read_beside_the_session(session_first, looks_first, at_once).await;
        assert_eq!(
            took,
            Duration::ZERO,
            "session first: {session_first}, service looks first: {looks_first}, at once: {at_once}"
        );
    }
}

/// What is logged while a client sends a message, which has `reply`.
async fn logged(data: impl PhaseService<Data>, reply: &str) -> String {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = log_by(subscriber);
    let mut client = with_envelope(&into(data)).await;
    client.cmd("DATA", "354").await;
    client.cmd("Subject: secret\r\n\r\ntext\r\n.", reply).await;
    client.cmd("QUIT", "221").await;
    let logged = log.0.lock().unwrap().clone();
    String::from_utf8(logged).unwrap()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const UNREAD: &str = "a message was accepted without being read to its end";

#[tokio::test(start_paused = true)]
async fn a_message_that_is_accepted_and_not_read_to_its_end_is_warned_of_once() {
    let unseen = logged(handler_fn(async |_: Request<Data>| Reply::OK), "250").await;
    let begun = handler_fn(async |mut request: Request<Data>| {
        let _ = request.body_mut().chunk().await;
        Reply::OK
    });
    let given_away = handler_fn(async |request: Request<Data>| {
        let _reader = tokio::spawn(request.into_body().collect());
        tokio::task::yield_now().await;
    });
    for logged in [
        unseen,
        logged(begun, "250").await,
        logged(given_away, "250").await,
    ] {
        assert_eq!(logged.matches(UNREAD).count(), 1, "{logged}");
        assert!(
            logged.contains("session=") && logged.contains("peer="),
            "{logged}"
        );
        assert!(!logged.contains("secret"), "{logged}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_read_or_discarded_or_rejected_is_not_warned_of() {
    let discards = handler_fn(async |request: Request<Data>| request.into_body().discard().await);
    let filtered = handler_fn(async |request: Request<Data>| {
        let body = request.into_body().inspect(|_| ());
        body.collect().await.map(|_| Reply::OK)
    });
    let rejects = handler_fn(async |mut request: Request<Data>| {
        let _ = request.body_mut().chunk().await;
        Reply::rejected("No")
    });
    let fails =
        handler_fn(async |request: Request<Data>| request.into_body().limited(1).discard().await);
    for (logged, name) in [
        (logged(Discard, "250").await, "reads"),
        (logged(discards, "250").await, "discards"),
        (logged(filtered, "250").await, "filtered"),
        (logged(rejects, "554").await, "rejects"),
        (logged(fails, "552").await, "fails"),
    ] {
        assert_eq!(logged, "", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_recipient_of_lmtp_that_is_rejected_before_the_message_is_not_deferred_like_another() {
    let refuses = handler_fn(async |_: Request<Data>| {
        DataReply::each([Reply::no_such_user(), Reply::mailbox_full()])
    });
    let server = into(refuses).profile(Profile::Lmtp);
    for (command, go_ahead) in [("DATA\r\n", true), ("BDAT 7 LAST\r\n", false)] {
        let mut client = Client::connect(&server);
        client.expect("220").await;
        client.cmd("LHLO c", "250").await;
        client.cmd("MAIL FROM:<a@example.net>", "250").await;
        client.cmd("RCPT TO:<b@example.org>", "250").await;
        client.cmd("RCPT TO:<c@example.org>", "250").await;
        client.send(command).await;
        if go_ahead {
            client.expect("354").await;
        }
        client.send("Hello\r\n").await;
        if go_ahead {
            client.send(".\r\n").await;
        }
        client.expect("550 5.1.1").await;
        client.expect("452 4.2.2").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_is_no_reason_to_warn_of_its_message() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = log_by(subscriber);
    let patient = handler_fn(async |mut request: Request<Data>| {
        let _ = request.body_mut().chunk().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    let mut client = with_envelope(&into(patient)).await;
    client.cmd("DATA", "354").await;
    client.send("one\r\n").await;
    settle().await;
    drop(client);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(log.0.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_a_disk_that_hangs_is_deferred_in_time() {
    let permits = DiskPermits::new(std::num::NonZero::<usize>::MIN);
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let hanging = permits.clone();
    let hanging = tokio::spawn(async move { hanging.run(move || ends.recv()).await });
    while permits.available() > 0 {
        tokio::task::yield_now().await;
    }
    let dir = tempfile::tempdir().unwrap();
    let maildir = Maildir::new(dir.path()).disk_permits(permits.clone());
    let mut client = with_envelope(&into(maildir)).await;
    client.cmd("DATA", "354").await;
    let begun = Instant::now();
    // The clock does not advance by itself while a job runs.
    let clock = async {
        loop {
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        _ = client.cmd("Hello\r\n.", "451 4.3.0") => {}
        () = clock => {}
    }
    // The clock goes on a little while the reply is on its way.
    let waited = begun.elapsed().as_secs();
    assert!((540..560).contains(&waited), "{waited}");
    client.cmd("NOOP", "250").await;
    drop(end);
    hanging.await.unwrap().unwrap().unwrap_err();
    assert_eq!(permits.run(|| 1).await.unwrap(), 1);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
