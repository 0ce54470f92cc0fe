//! Where the server listens, for which clients, and on how many threads.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use support::pki::{Anybody, connect_tls};
use tokio::net::{TcpStream, UnixStream};

use super::{Client, ENVELOPE, Reference, announced, codes_of, greeted, message, said, start};

/// What a listener for users requires: TLS, and AUTH within it.
const USERS: [&str; 2] = ["--user=alice:secret", "--tls-self-signed"];

pub(super) async fn listen() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("smtp");
    let options = [
        "--listen=127.0.0.1:0".to_owned(),
        format!("--listen=unix:{}", socket.display()),
    ];
    let server = Reference::start(1, &options.each_ref().map(String::as_str));
    assert_eq!(codes_of(&server, "QUIT\r\n").await, ["220", "221"]);
    let mut client = Client::over(UnixStream::connect(&socket).await.unwrap());
    client.expect("220").await;
    client.cmd("EHLO c", "250").await;
    client.cmd("QUIT", "221").await;
    permissions_of_a_socket().await;
    an_ipv4_client_of_a_dual_stack_listener_is_logged_as_such().await;
}

/// Who may connect does not depend on the umask.
async fn permissions_of_a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let group = fs::metadata(dir.path()).unwrap().gid();
    let socket = dir.path().join("a,b");
    for (settings, mode) in [
        (format!(",mode=0660,group={group}"), 0o660),
        (format!(",group={group},mode=666"), 0o666),
    ] {
        let unix = format!("--listen-lmtp=unix:{}{settings}", socket.display());
        let _server = start(&[&unix]);
        UnixStream::connect(&socket).await.unwrap();
        let file = fs::metadata(&socket).unwrap();
        assert_eq!((file.mode() & 0o7777, file.gid()), (mode, group));
        // A server that is killed leaves its socket behind for the next one.
    }
}

async fn an_ipv4_client_of_a_dual_stack_listener_is_logged_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let file = fs::File::create(&log).unwrap();
    let server = Reference::start_logging_to(file.into(), 1, &["--listen=[::]:0"]);
    let port = server.address("smtp").port();
    let mut client = Client::over(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    client.expect("220").await;
    client.cmd("QUIT", "221").await;
    super::terminate(server).await;
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("peer=127.0.0.1:"), "{log}");
    assert!(!log.contains("ffff"), "{log}");
}

pub(super) async fn listen_tls() {
    let server = Reference::start(1, &["--listen-tls=127.0.0.1:0", "--tls-self-signed"]);
    let mut client =
        connect_tls(server.address("smtps"), &Anybody::new().client(), "mx.test").await;
    let announced = client.cmd("EHLO c", "250").await;
    assert!(!announced.contains("STARTTLS"), "{announced}");
}

pub(super) async fn listen_submission() {
    let options = [&["--listen-submission=127.0.0.1:0"], &USERS[..]].concat();
    let server = Reference::start(1, &options);
    let text = "EHLO c\r\nMAIL FROM:<a@example.com>\r\nQUIT\r\n";
    let said = said(&server, "submission", text).await;
    assert!(said.contains("250 STARTTLS"), "{said}");
    assert!(said.contains("\r\n530 5.7.0"), "{said}");
}

pub(super) async fn listen_submissions() {
    let options = [&["--listen-submissions=127.0.0.1:0"], &USERS[..]].concat();
    let server = Reference::start(1, &options);
    let address = server.address("submissions");
    let mut client = connect_tls(address, &Anybody::new().client(), "mx.test").await;
    client.cmd("EHLO c", "250").await;
    client.cmd("MAIL FROM:<alice@example.com>", "530").await;
    client.cmd(ALICE, "235").await;
    client.cmd("MAIL FROM:<alice@example.com>", "250").await;
}

const ALICE: &str = "AUTH PLAIN AGFsaWNlAHNlY3JldA==";

/// Each recipient has a reply, and neither AUTH nor TLS is required.
pub(super) async fn listen_lmtp() {
    let options = ["--require-auth", "--require-tls", "--domain=example.org"];
    let server = Reference::start(
        1,
        &[&["--listen-lmtp=127.0.0.1:0"], &USERS[..], &options].concat(),
    );
    let text = format!(
        "LHLO c\r\n{ENVELOPE}RCPT TO:<c@example.org>\r\nRCPT TO:<d@example.com>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
    );
    let said = said(&server, "lmtp", &text).await;
    assert!(said.contains("250-PIPELINING"), "{said}");
    let replies = super::codes(&said);
    let expected = [
        "220", "250", "250", "250", "250", "550", "354", "250", "250", "221",
    ];
    assert_eq!(replies, expected);
}

/// By `mx` there is no AUTH, by `submission` it must come first, and what users send is completed.
pub(super) async fn mode() {
    let plain = ["--user=alice:secret", "--allow-plaintext-auth"];
    let mx = [
        "--mode=mx",
        "--domain=example.org",
        "--listen-lmtp=127.0.0.1:0",
    ];
    let mx = start(&[&mx, &plain[..]].concat());
    let announcement = announced(&mx, "smtp").await;
    assert!(!announcement.contains("AUTH"), "{announcement}");
    let replies = codes_of(&mx, &message("Subject: x\r\n\r\n")).await;
    assert_eq!(replies.last().unwrap(), "221");
    assert!(!only_message(&mx).contains("Message-ID:"));

    let options = [&["--mode=submission", "--require-tls=false"], &plain[..]].concat();
    let users = start(&options);
    let replies = codes_of(&users, &message("x\r\n")).await;
    assert_eq!(
        replies,
        ["220", "250", "530", "530", "530", "500", "500", "221"]
    );
    let text = message("Subject: x\r\n\r\n")
        .replace("HELO c.test\r\n", &format!("EHLO c.test\r\n{ALICE}\r\n"))
        .replace("a@example.com", "alice@example.com");
    let said = said(&users, "smtp", &text).await;
    assert!(said.contains("\r\n354 "), "{said}");
    let stored = only_message(&users);
    for field in ["\r\nDate: ", "\r\nMessage-ID: <", " with ESMTPA id "] {
        assert!(stored.contains(field), "{field:?} in {stored}");
    }
}

pub(super) fn only_message(server: &Reference) -> String {
    let mut messages = server.delivered();
    assert_eq!(messages.len(), 1);
    String::from_utf8(messages.remove(0)).unwrap()
}

pub(super) async fn proxy_from() {
    let header = "PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\nQUIT\r\n";
    let others = said(&start(&["--proxy-from=192.0.2.7"]), "smtp", header).await;
    assert!(others.contains("\r\n500 "), "{others}");
    let server = start(&["--proxy-from=127.0.0.1/32", "--domain=example.org"]);
    let text = format!("PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n{}", message("x\r\n"));
    said(&server, "smtp", &text).await;
    let stored = only_message(&server);
    assert!(stored.contains("([192.0.2.1])"), "{stored}");
}

pub(super) async fn xclient_from() {
    let announcement = announced(&start(&["--xclient-from=192.0.2.7"]), "smtp").await;
    assert!(!announcement.contains("XCLIENT"), "{announcement}");
    let server = start(&["--xclient-from=127.0.0.1", "--domain=example.org"]);
    let text = format!("EHLO p\r\nXCLIENT ADDR=192.0.2.1\r\n{}", message("x\r\n"));
    said(&server, "smtp", &text).await;
    let stored = only_message(&server);
    assert!(stored.contains("([192.0.2.1])"), "{stored}");
}

pub(super) async fn xforward_from() {
    let announcement = announced(&start(&["--xforward-from=192.0.2.7"]), "smtp").await;
    assert!(!announcement.contains("XFORWARD"), "{announcement}");
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let server = super::start_with_log(&log, &["--xforward-from=127.0.0.1"]);
    let text = message("x\r\n").replace("MAIL", "XFORWARD ADDR=192.0.2.1\r\nMAIL");
    said(&server, "smtp", &text).await;
    super::terminate(server).await;
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("origin=192.0.2.1"), "{log}");
}

/// With a thread for each core, each core has its own listener on the port.
pub(super) async fn runtime() {
    for (runtime, listeners) in [("threads", 1), ("per-core", 3)] {
        let server = start(&[&format!("--runtime={runtime}"), "--threads=3"]);
        let mut client = greeted(&server, "smtp").await;
        client.cmd("QUIT", "221").await;
        assert_eq!(listening_sockets(&server), listeners, "{runtime}");
    }
}

fn listening_sockets(server: &Reference) -> usize {
    let port = format!(":{:04X} ", server.address("smtp").port());
    let table = fs::read_to_string("/proc/net/tcp").expect("this is Linux");
    // State 0A is that of a listener.
    let rows = table.lines().filter(|row| row.contains(" 0A "));
    rows.filter(|row| {
        row.split_whitespace()
            .nth(1)
            .is_some_and(|local| format!("{local} ").ends_with(&port))
    })
    .count()
}

pub(super) async fn threads() {
    for threads in ["1", "2", "5"] {
        let server = start(&["--runtime=per-core", &format!("--threads={threads}")]);
        let mut client = greeted(&server, "smtp").await;
        client.cmd("QUIT", "221").await;
        let cores = thread_names(&server).filter(|name| name == "core").count();
        assert_eq!(cores.to_string(), threads);
    }
}

fn thread_names(server: &Reference) -> impl Iterator<Item = String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.process.id())).expect("this is Linux");
    let names = tasks.map(|task| -> PathBuf { task.unwrap().path().join("comm") });
    names.map(|name| fs::read_to_string(name).unwrap().trim().to_owned())
}

#[test]
fn an_address_that_is_in_use_is_told_without_a_hint() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    for (listen, hint) in [
        (listen.as_str(), "; another program listens there"),
        (
            "--listen=192.0.2.1:2525",
            "; this machine does not have that address",
        ),
    ] {
        let output = Reference::command(&dir, &[listen]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("smtpd: --listen: cannot listen on ") && said.contains(hint),
            "{said}"
        );
    }
}
