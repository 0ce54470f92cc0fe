//! What is left when the reference server is killed: every message that was acknowledged, and no half of another.

use std::{
    collections::HashSet,
    env,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use support::Client;
use tokio::{net::TcpStream, task::JoinSet};

use crate::reference::Reference;

const SENDERS: u32 = 16;

/// Kills a server at forty moments, or at as many as `SMTPD_KILLS` sets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_any_moment_loses_nothing_acknowledged() {
    let kills = env::var("SMTPD_KILLS").map_or(40, |kills| kills.parse().expect("a number"));
    let mut acknowledged = 0;
    for kill in 0..kills {
        // From the first connections on to some hundred messages.
        let steps = 1 + kill * 37 % 1001;
        let runtime = ["threads", "per-core"][kill as usize % 2];
        acknowledged += killed_after(steps, runtime).await;
    }
    assert!(acknowledged > kills, "it was killed amid deliveries");
}

/// Kills a server when its clients have done so much. How many messages it had acknowledged.
async fn killed_after(steps: u32, runtime: &str) -> u32 {
    let mut server = Reference::start(1, &["--listen", "127.0.0.1:0", "--runtime", runtime]);
    let address = server.address("smtp");
    let seen = Arc::<Seen>::default();
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        senders.spawn(send_until_killed(address, seen.clone()));
    }
    while seen.steps.load(Ordering::SeqCst) < steps {
        assert!(!senders.is_empty(), "the server was there");
        tokio::task::yield_now().await;
    }
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
    let acknowledged = seen.acknowledged.lock().unwrap();
    let delivered = delivered(&server);
    let lost: Vec<_> = acknowledged.difference(&delivered).collect();
    assert!(
        lost.is_empty(),
        "{runtime}, killed after {steps}: acknowledged, yet lost: {lost:?}"
    );
    acknowledged.len() as u32
}

/// What the clients have sent, and the replies of the server.
#[derive(Default)]
struct Seen {
    steps: AtomicU32,
    next: AtomicU32,
    acknowledged: Mutex<HashSet<u32>>,
}

impl Seen {
    fn step(&self) {
        self.steps.fetch_add(1, Ordering::SeqCst);
    }
}

/// The numbers of the messages that lie in the Maildir, once it is sure that all are whole and there once.
fn delivered(server: &Reference) -> HashSet<u32> {
    let mut delivered = HashSet::new();
    for content in server.delivered() {
        let text = String::from_utf8(content).unwrap();
        let number = text
            .rsplit_once("X-Number: ")
            .and_then(|(_, n)| n.split_once("\r\n"))
            .and_then(|(n, _)| n.parse().ok())
            .expect("a message has its number");
        assert!(
            text.ends_with(&message(number)),
            "message {number} is not whole: {} bytes",
            text.len()
        );
        assert!(
            delivered.insert(number),
            "message {number} was delivered twice"
        );
    }
    delivered
}

/// Sends message after message; `None` when the server is gone.
async fn send_until_killed(address: SocketAddr, seen: Arc<Seen>) -> Option<()> {
    let mut client = Client::over(TcpStream::connect(address).await.ok()?);
    said(&mut client, &seen).await?;
    client.try_send("EHLO client.example\r\n").await.ok()?;
    said(&mut client, &seen).await?;
    loop {
        let number = seen.next.fetch_add(1, Ordering::SeqCst);
        let group = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n";
        client.try_send(group).await.ok()?;
        for _ in 0..3 {
            said(&mut client, &seen).await?;
        }
        client.try_send(message(number) + ".\r\n").await.ok()?;
        seen.step();
        if said(&mut client, &seen).await?.starts_with("250") {
            assert!(seen.acknowledged.lock().unwrap().insert(number));
        }
    }
}

/// The next reply; `None` when there is none any more.
async fn said(client: &mut Client<TcpStream>, seen: &Seen) -> Option<String> {
    let reply = client.try_reply().await;
    seen.step();
    reply.ok().filter(|reply| !reply.is_empty())
}

/// A message that is delivered in one go, or a larger one.
fn message(number: u32) -> String {
    let lines = if number % 8 == 7 { 5000 } else { 200 };
    format!(
        "Subject: crash\r\nX-Number: {number}\r\n\r\n{}",
        format!("line of message {number}\r\n").repeat(lines)
    )
}
