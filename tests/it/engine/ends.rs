//! How sessions end: each is reported once, and releases what it has, whatever panics on the way.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use smtpd_tower::{
    Connect, Data, Mail, Pipeline, Reply, Request, Server, Session, handler_fn,
    session::{CloseReason, EndReason},
};
use support::{Client, accept_rcpt, log_by, server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};
use tower::Service;

use crate::panicking_log::PanickingLog;

type Ends = Arc<Mutex<Vec<EndReason>>>;

fn noting(pipeline: Pipeline) -> (Server, Ends) {
    let ends = Ends::default();
    let also = ends.clone();
    let server = server(pipeline)
        .max_sessions(1)
        .on_close(move |_, end| also.lock().unwrap().push(end.reason));
    (server, ends)
}

fn storing(stored: &Arc<AtomicUsize>) -> Pipeline {
    let stored = stored.clone();
    accept_rcpt().data(handler_fn(move |request: Request<Data>| {
        let stored = stored.clone();
        async move {
            request.into_body().collect().await?;
            stored.fetch_add(1, Ordering::SeqCst);
            Ok::<_, smtpd_tower::BodyError>(Reply::queued("1"))
        }
    }))
}

const DELIVERY: &str =
    "MAIL FROM:<a@b>\r\nRSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nHello\r\n.\r\nQUIT\r\n";

async fn deliver(server: &Server) -> Vec<String> {
    deliver_after(server, "EHLO c\r\n").await
}

async fn deliver_after(server: &Server, start: &str) -> Vec<String> {
    let (mut client, far) = tokio::io::duplex(1 << 16);
    let session = server.serve_connection(far, Session::local().client_addr().clone());
    let session = tokio::spawn(session);
    let text = format!("{start}{DELIVERY}");
    client.write_all(text.as_bytes()).await.unwrap();
    let mut received = String::new();
    client.read_to_string(&mut received).await.unwrap();
    session.await.unwrap();
    received.lines().map(str::to_owned).collect()
}

/// The one permit is there again.
async fn assert_released(server: &Server) {
    let mut client = Client::greeted(server).await;
    client.cmd("QUIT", "221").await;
    client.take_session().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_dropped_at_any_await_is_reported_once_and_releases_its_permit() {
    let script = "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nHello\r\n.\r\n";
    for cut in 0..=script.len() {
        let (server, ends) = noting(storing(&Arc::default()));
        let (mut client, far) = tokio::io::duplex(16);
        let mut session =
            Box::pin(server.serve_connection(far, Session::local().client_addr().clone()));
        let talk = async {
            let _ = client.write_all(&script.as_bytes()[..cut]).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = &mut session => panic!("the session ended by itself"),
            () = talk => unreachable!(),
            () = sleep(Duration::from_millis(1)) => {}
        }
        assert!(ends.lock().unwrap().is_empty());
        drop(session);
        assert_eq!(
            *ends.lock().unwrap(),
            [EndReason::Aborted],
            "after {cut} bytes"
        );
        assert_released(&server).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_never_polled_is_no_session() {
    let (server, ends) = noting(Pipeline::new());
    let (_client, far) = tokio::io::duplex(16);
    let serving = server.serve_connection(far, Session::local().client_addr().clone());
    assert_eq!(server.handle().sessions(), 0);
    drop(serving);
    assert!(ends.lock().unwrap().is_empty());
    assert_released(&server).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_aborted_is_reported_once() {
    let (server, ends) = noting(Pipeline::new());
    let mut client = Client::greeted(&server).await;
    let session = client.take_session();
    session.abort();
    assert!(session.await.unwrap_err().is_cancelled());
    assert_eq!(*ends.lock().unwrap(), [EndReason::Aborted]);
    assert_released(&server).await;
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_panics_costs_no_reply() {
    type Set = fn(Server, Arc<AtomicUsize>) -> Server;
    fn explode(called: &AtomicUsize) {
        called.fetch_add(1, Ordering::SeqCst);
        panic!("in a hook");
    }
    let hooks: [(&str, Set); 3] = [
        ("on_wire", |server, called| {
            server.on_wire(move |_, _| explode(&called))
        }),
        ("on_reset", |server, called| {
            server.on_reset(move |_, _| explode(&called))
        }),
        ("on_error", |server, called| {
            server.on_error(move |_, _| explode(&called))
        }),
    ];
    for (name, hook) in hooks {
        let [stored, called] = std::array::from_fn(|_| Arc::new(AtomicUsize::new(0)));
        let failing =
            tower::service_fn(
                async |request: Request<Mail>| match request.sender().as_str() {
                    "fails@b" => Err(std::io::Error::other("the disk is gone")),
                    _ => Ok(Reply::OK),
                },
            );
        let (server, ends) = noting(storing(&stored).mail(failing));
        let server = hook(server, called.clone());
        let received = deliver_after(&server, "EHLO c\r\nMAIL FROM:<fails@b>\r\n").await;
        assert!(called.load(Ordering::SeqCst) > 0, "{name} is not called");
        assert!(
            received.contains(&"250 2.0.0 Queued as 1".to_owned()),
            "{name}: {received:?}"
        );
        assert_eq!(stored.load(Ordering::SeqCst), 1, "{name}");
        assert_eq!(
            *ends.lock().unwrap(),
            [EndReason::Closed(CloseReason::Quit)],
            "{name}"
        );
        assert_released(&server).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_is_set_again_does_not_replace_the_first_which_may_panic() {
    let called = Arc::new(Mutex::new(Vec::new()));
    let note = |text: &'static str| {
        let called = called.clone();
        move || called.lock().unwrap().push(text)
    };
    let [wire, reset, close] = [note("wire 1"), note("reset 1"), note("close 1")];
    let [wire_again, reset_again, close_again] = [note("wire 2"), note("reset 2"), note("close 2")];
    let server = server(storing(&Arc::default()))
        .on_wire(move |_, line| {
            if line.to_string().contains("RSET") {
                wire();
                panic!("in a hook");
            }
        })
        .on_reset(move |_, _| {
            reset();
            panic!("in a hook");
        })
        .on_close(move |_, _| {
            close();
            panic!("in a hook");
        })
        .on_wire(move |_, line| {
            if line.to_string().contains("RSET") {
                wire_again();
            }
        })
        .on_reset(move |_, _| reset_again())
        .on_close(move |_, _| close_again());
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO client.example", "250").await;
    client.envelope().await;
    client.cmd("RSET", "250").await;
    client.cmd("QUIT", "221").await;
    client.take_session().await.unwrap();
    assert_eq!(
        *called.lock().unwrap(),
        [
            "wire 1", "wire 2", "reset 1", "reset 2", "close 1", "close 2"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_on_close_releases_the_permit() {
    let called = Arc::new(AtomicUsize::new(0));
    let also = called.clone();
    let server = server(storing(&Arc::default()))
        .max_sessions(1)
        .on_close(move |_, _| {
            also.fetch_add(1, Ordering::SeqCst);
            panic!("closed");
        });
    for n in 1..=3 {
        assert_released(&server).await;
        assert_eq!(called.load(Ordering::SeqCst), n);
    }
}

/// Panics when it is dropped, with a value that panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::panic_any(Fuse);
        }
    }
}

struct Fuse;

impl Drop for Fuse {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a panic in a panic's value");
        }
    }
}

/// A service whose future panics when it is dropped.
#[derive(Clone)]
struct Dropping<S>(S);

#[pin_project::pin_project]
struct DroppingFuture<F>(#[pin] F, Bomb);

impl<F: Future> Future for DroppingFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().0.poll(cx)
    }
}

impl<S: Service<R>, R> Service<R> for Dropping<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = DroppingFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        DroppingFuture(self.0.call(request), Bomb)
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_behind_the_answer_of_a_service_costs_a_421_and_not_the_answer() {
    for slow in [false, true] {
        let stored = Arc::new(AtomicUsize::new(0));
        let also = stored.clone();
        let store = handler_fn(move |request: Request<Data>| {
            let stored = also.clone();
            async move {
                request.into_body().collect().await?;
                if slow {
                    sleep(Duration::from_millis(1)).await;
                }
                stored.fetch_add(1, Ordering::SeqCst);
                Ok::<_, smtpd_tower::BodyError>(Reply::queued("1"))
            }
        });
        let (server, ends) = noting(accept_rcpt().data(Dropping(store)));
        let received = deliver(&server).await;
        let end: Vec<_> = received
            .iter()
            .rev()
            .take(2)
            .rev()
            .map(String::as_str)
            .collect();
        assert_eq!(
            end,
            [
                "250 2.0.0 Queued as 1",
                "421 4.3.0 Internal error, closing the connection"
            ],
            "slow: {slow}"
        );
        assert_eq!(stored.load(Ordering::SeqCst), 1);
        assert_eq!(
            *ends.lock().unwrap(),
            [EndReason::Closed(CloseReason::Refused)]
        );
        assert_released(&server).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_behind_the_answer_to_a_command_costs_a_421_and_not_the_answer() {
    for slow in [false, true] {
        let mail = handler_fn(move |_: Request<Mail>| async move {
            if slow {
                sleep(Duration::from_millis(1)).await;
            }
        });
        let (server, ends) = noting(Pipeline::new().mail(Dropping(mail)));
        let mut client = Client::greeted(&server).await;
        client.cmd("EHLO c", "250").await;
        client.cmd("MAIL FROM:<a@b>", "250 ").await;
        client.expect("421 4.3.0").await;
        client.expect_close().await;
        client.take_session().await.unwrap();
        assert_eq!(ends.lock().unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_when_it_is_given_up_costs_its_session_only() {
    let stuck = handler_fn(async |_: Request<Mail>| std::future::pending::<()>().await);
    let (server, ends) = noting(Pipeline::new().mail(Dropping(stuck)));
    for end in 0..3 {
        let mut client = Client::greeted(&server).await;
        client.cmd("EHLO c", "250").await;
        client.send("MAIL FROM:<a@b>\r\n").await;
        sleep(Duration::from_millis(1)).await;
        let session = client.take_session();
        match end {
            // The client goes away; the answer is overdue; the session is aborted.
            0 => drop(client),
            1 => drop(client.rest().await),
            _ => session.abort(),
        }
        let ended = session.await;
        assert_eq!(ended.is_ok(), end < 2);
        assert_eq!(ends.lock().unwrap().len(), end + 1);
    }
}

/// A stream that panics when it is written to.
struct Panicking(tokio::io::DuplexStream, bool);

impl tokio::io::AsyncRead for Panicking {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if std::mem::take(&mut self.1) {
            panic!("a stream panics");
        }
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Panicking {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_that_nothing_else_has_caught_costs_a_421() {
    let (server, ends) = noting(Pipeline::new());
    let (mut client, far) = tokio::io::duplex(1 << 16);
    let session =
        server.serve_connection(Panicking(far, true), Session::local().client_addr().clone());
    let session = tokio::spawn(session);
    let mut received = String::new();
    client.read_to_string(&mut received).await.unwrap();
    assert_eq!(
        received.lines().last(),
        Some("421 4.3.0 Internal error, closing the connection")
    );
    drop(client);
    session.await.unwrap();
    assert_eq!(
        *ends.lock().unwrap(),
        [EndReason::Closed(CloseReason::Refused)]
    );
    assert_released(&server).await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_panics_costs_no_reply() {
    let _guard = log_by(PanickingLog);
    let stored = Arc::default();
    let (server, ends) = noting(storing(&stored));
    let received = deliver(&server).await;
    assert!(
        received.contains(&"250 2.0.0 Queued as 1".to_owned()),
        "{received:?}"
    );
    assert_eq!(
        *ends.lock().unwrap(),
        [EndReason::Closed(CloseReason::Quit)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_connect_service_that_panics_is_told_the_client_as_421() {
    let panics = handler_fn(async |request: Request<Connect>| -> Reply {
        panic!("{:?}", request.session())
    });
    let (server, ends) = noting(Pipeline::new().connect(panics));
    let mut client = Client::connect(&server);
    client.expect("421 4.3.0").await;
    client.expect_close().await;
    let begun = Instant::now();
    drop(client.into_io());
    sleep(Duration::from_millis(1)).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(ends.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_answered_is_not_told_to_on_reset() {
    let refuse = handler_fn(async |mut request: Request<Data>| {
        let _ = request.body_mut().chunk().await;
        Reply::rejected("No")
    });
    let resets = Arc::new(AtomicUsize::new(0));
    let also = resets.clone();
    let server = server(accept_rcpt().data(refuse)).on_reset(move |_, _| {
        also.fetch_add(1, Ordering::SeqCst);
    });
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.envelope().await;
    // RFC 3030 section 2: only RSET helps after a chunk that was refused.
    client.cmd("BDAT 3\r\nx", "554").await;
    client.cmd("RSET", "250").await;
    assert_eq!(resets.load(Ordering::SeqCst), 0);
    client.envelope().await;
    client.cmd("RSET", "250").await;
    assert_eq!(resets.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_whose_clients_could_never_send_does_not_start() {
    let server = server(accept_rcpt()).configure(|config| config.require_auth(true));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = server.serve(listener).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        "authentication is required, but there is no mechanism for it"
    );
}
