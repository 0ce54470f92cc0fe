//! What each client may do over all of its sessions. Those of this machine are not counted, so the clients are elsewhere.

use tokio::net::TcpStream;

use super::{
    Client, Reference,
    clients::{A, B, MAIL, codes_from, start_behind_proxy},
    codes_of, start,
};

/// Connects as a client with that address, and reads the first reply.
async fn connect(server: &Reference, client: &str, reply: &str) -> Client<TcpStream> {
    let io = TcpStream::connect(server.address("smtp")).await.unwrap();
    let mut of_client = Client::over(io);
    of_client
        .send(format!("PROXY TCP4 {client} 127.0.0.1 1 2\r\n"))
        .await;
    of_client.expect(reply).await;
    of_client
}

/// Begins a TLS handshake, or is refused it, and keeps the connection.
async fn start_tls(server: &Reference, client: &str, reply: &str) -> Client<TcpStream> {
    let mut of_client = connect(server, client, "220").await;
    of_client.cmd("EHLO c", "250").await;
    of_client.cmd("STARTTLS", reply).await;
    of_client
}

pub(super) async fn guard_exempt() {
    let limit = "--guard-new-sessions=1/1h";
    let server = start(&[limit]);
    for _ in 0..3 {
        assert_eq!(codes_of(&server, "QUIT\r\n").await, ["220", "221"]);
    }
    let server = start(&[limit, "--guard-exempt=none"]);
    assert_eq!(codes_of(&server, "QUIT\r\n").await, ["220", "221"]);
    assert_eq!(codes_of(&server, "QUIT\r\n").await, ["421"]);
    let server = start_behind_proxy(&[limit, "--guard-exempt=192.0.2.0/24"]);
    connect(&server, A, "220").await;
    connect(&server, A, "220").await;
    connect(&server, B, "220").await;
    connect(&server, B, "421").await;
}

pub(super) async fn guard_sessions() {
    let server = start_behind_proxy(&["--guard-sessions=1"]);
    let _first = connect(&server, A, "220").await;
    connect(&server, A, "421").await;
    connect(&server, B, "220").await;
}

pub(super) async fn guard_new_sessions() {
    let server = start_behind_proxy(&["--guard-new-sessions=2/1h"]);
    for reply in ["220", "220", "421"] {
        connect(&server, A, reply).await;
    }
    connect(&server, B, "220").await;
}

pub(super) async fn guard_handshakes() {
    let server = start_behind_proxy(&["--guard-handshakes=1", "--tls-self-signed"]);
    let _first = start_tls(&server, A, "220").await;
    start_tls(&server, A, "454").await;
    start_tls(&server, B, "220").await;
}

pub(super) async fn guard_all_handshakes() {
    let server = start_behind_proxy(&["--guard-all-handshakes=1", "--tls-self-signed"]);
    let _first = start_tls(&server, A, "220").await;
    start_tls(&server, B, "454").await;
}

/// The second one has the right password.
pub(super) async fn guard_failed_logins() {
    let server = start_behind_proxy(&[
        "--guard-failed-logins=1/1h",
        "--user=alice:secret",
        "--allow-plaintext-auth",
    ]);
    let (wrong, right) = (
        "AUTH PLAIN AGFsaWNlAHdyb25n\r\n",
        "AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n",
    );
    assert_eq!(codes_from(&server, A, wrong).await, ["250", "535", "221"]);
    assert_eq!(codes_from(&server, A, right).await, ["250", "454", "221"]);
    assert_eq!(codes_from(&server, B, right).await, ["250", "235", "221"]);
}

pub(super) async fn guard_rejected_recipients() {
    let server = start_behind_proxy(&["--guard-rejected-recipients=2/1h"]);
    let unknown = format!("{MAIL}{}", "RCPT TO:<b@x.test>\r\n".repeat(3));
    let replies = codes_from(&server, A, &unknown).await;
    assert_eq!(replies[..4], ["250", "250", "550", "550"]);
    connect(&server, A, "421").await;
    connect(&server, B, "220").await;
}

pub(super) async fn guard_errors() {
    let server = start_behind_proxy(&["--guard-errors=2/1h"]);
    let replies = codes_from(&server, A, &"FROBNICATE\r\n".repeat(3)).await;
    assert_eq!(replies[..3], ["250", "500", "500"]);
    connect(&server, A, "421").await;
    connect(&server, B, "220").await;
}

pub(super) async fn guard_idle_sessions() {
    let server = start_behind_proxy(&["--guard-idle-sessions=2/1h"]);
    for _ in 0..2 {
        assert_eq!(codes_from(&server, A, "").await, ["250", "221"]);
    }
    // A session is counted at its end, which the client may see first.
    while !codes_from(&server, A, "").await.is_empty() {}
    connect(&server, A, "421").await;
    connect(&server, B, "220").await;
}
