//! The server under systemd. The test acts as systemd: it passes sockets, and receives the notifications of the server.

use std::{
    fs,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixDatagram, UnixListener},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use support::Client;
use tokio::net::{TcpStream, UnixStream};

use crate::reference::Reference;

/// Passes sockets to the server with these names, as descriptors from 3 on. `$$` of the shell is the server's own process.
fn start(dir: &tempfile::TempDir, sockets: [OwnedFd; 2], names: &str, options: &[&str]) -> Child {
    let script = format!(
        r#"exec 3<&0 4>&1 0</dev/null 1>&2; export LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES={names}; exec "$0" "$@""#
    );
    let server = Reference::command(dir, options);
    let [first, second] = sockets;
    Command::new("sh")
        .args(["-c", &script])
        .arg(server.get_program())
        .args(server.get_args())
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "200000")
        .stdin(first)
        .stdout(second)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn notify_socket(dir: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(dir.join("notify")).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    socket
}

/// Returns the next notification that is not about the watchdog.
fn notification(socket: &UnixDatagram) -> String {
    loop {
        let text = any_notification(socket);
        if text != "WATCHDOG=1\n" {
            return text;
        }
    }
}

fn any_notification(socket: &UnixDatagram) -> String {
    let mut text = [0; 200];
    let length = socket.recv(&mut text).expect("a notification");
    String::from_utf8(text[..length].to_vec()).unwrap()
}

fn owned(socket: impl AsFd) -> OwnedFd {
    socket.as_fd().try_clone_to_owned().unwrap()
}

/// From the start to the end. The names of the sockets decide what their clients may do.
#[tokio::test]
async fn a_socket_from_systemd_is_served_as_its_name_says() {
    let dir = tempfile::tempdir().unwrap();
    let notify = notify_socket(dir.path());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let path = dir.path().join("lmtp");
    let unix = UnixListener::bind(&path).unwrap();
    let options = ["--user=alice:secret", "--tls-self-signed"];
    let process = start(
        &dir,
        [owned(&tcp), owned(&unix)],
        "submission:lmtp",
        &options,
    );
    let mut server = Reference::of(process, dir);
    assert_eq!(notification(&notify), "READY=1\n");

    let mut user = Client::over(TcpStream::connect(address).await.unwrap());
    user.expect("220").await;
    user.cmd("EHLO c", "250").await;
    user.cmd("MAIL FROM:<a@b.test>", "530 5.7.0").await;
    let mut lmtp = Client::over(UnixStream::connect(&path).await.unwrap());
    lmtp.expect("220").await;
    lmtp.cmd("LHLO c", "250").await;
    lmtp.envelope().await;
    lmtp.cmd("DATA", "354").await;

    server.signal("HUP");
    let reloading = notification(&notify);
    let (first, monotonic) = reloading.split_once('\n').unwrap();
    assert_eq!(first, "RELOADING=1");
    let micros = monotonic.trim().strip_prefix("MONOTONIC_USEC=").unwrap();
    assert!(micros.parse::<u64>().unwrap() > 0);
    assert_eq!(notification(&notify), "READY=1\n");
    while any_notification(&notify) != "WATCHDOG=1\n" {}

    server.signal("TERM");
    assert_eq!(notification(&notify), "STOPPING=1\n");
    assert_eq!(notification(&notify), "EXTEND_TIMEOUT_USEC=15000000\n");
    user.expect("421").await;
    lmtp.cmd(".", "250").await;
    assert!(server.ended().await.success());
    assert_eq!(server.delivered().len(), 1);
    assert!(path.exists(), "the file is systemd's");
    // The sockets are systemd's, too: clients of the time between two servers wait.
    TcpStream::connect(address).await.unwrap();
    drop((tcp, unix));
}

#[tokio::test]
async fn each_core_serves_a_socket_from_systemd() {
    let dir = tempfile::tempdir().unwrap();
    let notify = notify_socket(dir.path());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = ["--runtime=per-core", "--threads=2"];
    let process = start(&dir, [owned(&tcp), owned(&http)], "smtp:http", &options);
    let mut server = Reference::of(process, dir);
    assert_eq!(notification(&notify), "READY=1\n");
    let mut clients = Vec::new();
    for _ in 0..8 {
        let address = tcp.local_addr().unwrap();
        let mut client = Client::over(TcpStream::connect(address).await.unwrap());
        client.expect("220").await;
        clients.push(client);
    }
    TcpStream::connect(http.local_addr().unwrap())
        .await
        .unwrap();
    server.signal("TERM");
    for client in &mut clients {
        client.expect("421").await;
    }
    drop(clients);
    assert!(server.ended().await.success());
}

#[test]
fn a_unit_that_cannot_be_served_says_why_and_never_that_it_is_ready() {
    let tcp = || owned(TcpListener::bind("127.0.0.1:0").unwrap());
    let file = || owned(fs::File::open("/dev/null").unwrap());
    let table: [([OwnedFd; 2], _, &[&str], _, _); 5] = [
        (
            [tcp(), tcp()],
            "smtp:smtpd.socket",
            &[],
            1,
            "FileDescriptorName= of a socket from systemd: expected smtp, smtps, submission, submissions, lmtp, http, not \"smtpd.socket\"",
        ),
        ([tcp(), file()], "smtp:smtp", &[], 1, "is not a socket"),
        (
            [tcp(), tcp()],
            "smtp:smtp",
            &["--hostname=no host"],
            2,
            "no host",
        ),
        (
            [tcp(), tcp()],
            "smtp:submission",
            &[],
            2,
            "(--listen-submission, --listen-submissions) needs --user",
        ),
        (
            [tcp(), tcp()],
            "smtp:smtps",
            &[],
            2,
            "--listen-tls needs --tls-cert",
        ),
    ];
    for (sockets, names, options, status, said) in table {
        let dir = tempfile::tempdir().unwrap();
        let notify = notify_socket(dir.path());
        let output = start(&dir, sockets, names, options)
            .wait_with_output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(said), "{stderr}");
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        notify.set_nonblocking(true).unwrap();
        let notified = notify.recv(&mut [0; 100]).unwrap_err();
        assert_eq!(notified.kind(), std::io::ErrorKind::WouldBlock);
    }
}

/// A check that is run by a unit, for example before the server, leaves the sockets to the server.
#[test]
fn a_check_takes_the_sockets_of_systemd() {
    let tcp = || owned(TcpListener::bind("127.0.0.1:0").unwrap());
    let check = |sockets, names: &str, options: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let options = [&["--check"], options].concat();
        let process = start(&dir, sockets, names, &options);
        let output = process.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), stderr)
    };
    // It would notice that this is no socket.
    let file = owned(fs::File::open("/dev/null").unwrap());
    let (status, said) = check([tcp(), file], "smtp:http", &[]);
    assert_eq!(status, 0, "{said}");
    for name in ["smtp", "http"] {
        let line = format!("listen {name} socket from systemd\n");
        assert!(said.contains(&line), "{said}");
    }
    assert!(
        !said.contains(":2525") && !said.contains("further"),
        "{said}"
    );
    let options = ["--user=a:b", "--tls-self-signed"];
    let (status, said) = check([tcp(), tcp()], "smtp:submission", &options);
    assert_eq!(status, 0, "{said}");
    let (status, said) = check([tcp(), tcp()], "smtp:submision", &["--users=none"]);
    assert_eq!(status, 1, "{said}");
    assert!(
        said.contains("not \"submision\"") && said.contains("none: No such file"),
        "{said}"
    );
}
