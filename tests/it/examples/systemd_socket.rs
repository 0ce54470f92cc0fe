//! The server for systemd, whose part a shell plays here.
#![cfg(unix)]

use std::{
    fs::File,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use support::Client;
use tokio::{net::TcpStream, task::spawn_blocking};

use super::{program::example, send};

/// Starts the example with a socket as descriptor 3. `$$` is its own process.
fn start(socket: OwnedFd, for_process: &str, directory: &Path, arguments: &[&str]) -> Child {
    support::watch();
    let script = format!(
        r#"exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID={for_process}; exec "$0" "$@""#
    );
    let process = Command::new("sh")
        .args(["-c", &script])
        .arg(example("systemd_socket"))
        .args(arguments)
        .env("NOTIFY_SOCKET", directory.join("notify"))
        .current_dir(directory)
        .stdin(socket)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    support::CHILDREN.lock().unwrap().push(process.id());
    process
}

/// What the process tells systemd next.
fn notification(socket: &UnixDatagram) -> String {
    let mut text = [0; 100];
    let length = socket.recv(&mut text).expect("a notification");
    String::from_utf8(text[..length].to_vec()).unwrap()
}

#[tokio::test]
async fn a_passed_socket_is_served_until_sigterm_and_by_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let notify = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    notify
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let start = || {
        let socket = listener.try_clone().unwrap();
        start(
            socket.into(),
            "$$",
            directory.path(),
            &["mail", "example.org"],
        )
    };
    let mut process = start();
    assert_eq!(notification(&notify), "READY=1\n");

    let mut client = Client::over(TcpStream::connect(address).await.unwrap());
    client.expect("220").await;
    client.cmd("EHLO client.example", "250").await;
    client.cmd("MAIL FROM:<a@example.com>", "250").await;
    client.cmd("RCPT TO:<b@example.com>", "550 5.7.1").await;
    client.cmd("RCPT TO:<b@example.org>", "250").await;
    let pid = process.id().to_string();
    let sent = Command::new("kill").args(["-s", "TERM", &pid]).status();
    assert!(sent.unwrap().success());
    assert_eq!(notification(&notify), "STOPPING=1\n");

    // The open transaction ends with its message.
    client.cmd("DATA", "354").await;
    client.send("Subject: hi\r\n\r\nHello\r\n.\r\n").await;
    client.expect("250").await;
    client.expect("421").await;
    client.expect_close().await;
    drop(client);
    let stored = directory.path().join("mail/new").read_dir().unwrap();
    assert_eq!(stored.count(), 1);

    let mut waiting = Client::over(TcpStream::connect(address).await.unwrap());
    let status = spawn_blocking(move || process.wait()).await.unwrap();
    assert!(status.unwrap().success());
    let mut process = start();
    waiting.expect("220").await;
    waiting.cmd("EHLO client.example", "250").await;
    send(&mut waiting, "Subject: hi\r\n\r\nHello", "250").await;
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn a_process_that_cannot_serve_ends_and_never_says_that_it_is_ready() {
    let directory = tempfile::tempdir().unwrap();
    let notify = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    notify.set_nonblocking(true).unwrap();
    let tcp = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let file = File::open("/dev/null").unwrap();
    let both = ["mail", "example.org"];
    let table: [(OwnedFd, &str, &[&str], &str); 7] = [
        (tcp(), "1", &both, "no socket was passed"),
        (tcp(), "1$$", &both, "no socket was passed"),
        (file.into(), "$$", &both, "not a socket"),
        (udp.into(), "$$", &both, "not a valid tcp socket"),
        (tcp(), "$$", &[], "usage"),
        (tcp(), "$$", &["mail"], "usage"),
        (tcp(), "$$", &["mail", "exa mple"], "exa mple"),
    ];
    for (socket, for_process, arguments, error) in table {
        let process = start(socket, for_process, directory.path(), arguments);
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(error), "{error}: {said}");
        let notified = notify.recv(&mut [0; 100]).unwrap_err();
        assert_eq!(notified.kind(), std::io::ErrorKind::WouldBlock);
    }
}
