//! Names, limits and extensions of sessions.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{Client, Reference, announced, codes_of, greeted, message, output, said, start};

pub(super) async fn help() {
    let help = output(&["--help"]);
    assert!(
        help.contains("Usage:") && help.contains("Maildir"),
        "{help}"
    );
}

pub(super) async fn version() {
    assert_eq!(
        output(&["--version"]),
        concat!("smtpd ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

pub(super) async fn config() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smtpd.toml");
    std::fs::write(&file, "app-name = 'by-file'\nmax-size = 10\n").unwrap();
    let server = start(&[&format!("--config={}", file.display()), "--max-size=20"]);
    let said = announced(&server, "smtp").await;
    assert!(said.starts_with("220 mx.test by-file ESMTP"), "{said}");
    assert!(said.contains("250 SIZE 20\r\n"), "{said}");
}

pub(super) async fn hostname() {
    let said = announced(&start(&["--hostname=other.test"]), "smtp").await;
    assert!(said.starts_with("220 other.test smtpd ESMTP"), "{said}");
    assert!(said.contains("250-other.test"), "{said}");
}

pub(super) async fn app_name() {
    let said = announced(&start(&["--app-name=postamt"]), "smtp").await;
    assert!(said.starts_with("220 mx.test postamt ESMTP"), "{said}");
}

pub(super) async fn max_sessions() {
    let server = start(&["--max-sessions=2"]);
    let first = greeted(&server, "smtp").await;
    let _second = greeted(&server, "smtp").await;
    assert_eq!(codes_of(&server, "QUIT\r\n").await, ["421"]);
    drop(first);
    // The server has to see first that it is gone.
    while codes_of(&server, "QUIT\r\n").await != ["220", "221"] {}
}

/// With 10,000 sessions and 300 descriptors, some 250 clients would shut everybody out.
#[tokio::test]
async fn more_sessions_than_descriptors_are_served() {
    let (dir, log) = (
        tempfile::tempdir().unwrap(),
        tempfile::NamedTempFile::new().unwrap(),
    );
    let inner = Reference::command(&dir, &["--listen=127.0.0.1:0", "--log-level=warn"]);
    let script = "ulimit -Sn 100; ulimit -Hn 300; exec \"$0\" \"$@\"";
    let mut process = Command::new("sh")
        .args(["-c", script])
        .arg(inner.get_program())
        .args(inner.get_args())
        .stdout(Stdio::piped())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let server = Reference::of(process, dir);
    let line = lines.next().unwrap().unwrap();
    let address = line.strip_prefix("listening smtp ").unwrap().to_owned();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.process.id()));
    if let Ok(limits) = limits {
        let open = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let words: Vec<_> = open.unwrap().split_whitespace().collect();
        assert_eq!(words[3..5], ["300", "300"], "the soft limit is raised");
    }
    let mut clients = Vec::new();
    for _ in 0..150 {
        let mut client = Client::over(TcpStream::connect(&address).await.unwrap());
        client.expect("220").await;
        clients.push(client);
    }
    let mut refused = Client::over(TcpStream::connect(&address).await.unwrap());
    refused.expect("421 4.3.2").await;
    // There are descriptors left for a message.
    clients[0].begin().await;
    clients[0].cmd("Hello\r\n.", "250").await;
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(
        log.contains("too low for --max-sessions, so fewer sessions are served")
            && log.contains("sessions=150"),
        "{log}"
    );
}

pub(super) async fn max_errors() {
    let server = start(&["--max-errors=2"]);
    let replies = codes_of(&server, "WHAT\r\nWHAT\r\nNOOP\r\n").await;
    assert_eq!(replies, ["220", "500", "421"]);
}

pub(super) async fn timeout() {
    let server = start(&["--timeout=1"]);
    let mut client = greeted(&server, "smtp").await;
    let since = Instant::now();
    client.expect("421").await;
    assert!(since.elapsed() > Duration::from_millis(900), "it is early");
}

/// Sessions and messages are counted apart.
pub(super) async fn rate() {
    let server = start(&["--rate=2/3600"]);
    let messages =
        "HELO c\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\nQUIT\r\n";
    let replies = codes_of(&server, messages).await;
    assert_eq!(
        replies,
        ["220", "250", "250", "250", "250", "250", "451", "221"]
    );
    assert_eq!(codes_of(&server, "QUIT\r\n").await, ["220", "221"]);
    let mut third = Client::over(TcpStream::connect(server.address("smtp")).await.unwrap());
    third.expect("421").await;
    third.expect_close().await;
}

pub(super) async fn extensions() {
    let server = start(&["--extensions=-DSN,+FUTURERELEASE"]);
    let announced = announced(&server, "smtp").await;
    assert!(!announced.contains("DSN"), "{announced}");
    assert!(announced.contains("FUTURERELEASE"), "{announced}");
    // What it promises is kept as far as a server can: a time that has passed is refused, which needs a clock.
    let mail = |until| format!("EHLO c\r\nMAIL FROM:<> HOLDUNTIL={until}\r\nQUIT\r\n");
    let past = said(&server, "smtp", &mail("2001-01-01T00:00:00Z")).await;
    assert!(past.contains("501 5.5.4 HOLDUNTIL has passed"), "{past}");
    let replies = codes_of(&start(&["--extensions=all"]), &message("x\r\n")).await;
    assert_eq!(replies, ["220", "250", "250", "250", "354", "250", "221"]);
}
