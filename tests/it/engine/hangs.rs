//! Sessions that hung, grew, or outlived a shutdown, and hostile clients that tried to make them. All with a paused clock: when
//! nothing can move, time passes until the next deadline, so a session without one would never end here.

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use smtpd_tower::{
    Body, Command, Data, Pipeline, Reply, Request, Session, handler_fn,
    session::{CloseReason, EndReason},
};
use support::{Client, accept_rcpt, server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep, timeout},
};

use super::{ENVELOPE, collecting, noting, session};

/// What the framework may buffer for a connection, whatever its client does.
const BOUND: usize = 256 << 10;

/// Sends the bytes over and over, and reads nothing. Returns how much the server read before it stopped.
async fn flood(client: &mut DuplexStream, text: &[u8], most: usize) -> usize {
    let mut taken = 0;
    while taken < most {
        match timeout(Duration::from_secs(1), client.write(text)).await {
            Ok(Ok(written)) => taken += written,
            _ => break,
        }
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_and_never_reads_fills_no_memory() {
    const PIPE: usize = 4096;
    let chunk = [b"BDAT 8192\r\n".to_vec(), vec![b'x'; 8192]].concat();
    let dots = b"..\r\n".repeat(4096);
    let floods: [(&str, &[u8], bool); 9] = [
        ("", b"NOOP\r\n", false),
        ("", b"EHLO a\r\n", false),
        ("EHLO c\r\n", b"MAIL FROM:<a@b>\r\nRSET\r\n", false),
        ("EHLO c\r\nMAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n", false),
        (ENVELOPE, b"BDAT 0\r\n", false),
        (ENVELOPE, b"BDAT 1\r\nx", false),
        (ENVELOPE, &chunk, false),
        (
            "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n",
            &dots,
            true,
        ),
        ("", &[b'x'; 4096], true),
    ];
    for (begin, text, unread) in floods {
        // The message is refused, so its bytes are read off; what counts is what is kept of them.
        let stuck = accept_rcpt().data(handler_fn(async |mut request: Request<Data>| {
            if let Some(Ok(_)) = request.body_mut().chunk().await {}
            pending::<()>().await;
            Reply::OK
        }));
        let pipeline = if unread { stuck } else { collecting() };
        let (server, ends) = noting(pipeline);
        let server = server.configure(|config| {
            config.limits(|limits| {
                (limits.errors, limits.idle_commands) = (u32::MAX, u32::MAX);
                limits.prompt_refusals = u32::MAX;
                (limits.messages, limits.recipients) = (u32::MAX, u32::MAX);
                limits.message_size = None;
            })
        });
        let (mut client, session) = session(&server, PIPE);
        client.write_all(begin.as_bytes()).await.unwrap();
        let taken = flood(&mut client, text, 64 << 20).await;
        let shown = text[..text.len().min(20)].escape_ascii();
        if begin.ends_with("DATA\r\n") || !text.contains(&b'\n') {
            // A message that its service does not take, and a line without end that is dropped as it comes.
            assert!(
                text.contains(&b'\n') == (taken < BOUND),
                "{shown}: {taken} bytes"
            );
        } else {
            // Replies of at least 14 bytes to each command: what was taken is worth no more of them than may wait.
            assert!(taken < 8 * BOUND, "{shown}: {taken} bytes");
        }
        let begun = Instant::now();
        // It takes no reply, and is given up.
        timeout(Duration::from_secs(3600), session)
            .await
            .unwrap_or_else(|_| panic!("{shown} lives on"))
            .unwrap();
        assert!(begun.elapsed() <= Duration::from_secs(960), "{shown}");
        assert_eq!(ends.lock().unwrap().len(), 1, "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn thousands_of_chunks_in_one_write_are_all_answered() {
    for chunk in ["BDAT 1\r\nx", "BDAT 0\r\n"] {
        let (server, _) = noting(collecting());
        let (mut client, _session) = session(&server, 1 << 20);
        let text = format!("{ENVELOPE}{}BDAT 0 LAST\r\nQUIT\r\n", chunk.repeat(3000));
        client.write_all(text.as_bytes()).await.unwrap();
        let mut received = String::new();
        let read = client.read_to_string(&mut received);
        timeout(Duration::from_secs(10), read)
            .await
            .expect("the session hangs")
            .unwrap();
        let chunks = received
            .lines()
            .filter(|line| line.contains("octets received"))
            .count();
        assert_eq!(chunks, 3000);
        assert!(
            received.lines().last().unwrap().starts_with("221"),
            "{chunk:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn more_replies_than_may_wait_are_all_sent() {
    let (server, _) = noting(collecting());
    let (mut client, _session) = session(&server, 1 << 20);
    client
        .write_all("EHLO a\r\n".repeat(900).as_bytes())
        .await
        .unwrap();
    client.write_all(b"QUIT\r\n").await.unwrap();
    let mut received = String::new();
    let read = client.read_to_string(&mut received);
    timeout(Duration::from_secs(10), read)
        .await
        .expect("the session hangs")
        .unwrap();
    assert_eq!(received.matches("250 ").count(), 900);
}

/// A data service that reads the whole message, and never replies.
fn silent(began: Arc<AtomicUsize>) -> Pipeline {
    accept_rcpt().data(handler_fn(move |request: Request<Data>| {
        let began = began.clone();
        async move {
            let _ = request.into_body().collect().await;
            began.fetch_add(1, Ordering::SeqCst);
            pending::<()>().await;
            Reply::OK
        }
    }))
}

#[tokio::test(start_paused = true)]
async fn a_client_lost_behind_a_whole_message_does_not_keep_a_shutdown_waiting() {
    for rest in [
        "DATA\r\nHello\r\n.\r\n",
        "BDAT 7 LAST\r\nHello\r\n",
        "DATA\r\nHello\r\n.\r\nQUIT\r\n",
    ] {
        for reset in [false, true] {
            let began = Arc::default();
            let (server, ends) = noting(silent(Arc::clone(&began)));
            let (io, far) = tokio::io::duplex(1 << 16);
            let far = Breaking {
                io: far,
                broken: Arc::default(),
            };
            let broken = far.broken.clone();
            let session =
                tokio::spawn(server.serve_connection(far, Session::local().client_addr().clone()));
            let mut io = io;
            io.write_all(format!("{ENVELOPE}{rest}").as_bytes())
                .await
                .unwrap();
            while began.load(Ordering::SeqCst) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            broken.store(reset, Ordering::SeqCst);
            drop(io);
            sleep(Duration::from_secs(1)).await;
            assert!(
                !session.is_finished(),
                "the message was delivered only in part"
            );
            let begun = Instant::now();
            server.handle().shutdown(Duration::from_secs(5)).await;
            assert!(
                begun.elapsed() <= Duration::from_secs(6),
                "{rest:?}: {:?}",
                begun.elapsed()
            );
            session.await.unwrap();
            assert_eq!(ends.lock().unwrap().len(), 1);
        }
    }
}

/// A pipe that fails like a reset connection, on request.
struct Breaking {
    io: DuplexStream,
    broken: Arc<std::sync::atomic::AtomicBool>,
}

impl Breaking {
    fn check(&self) -> std::io::Result<()> {
        match self.broken.load(Ordering::SeqCst) {
            true => Err(std::io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl tokio::io::AsyncRead for Breaking {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.check()?;
        std::pin::Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Breaking {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.check()?;
        std::pin::Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.check()?;
        std::pin::Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_writing_a_reply_hears_of_a_shutdown() {
    // The pipe holds less than the answer to EHLO.
    let (server, ends) = noting(collecting());
    let (mut client, session) = session(&server, 50);
    client.write_all(b"EHLO a\r\n").await.unwrap();
    sleep(Duration::from_millis(1)).await;
    let handle = server.handle();
    let shutdown = tokio::spawn(async move { handle.shutdown(Duration::from_secs(600)).await });
    sleep(Duration::from_millis(1)).await;
    let begun = Instant::now();
    let mut received = String::new();
    client.read_to_string(&mut received).await.unwrap();
    assert!(received.contains("\r\n421 4.3.2 "), "{received}");
    drop(client);
    session.await.unwrap();
    shutdown.await.unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(1));
    assert_eq!(
        *ends.lock().unwrap(),
        [EndReason::Closed(CloseReason::Shutdown)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_notice_that_its_client_is_lost_does_not_keep_a_shutdown_waiting() {
    let deaf = accept_rcpt().data(handler_fn(async |mut request: Request<Data>| {
        while request.body_mut().chunk().await.is_some() {}
        pending::<()>().await;
        Reply::OK
    }));
    let (server, ends) = noting(deaf);
    let (mut client, session) = session(&server, 1 << 16);
    client
        .write_all(format!("{ENVELOPE}DATA\r\nhalf").as_bytes())
        .await
        .unwrap();
    sleep(Duration::from_millis(1)).await;
    drop(client);
    sleep(Duration::from_secs(1)).await;
    assert!(!session.is_finished(), "the service may clean up");
    let begun = Instant::now();
    server.handle().shutdown(Duration::ZERO).await;
    session.await.unwrap();
    assert!(
        begun.elapsed() <= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(ends.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_notice_that_its_client_is_lost_has_ten_seconds() {
    let deaf = accept_rcpt().data(handler_fn(async |mut request: Request<Data>| {
        while request.body_mut().chunk().await.is_some() {}
        pending::<()>().await;
        Reply::OK
    }));
    let (server, _) = noting(deaf);
    let (mut client, session) = session(&server, 1 << 16);
    client
        .write_all(format!("{ENVELOPE}DATA\r\nhalf").as_bytes())
        .await
        .unwrap();
    sleep(Duration::from_millis(1)).await;
    drop(client);
    let begun = Instant::now();
    session.await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_message_handed_to_another_task_or_future_never_stalls() {
    for order in 0..2 {
        let (bodies, mut taken) =
            tokio::sync::mpsc::unbounded_channel::<(Body, tokio::sync::oneshot::Sender<usize>)>();
        let handing = accept_rcpt().data(handler_fn(move |request: Request<Data>| {
            let bodies = bodies.clone();
            async move {
                let (done, size) = tokio::sync::oneshot::channel();
                let _ = bodies.send((request.into_body(), done));
                size.await.map_or(Reply::busy(), |_| Reply::OK)
            }
        }));
        let (server, _) = noting(handing);
        let (mut client, far) = tokio::io::duplex(1 << 16);
        let session = server.serve_connection(far, Session::local().client_addr().clone());
        let consumer = async {
            let (body, done) = taken.recv().await.unwrap();
            let _ = done.send(body.collect().await.unwrap().len());
        };
        let talk = async {
            client
                .write_all(format!("{ENVELOPE}DATA\r\n").as_bytes())
                .await
                .unwrap();
            for _ in 0..5 {
                sleep(Duration::from_millis(1)).await;
                client.write_all(b"Hello\r\n").await.unwrap();
            }
            client.write_all(b".\r\nQUIT\r\n").await.unwrap();
            let mut received = String::new();
            client.read_to_string(&mut received).await.unwrap();
            received
        };
        let begun = Instant::now();
        let received = match order {
            0 => tokio::join!(session, consumer, talk).2,
            _ => tokio::join!(consumer, session, talk).2,
        };
        assert!(received.contains("250 2.0.0 OK\r\n221"), "{received}");
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{order}: {:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_command_between_two_chunks_does_not_take_the_place_of_the_message() {
    let stored = Arc::new(Mutex::new(Vec::new()));
    let also = stored.clone();
    let store = handler_fn(move |request: Request<Data>| {
        let stored = also.clone();
        async move {
            let message = request.into_body().collect().await?;
            stored.lock().unwrap().push(message);
            Ok::<_, smtpd_tower::BodyError>(Reply::OK)
        }
    });
    let slow = handler_fn(async |_: Request<Command>| {
        sleep(Duration::from_secs(1)).await;
        Reply::ok("Slow")
    });
    let mut client = Client::greeted(&server(accept_rcpt().data(store).command(slow))).await;
    client.cmd("EHLO c", "250").await;
    client.envelope().await;
    client.cmd("BDAT 7\r\nHello", "250").await;
    client.cmd("HELP", "250 2.0.0 Slow").await;
    client.cmd("BDAT 5 LAST\r\nyou", "250 2.0.0 OK").await;
    assert_eq!(*stored.lock().unwrap(), [&b"Hello\r\nyou\r\n"[..]]);

    // RSET gives a message up; the next one is its own.
    client.envelope().await;
    client.cmd("BDAT 7\r\nFirst", "250").await;
    client.cmd("RSET", "250").await;
    client.envelope().await;
    client.cmd("BDAT 8 LAST\r\nSecond", "250 2.0.0 OK").await;
    assert_eq!(stored.lock().unwrap().last().unwrap(), &b"Second\r\n"[..]);
    assert_eq!(stored.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_sent_ahead_does_not_keep_a_shutdown_waiting() {
    let stored = Arc::new(AtomicUsize::new(0));
    let also = stored.clone();
    let slow = accept_rcpt().data(handler_fn(move |request: Request<Data>| {
        let stored = also.clone();
        async move {
            request.into_body().collect().await?;
            sleep(Duration::from_millis(100)).await;
            stored.fetch_add(1, Ordering::SeqCst);
            Ok::<_, smtpd_tower::BodyError>(Reply::OK)
        }
    }));
    let (server, ends) = noting(slow);
    let (mut client, _session) = session(&server, 1 << 20);
    let message = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 5 LAST\r\nhello";
    let text = format!("EHLO c\r\n{}", message.repeat(1000));
    client.write_all(text.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(250)).await;
    let begun = Instant::now();
    let handle = server.handle();
    let mut received = String::new();
    tokio::join!(handle.shutdown(Duration::from_secs(30)), async {
        client.read_to_string(&mut received).await.unwrap();
        drop(client);
    });
    assert!(
        begun.elapsed() <= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    // The message that was going on was answered, then the session ended.
    assert_eq!(stored.load(Ordering::SeqCst), 3);
    let last: Vec<_> = received.lines().rev().take(2).collect();
    assert!(
        last[0].starts_with("421 4.3.2") && last[1] == "250 2.0.0 OK",
        "{last:?}"
    );
    assert_eq!(
        *ends.lock().unwrap(),
        [EndReason::Closed(CloseReason::Shutdown)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_being_stored_when_the_server_has_to_end_is_answered() {
    for (takes, acknowledged) in [(400, true), (2000, false)] {
        let slow = accept_rcpt().data(handler_fn(move |request: Request<Data>| async move {
            request.into_body().collect().await?;
            sleep(Duration::from_millis(takes)).await;
            Ok::<_, smtpd_tower::BodyError>(Reply::queued("1"))
        }));
        let (server, ends) = noting(slow);
        let (mut client, _session) = session(&server, 1 << 16);
        client
            .write_all(format!("{ENVELOPE}DATA\r\nHello\r\n.\r\n").as_bytes())
            .await
            .unwrap();
        sleep(Duration::from_millis(1)).await;
        let begun = Instant::now();
        let handle = server.handle();
        let mut received = String::new();
        tokio::join!(
            handle.shutdown(Duration::ZERO),
            client.read_to_string(&mut received)
        )
        .1
        .unwrap();
        assert!(
            begun.elapsed() <= Duration::from_millis(1001),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(
            received.contains("250 2.0.0 Queued as 1"),
            acknowledged,
            "{received}"
        );
        assert!(
            received.lines().last().unwrap().starts_with("421 4.3.2"),
            "{received}"
        );
        assert_eq!(ends.lock().unwrap().len(), 1);
    }
}
