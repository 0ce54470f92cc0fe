//! The gateway: its own domains, strangers, clients in haste.

#[path = "../../../examples/gateway.rs"]
#[allow(dead_code, reason = "`main` is not called here")]
mod example;

use std::time::Duration;

use smtpd_tower::test::Client;

use super::{Example, send};

#[tokio::test]
async fn by_its_command_line() {
    let example = Example::start("gateway", &["mail", "example.org"]);
    let mut client = example.client().await;
    client.cmd("MAIL FROM:<a@example.com>", "250").await;
    client.cmd("RCPT TO:<b@example.com>", "550 5.7.1").await;
    client.cmd("RSET", "250").await;
    send(&mut client, "Subject: hi\r\n\r\nHello", "250").await;
    let mut new = std::fs::read_dir(example.dir.path().join("mail/new")).unwrap();
    let stored = std::fs::read_to_string(new.next().unwrap().unwrap().path()).unwrap();
    assert!(stored.contains("\r\nReceived: from client.example") && stored.ends_with("Hello\r\n"));
}

#[tokio::test(start_paused = true)]
async fn strangers_are_put_off_and_clients_in_haste_slowed() {
    let dir = tempfile::tempdir().unwrap();
    let server = example::server(&dir.path().join("mail"), &["example.org".to_owned()]).unwrap();
    let mut client = Client::from_peer(&server, ([192, 0, 2, 1], 4711));
    let mut codes = Vec::new();
    client.greeting().await.unwrap();
    client.ehlo("client.example").await.unwrap();
    client.mail("a@example.com").await.unwrap();
    for _ in 0..101 {
        codes.push(client.rcpt("b@example.org").await.unwrap().to_string());
    }
    assert!(
        codes[..100]
            .iter()
            .all(|code| code.starts_with("450 4.7.1 Greylisted"))
    );
    assert!(codes[100].starts_with("451 4.7.1"), "{}", codes[100]);
    tokio::time::advance(Duration::from_secs(90)).await;
    client
        .rcpt("b@example.org")
        .await
        .unwrap()
        .expect_code(250)
        .unwrap();
    client
        .data("Hello\r\n")
        .await
        .unwrap()
        .expect_code(250)
        .unwrap();
}
