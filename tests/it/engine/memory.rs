//! The bytes of messages that all sessions hold together.

use std::{future::pending, sync::Arc};

use smtpd_tower::{
    Body, Data, Pipeline, Reply, Request, Server, deliver::Inbox, handler_fn, layer::SpoolLayer,
    memory::MemoryBudget,
};
use support::{Client, accept_rcpt, server, settle};
use tokio::{io::AsyncWriteExt, sync::Semaphore};
use tower::ServiceBuilder;

use super::{ENVELOPE, collecting, session};

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
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    permits.add_permits(2);
    in_memory.expect("250").await;
    in_file.expect("250").await;
    drop((in_memory, in_file));
    while memory.in_files() > 0 {
        settle().await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
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
            let data = handler_fn(move |request: Request<Data>| stuck(request, at));
            let (server, memory) = budgeted(accept_rcpt().data(data), 1 << 20);
            let (mut client, session) = session(&server, 1 << 20);
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
        }
    }
}
