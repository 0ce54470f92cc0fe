//! The log of the reference server when it cannot be written: mail is accepted as usual, and SIGTERM obeyed.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{BufRead, BufReader, PipeWriter, Read, Write as _, pipe},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use support::Client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::reference::Reference;

/// Far more than anything in here needs, unless it hangs.
const HANGS: Duration = Duration::from_secs(60);

const LISTEN: &str = "--listen=127.0.0.1:0";

fn start(log: impl Into<Stdio>, options: &[&str]) -> Reference {
    Reference::start_logging_to(log.into(), 1, &[&[LISTEN], options].concat())
}

fn full_disk() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

async fn connect(server: &Reference) -> Client<TcpStream> {
    let mut client = Client::over(TcpStream::connect(server.address("smtp")).await.unwrap());
    client.expect("220").await;
    client.cmd("EHLO client.example", "250").await;
    client
}

/// Sends a number of messages in one session, each of which must receive a reply.
async fn send(server: &Reference, messages: usize) {
    let sending = async {
        let mut client = connect(server).await;
        for _ in 0..messages {
            client.envelope().await;
            client.cmd("DATA", "354").await;
            client.cmd("Subject: log\r\n\r\nHello\r\n.", "250").await;
        }
        client.cmd("QUIT", "221").await;
    };
    timeout(HANGS, sending).await.expect("every reply comes");
}

/// Sends so many messages, whose lines in the log are of 25,000 bytes each.
async fn send_with_long_lines(server: &Reference, messages: usize) {
    let domain = "example.".repeat(25);
    let to = |n| format!("RCPT TO:<recipient{n}@{domain}org>\r\n");
    let recipients: String = (0..100).map(to).collect();
    let sending = async {
        let mut client = connect(server).await;
        for _ in 0..messages {
            let group = format!("MAIL FROM:<sender@example.net>\r\n{recipients}DATA\r\n");
            client.send(group).await;
            for _ in 0..101 {
                client.expect("250").await;
            }
            client.expect("354").await;
            client.cmd("Subject: log\r\n\r\nHello\r\n.", "250").await;
        }
        client.cmd("QUIT", "221").await;
    };
    timeout(HANGS, sending).await.expect("every reply comes");
}

/// Ends the server by SIGTERM, which must not take long.
async fn terminate(server: &mut Reference) -> ExitStatus {
    server.signal("TERM");
    server.ended().await
}

/// Counts the lines of the log, and those that it reports as lost.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    lines: usize,
    lost: usize,
}

impl Seen {
    fn add(&mut self, line: &str) {
        match line.split_once(" level=warn msg=\"log lines lost\" lines=") {
            Some((_, lost)) => self.lost += lost.parse::<usize>().unwrap(),
            None => self.lines += 1,
        }
    }

    fn all(&self) -> usize {
        self.lines + self.lost
    }
}

/// Reads the log to its end, on a separate thread.
fn read_all(log: impl Read + Send + 'static) -> thread::JoinHandle<Seen> {
    thread::spawn(move || {
        let mut seen = Seen::default();
        let lines = BufReader::new(log).lines();
        lines.for_each(|line| seen.add(&line.unwrap()));
        seen
    })
}

#[tokio::test]
async fn a_message_that_is_stored_is_answered_though_the_log_is_on_a_full_disk() {
    for options in [&[][..], &["--log-format=json", "--log-level=trace"]] {
        let mut server = start(full_disk(), options);
        send(&server, 30).await;
        let mut waiting = connect(&server).await;
        assert_eq!(server.delivered().len(), 30);
        assert!(terminate(&mut server).await.success());
        waiting.expect("421").await;
    }
}

#[tokio::test]
async fn a_message_that_is_stored_is_answered_though_the_reader_of_the_log_is_gone() {
    let (log, far) = pipe().unwrap();
    let mut server = start(far, &[]);
    send(&server, 2).await;
    let mut during = connect(&server).await;
    drop(log);
    during.envelope().await;
    during.cmd("DATA", "354").await;
    during.cmd("Hello\r\n.", "250").await;
    send(&server, 30).await;
    assert_eq!(server.delivered().len(), 33);
    assert!(terminate(&mut server).await.success());
}

/// The pipe holds 64 KiB, and the queue of the log 4 MiB.
#[tokio::test]
async fn the_server_does_not_stand_when_nobody_reads_the_log() {
    for runtime in ["threads", "per-core"] {
        let (_log, far) = pipe().unwrap();
        let mut server = start(far, &["--discard", "--runtime", runtime]);
        send_with_long_lines(&server, 250).await;
        for _ in 0..20 {
            send(&server, 1).await;
        }
        assert!(terminate(&mut server).await.success(), "{runtime}");
    }
}

#[tokio::test]
async fn lines_that_were_lost_are_counted_once_the_log_is_read_again() {
    let (log, far) = pipe().unwrap();
    let mut server = start(far, &["--discard"]);
    send_with_long_lines(&server, 250).await;
    let reading = read_all(log);
    send(&server, 1).await;
    assert!(terminate(&mut server).await.success());
    let seen = reading.join().unwrap();
    // A line for each message and session, and the one that the server shuts down.
    assert_eq!(seen.all(), 251 + 2 + 1, "{seen:?}");
    assert!(seen.lost > 0, "{seen:?}");
}

#[tokio::test]
async fn lines_that_were_lost_are_counted_once_the_log_has_a_reader_again() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("log");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let (first, far) = open_both_ends(&fifo);
    let mut server = start(far, &["--discard"]);
    drop(first);
    send(&server, 300).await;
    let reading = read_all(File::open(&fifo).unwrap());
    send(&server, 1).await;
    assert!(terminate(&mut server).await.success());
    let seen = reading.join().unwrap();
    assert_eq!(seen.all(), 301 + 2 + 1, "{seen:?}");
    assert!(seen.lost > 0, "{seen:?}");
}

/// Each end of a FIFO waits for the other to be opened.
fn open_both_ends(fifo: &Path) -> (File, File) {
    let path = fifo.to_owned();
    let reader = thread::spawn(move || File::open(path).unwrap());
    let writer = OpenOptions::new().write(true).open(fifo).unwrap();
    (reader.join().unwrap(), writer)
}

#[tokio::test]
async fn the_last_lines_are_written_before_the_end() {
    let (log, far) = pipe().unwrap();
    let reading = read_all(log);
    let mut server = start(far, &["--discard"]);
    send(&server, 10).await;
    assert!(terminate(&mut server).await.success());
    let seen = reading.join().unwrap();
    assert_eq!(seen, Seen { lines: 12, lost: 0 });
}

#[tokio::test]
async fn a_server_that_cannot_start_fails_as_ever_though_it_cannot_say_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    let mut server = Reference::start_logging_to(full_disk().into(), 0, &["--discard", &listen]);
    assert_eq!(server.ended().await.code(), Some(1));
}

#[tokio::test]
async fn the_server_does_not_stand_when_nobody_reads_its_standard_output() {
    let (_out, far) = pipe().unwrap();
    keep_full(far.try_clone().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listen = format!("--listen=unix:{}", socket.display());
    let mut command = Reference::command(&dir, &["--discard", "--quiet", &listen]);
    let process = command.stdout(far).spawn().unwrap();
    drop(command);
    let mut server = Reference::of(process, dir);
    let connecting = async {
        while UnixStream::connect(&socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(HANGS, connecting).await.expect("it serves");
    assert!(terminate(&mut server).await.success());
}

/// Writes into a pipe for as long as it has a reader.
fn keep_full(mut pipe: PipeWriter) {
    thread::spawn(move || while pipe.write(&[b'\n'; 4096]).is_ok() {});
}

/// Lines with passwords, such as those of a client that treats a refused AUTH as accepted.
const LINES_WITH_SECRETS: [&str; 10] = [
    "AUTH LOGIN",
    "bWFsbG9yeQ==", // the user name of a failed login is logged
    "c2VjcmV0LXBhc3N3b3Jk",
    "AUTH PLAIN=AGFsaWNlAHNlY3JldC1vbmU=",
    "AUTH AGFsaWNlAHNlY3JldC10d28=",
    "AUTH PLAIN AGFsaWNlAHNlY3JldC10aHJlZQ==",
    "AUTHPLAIN AGFsaWNlAHNlY3JldC1mb3Vy",
    "PASS secret-five",
    "XCLIENT NAME=client.example LOGIN=secret-six PASS=secret-seven",
    "GET /?password=secret-eight HTTP/1.1",
];

/// Both as they are sent and as they are meant.
fn secrets() -> impl Iterator<Item = &'static str> {
    let words = LINES_WITH_SECRETS
        .iter()
        .flat_map(|line| line.split([' ', '?']));
    let is_secret = |word: &&str| {
        ["c2Vjc", "AGFs", "secret"]
            .iter()
            .any(|part| word.contains(part))
    };
    let in_words = words.filter(is_secret).map(|word| {
        word.split_once('=').map_or(word, |(name, value)| {
            if value.trim_matches('=').is_empty() {
                name
            } else {
                value
            }
        })
    });
    in_words.chain(["secret"])
}

/// Who starts it, and reads on when it listens, has seen what it warns of.
#[tokio::test]
async fn warnings_come_before_it_listens() {
    let dir = tempfile::tempdir().unwrap();
    let (users, log) = (dir.path().join("users"), dir.path().join("log"));
    let hash = "$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw";
    let line = |name, time: &str| format!("{name}:$argon2id{}\n", hash.replace("t=1", time));
    fs::write(&users, line("alice", "t=1") + &line("bob", "t=2")).unwrap();
    fs::set_permissions(&users, Permissions::from_mode(0o644)).unwrap();
    let options = [
        LISTEN,
        &format!("--users={}", users.display()),
        "--tls-self-signed",
        "--log-level=warn",
    ];
    let file = File::create(&log).unwrap();
    let _server = Reference::start_logging_to(file.into(), 1, &options);
    let log = fs::read_to_string(&log).unwrap();
    for warning in ["holds secrets and is open", "costs more or less"] {
        assert!(log.contains(warning), "{log}");
    }
}

#[tokio::test]
async fn no_password_comes_into_the_log_in_any_mode() {
    let user = ["--user=alice:x", "--allow-plaintext-auth"];
    for options in [
        &[LISTEN][..],
        &[LISTEN, "--log-format=json"],
        &[LISTEN, "--mode=mx", "--domain=a.test"],
        &[
            LISTEN,
            "--listen-lmtp=127.0.0.1:0",
            "--mode=mx",
            "--domain=a.test",
            user[0],
            user[1],
        ],
        &[LISTEN, user[0], user[1]],
        &[LISTEN, user[0]],
        &[
            LISTEN,
            "--mode=submission",
            "--require-tls=false",
            user[0],
            user[1],
        ],
        &[LISTEN, "--xclient-from=127.0.0.1"],
        &["--listen-lmtp=127.0.0.1:0"],
        &["--listen-lmtp=127.0.0.1:0", user[0], user[1]],
    ] {
        let log = log_of_secrets(options).await;
        assert!(log.contains("C: NOOP"), "{options:?} logs lines: {log}");
        for secret in secrets() {
            assert!(
                !log.contains(secret),
                "{options:?}: {secret:?} is in the log: {log}"
            );
        }
    }
}

/// The log of a session with all these lines.
async fn log_of_secrets(options: &[&str]) -> String {
    let (mut log, far) = pipe().unwrap();
    let options = [options, &["--discard", "--log-level=trace"]].concat();
    let mut server = Reference::start_logging_to(far.into(), 1, &options);
    let reading = thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    });
    let (kind, hello) = match options[0].contains("lmtp") {
        true => ("lmtp", "LHLO client.example"),
        false => ("smtp", "EHLO client.example"),
    };
    let talking = async {
        let mut client = Client::over(TcpStream::connect(server.address(kind)).await.unwrap());
        client.expect("220").await;
        client.cmd(hello, "250").await;
        client.cmd("NOOP", "250").await;
        for line in LINES_WITH_SECRETS {
            client.cmd(line, "").await;
        }
    };
    timeout(HANGS, talking).await.expect("every reply comes");
    assert!(terminate(&mut server).await.success());
    drop(server);
    reading.join().unwrap()
}

/// Starts a server with these options, lets the clients talk, ends it, and returns its log.
async fn log_of(options: &[&str], talk: impl AsyncFnOnce(&Reference)) -> String {
    let (mut log, far) = pipe().unwrap();
    let options = [options, &["--discard"]].concat();
    let mut server = Reference::start_logging_to(far.into(), 1, &options);
    let reading = thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    });
    timeout(HANGS, talk(&server))
        .await
        .expect("every reply comes");
    assert!(terminate(&mut server).await.success());
    drop(server);
    reading.join().unwrap()
}

/// The only line with that message.
fn line_of<'a>(log: &'a str, message: &str) -> &'a str {
    let mut lines = log.lines().filter(|line| line.contains(message));
    let line = lines.next().unwrap_or_else(|| panic!("{message} in {log}"));
    assert_eq!(lines.next(), None, "{message} in {log}");
    line
}

#[tokio::test]
async fn a_guessed_password_leaves_no_trace() {
    let options = [LISTEN, "--user=alice:x", "--allow-plaintext-auth"];
    let log = log_of(&options, async |server| {
        let mut client = connect(server).await;
        // alice, and a wrong password.
        client.cmd("AUTH PLAIN AGFsaWNlAHdyb25n", "535").await;
        client.cmd("QUIT", "221").await;
    })
    .await;
    let line = line_of(&log, "msg=\"authentication failed\"");
    for part in [
        " level=warn ",
        " peer=127.0.0.1:",
        " listener=127.0.0.1:",
        " user=alice mechanism=PLAIN ",
        " reply=\"535 5.7.8 ",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!log.contains("AGFsaWNl") && !log.contains("wrong"), "{log}");
}

#[tokio::test]
async fn a_refusal_leaves_no_trace() {
    let options = [LISTEN, "--domain=a.test"];
    let log = log_of(&options, async |server| {
        let mut client = connect(server).await;
        client.cmd("MAIL FROM:<a@b.test>", "250").await;
        client.cmd("RCPT TO:<a@c.test>", "550").await;
        client.cmd("QUIT", "221").await;
    })
    .await;
    let line = line_of(&log, "msg=refused");
    for part in [
        " level=info ",
        " peer=127.0.0.1:",
        " command=RCPT argument=a@c.test reply=\"550 5.7.1 ",
        " origin=",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let session = line_of(&log, "msg=session ");
    assert!(session.contains(" refused=1 "), "{session}");
}

#[tokio::test]
async fn a_client_that_has_everything_refused_fills_the_log() {
    // These are answered at once, and rejected recipients are not.
    let options = [LISTEN, "--max-recipients=1"];
    let log = log_of(&options, async |server| {
        let mut client = connect(server).await;
        client.cmd("MAIL FROM:<a@b.test>", "250").await;
        client.cmd("RCPT TO:<a@c.test>", "250").await;
        for _ in 0..120 {
            client.cmd("RCPT TO:<a@c.test>", "452").await;
        }
        client.cmd("QUIT", "221").await;
    })
    .await;
    let refused = log.lines().filter(|line| line.contains("msg=refused"));
    assert_eq!(refused.count(), 50, "{log}");
    let rest = line_of(&log, "msg=\"more was refused\"");
    assert!(rest.ends_with(" refusals=70"), "{rest}");
}

#[tokio::test]
async fn a_handshake_that_fails_leaves_no_trace() {
    let options = ["--listen-tls=127.0.0.1:0", "--tls-self-signed"];
    let log = log_of(&options, async |server| {
        let mut client = TcpStream::connect(server.address("smtps")).await.unwrap();
        client.write_all(b"EHLO client.example\r\n").await.unwrap();
        let _ = client.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let line = line_of(&log, "msg=\"TLS handshake failed\"");
    assert!(
        line.contains(" level=info ") && line.contains(" cause="),
        "{line}"
    );
    assert!(!line.contains("https://"), "{line}");
    let (_, cause) = line.split_once(" cause=").unwrap();
    let words: Vec<_> = cause.trim_matches('"').split(": ").collect();
    let distinct: std::collections::HashSet<_> = words.iter().collect();
    assert_eq!(words.len(), distinct.len(), "{line}");
}

#[tokio::test]
async fn a_client_over_ipv4_is_shown_as_one_of_ipv6() {
    let log = log_of(&["--listen=[::]:0"], async |server| {
        let port = server.address("smtp").port();
        let mut client = Client::over(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        client.expect("220").await;
        client.cmd("QUIT", "221").await;
    })
    .await;
    let line = line_of(&log, "msg=session ");
    assert!(line.contains(" peer=127.0.0.1:"), "{line}");
    assert!(line.contains(" listener=127.0.0.1:"), "{line}");
    assert!(!log.contains("ffff"), "{log}");
}

#[tokio::test]
async fn a_session_has_the_number_of_one_before_the_restart() {
    let number = async || {
        let log = log_of(&[LISTEN], async |server| {
            connect(server).await.cmd("QUIT", "221").await;
        })
        .await;
        let line = line_of(&log, "msg=session ").to_owned();
        let (_, rest) = line.split_once(" session=").unwrap();
        rest.split_once(' ').unwrap().0.parse::<u64>().unwrap()
    };
    let (first, second) = (number().await, number().await);
    assert!(first < second && second < 1 << 53, "{first}, {second}");
}
