//! Clients that send something before they are greeted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use smtpd_tower::{
    Connect, Helo, Request, Server, handler_fn,
    session::{CloseReason, EndReason},
};
use support::{Client, accept_rcpt, settle};
use tokio::time::{Instant, sleep};

use super::noting;

const DELAY: Duration = Duration::from_secs(6);

/// A server whose service for connections takes so long, and what it and the service of HELO have seen.
fn slow(takes: Duration) -> (Server, [Arc<AtomicBool>; 2], super::Ends) {
    let seen: [Arc<AtomicBool>; 2] = Default::default();
    let [connect, helo] = seen.clone();
    let pipeline = accept_rcpt()
        .connect(handler_fn(move |request: Request<Connect>| {
            connect.store(request.session().talked_early(), Ordering::Relaxed);
            sleep(takes)
        }))
        .helo(handler_fn(move |request: Request<Helo>| {
            helo.store(request.session().talked_early(), Ordering::Relaxed);
            async {}
        }));
    let (server, ends) = noting(pipeline);
    (server, seen, ends)
}

fn seen(seen: &[Arc<AtomicBool>; 2]) -> [bool; 2] {
    [&seen[0], &seen[1]].map(|one| one.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn an_early_talker_is_not_noticed_while_a_service_works() {
    for early in [false, true] {
        let (server, facts, _) = slow(Duration::from_secs(5));
        let mut client = Client::connect(&server);
        settle().await;
        if early {
            client.send("EHLO c\r\n").await;
        }
        client.expect("220").await;
        if !early {
            client.send("EHLO c\r\n").await;
        }
        client.expect("250").await;
        client.cmd("QUIT", "221").await;
        assert_eq!(seen(&facts), [false, early]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_for_connections_does_not_learn_who_talked_during_the_delay() {
    let (server, facts, _) = slow(Duration::ZERO);
    let server = server.configure(|config| config.greeting_delay(DELAY));
    let begun = Instant::now();
    let mut client = Client::connect(&server);
    client.expect("220").await;
    assert_eq!(begun.elapsed(), DELAY);
    client.cmd("EHLO c", "250").await;
    assert_eq!(seen(&facts), [false, false]);

    let mut client = Client::connect(&server);
    client.send("EHLO c\r\n").await;
    client.expect("220").await;
    client.expect("250").await;
    assert_eq!(begun.elapsed(), DELAY, "the whole delay is waited for");
    assert_eq!(seen(&facts), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn an_early_talker_is_greeted_although_it_is_to_be_refused() {
    for (delay, takes) in [(DELAY, 0), (Duration::ZERO, 5)] {
        let (server, _, ends) = slow(Duration::from_secs(takes));
        let closed = Arc::new(AtomicBool::new(false));
        let early = closed.clone();
        let server = server
            .configure(|config| config.greeting_delay(delay).refuse_early_talkers(true))
            .on_close(move |session, _| early.store(session.talked_early(), Ordering::Relaxed));
        let begun = Instant::now();
        let mut client = Client::connect(&server);
        settle().await;
        client.send("E").await;
        client
            .expect("554 5.5.1 Commands were sent too early")
            .await;
        client.expect_close().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        settle().await;
        sleep(Duration::from_secs(2)).await;
        let ends = ends.lock().unwrap().clone();
        assert_eq!(ends, [EndReason::Closed(CloseReason::Violation)]);
        assert!(closed.load(Ordering::Relaxed));
    }
}

/// Each would have waited for the service, or for the end of the delay, or for the timeout of its own protocol.
#[tokio::test(start_paused = true)]
async fn another_protocol_is_noticed_after_the_greeting_only() {
    let hellos: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x05\x01\x00",
        b"\x04\x01\x00\x19\xc0\x00\x02\x01\x00",
        b"GET / HTTP/1.1\r\nHost: mx.example.org\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ];
    for hello in hellos {
        for delay in [DELAY, Duration::ZERO] {
            let (server, _, ends) = slow(Duration::ZERO);
            let server = server.configure(|config| config.greeting_delay(delay));
            let begun = Instant::now();
            let mut client = Client::connect(&server);
            client.send(hello).await;
            let rest = client.rest().await;
            let last = rest.last().unwrap();
            assert!(
                last.starts_with("554 5.5.1 This is a mail server"),
                "{rest:?}"
            );
            assert!(begun.elapsed() < DELAY, "{}", hello.escape_ascii());
            sleep(Duration::from_secs(2)).await;
            let ends = ends.lock().unwrap().clone();
            assert_eq!(ends, [EndReason::Closed(CloseReason::Violation)]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_the_end_of_the_delay() {
    let (server, _, _) = slow(Duration::ZERO);
    let server = server.configure(|config| config.greeting_delay(DELAY));
    let begun = Instant::now();
    let mut client = Client::connect(&server);
    settle().await;
    let ended = server.handle().shutdown(Duration::from_secs(30));
    client.expect("421 4.3.2").await;
    client.expect_close().await;
    drop(client);
    let _ = ended.await;
    assert!(begun.elapsed() < DELAY);
}
