//! The reference server as a process: its end, whatever hangs.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use support::{Client, pki::Authority};
use tokio::{
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};

use crate::reference::Reference;

fn make_fifo(path: &Path) {
    std::fs::remove_file(path).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Whether that process has a thread in a call of the kernel that opens a FIFO and waits for its other end.
fn is_opening_a_fifo(server: &Reference) -> bool {
    let tasks = format!("/proc/{}/task", server.process.id());
    std::fs::read_dir(tasks).unwrap().any(|task| {
        let mut call = String::new();
        let path = task.unwrap().path().join("wchan");
        let file = std::fs::File::open(path);
        file.is_ok_and(|mut file| file.read_to_string(&mut call).is_ok())
            && (call.contains("fifo") || call.contains("wait_for_partner"))
    })
}

/// As a disk that hangs does.
#[tokio::test]
async fn a_file_that_cannot_be_opened_does_not_keep_it_from_ending() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (cert, key) = authority.issue(&["mx.test"]).write(dir.path());
    let mut server = Reference::start(
        1,
        &[
            "--listen-tls=127.0.0.1:0",
            &format!("--tls-cert={}", cert.display()),
            &format!("--tls-key={}", key.display()),
        ],
    );
    make_fifo(&cert);
    server.signal("HUP");
    // Where the kernel does not say what a thread waits for, it is given a moment.
    let _ = timeout(Duration::from_secs(1), async {
        while !is_opening_a_fifo(&server) {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    server.signal("TERM");
    assert!(server.ended().await.success());
}

/// A server that listens there and on another port.
fn start_at(socket: &Path) -> (Reference, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let lmtp = format!("--listen-lmtp=unix:{}", socket.display());
    let options = ["--log-level", "error", "--listen=127.0.0.1:0", &lmtp];
    let mut process = Reference::command(&dir, &options)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut addresses =
        lines.map_while(|line| line.unwrap().strip_prefix("listening smtp ")?.parse().ok());
    let address = addresses.next().expect("a port");
    (Reference::of(process, dir), address)
}

async fn said_by_lmtp(socket: &Path, command: &str, reply: &str) {
    let stream = UnixStream::connect(socket).await.expect("somebody listens");
    let mut client = Client::over(stream);
    client.expect("220").await;
    client.cmd(command, reply).await;
}

#[tokio::test]
async fn the_socket_of_its_successor_stays() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("lmtp");
    let (mut old, address) = start_at(&socket);
    said_by_lmtp(&socket, "QUIT", "221").await;
    let mut client = Client::over(TcpStream::connect(address).await.unwrap());
    client.expect("220").await;
    client.cmd("HELO c", "250").await;
    client.cmd("MAIL FROM:<a@b>", "250").await;
    old.signal("TERM");
    // It does not listen any more, but waits for its client.
    while UnixStream::connect(&socket).await.is_ok() {
        sleep(Duration::from_millis(20)).await;
    }
    let (mut new, _) = start_at(&socket);
    said_by_lmtp(&socket, "QUIT", "221").await;
    drop(client);
    assert!(old.ended().await.success());
    said_by_lmtp(&socket, "QUIT", "221").await;
    new.signal("TERM");
    assert!(new.ended().await.success());
    assert!(!socket.exists(), "its own is left behind");
}

async fn connect(server: &Reference) -> Client<TcpStream> {
    let mut client = Client::over(TcpStream::connect(server.address("smtp")).await.unwrap());
    client.expect("220").await;
    client.cmd("EHLO c", "250").await;
    client
}

/// A server that is shutting down, with a client in the middle of a message.
async fn told_to_end_within_a_message() -> (Reference, Client<TcpStream>) {
    let server = Reference::start(1, &["--listen=127.0.0.1:0"]);
    let mut idle = connect(&server).await;
    let mut sending = connect(&server).await;
    sending.envelope().await;
    sending.cmd("DATA", "354").await;
    sending.send("Subject: end\r\n\r\nfirst\r\n").await;
    server.signal("TERM");
    idle.expect("421").await;
    idle.expect_close().await;
    (server, sending)
}

#[tokio::test]
async fn a_message_that_is_being_sent_at_sigterm_may_be_ended() {
    let (mut server, mut sending) = told_to_end_within_a_message().await;
    sending.send("second\r\n.\r\n").await;
    sending.expect("250").await;
    sending.expect("421").await;
    sending.expect_close().await;
    assert!(server.ended().await.success());
    let delivered = server.delivered();
    assert_eq!(delivered.len(), 1);
    assert!(delivered[0].ends_with(b"\r\n\r\nfirst\r\nsecond\r\n"));
}

#[tokio::test]
async fn nobody_is_greeted_after_sigterm() {
    let (server, _sending) = told_to_end_within_a_message().await;
    // The listener may be closed a moment after that: who is in its queue is reset.
    if let Ok(io) = TcpStream::connect(server.address("smtp")).await {
        let heard = Client::over(io).try_reply().await.unwrap_or_default();
        assert!(!heard.starts_with("220"), "{heard}");
    }
}

/// Without it, a client could hold the server up for 30 seconds.
#[tokio::test]
async fn the_second_signal_ends_what_is_left() {
    for second in ["TERM", "INT"] {
        let (mut server, mut sending) = told_to_end_within_a_message().await;
        server.signal(second);
        let end = async {
            sending.expect("421").await;
            sending.expect_close().await;
            server.ended().await
        };
        let at_once = timeout(Duration::from_secs(20), end).await;
        assert!(at_once.expect("it does not wait").success(), "{second}");
        assert!(server.delivered().is_empty(), "{second}");
    }
}

/// Closing a socket with unread input resets the connection, and the client may not see the last reply. How long the server
/// lingers is tested with a clock that is paused, in tests/it/engine/limits.rs of the root package.
#[tokio::test]
async fn a_client_that_still_sends_sees_the_last_reply_and_an_orderly_end() {
    let server = Reference::start(1, &["--listen=127.0.0.1:0", "--max-errors=1"]);
    for _ in 0..10 {
        let mut client = connect(&server).await;
        // More than the server reads at a time, and little enough to be sent without waiting for it.
        client.send("WHAT\r\n".repeat(4_000)).await;
        client.expect("421").await;
        client.expect_close().await;
    }
}

/// The watchdog of the tests ends the process, where nothing is dropped.
#[tokio::test]
async fn a_test_that_hangs_leaves_no_server_behind() {
    let mut server = Reference::start(1, &["--listen=127.0.0.1:0"]);
    let id = server.process.id();
    assert!(support::CHILDREN.lock().unwrap().contains(&id));
    support::kill(&[id]);
    assert!(!server.ended().await.success());
    drop(server);
    assert!(!support::CHILDREN.lock().unwrap().contains(&id));
}

#[tokio::test]
async fn a_server_that_cannot_store_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let maildir = format!("--maildir={}", file.join("mail").display());
    let output = Reference::command(&dir, &["--listen=127.0.0.1:0", &maildir]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("smtpd: ") && said.ends_with('\n'),
        "{said}"
    );
}
