//! What an operator sees of the server, and what the system lets it do.

use std::{
    fs::{self, Permissions},
    io::Read as _,
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use support::{Client, pki::Authority};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

use super::{Reference, codes_of, greeted, message, start_with_log, terminate};

const HTTP: &str = "--http=127.0.0.1:0";

/// What HTTP answers to these bytes.
async fn asked(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may have answered before it has read all.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

async fn get(server: &Reference, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    asked(server.address("http"), &request).await
}

/// A client in the middle of a message, at a server that is shutting down.
async fn within_a_message(server: &Reference) -> Client<TcpStream> {
    let mut client = greeted(server, "smtp").await;
    client.cmd("EHLO c", "250").await;
    client.envelope().await;
    client.cmd("DATA", "354").await;
    server.signal("TERM");
    // From then on it accepts nobody.
    while TcpStream::connect(server.address("smtp")).await.is_ok() {
        sleep(Duration::from_millis(20)).await;
    }
    client
}

/// Whether it lives, whether it is ready, and its metrics.
pub(super) async fn http() {
    let mut server = Reference::start(2, &["--listen=127.0.0.1:0", HTTP]);
    for (path, status, text) in [
        ("/healthz", "200 OK", "\r\n\r\nok\n"),
        ("/readyz", "200 OK", "\r\n\r\nready\n"),
        ("/metrics", "200 OK", "\nsmtpd_build_info{version=\""),
        ("/metrics", "200 OK", "\nprocess_start_time_seconds "),
        ("/metrics", "200 OK", "\nsmtpd_sessions 0\n"),
        ("/", "404 Not Found", "there are /healthz, /readyz"),
    ] {
        let answer = get(&server, path).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{path}: {answer}"
        );
        assert!(answer.contains(text), "{path}: {answer}");
    }
    slow_clients_do_not_matter(&server).await;

    let mut client = within_a_message(&server).await;
    let metrics = get(&server, "/metrics").await;
    assert!(metrics.contains("\nsmtpd_sessions 1\n"), "{metrics}");
    for text in [
        "\nsmtp_server_sessions_active{",
        "\nsmtp_server_request_duration_seconds_bucket{phase=\"rcpt\",outcome=\"accepted\"",
    ] {
        assert!(metrics.contains(text), "{text}: {metrics}");
    }
    let ready = get(&server, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(get(&server, "/healthz").await.starts_with("HTTP/1.1 200 "));
    client.cmd(".", "250").await;
    assert!(server.ended().await.success());
}

async fn slow_clients_do_not_matter(server: &Reference) {
    let mut slow = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(server.address("http")).await.unwrap();
        if number % 2 == 0 {
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nX: ")
                .await
                .unwrap();
        }
        slow.push(stream);
        if number % 10 == 0 {
            assert!(get(server, "/healthz").await.contains("ok"), "{number}");
        }
    }
    // Nor is there more than a limited number of them, whatever they wait for.
    let open = format!("/proc/{}/fd", server.process.id());
    let open = || fs::read_dir(&open).expect("this is Linux").count();
    // Each one is closed by its own task, which has to get its turn.
    for _ in 0..100 {
        if open() < 80 {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert!(open() < 80, "{} descriptors", open());
    let many = "X: y\r\n".repeat(10_000);
    let long = "y".repeat(1 << 20);
    for (request, status) in [
        (
            "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "405",
        ),
        (format!("GET /healthz HTTP/1.1\r\n{many}\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), "4"),
        ("EHLO c\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = asked(server.address("http"), &request).await;
        // A reset may have overtaken the answer to a request that was not read to its end.
        let is_long = request.len() > 10_000;
        let is_refused = answer.starts_with(&format!("HTTP/1.1 {status}"));
        assert!(is_refused || is_long && answer.is_empty(), "{answer}");
    }
}

/// Without a second signal, and also with all the time that a message needs.
pub(super) async fn grace() {
    let mut server = super::start(&["--grace=0s"]);
    let mut client = greeted(&server, "smtp").await;
    client.cmd("EHLO c", "250").await;
    client.envelope().await;
    client.cmd("DATA", "354").await;
    server.signal("TERM");
    client.expect("421").await;
    client.expect_close().await;
    assert!(server.ended().await.success());

    let mut server = super::start(&["--grace=1h"]);
    let mut client = within_a_message(&server).await;
    client.cmd(".", "250").await;
    assert!(server.ended().await.success());
    assert_eq!(server.delivered().len(), 1);
}

/// A user that no system has.
const USER: u32 = 4_211_234;
const GROUP: u32 = 4_211_235;

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("this is Linux").uid() == 0
}

/// The numbers of that line of the status of each of its threads, which are the same.
fn ids(server: &Reference, line: &str) -> Vec<u32> {
    let tasks = format!("/proc/{}/task", server.process.id());
    let tasks = fs::read_dir(tasks).expect("this is Linux");
    let all = tasks.map(|task| {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let mut lines = status.lines().filter_map(|found| found.strip_prefix(line));
        let ids = lines.next().unwrap().split_whitespace();
        ids.map(|id| id.parse().unwrap()).collect()
    });
    let all: Vec<Vec<u32>> = all.collect();
    assert!(all.len() > 2, "{all:?}");
    assert!(all.iter().all(|ids| *ids == all[0]), "{all:?}");
    all[0].clone()
}

/// What it says where it does not start.
fn refusal(options: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let options = [&["--listen=127.0.0.1:0"], options].concat();
    let mut process = Reference::command(&dir, &options)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut stderr = process.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(1), "{said}");
    said
}

/// The key is root's alone: it is read before the server becomes somebody else. The messages are of its user.
pub(super) async fn user_id() {
    let said = refusal(&["--user-id=no-such-user"]);
    assert!(
        said.contains("the system has no user named no-such-user"),
        "{said}"
    );
    if !is_root() {
        let said = refusal(&["--user-id=0", "--group-id=0"]);
        assert!(said.contains("--user-id needs root"), "{said}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let (cert, key) = Authority::new().issue(&["mx.test"]).write(dir.path());
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let (home, log) = (dir.path().join("home"), dir.path().join("log"));
    fs::create_dir(&home).unwrap();
    chown(&home, Some(USER), Some(GROUP)).unwrap();
    let file = |option: &str, path: &Path| format!("--{option}={}", path.display());
    let options = [
        format!("--user-id={USER}"),
        format!("--group-id={GROUP}"),
        file("tls-cert", &cert),
        file("tls-key", &key),
        file("maildir", &home.join("mail")),
    ];
    let server = start_with_log(&log, &options.each_ref().map(String::as_str));
    assert_eq!(ids(&server, "Uid:"), [USER; 4]);
    assert_eq!(ids(&server, "Gid:"), [GROUP; 4]);
    assert!(ids(&server, "Groups:").is_empty());
    let replies = codes_of(&server, &message("x\r\n")).await;
    assert_eq!(replies[5], "250");
    let stored = fs::read_dir(home.join("mail/new")).unwrap().next().unwrap();
    let stored = stored.unwrap().metadata().unwrap();
    assert_eq!((stored.uid(), stored.gid()), (USER, GROUP));

    server.signal("HUP");
    let explanation = format!("the server runs as the user {USER} and the group {GROUP}");
    while !fs::read_to_string(&log).unwrap().contains(&explanation) {
        sleep(Duration::from_millis(20)).await;
    }
    terminate(server).await;
}

/// Also of a user that the system knows, the supplementary groups are gone.
pub(super) async fn group_id() {
    let said = refusal(&["--user-id=1", "--group-id=no-such-group"]);
    assert!(
        said.contains("the system has no group named no-such-group"),
        "{said}"
    );
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let group = format!("--group-id={GROUP}");
    let server = Reference::command(&dir, &["--listen=127.0.0.1:0", "--user-id=root", &group]);
    let mut process = Command::new("setpriv")
        .arg("--groups=4,24")
        .arg(server.get_program())
        .args(server.get_args())
        .stdout(Stdio::piped())
        .spawn()
        .expect("setpriv of util-linux");
    let mut listening = [0; 9];
    let mut stdout = process.stdout.take().unwrap();
    stdout.read_exact(&mut listening).unwrap();
    let server = Reference::of(process, dir);
    assert_eq!(ids(&server, "Gid:"), [GROUP; 4]);
    assert!(ids(&server, "Groups:").is_empty());
    terminate(server).await;
}
