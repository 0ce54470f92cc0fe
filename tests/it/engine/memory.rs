//! The bytes of messages that all sessions hold together, and what one holds of commands and replies.

use std::{
    future::pending,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use smtpd_tower::{
    Body, Data, Pipeline, Reply, Request, Server, deliver::Inbox, guard::Guard, handler_fn,
    layer::SpoolLayer, memory::MemoryBudget, net::PeerAddr,
};
use support::{Client, accept_rcpt, server, settle};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::Semaphore,
    time::sleep,
};
use tower::ServiceBuilder;

use super::{ENVELOPE, collecting};

const KIB: u64 = 1 << 10;

fn budgeted(pipeline: Pipeline, limit: u64) -> (Server, MemoryBudget) {
    let memory = MemoryBudget::new(limit);
    (server(pipeline).memory_budget(memory.clone()), memory)
}

/// Returns a pipeline that keeps each message until there is a permit.
fn keeping(permits: &Arc<Semaphore>) -> Pipeline {
    let permits = permits.clone();
    accept_rcpt().data(handler_fn(move |request: Request<Data>| {
        let permits = permits.clone();
        async move {
            let kept = request.into_body().collect().await?;
            permits.acquire().await.unwrap().forget();
            drop(kept);
            Ok::<_, smtpd_tower::BodyError>(Reply::OK)
        }
    }))
}

/// Sends a message of `bytes` bytes, whose reply does not come.
async fn send(server: &Server, bytes: usize) -> Client {
    let mut client = Client::greeted(server).await;
    client.begin().await;
    client.send("x".repeat(bytes - 2) + "\r\n.\r\n").await;
    settle().await;
    client
}

#[tokio::test(start_paused = true)]
async fn messages_fill_the_memory_of_the_machine() {
    let permits = Arc::new(Semaphore::new(0));
    let (server, memory) = budgeted(keeping(&permits), 400 * KIB);
    let mut kept = Vec::new();
    let mut waiting = Client::greeted(&server).await;
    waiting.cmd("EHLO c", "250").await;
    waiting.envelope().await;
    for number in 1..=4 {
        kept.push(send(&server, 75 * KIB as usize).await);
        assert_eq!(memory.used(), number * 75 * KIB);
    }
    // Three quarters: deferred at MAIL and at DATA, and nothing of the message is read.
    waiting.cmd("DATA", "452 4.3.1").await;
    waiting.cmd("MAIL FROM:<a@b>", "452 4.3.1").await;
    assert_eq!((memory.deferred(), memory.refused()), (2, 0));
    // It is a matter of the moment.
    permits.add_permits(4);
    for client in &mut kept {
        client.expect("250").await;
    }
    assert_eq!(memory.used(), 0);
    waiting.envelope().await;
    waiting.send("BDAT 4 LAST\r\nHi\r\n").await;
    permits.add_permits(1);
    waiting.expect("250").await;
    assert_eq!(memory.used(), 0);
    assert!(memory.peak() >= 300 * KIB);
}

#[tokio::test(start_paused = true)]
async fn a_first_chunk_is_deferred_and_its_bytes_are_read_as_commands() {
    let (server, memory) = budgeted(collecting(), 100);
    let held = memory.reserve(80).unwrap();
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("MAIL FROM:<a@b>", "452 4.3.1").await;
    drop(held);
    client.cmd("MAIL FROM:<a@b>", "250").await;
    client.cmd("RCPT TO:<c@d>", "250").await;
    let held = memory.reserve(80).unwrap();
    client.send("BDAT 6\r\nQUIT\r\nNOOP\r\n").await;
    client.expect("452 4.3.1").await;
    client.expect("250").await;
    drop(held);
    client.cmd("RSET", "250").await;
    client.cmd("MAIL FROM:<a@b>", "250").await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_fit_is_gathered_all_the_same() {
    for inbox in [false, true] {
        let pipeline = match inbox {
            true => accept_rcpt().data(Inbox::new()),
            false => collecting(),
        };
        let (server, memory) = budgeted(pipeline, 100 * KIB);
        let mut client = send(&server, 200 * KIB as usize).await;
        client.expect("452 4.3.1").await;
        drop(client);
        settle().await;
        assert_eq!(memory.used(), 0, "{inbox}");
        assert!(memory.peak() < 200 * KIB, "{memory:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn clients_are_greeted_although_there_is_no_memory_for_their_mail() {
    let (server, memory) = budgeted(collecting(), 100);
    let held = memory.reserve(88).unwrap();
    let mut client = Client::connect(&server);
    client.expect("421 4.3.2 ").await;
    client.expect_close().await;
    assert_eq!(memory.refused(), 1);
    drop(held);
    Client::greeted(&server).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_spooled_goes_to_a_file_when_memory_is_short() {
    let permits = Arc::new(Semaphore::new(0));
    let spool = SpoolLayer::new(1 << 20);
    let pipeline = keeping_spooled(&permits, spool);
    let (server, memory) = budgeted(pipeline, 100 * KIB);
    let mut in_memory = send(&server, 50 * KIB as usize).await;
    assert_eq!((memory.in_files(), memory.used() / KIB), (0, 50));
    let mut in_file = send(&server, 90 * KIB as usize).await;
    while memory.in_files() < 90 * KIB {
        settle().await;
        sleep(Duration::from_millis(1)).await;
    }
    permits.add_permits(2);
    in_memory.expect("250").await;
    in_file.expect("250").await;
    drop((in_memory, in_file));
    while memory.in_files() > 0 {
        settle().await;
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(memory.used(), 0);
}

fn keeping_spooled(permits: &Arc<Semaphore>, spool: SpoolLayer) -> Pipeline {
    let permits = permits.clone();
    let data =
        ServiceBuilder::new()
            .layer(spool)
            .service(handler_fn(move |request: Request<Data>| {
                let permits = permits.clone();
                async move {
                    let kept = request.into_body();
                    permits.acquire().await.unwrap().forget();
                    kept.discard().await
                }
            }));
    accept_rcpt().data(data)
}

/// What a service does with its message, at the different points at which a session can end.
async fn stuck(request: Request<Data>, at: usize) -> Reply {
    let mut body = request.into_body();
    match at {
        0 => pending().await,
        1 => {
            let first = body.chunk().await;
            pending::<()>().await;
            drop(first);
        }
        2 => {
            let (head, body) = body.head(1 << 20).await.unwrap();
            pending::<()>().await;
            drop((head, body));
        }
        3 => drop(body.collect().await),
        4 => {
            let kept = body.collect().await;
            pending::<()>().await;
            drop(kept);
        }
        5 => {
            let kept = body.spool(1 << 20).await;
            pending::<()>().await;
            drop(kept);
        }
        6 => {
            let _kept = body.collect().await;
            panic!("on purpose");
        }
        _ => {
            let body: Body = body.inspect(|_| {}).prepend_header("A: 1\r\n");
            let _kept = body.collect().await;
            pending().await
        }
    }
    Reply::OK
}

/// The session's future is dropped after each number of bytes that the client has sent, and before and after each await.
#[tokio::test(start_paused = true)]
async fn a_session_that_is_dropped_keeps_its_memory() {
    let head = "A: 1\r\n".repeat(20);
    let dialog = format!(
        "{ENVELOPE}DATA\r\n{head}\r\n{}\r\n.\r\n",
        "x".repeat(100_000)
    );
    let body = dialog.find("A: 1").unwrap();
    let cuts = [
        body,
        body + 1,
        body + 125,
        body + 70_000,
        dialog.len() - 3,
        dialog.len(),
    ];
    for at in 0..8 {
        for cut in cuts {
            let ready = Arc::new(Semaphore::new(0));
            let also = ready.clone();
            let data = handler_fn(move |request: Request<Data>| {
                let ready = also.clone();
                async move {
                    match ready.try_acquire() {
                        Ok(_) => drop(request.into_body().collect().await?),
                        Err(_) => return Ok(stuck(request, at).await),
                    }
                    Ok::<_, smtpd_tower::BodyError>(Reply::OK)
                }
            });
            let (server, memory) = budgeted(accept_rcpt().data(data), 1 << 20);
            let (mut client, far) = tokio::io::duplex(1 << 20);
            let session = tokio::spawn(server.serve_connection(far, PeerAddr::from(COUNTED)));
            for piece in dialog.as_bytes()[..cut].chunks(30_000) {
                client.write_all(piece).await.unwrap();
                settle().await;
            }
            session.abort();
            let _ = session.await;
            assert_eq!(memory.used(), 0, "service {at}, {cut} bytes");
            assert_eq!(
                memory.peak() > 0,
                cut > body && at > 0,
                "service {at}, {cut} bytes"
            );
            // More than the share of a client, for which the message has to be its only one.
            ready.add_permits(1);
            let mut next = Client::from_peer(&server, COUNTED);
            next.expect("220").await;
            next.begin().await;
            next.send("x".repeat(300 << 10) + "\r\n.\r\n").await;
            next.expect("250").await;
            assert_eq!(memory.used(), 0, "service {at}, {cut} bytes");
        }
    }
}

/// A client that the guard counts, and another one.
const COUNTED: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);
const OTHER: ([u8; 4], u16) = ([192, 0, 2, 2], 4711);

/// Each of its sessions sends a part of a message now and then, fast enough to be waited for.
#[tokio::test(start_paused = true)]
async fn one_client_that_drips_messages_leaves_no_memory_for_others() {
    let line = "x".repeat(1022) + "\r\n";
    let (server, memory) = budgeted(collecting(), 4 << 20);
    let mut dripping = Vec::new();
    for _ in 0..50 {
        let mut client = Client::from_peer(&server, COUNTED);
        client.expect("220").await;
        client.begin().await;
        dripping.push(client);
    }
    let mut honest = Client::from_peer(&server, OTHER);
    honest.expect("220").await;
    honest.cmd("EHLO c", "250").await;
    for round in 1..=30 {
        for client in &mut dripping {
            client.send(line.repeat(20)).await;
        }
        settle().await;
        sleep(Duration::from_secs(20)).await;
        // What was read and not yet handed to a service is not refused: a chunk for each session.
        assert!(memory.used() < 4 << 18, "round {round}: {memory:?}");
        let before = memory.used();
        honest.envelope().await;
        honest.cmd("DATA", "354").await;
        honest.send(line.repeat(500) + ".\r\n").await;
        honest.expect("250").await;
        assert_eq!(memory.used(), before, "round {round}");
    }
    assert_eq!(memory.refused(), 0);
    assert!(memory.deferred() > 0);
    for mut client in dripping {
        client.take_session().abort();
        settle().await;
    }
    assert_eq!(memory.used(), 0);
    // More than its share, for which its message has to be the only one.
    let mut client = Client::from_peer(&server, COUNTED);
    client.expect("220").await;
    client.begin().await;
    client.send(line.repeat(1020) + ".\r\n").await;
    client.expect("250").await;
    assert!(memory.peak() < 4 << 19, "{memory:?}");
}

/// Those that the guard does not count have no share: a proxy that names no client, this machine, everybody if it is off.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_counted_has_a_share() {
    let permits = Arc::new(Semaphore::new(0));
    for is_on in [true, false] {
        let (server, memory) = budgeted(keeping(&permits), 1000 * KIB);
        let server = match is_on {
            true => server,
            false => server.guard(Guard::off()),
        };
        let peer = match is_on {
            true => ([127, 0, 0, 1], 4711),
            false => COUNTED,
        };
        let mut kept = Vec::new();
        for _ in 0..7 {
            let mut client = Client::from_peer(&server, peer);
            client.expect("220").await;
            client.begin().await;
            client.send("x".repeat(100 << 10) + "\r\n.\r\n").await;
            settle().await;
            kept.push(client);
        }
        assert!(memory.used() >= 700 * KIB);
        permits.add_permits(7);
        for client in &mut kept {
            client.expect("250").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_messages_of_a_client_are_deferred_before_they_are_sent_when_it_has_its_share() {
    let permits = Arc::new(Semaphore::new(0));
    let (server, memory) = budgeted(keeping(&permits), 1000 * KIB);
    let mut kept = Vec::new();
    for _ in 0..16 {
        let mut client = Client::from_peer(&server, COUNTED);
        client.expect("220").await;
        client.begin().await;
        client.send("x".repeat(10 << 10) + "\r\n.\r\n").await;
        settle().await;
        kept.push(client);
    }
    let mut next = Client::from_peer(&server, COUNTED);
    next.expect("220").await;
    next.cmd("EHLO c", "250").await;
    next.envelope().await;
    let reply = next.cmd("DATA", "452 4.3.1").await;
    assert!(reply.contains("your messages"), "{reply}");
    assert_eq!(memory.deferred(), 1);
    permits.add_permits(17);
    for client in &mut kept {
        client.expect("250").await;
    }
    next.envelope().await;
    next.cmd("DATA", "354").await;
    next.send("Hello\r\n.\r\n").await;
    next.expect("250").await;
}

/// A client that sends the same command without end, and reads only so many bytes of the replies.
struct Deaf {
    command: &'static [u8],
    sent: Arc<AtomicUsize>,
    reads: usize,
}

impl AsyncRead for Deaf {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let sent = self.sent.fetch_add(buf.remaining(), Relaxed);
        let mut rest = self.command.iter().cycle().skip(sent % self.command.len());
        while buf.remaining() > 0 {
            buf.put_slice(&[*rest.next().unwrap()]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let read = self.reads.min(bytes.len());
        if read == 0 {
            return Poll::Pending;
        }
        self.reads -= read;
        Poll::Ready(Ok(read))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_no_replies_fills_the_memory_with_commands() {
    const REPLY: usize = "250 2.0.0 OK\r\n".len();
    for reads in [0, 1, 10_000, 1_000_000] {
        let server = server(Pipeline::new())
            .configure(|config| config.limits(|limits| limits.idle_commands = u32::MAX));
        let sent = Arc::new(AtomicUsize::new(0));
        let client = Deaf {
            command: b"NOOP\r\n",
            sent: sent.clone(),
            reads,
        };
        let session = tokio::spawn(server.serve_connection(client, PeerAddr::from(COUNTED)));
        sleep(Duration::from_secs(1)).await;
        // 16 KiB of replies wait, and no more commands were read than what was there at once.
        let answered = (reads + (16 << 10)) / REPLY + 1;
        let kept = sent
            .load(Relaxed)
            .saturating_sub(answered * b"NOOP\r\n".len());
        assert!(kept <= 16 << 10, "{reads} bytes were read, {kept} are kept");
        session.abort();
    }
}
