//! Services that compute for long without yielding their thread. Other sessions are not charged for their time, and a shutdown
//! or a limit does not wait for more than a few of them. Most tests pause the clock, and such a service advances it by hand.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use smtpd_tower::{
    Command, Data, Helo, Mail, Pipeline, Rcpt, Reply, Request, Server, config::Timeouts, handler_fn,
};
use support::{Client, accept_rcpt, server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, advance, sleep},
};

use super::{ENVELOPE, noting, session};

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Lets so many seconds pass without giving the thread away.
fn compute(n: u64) {
    let _ = pin!(advance(seconds(n))).poll(&mut Context::from_waker(Waker::noop()));
}

fn with_timeouts(server: Server, set: impl FnOnce(&mut Timeouts)) -> Server {
    server.configure(|config| config.timeouts(set))
}

/// A client may say as many commands as it likes.
fn talkative(server: Server) -> Server {
    server.configure(|config| {
        config.limits(|limits| {
            (limits.idle_commands, limits.messages) = (u32::MAX, u32::MAX);
            (limits.errors, limits.prompt_refusals) = (u32::MAX, u32::MAX);
            (limits.recipients, limits.deferred_recipients) = (u32::MAX, u32::MAX);
        })
    })
}

/// Sends all of it in one piece, and returns all that comes back.
async fn play(server: &Server, text: &str) -> String {
    let (mut client, session) = session(server, 1 << 18);
    client.write_all(text.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut received = String::new();
    client.read_to_string(&mut received).await.unwrap();
    session.await.unwrap();
    received
}

/// Begins a shutdown from within a service of that server.
#[derive(Clone, Default)]
struct Doom(Arc<OnceLock<Server>>);

impl Doom {
    fn begin(&self) {
        let handle = self.0.get().unwrap().handle();
        let shutdown = pin!(async move { handle.shutdown(seconds(600)).await });
        let _ = shutdown.poll(&mut Context::from_waker(Waker::noop()));
    }

    fn of(&self, server: Server) -> Server {
        let _ = self.0.set(server.clone());
        server
    }
}

#[tokio::test(start_paused = true)]
async fn it_takes_no_time_from_its_client() {
    let busy = Pipeline::new()
        .mail(handler_fn(async |_: Request<Mail>| compute(5)))
        .rcpt(handler_fn(async |_: Request<Rcpt>| compute(5)))
        .data(handler_fn(async |request: Request<Data>| {
            compute(5);
            request.into_body().collect().await.map(|_| Reply::OK)
        }));
    let server = with_timeouts(server(busy), |timeouts| {
        (timeouts.command, timeouts.data) = (seconds(6), seconds(6));
    });
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    for (line, reply) in [
        ("MAIL FROM:<a@b>", "250"),
        ("RCPT TO:<c@d>", "250"),
        ("DATA", "354"),
        ("Hello\r\n.", "250"),
        ("NOOP", "250"),
    ] {
        client.cmd(line, reply).await;
        sleep(seconds(5)).await;
    }
    client.cmd("QUIT", "221").await;
}

#[tokio::test(start_paused = true)]
async fn it_takes_no_time_from_the_service_of_the_next_command() {
    let busy = Pipeline::new()
        .mail(handler_fn(async |_: Request<Mail>| compute(5)))
        .rcpt(handler_fn(async |_: Request<Rcpt>| sleep(seconds(3)).await))
        .data(handler_fn(async |_: Request<Data>| {
            compute(5);
            sleep(seconds(3)).await;
            Reply::rejected("No")
        }));
    let server = with_timeouts(server(busy), |timeouts| {
        (timeouts.call, timeouts.ready) = (seconds(6), seconds(6));
        timeouts.data_start = seconds(6);
    });
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client
        .send("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")
        .await;
    for reply in ["250", "250", "554"] {
        client.expect(reply).await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_takes_no_time_from_the_delivery_of_a_message_behind_it() {
    let slow = accept_rcpt()
        .command(handler_fn(async |_: Request<Command>| {
            compute(5);
            Reply::OK
        }))
        .data(handler_fn(async |request: Request<Data>| {
            let result = request.into_body().collect().await;
            sleep(seconds(3)).await;
            result.map(|_| Reply::OK)
        }));
    let server = with_timeouts(server(slow), |timeouts| timeouts.delivery = seconds(6));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.envelope().await;
    client.send("BDAT 1\r\nx").await;
    client.expect("250").await;
    client.send("VRFY a\r\nBDAT 1 LAST\r\ny").await;
    client.expect("250").await;
    client.expect("250").await;
}

#[tokio::test(start_paused = true)]
async fn its_early_answer_takes_no_time_from_the_client() {
    let hasty = accept_rcpt().data(handler_fn(async |mut request: Request<Data>| {
        let _ = request.body_mut().chunk().await;
        tokio::select! {
            _ = request.body_mut().chunk() => {}
            () = sleep(seconds(1)) => {}
        }
        compute(5);
        Reply::rejected("No")
    }));
    let server = with_timeouts(server(hasty), |timeouts| timeouts.data = seconds(6));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.envelope().await;
    client.cmd("DATA", "354").await;
    client.send("Hello\r\n").await;
    sleep(seconds(8)).await;
    client.cmd(".", "554").await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_lingers_after_it() {
    let closing = Pipeline::new().mail(handler_fn(async |_: Request<Mail>| {
        compute(2);
        Reply::closing("Go away")
    }));
    let (server, _) = noting(closing);
    let (mut client, session) = session(&server, 1 << 16);
    client
        .write_all(b"EHLO c\r\nMAIL FROM:<a@b>\r\nNOOP\r\n")
        .await
        .unwrap();
    let mut received = String::new();
    client.read_to_string(&mut received).await.unwrap();
    assert!(received.contains("421"), "{received}");
    let begun = Instant::now();
    session.await.unwrap();
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn it_takes_no_time_from_the_clean_up_of_another() {
    let [cleaned, greetings] = std::array::from_fn(|_| Arc::new(AtomicUsize::new(0)));
    let also = cleaned.clone();
    let helo = handler_fn(move |_: Request<Helo>| {
        if greetings.fetch_add(1, Ordering::SeqCst) > 0 {
            compute(11);
        }
        async { Reply::OK }
    });
    let data = handler_fn(move |request: Request<Data>| {
        let cleaned = also.clone();
        async move {
            let result = request.into_body().collect().await;
            sleep(seconds(3)).await;
            cleaned.fetch_add(1, Ordering::SeqCst);
            result.map(|_| Reply::OK)
        }
    });
    let (server, _) = noting(accept_rcpt().helo(helo).data(data));
    let (mut client, _session) = session(&server, 1 << 16);
    let chunk = format!("{ENVELOPE}BDAT 1\r\nx");
    client.write_all(chunk.as_bytes()).await.unwrap();
    sleep(seconds(1)).await;
    client.write_all(b"EHLO c\r\n").await.unwrap();
    sleep(seconds(20)).await;
    assert_eq!(cleaned.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_all_the_commands_that_a_client_has_sent_ahead() {
    let (calls, doom) = (Arc::new(AtomicUsize::new(0)), Doom::default());
    let (also, dooming) = (calls.clone(), doom.clone());
    let mail = handler_fn(move |_: Request<Mail>| {
        if also.fetch_add(1, Ordering::SeqCst) == 0 {
            dooming.begin();
        }
        compute(1);
        async {}
    });
    let server = doom.of(talkative(noting(Pipeline::new().mail(mail)).0));
    let commands = "MAIL FROM:<a@b>\r\nRSET\r\n".repeat(500);
    let received = play(&server, &format!("EHLO c\r\n{commands}")).await;
    assert!(received.contains("421 4.3.2"), "it was not told");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_all_the_messages_that_a_client_has_sent_ahead() {
    let (stored, doom) = (Arc::new(AtomicUsize::new(0)), Doom::default());
    let (also, dooming) = (stored.clone(), doom.clone());
    let data = handler_fn(move |request: Request<Data>| {
        let (stored, doom) = (also.clone(), dooming.clone());
        async move {
            let result = request.into_body().collect().await;
            if stored.fetch_add(1, Ordering::SeqCst) == 0 {
                doom.begin();
            }
            compute(1);
            result.map(|_| Reply::OK)
        }
    });
    let server = doom.of(noting(accept_rcpt().data(data)).0);
    let messages = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 5 LAST\r\nhello".repeat(90);
    let received = play(&server, &format!("EHLO c\r\n{messages}")).await;
    assert!(received.contains("421 4.3.2"), "it was not told");
    assert_eq!(stored.load(Ordering::SeqCst), 1);
}

/// On two threads, so that the shutdown and the session run at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_shutdown_ends_a_session_that_never_waits() {
    const COMMANDS: usize = 3000;
    let calls = Arc::new(AtomicUsize::new(0));
    let also = calls.clone();
    let rcpt = handler_fn(move |_: Request<Rcpt>| {
        also.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
        async { Reply::busy() }
    });
    let server = talkative(noting(Pipeline::new().rcpt(rcpt)).0);
    let (mut client, session) = session(&server, 1 << 18);
    let commands = "RCPT TO:<c@d>\r\n".repeat(COMMANDS);
    let text = format!("EHLO c\r\nMAIL FROM:<a@b>\r\n{commands}");
    client.write_all(text.as_bytes()).await.unwrap();
    while calls.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    server.handle().shutdown(Duration::ZERO).await;
    session.await.unwrap();
    assert!(calls.load(Ordering::SeqCst) < COMMANDS);
}

async fn take(request: Request<Data>) -> Result<Reply, smtpd_tower::BodyError> {
    request.into_body().collect().await.map(|_| Reply::OK)
}

/// How many lines went either way between two turns of another task, at most.
async fn longest_turn(text: String) -> usize {
    let [served, longest] = std::array::from_fn(|_| Arc::new(AtomicUsize::new(0)));
    let (also, most) = (served.clone(), longest.clone());
    let server = talkative(noting(accept_rcpt().data(handler_fn(take))).0).on_wire(move |_, _| {
        let now = also.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(now, Ordering::SeqCst);
    });
    // It is woken at once, as by a socket, and not behind all others, as by yield_now.
    let other = tokio::spawn(poll_fn::<(), _>(move |cx| {
        served.store(0, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::Pending
    }));
    play(&server, &text).await;
    other.abort();
    longest.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_sent_thousands_of_commands_ahead_leaves_other_tasks_their_turns() {
    for (start, command) in [
        ("", "VRFY a\r\n"),
        ("EHLO c\r\nMAIL FROM:<a@b>\r\n", "RCPT TO:<c@d>\r\n"),
        ("EHLO c\r\n", "MAIL FROM:<a@b>\r\nRSET\r\n"),
        (ENVELOPE, "BDAT 1\r\nx"),
    ] {
        let text = format!("{start}{}", command.repeat(3000));
        let lines = longest_turn(text).await;
        assert!(lines <= 600, "{lines} lines in one turn of {command:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_session_s_time_is_not_exceeded_by_more_than_a_few() {
    let mail = handler_fn(async |_: Request<Mail>| compute(1));
    let server = talkative(noting(Pipeline::new().mail(mail)).0);
    let server = with_timeouts(server, |timeouts| timeouts.session = seconds(3));
    let begun = Instant::now();
    let commands = "MAIL FROM:<a@b>\r\nRSET\r\n".repeat(500);
    let received = play(&server, &format!("EHLO c\r\n{commands}")).await;
    assert!(received.contains("421 4.4.2"), "it was not told");
    assert!(begun.elapsed() < seconds(20), "{:?}", begun.elapsed());
}
