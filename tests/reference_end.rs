//! The reference server as a process: its end, whatever hangs.

#[path = "support/pki.rs"]
mod pki;
#[path = "support/reference.rs"]
mod reference;
mod support;

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use pki::Authority;
use reference::Reference;
use support::Client;
use tokio::{
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};

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

/// A server that listens there and on a port of its own.
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
