//! How long a session may take: whose time is counted, and when it is over. All with a paused clock.

use std::time::Duration;

use smtpd_tower::{
    Data, Mail, Pipeline, Rcpt, Reply, Request,
    config::Timeouts,
    handler_fn,
    session::{CloseReason, EndReason},
};
use support::{Client, accept_rcpt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

use super::{ENVELOPE, collecting, noting, session};

#[tokio::test(start_paused = true)]
async fn limits_without_end_do_not_end_a_session() {
    let mut timeouts = Timeouts::default().inactivity(Duration::MAX);
    for limit in [
        &mut timeouts.transfer,
        &mut timeouts.ready,
        &mut timeouts.call,
        &mut timeouts.data_start,
        &mut timeouts.delivery,
        &mut timeouts.session,
        &mut timeouts.without_message,
        &mut timeouts.linger,
    ] {
        *limit = Duration::MAX;
    }
    let slow = accept_rcpt()
        .mail(handler_fn(async |_: Request<Mail>| {
            sleep(Duration::from_secs(100_000)).await
        }))
        .data(handler_fn(async |request: Request<Data>| {
            sleep(Duration::from_secs(100_000)).await;
            let collected = request.into_body().collect().await;
            sleep(Duration::from_secs(100_000)).await;
            collected.map(|_| Reply::OK)
        }));
    let (server, _) = noting(slow);
    let server = server.configure(|config| config.timeouts(|own| *own = timeouts.clone()));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    sleep(Duration::from_secs(100_000)).await;
    client.cmd("MAIL FROM:<a@b>", "250").await;
    client.cmd("RCPT TO:<c@d>", "250").await;
    client.cmd("DATA", "354").await;
    sleep(Duration::from_secs(100_000)).await;
    client.cmd("Hello\r\n.", "250").await;
    client.cmd("QUIT", "221").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_pauses_is_ended_at_the_session_s_time() {
    let refusing = Pipeline::new().rcpt(handler_fn(async |_: Request<Rcpt>| {
        sleep(Duration::from_millis(1)).await;
        Reply::busy()
    }));
    let (server, ends) = noting(refusing);
    let server = server.configure(|config| {
        config.timeouts(|timeouts| {
            timeouts.session = Duration::from_secs(3);
            timeouts.transfer = Duration::from_secs(1);
        })
    });
    let (client, session) = session(&server, 1 << 16);
    let (mut read, mut write) = tokio::io::split(client);
    let reader = tokio::spawn(async move {
        let mut received = Vec::new();
        let _ = read.read_to_end(&mut received).await;
        received
    });
    let begun = Instant::now();
    write
        .write_all(b"EHLO c\r\nMAIL FROM:<a@b>\r\n")
        .await
        .unwrap();
    while write
        .write_all(&b"RCPT TO:<c@d>\r\n".repeat(100))
        .await
        .is_ok()
    {
        assert!(begun.elapsed() < Duration::from_secs(10), "it lives on");
    }
    session.await.unwrap();
    assert!(
        begun.elapsed() <= Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    let received = reader.await.unwrap();
    assert!(String::from_utf8_lossy(&received).contains("421 4.4.2"));
    assert_eq!(
        *ends.lock().unwrap(),
        [EndReason::Closed(CloseReason::Timeout)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_delivers_nothing_is_ended() {
    for (text, pause, most) in [
        ("NOOP\r\n", 5, 601),
        ("BDAT 1\r\nx", 2, 910),
        ("RSET\r\n", 200, 801),
    ] {
        let (server, ends) = noting(collecting());
        let (mut client, session) = session(&server, 1 << 20);
        client.write_all(ENVELOPE.as_bytes()).await.unwrap();
        let begun = Instant::now();
        while !session.is_finished() {
            let _ = client.write_all(text.as_bytes()).await;
            sleep(Duration::from_secs(pause)).await;
            assert!(
                begun.elapsed() <= Duration::from_secs(2000),
                "{text:?} goes on"
            );
        }
        let most = if text.starts_with("NOOP") {
            most + 910
        } else {
            most
        };
        assert!(
            begun.elapsed() <= Duration::from_secs(most),
            "{text:?}: {:?}",
            begun.elapsed()
        );
        assert_eq!(
            *ends.lock().unwrap(),
            [EndReason::Closed(CloseReason::Timeout)]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_client_sends_behind_the_last_reply_is_read_off_for_a_second() {
    let closing = Pipeline::new().mail(handler_fn(async |_: Request<Mail>| {
        Reply::closing("Go away")
    }));
    let (server, _) = noting(closing);
    let (mut client, session) = session(&server, 64);
    let begun = Instant::now();
    client
        .write_all(b"EHLO c\r\nMAIL FROM:<a@b>\r\n")
        .await
        .unwrap();
    let mut received = String::new();
    client.read_to_string(&mut received).await.unwrap();
    assert!(received.contains("\r\n421"), "{received}");
    // Each time more than the pipe holds.
    for _ in 0..9 {
        sleep(Duration::from_millis(100)).await;
        let text = "NOOP\r\n".repeat(100);
        client.write_all(text.as_bytes()).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
    session.await.unwrap();
    assert_eq!(begun.elapsed().as_millis() / 100, 10);
    client.write_all(b"NOOP\r\n").await.unwrap_err();
}
