//! What clients are limited to, and what unwelcome ones meet.

use std::{
    fs,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{Client, Reference, codes, codes_of, listeners::only_message, message, said, start};

/// A server for clients elsewhere, whose addresses a proxy on this machine tells.
pub(super) fn start_behind_proxy(options: &[&str]) -> Reference {
    let proxy = ["--proxy-from=127.0.0.1", "--domain=example.org"];
    start(&[&proxy, options].concat())
}

/// The replies to a client with that address, from that to its HELO on.
pub(super) async fn codes_from(server: &Reference, client: &str, text: &str) -> Vec<String> {
    let text = format!("PROXY TCP4 {client} 127.0.0.1 1 2\r\nHELO c\r\n{text}QUIT\r\n");
    let said = said(server, "smtp", &text).await;
    codes(&said)[1..]
        .iter()
        .map(|&code| code.to_owned())
        .collect()
}

pub(super) const A: &str = "192.0.2.1";
pub(super) const B: &str = "198.51.100.1";
pub(super) const MAIL: &str = "MAIL FROM:<a@example.com>\r\n";
const RCPT: &str = "RCPT TO:<b@example.org>\r\n";

pub(super) async fn message_rate() {
    let server = start(&["--rate=100/1h", "--message-rate=1/1h"]);
    let text = format!("HELO c\r\n{MAIL}RSET\r\n{MAIL}QUIT\r\n");
    let replies = codes_of(&server, &text).await;
    assert_eq!(replies, ["220", "250", "250", "250", "451", "221"]);
    assert_eq!(codes_of(&server, "QUIT\r\n").await, ["220", "221"]);
}

/// Over all messages of a client.
pub(super) async fn recipient_rate() {
    let server = start_behind_proxy(&["--recipient-rate=3/1h"]);
    let two = format!("{MAIL}{RCPT}{RCPT}");
    let replies = codes_from(&server, A, &two).await;
    assert_eq!(replies, ["250", "250", "250", "250", "221"]);
    let replies = codes_from(&server, A, &two).await;
    assert_eq!(replies, ["250", "250", "250", "451", "221"]);
    let replies = codes_from(&server, B, &two).await;
    assert_eq!(replies, ["250", "250", "250", "250", "221"]);
}

pub(super) async fn max_sessions_per_client() {
    let server = start_behind_proxy(&["--max-sessions-per-client=1"]);
    let connect = async |client: &str, reply: &str| {
        let io = TcpStream::connect(server.address("smtp")).await.unwrap();
        let mut client_of = Client::over(io);
        client_of
            .send(format!("PROXY TCP4 {client} 127.0.0.1 1 2\r\n"))
            .await;
        client_of.expect(reply).await;
        client_of
    };
    let first = connect(A, "220").await;
    connect(A, "421").await;
    connect(B, "220").await;
    drop(first);
    // The server has to see first that it is gone.
    while codes_from(&server, A, "").await != ["250", "221"] {}
}

pub(super) async fn tarpit() {
    let server = start_behind_proxy(&["--tarpit=200ms"]);
    let refused = format!("{MAIL}RCPT TO:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n");
    let since = Instant::now();
    let replies = codes_from(&server, A, &refused).await;
    assert_eq!(replies, ["250", "250", "550", "550", "221"]);
    assert!(
        since.elapsed() >= Duration::from_millis(600),
        "{:?}",
        since.elapsed()
    );
}

/// Tries again until the recipient is accepted, as seldom as the guard permits.
async fn retry(server: &Reference, text: &str) {
    while codes_from(server, A, text).await[2] != "250" {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub(super) async fn greylist() {
    let server = start_behind_proxy(&["--greylist=1s"]);
    let text = format!("{MAIL}{RCPT}");
    assert_eq!(
        codes_from(&server, A, &text).await,
        ["250", "250", "450", "221"]
    );
    assert_eq!(codes_from(&server, "127.0.0.1", &text).await[2], "250");
    retry(&server, &text).await;
    assert_eq!(codes_from(&server, B, &text).await[2], "450");
    // Who verifies a sender asks about the recipient, and sends no message.
    let callout = format!("MAIL FROM:<>\r\n{RCPT}");
    assert_eq!(
        codes_from(&server, B, &callout).await,
        ["250", "250", "250", "221"]
    );
    let replies = codes_from(&server, B, &format!("{callout}DATA\r\n")).await;
    assert_eq!(replies[..4], ["250", "250", "250", "450"]);
}

/// It outlasts the server. A file that is broken does not keep it from starting.
pub(super) async fn greylist_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("greylist");
    let option = format!("--greylist-file={}", file.display());
    let text = format!("{MAIL}{RCPT}");
    let first = start_behind_proxy(&["--greylist=1s", &option]);
    retry(&first, &text).await;
    super::terminate(first).await;
    assert!(file.exists());
    let second = start_behind_proxy(&["--greylist=1h", &option]);
    assert_eq!(codes_from(&second, A, &text).await[2], "250");
    assert_eq!(codes_from(&second, B, &text).await[2], "450");
    drop(second);
    fs::write(&file, "smtpd-greylist 1\n").unwrap();
    let third = start_behind_proxy(&["--greylist=1h", &option]);
    assert_eq!(codes_from(&third, A, &text).await[2], "450");
}

/// The name is in /etc/hosts everywhere.
pub(super) async fn reverse_dns() {
    for (option, is_named) in [("--reverse-dns=false", false), ("--reverse-dns", true)] {
        let server = start(&[option]);
        said(&server, "smtp", &message("x\r\n")).await;
        let stored = only_message(&server);
        let (from, _) = stored.split_once("\tby ").unwrap();
        assert_eq!(from.contains("(localhost"), is_named, "{stored}");
    }
}

/// From all that others meet here.
pub(super) async fn exempt() {
    let server = start_behind_proxy(&[
        "--exempt=192.0.2.0/24",
        "--greylist=1h",
        "--tarpit=1h",
        "--rate=1/1h",
        "--recipient-rate=1/1h",
        "--max-sessions-per-client=1",
    ]);
    let text = format!("{MAIL}{RCPT}RCPT TO:<a@x.test>\r\nRSET\r\n{MAIL}{RCPT}");
    for _ in 0..2 {
        let replies = codes_from(&server, A, &text).await;
        assert_eq!(
            replies,
            ["250", "250", "250", "550", "250", "250", "250", "221"]
        );
    }
    let replies = codes_from(&server, B, &format!("{MAIL}{RCPT}")).await;
    assert_eq!(replies, ["250", "250", "450", "221"]);
}
