//! The server around the sessions: listeners, limits, shutdown.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use smtpd_tower::{
    Connect, Data, DataReply, Rcpt, Reply, Request, Server,
    config::Timeouts,
    handler_fn,
    net::PeerAddr,
    server::{Listener, bind_reuse_port},
};
use support::*;
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    time::{Instant, timeout},
};

#[tokio::test]
async fn several_listeners_of_several_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("smtp.sock");
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp.local_addr().unwrap();
    let server = server(smtpd_tower::Pipeline::new().rcpt(handler_fn(
        async |req: Request<Rcpt>| {
            Reply::ok(format!(
                "{} {}",
                req.session().client_addr().is_local(),
                req.session().local_addr()
            ))
        },
    )));
    let handle = server.handle();
    let tcp = tokio::spawn(server.serve(tcp));
    let unix = tokio::spawn(server.serve(UnixListener::bind(&path).unwrap()));
    let mut over_tcp = Client::over(TcpStream::connect(addr).await.unwrap());
    let mut over_unix = Client::over(UnixStream::connect(&path).await.unwrap());
    over_tcp.expect("220").await;
    over_tcp.cmd("EHLO c", "250").await;
    over_tcp.cmd("MAIL FROM:<a@b.c>", "250").await;
    over_tcp
        .cmd("RCPT TO:<c@d.e>", &format!("250 2.0.0 true {addr}"))
        .await;
    over_unix.expect("220").await;
    over_unix.cmd("EHLO c", "250").await;
    over_unix.cmd("MAIL FROM:<a@b.c>", "250").await;
    over_unix
        .cmd("RCPT TO:<c@d.e>", "250 2.0.0 true unix:/")
        .await;
    assert_eq!(handle.sessions(), 2);
    over_tcp.cmd("QUIT", "221").await;
    over_unix.cmd("QUIT", "221").await;
    handle.shutdown(SECOND).await;
    tcp.await.unwrap().unwrap();
    unix.await.unwrap().unwrap();
}

#[tokio::test]
async fn lmtp_answers_for_each_recipient() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(collecting().serve(listener).lmtp());
    let mut client = Client::over(TcpStream::connect(addr).await.unwrap());
    client.expect("220 mx.test smtpd LMTP").await;
    client.cmd("EHLO c", "500").await;
    client.cmd("LHLO c", "250").await;
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    for _ in 0..3 {
        client.cmd("RCPT TO:<c@d.e>", "250").await;
    }
    client.cmd("DATA", "354").await;
    client.send("x\r\n.\r\n").await;
    for _ in 0..3 {
        client.expect("250 2.0.0 3").await;
    }
    client.cmd("NOOP", "250").await;
}

/// A single reply for all would report mail as delivered that was not.
#[tokio::test]
async fn lmtp_with_three_recipients_has_three_different_replies() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let each =
        pipeline(async |req: Request<Data>| {
            let replies = req.envelope().recipients().iter().map(|recipient| {
                match recipient.path().as_str() {
                    "full@d.e" => Reply::mailbox_full(),
                    "gone@d.e" => Reply::no_such_user(),
                    _ => Reply::OK,
                }
            });
            let replies = DataReply::each(replies);
            req.into_body().collect().await.map(|_| replies)
        });
    let server = server(each);
    tokio::spawn(server.serve(listener).lmtp());
    let mut lmtp = Client::over(TcpStream::connect(addr).await.unwrap());
    lmtp.expect("220").await;
    lmtp.cmd("LHLO c", "250").await;
    let mut smtp = Client::greeted(&server).await;
    smtp.cmd("EHLO c", "250").await;
    let group = "MAIL FROM:<a@b.c>\r\nRCPT TO:<full@d.e>\r\nRCPT TO:<fine@d.e>\r\nRCPT TO:<gone@d.e>\r\nDATA\r\n";
    lmtp.send(group).await;
    smtp.send(group).await;
    for start in ["250", "250", "250", "250", "354"] {
        lmtp.expect(start).await;
        smtp.expect(start).await;
    }
    lmtp.send("x\r\n.\r\n").await;
    for start in ["452 4.2.2", "250 2.0.0", "550 5.1.1"] {
        lmtp.expect(start).await;
    }
    lmtp.cmd("NOOP", "250").await;
    // SMTP has room for one: the transient one goes first.
    smtp.send("x\r\n.\r\n").await;
    smtp.expect("452 4.2.2").await;
    smtp.cmd("NOOP", "250").await;
}

#[tokio::test]
async fn one_session_more_than_the_limit_is_refused() {
    let server = collecting().max_sessions(2);
    let mut one = Client::greeted(&server).await;
    let _two = Client::greeted(&server).await;
    let mut three = Client::connect(&server);
    three.expect("421 4.3.2").await;
    three.expect_close().await;
    one.cmd("QUIT", "221").await;
    one.take_session().await.unwrap();
    Client::greeted(&server).await;
}

#[tokio::test]
async fn a_thousand_idle_sessions_do_not_keep_the_next_from_being_served() {
    let server = collecting();
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(Client::greeted(&server).await);
    }
    let mut client = Client::greeted(&server).await;
    client.begin().await;
    client.send("x\r\n.\r\n").await;
    client.expect("250").await;
}

/// Serves an address on a separate thread and runtime, from when this returns.
fn serve_on_a_thread(server: &Server, address: &str) -> (String, thread::JoinHandle<()>) {
    let (server, address) = (server.clone(), address.to_owned());
    let (bound, is_bound) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = bind_reuse_port(address).await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            server.serve(listener).await.unwrap();
        });
    });
    (is_bound.recv().unwrap().to_string(), thread)
}

#[tokio::test]
async fn clones_on_several_runtimes_share_limits_hooks_and_the_end() {
    // So many that not all of them come to one listener.
    const SESSIONS: usize = 64;
    let threads = Arc::<Mutex<HashSet<_>>>::default();
    let closed = Arc::<AtomicUsize>::default();
    let (seen, count) = (threads.clone(), closed.clone());
    let connect = handler_fn(move |_: Request<Connect>| {
        seen.lock().unwrap().insert(thread::current().id());
        async {}
    });
    let server = server(accept_rcpt().connect(connect))
        .max_sessions(SESSIONS)
        .on_close(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
        });
    let handle = server.handle();

    let (address, one) = serve_on_a_thread(&server, "127.0.0.1:0");
    let (same, two) = serve_on_a_thread(&server, &address);
    assert_eq!(address, same);
    let connect = async || Client::over(TcpStream::connect(&address).await.unwrap());
    let mut clients = Vec::new();
    while clients.len() < SESSIONS {
        let mut client = connect().await;
        client.expect("220").await;
        clients.push(client);
    }
    assert_eq!(threads.lock().unwrap().len(), 2);
    for _ in 0..8 {
        connect().await.expect("421 4.3.2").await;
    }
    clients.pop().unwrap().cmd("QUIT", "221").await;
    while handle.sessions() == SESSIONS {
        tokio::task::yield_now().await;
    }
    let mut another = connect().await;
    another.expect("220").await;
    clients.push(another);

    handle.shutdown(SECOND).await;
    for mut client in clients {
        client.expect("421 4.3.2").await;
        client.expect_close().await;
    }
    one.join().unwrap();
    two.join().unwrap();
    assert_eq!(closed.load(Ordering::SeqCst), SESSIONS + 1);
    assert!(TcpStream::connect(&address).await.is_err());
}

/// A listener that is fed by hand.
struct Fed(mpsc::UnboundedReceiver<io::Result<DuplexStream>>);

impl Listener for Fed {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io?, PeerAddr::Unknown)),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> PeerAddr {
        PeerAddr::Unknown
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_accept_are_survived() {
    let (feed, fed) = mpsc::unbounded_channel();
    tokio::spawn(collecting().serve(Fed(fed)));
    for errno in [24, 23, 105, 103] {
        feed.send(Err(io::Error::from_raw_os_error(errno))).unwrap();
    }
    let (near, far) = tokio::io::duplex(1 << 16);
    feed.send(Ok(far)).unwrap();
    let begun = Instant::now();
    Client::over(near).expect("220").await;
    assert_eq!(
        begun.elapsed(),
        Duration::from_millis(300),
        "a pause for each but ECONNABORTED"
    );
}

async fn draining(server: &Server) -> (tokio::task::JoinHandle<()>, Instant) {
    let handle = server.handle();
    let task = tokio::spawn(async move { handle.shutdown(SECOND * 30).await });
    settle().await;
    (task, Instant::now())
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_idle_sessions_at_once_and_lets_transactions_end() {
    let server = collecting();
    let mut idle = Client::greeted(&server).await;
    let mut early = Client::greeted(&server).await;
    early.cmd("EHLO c", "250").await;
    let mut busy = Client::greeted(&server).await;
    busy.begin().await;
    busy.send("half a ").await;
    let (task, begun) = draining(&server).await;
    for client in [&mut idle, &mut early] {
        client.expect("421 4.3.2 mx.test smtpd").await;
        client.expect_close().await;
    }
    busy.send("message\r\n.\r\n").await;
    assert_eq!(busy.reply().await, "250 2.0.0 16");
    busy.expect("421 4.3.2").await;
    busy.expect_close().await;
    task.await.unwrap();
    assert!(begun.elapsed() < SECOND * 5, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn shutdown_has_a_hard_deadline() {
    let server = server(pipeline(async |req: Request<Data>| {
        let _ = req.into_body().collect().await;
        std::future::pending::<()>().await;
    }));
    let mut stalled = Client::greeted(&server).await;
    stalled.begin().await;
    stalled.send("half").await;
    let mut delivering = Client::greeted(&server).await;
    delivering.begin().await;
    delivering.send("whole\r\n.\r\n").await;
    let (task, begun) = draining(&server).await;
    task.await.unwrap();
    assert!(
        (30..35).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
    stalled.expect("421 4.3.2").await;
    assert!(
        !delivering
            .rest()
            .await
            .iter()
            .any(|line| line.starts_with("250"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_whose_future_is_dropped_never_ends() {
    // Not polled at all, dropped while sessions drain, and dropped while they are ended.
    for kept in [None, Some(0), Some(3), Some(9), Some(11)] {
        let server = collecting();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serving = tokio::spawn(server.serve(listener));
        let mut open = Client::greeted(&server).await;
        open.begin().await;
        open.send("half a message").await;
        let begun = Instant::now();
        let shutdown = server.handle().shutdown(SECOND * 10);
        match kept {
            Some(kept) => assert!(timeout(SECOND * kept, shutdown).await.is_err() || kept > 10),
            None => drop(shutdown),
        }
        open.expect("421 4.3.2").await;
        assert!((10..12).contains(&begun.elapsed().as_secs()), "{kept:?}");
        serving.await.unwrap().unwrap();
        assert_eq!(server.handle().sessions(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_shutdown_lengthens_the_first() {
    let server = collecting();
    let mut open = Client::greeted(&server).await;
    open.begin().await;
    let begun = Instant::now();
    let handle = server.handle();
    for grace in [600, 5, 60] {
        drop(handle.shutdown(SECOND * grace));
        settle().await;
    }
    open.expect("421 4.3.2").await;
    assert!((5..7).contains(&begun.elapsed().as_secs()));
}

#[tokio::test]
async fn a_server_with_a_name_that_no_reply_can_show_starts() {
    for (server, expected) in [
        (
            Server::new("mail server", accept_rcpt()),
            r#"the host name "mail server" is neither a domain nor an address literal"#,
        ),
        (
            collecting().configure(|config| config.app_name("a\r\nb")),
            r#"the app name "a\r\nb" is not printable ASCII"#,
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = server.serve(listener).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn a_signal_does_not_cut_off_a_transaction_that_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (signal, signalled) = tokio::sync::oneshot::channel::<()>();
    let serving = collecting()
        .serve(listener)
        .with_graceful_shutdown(signalled, SECOND * 30);
    let serving = tokio::spawn(serving);
    let mut client = Client::over(TcpStream::connect(addr).await.unwrap());
    client.expect("220").await;
    client.begin().await;
    let mut idle = Client::over(TcpStream::connect(addr).await.unwrap());
    idle.expect("220").await;
    signal.send(()).unwrap();
    idle.expect("421").await;
    assert!(!serving.is_finished());
    client.send("whole\r\n.\r\n").await;
    assert_eq!(client.reply().await, "250 2.0.0 7");
    client.expect("421").await;
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_its_handle_has_ended_does_not_wait_for_the_signal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = collecting();
    let never = std::future::pending::<()>();
    let serving = tokio::spawn(server.serve(listener).with_graceful_shutdown(never, SECOND));
    server.handle().shutdown(SECOND).await;
    let ended = timeout(SECOND * 10, serving).await;
    ended.expect("it ends").unwrap().unwrap();
}

#[tokio::test]
async fn after_shutdown_nobody_is_greeted_and_the_port_is_free() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = collecting();
    let task = tokio::spawn(server.serve(listener));
    let mut client = Client::over(TcpStream::connect(addr).await.unwrap());
    client.expect("220").await;
    server.handle().shutdown(SECOND).await;
    client.expect("421").await;
    task.await.unwrap().unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
    Client::connect(&server).expect("421 4.3.2").await;
}

#[tokio::test(start_paused = true)]
async fn silent_dripping_and_never_reading_clients_are_dropped() {
    let server = collecting().configure(|config| {
        config.timeouts(|timeouts| *timeouts = Timeouts::default().inactivity(SECOND * 5))
    });
    // Silent.
    let mut client = Client::greeted(&server).await;
    let begun = Instant::now();
    client.expect("421 4.4.2").await;
    assert_eq!(begun.elapsed(), SECOND * 5);
    // One byte of a command each second.
    let mut client = Client::greeted(&server).await;
    let begun = Instant::now();
    while client.try_send("x").await.is_ok() && begun.elapsed() < SECOND * 60 {
        tokio::time::sleep(SECOND).await;
    }
    assert!(
        (10..=13).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
    // One byte of a message each second.
    let mut client = Client::greeted(&server).await;
    client.begin().await;
    let begun = Instant::now();
    while client.try_send("x").await.is_ok() && begun.elapsed() < SECOND * 60 {
        tokio::time::sleep(SECOND).await;
    }
    assert!(
        (15..=18).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
    // Replies that nobody reads. The client of the test kit would read them once it cannot write.
    let (mut pipe, far) = tokio::io::duplex(512);
    tokio::spawn(server.serve_connection(far, PeerAddr::Unknown));
    let begun = Instant::now();
    while pipe.write_all(b"EHLO c\r\n").await.is_ok() && begun.elapsed() < SECOND * 60 {}
    assert!(
        (5..=8).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_but_living_client_is_served() {
    let server = collecting().configure(|config| {
        config.timeouts(|timeouts| *timeouts = Timeouts::default().inactivity(SECOND * 5))
    });
    let mut client = Client::greeted(&server).await;
    for (line, start) in [
        ("EHLO c", "250"),
        ("MAIL FROM:<a@b.c>", "250"),
        ("RCPT TO:<c@d.e>", "250"),
        ("DATA", "354"),
    ] {
        tokio::time::sleep(SECOND * 4).await;
        client.cmd(line, start).await;
    }
    for part in ["one ", "two ", "three\r\n.\r\n"] {
        tokio::time::sleep(SECOND * 4).await;
        client.send(part).await;
    }
    client.expect("250 2.0.0 15").await;
}

/// The time of a service is not charged to its client.
#[tokio::test(start_paused = true)]
async fn the_time_of_a_service_does_not_count_as_the_clients() {
    let server = server(pipeline(async |mut req: Request<Data>| {
        while let Some(chunk) = req.body_mut().chunk().await {
            chunk?;
            tokio::time::sleep(SECOND * 100).await;
        }
        Ok::<_, smtpd_tower::BodyError>(())
    }))
    .configure(|config| {
        config.timeouts(|timeouts| *timeouts = Timeouts::default().inactivity(SECOND * 5))
    });
    let mut client = Client::greeted(&server).await;
    client.begin().await;
    client.send("one\r\n").await;
    timeout(SECOND * 101, settle()).await.unwrap();
    client.send("two\r\n.\r\n").await;
    client.expect("250").await;
}

/// The client's silence begins with the reply, however long a service took over it.
#[tokio::test(start_paused = true)]
async fn the_command_timeout_begins_when_the_service_has_answered() {
    for seconds in [1, 200, 310, 500] {
        let slow = server(
            pipeline(move |req: Request<Data>| async move {
                let message = req.into_body().collect().await;
                tokio::time::sleep(SECOND * seconds).await;
                message.map(drop)
            })
            .connect(handler_fn(async |_: Request<smtpd_tower::Connect>| {
                tokio::time::sleep(SECOND * 200).await
            })),
        );
        let mut client = Client::greeted(&slow).await;
        let begun = Instant::now();
        assert!(
            timeout(SECOND * 299, client.line()).await.is_err(),
            "after a slow greeting"
        );
        client.begin().await;
        client.send("x\r\n.\r\n").await;
        client.expect("250").await;
        let answered = Instant::now();
        assert_eq!((answered - begun).as_secs(), 299 + u64::from(seconds));
        client.expect("421 4.4.2").await;
        assert_eq!(
            answered.elapsed().as_secs(),
            300,
            "after a delivery of {seconds} s"
        );
    }
}

#[tokio::test]
async fn both_names_show_in_banner_and_farewell() {
    let server = collecting().configure(|config| config.app_name("gateway"));
    let mut client = Client::connect(&server);
    assert_eq!(client.reply().await, "220 mx.test gateway ESMTP");
    assert_eq!(
        client.cmd("QUIT", "221").await,
        "221 2.0.0 mx.test gateway closing the connection"
    );
    assert!(!smtpd_tower::system_hostname().is_empty());
    assert_eq!(Server::DEFAULT_ADDRESS, "[::]:25");
    let _: Arc<str> = smtpd_tower::system_hostname().into();
}

#[test]
fn the_name_of_the_system_is_that_which_it_says_itself() {
    let name = std::process::Command::new("uname").arg("-n").output();
    let name = String::from_utf8(name.unwrap().stdout).unwrap();
    assert_eq!(smtpd_tower::system_hostname(), name.trim());
}
