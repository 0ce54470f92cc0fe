//! What is left when the reference server is killed: every message that was acknowledged, and no half of another.

#[path = "support/reference.rs"]
mod reference;
mod support;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use reference::Reference;
use support::Client;
use tokio::{net::TcpStream, task::JoinSet};

const MESSAGES: u32 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_in_the_middle_of_a_thousand_deliveries_loses_nothing_acknowledged() {
    let mut server = Reference::start(1, &["--listen", "127.0.0.1:0"]);
    let address = server.address("smtp");
    let (next, acknowledged) = (
        Arc::new(AtomicU32::new(0)),
        Arc::new(Mutex::new(HashSet::new())),
    );
    let mut senders = JoinSet::new();
    for _ in 0..16 {
        senders.spawn(send_until_killed(
            address,
            next.clone(),
            acknowledged.clone(),
        ));
    }
    while acknowledged.lock().unwrap().len() < MESSAGES as usize / 3 {
        assert!(!senders.is_empty(), "the server was there");
        tokio::task::yield_now().await;
    }
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    while senders.join_next().await.is_some() {}

    let mut delivered = HashSet::new();
    for content in server.delivered() {
        let text = String::from_utf8(content).unwrap();
        let number: u32 = text
            .rsplit_once("X-Number: ")
            .and_then(|(_, n)| n.split_once("\r\n"))
            .unwrap()
            .0
            .parse()
            .unwrap();
        assert!(
            text.ends_with(&message(number)),
            "message {number} is not whole: {} octets",
            text.len()
        );
        assert!(
            delivered.insert(number),
            "message {number} was delivered twice"
        );
    }
    let acknowledged = acknowledged.lock().unwrap();
    let lost: Vec<_> = acknowledged.difference(&delivered).collect();
    assert!(lost.is_empty(), "acknowledged, yet lost: {lost:?}");
    assert!(
        acknowledged.len() < MESSAGES as usize,
        "it was killed before the end"
    );
}

async fn send_until_killed(
    address: SocketAddr,
    next: Arc<AtomicU32>,
    acknowledged: Arc<Mutex<HashSet<u32>>>,
) {
    let mut client = Client::over(TcpStream::connect(address).await.unwrap());
    client.expect("220").await;
    client.cmd("EHLO client.example", "250").await;
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        let group = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n";
        if number >= MESSAGES || client.try_send(group).await.is_err() {
            return;
        }
        for _ in 0..3 {
            if client.reply().await.is_empty() {
                return;
            }
        }
        if client.try_send(message(number) + ".\r\n").await.is_err() {
            return;
        }
        match client.reply().await.as_str() {
            reply if reply.starts_with("250") => {
                assert!(acknowledged.lock().unwrap().insert(number))
            }
            _ => return,
        }
    }
}

fn message(number: u32) -> String {
    format!(
        "Subject: crash\r\nX-Number: {number}\r\n\r\n{}",
        format!("line of message {number}\r\n").repeat(200)
    )
}
