//! What a session, and the server, may have of everything, and how long it may take.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    Reference,
    clients::{A, B, MAIL, codes_from, start_behind_proxy},
    codes, codes_of, message, start,
};

const SHORT: Duration = Duration::from_millis(200);

/// The replies from that to the first of these commands on.
async fn replies(options: &[&str], commands: &str) -> Vec<String> {
    let text = format!("EHLO c\r\n{commands}QUIT\r\n");
    codes_of(&start(options), &text).await[2..].to_vec()
}

/// The reply to a message with this header, without and with options.
async fn check_header(option: &str, header: &str) {
    let text = message(&format!("{header}\r\n"));
    for (options, code) in [(&[][..], "250"), (&[option], "552")] {
        assert_eq!(codes_of(&start(options), &text).await[5], code, "{option}");
    }
}

pub(super) async fn max_header_size() {
    check_header(
        "--max-header-size=1k",
        &format!("A: {}\r\n", "x".repeat(900)).repeat(2),
    )
    .await;
}

pub(super) async fn max_header_lines() {
    check_header("--max-header-lines=3", &"A: x\r\n".repeat(4)).await;
}

const OTHERS: &str = "RCPT TO:<a@1.test>\r\nRCPT TO:<b@1.test>\r\nRCPT TO:<c@2.test>\r\n";

pub(super) async fn max_recipient_domains() {
    let mail = format!("{MAIL}{OTHERS}");
    let limited = replies(&["--max-recipient-domains=1"], &mail).await;
    assert_eq!(limited, ["250", "250", "250", "452", "221"]);
}

pub(super) async fn max_command_line() {
    let long = format!("NOOP {}\r\n", "x".repeat(600));
    assert_eq!(replies(&[], &long).await, ["250", "221"]);
    assert_eq!(
        replies(&["--max-command-line=600"], &long).await,
        ["500", "221"]
    );
}

pub(super) async fn max_messages() {
    let two = format!("{MAIL}RSET\r\n{MAIL}");
    assert_eq!(replies(&[], &two).await, ["250", "250", "250", "221"]);
    let limited = replies(&["--max-messages=1"], &two).await;
    assert_eq!(limited, ["250", "250", "421"]);
}

pub(super) async fn max_session_bytes() {
    let many = "NOOP\r\n".repeat(100);
    let limited = replies(&["--max-size=200", "--max-session-bytes=300"], &many).await;
    assert!(limited.len() < 60, "{limited:?}");
    assert_eq!(limited.last().map(String::as_str), Some("421"));
}

/// A session with a message that is too large goes on at its end, unless that is too far away.
pub(super) async fn max_drain() {
    let large = message(&"x\r\n".repeat(100_000));
    for (options, ends) in [
        (&["--max-size=1k"][..], false),
        (&["--max-size=1k", "--max-drain=2k"], true),
    ] {
        let replies = codes_of(&start(options), &large).await;
        assert_eq!(replies[..5], ["220", "250", "250", "250", "354"]);
        let is_last = replies.last().map(String::as_str) != Some("221");
        assert_eq!(is_last, ends, "{options:?}: {replies:?}");
    }
}

pub(super) async fn max_rejected_recipients() {
    let server = start(&["--domain=example.org", "--max-rejected-recipients=2"]);
    let text = format!("EHLO c\r\n{MAIL}{OTHERS}");
    assert_eq!(codes_of(&server, &text).await[2..], ["250", "550", "421"]);
}

pub(super) async fn max_deferred_recipients() {
    let options = ["--max-recipients=1", "--max-deferred-recipients=2"];
    let limited = replies(&options, &format!("{MAIL}{OTHERS}")).await;
    assert_eq!(limited, ["250", "250", "452", "421"]);
}

pub(super) async fn max_prompt_refusals() {
    let wrong = "WHAT\r\n".repeat(3);
    let since = Instant::now();
    let held_back = replies(&["--max-prompt-refusals=2"], &wrong).await;
    assert_eq!(held_back, ["500", "500", "500", "221"]);
    assert!(since.elapsed() >= Duration::from_secs(1), "the third waits");
}

pub(super) async fn max_idle_commands() {
    let limited = replies(&["--max-idle-commands=3"], &"NOOP\r\n".repeat(5)).await;
    assert_eq!(limited.last().map(String::as_str), Some("421"));
    assert!(limited.len() < 5, "{limited:?}");
}

const REFUSED: &str = "PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n";

pub(super) async fn max_after_refusal() {
    let noop = "NOOP\r\n".repeat(6);
    for (options, replies) in [
        (&[][..], &["554", "503", "503", "503", "421"][..]),
        (&["--max-after-refusal=1"], &["554", "503", "421"]),
    ] {
        let server = start(&[&["--proxy-from=127.0.0.1"], options].concat());
        assert_eq!(
            codes_of(&server, &format!("{REFUSED}{noop}")).await,
            replies
        );
    }
}

/// What has arrived of a message and is not written yet counts, and then another message is deferred.
pub(super) async fn memory_budget() {
    let large = message(&format!("{}\r\n", "x".repeat(900)).repeat(10_000));
    let mail = format!("HELO c\r\n{MAIL}QUIT\r\n");
    let server = start(&["--max-size=100M", "--memory-budget=1"]);
    let messages = async {
        loop {
            codes_of(&server, &large).await;
        }
    };
    let is_deferred = |code: &String| ["452", "421"].contains(&code.as_str());
    let deferred = async { while !codes_of(&server, &mail).await.iter().any(is_deferred) {} };
    tokio::select! {
        () = messages => {}
        () = deferred => {}
    }
    let server = start(&[]);
    assert_eq!(codes_of(&server, &mail).await[2], "250");
}

/// More than any disk has.
pub(super) async fn min_free_space() {
    let mail = format!("HELO c\r\n{MAIL}QUIT\r\n");
    let server = start(&["--min-free-space=8000000T"]);
    // It is measured when the first message comes.
    while codes_of(&server, &mail).await[2] != "452" {}
    let server = start(&["--min-free-space=0"]);
    assert_eq!(codes_of(&server, &mail).await[2], "250");
}

/// A client that waits is greeted late, one that does not at once. Those of LMTP never wait.
pub(super) async fn greeting_delay() {
    let since = Instant::now();
    let server = start(&["--greeting-delay=500ms"]);
    let mut client = super::greeted(&server, "smtp").await;
    assert!(since.elapsed() >= Duration::from_millis(500));
    client.cmd("QUIT", "221").await;
    let listeners = ["--listen=127.0.0.1:0", "--listen-lmtp=127.0.0.1:0"];
    let server = Reference::start(2, &[&listeners[..], &["--greeting-delay=200s"]].concat());
    super::greeted(&server, "lmtp").await;
    assert_eq!(codes_of(&server, "QUIT\r\n").await, ["220", "221"]);
}

pub(super) async fn refuse_early_talkers() {
    let delay = "--greeting-delay=200s";
    for (options, reply) in [
        (&[delay][..], "220"),
        (&[delay, "--refuse-early-talkers"], "554"),
    ] {
        let replies = codes_of(&start(options), "QUIT\r\n").await;
        assert_eq!(replies[0], reply, "{options:?}");
    }
}

pub(super) async fn strict_pipelining() {
    let text = "EHLO c\r\nNOOP\r\nQUIT\r\n";
    let server = start(&[]);
    assert_eq!(codes_of(&server, text).await, ["220", "250", "250", "221"]);
    let strict = codes_of(&start(&["--strict-pipelining"]), text).await;
    assert!(strict.contains(&"554".to_owned()), "{strict:?}");
}

pub(super) async fn guard() {
    let limit = ["--guard-new-sessions=1/1h", "--guard-exempt=none"];
    for (options, last) in [(&[][..], &["421"][..]), (&["--guard=off"], &["220", "221"])] {
        let server = start(&[&limit[..], options].concat());
        assert_eq!(codes_of(&server, "QUIT\r\n").await, ["220", "221"]);
        assert_eq!(codes_of(&server, "QUIT\r\n").await, last, "{options:?}");
    }
}

/// A guard that remembers few clients forgets the others.
pub(super) async fn guard_capacity() {
    for (options, forgets) in [(&[][..], false), (&["--guard-capacity=1"], true)] {
        let server = start_behind_proxy(&[&["--guard-new-sessions=1/1h"], options].concat());
        let mut refused = 0;
        for client in [A, B, "203.0.113.1", A, B, "203.0.113.1"] {
            refused += usize::from(codes_from(&server, client, "").await.is_empty());
        }
        assert_eq!(refused < 3, forgets, "{options:?}: {refused}");
    }
}

/// A connection that has been greeted, without an end to reading.
fn connect(server: &Reference, listener: &str) -> TcpStream {
    let stream = TcpStream::connect(server.address(listener)).unwrap();
    stream.set_read_timeout(Some(super::HANGS)).unwrap();
    stream
}

/// Sends this, then one piece after another for as long as the server reads, and returns what it has replied.
fn trickle(server: &Reference, first: &str, piece: &str) -> String {
    let mut stream = connect(server, "smtp");
    stream.write_all(first.as_bytes()).unwrap();
    let (mut from, mut replies) = (stream.try_clone().unwrap(), Vec::new());
    let reader = std::thread::spawn(move || {
        // It may be reset.
        let _ = from.read_to_end(&mut replies);
        String::from_utf8(replies).unwrap()
    });
    while !reader.is_finished() {
        if piece.is_empty() || stream.write_all(piece.as_bytes()).is_err() {
            break;
        }
        sleep(SHORT / 8);
    }
    reader.join().unwrap()
}

/// With that timeout, a client that begins with this and goes on with that is told 421.
fn check_timeout(options: &[&str], first: &str, piece: &str) {
    let since = Instant::now();
    let replies = trickle(&start(options), first, piece);
    assert_eq!(
        codes(&replies).last(),
        Some(&"421"),
        "{options:?}: {replies}"
    );
    assert!(since.elapsed() >= SHORT, "it is early");
}

const MESSAGE: &str = "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@a.test>\r\nDATA\r\n";

pub(super) async fn timeout_command() {
    check_timeout(&["--timeout-command=200ms"], "", "");
}

pub(super) async fn timeout_line() {
    check_timeout(&["--timeout-line=200ms"], "NO", "");
}

pub(super) async fn timeout_data() {
    check_timeout(&["--timeout-data=200ms"], MESSAGE, "");
}

pub(super) async fn timeout_transfer() {
    let options = ["--timeout-transfer=200ms", "--min-rate=1G"];
    check_timeout(&options, MESSAGE, "x\r\n");
}

/// What arrives earns a second for each byte, or nearly nothing.
pub(super) async fn min_rate() {
    let limit = "--timeout-transfer=200ms";
    let server = start(&[limit, "--min-rate=1"]);
    let mut stream = connect(&server, "smtp");
    stream.write_all(MESSAGE.as_bytes()).unwrap();
    for _ in 0..5 {
        stream.write_all(b"x\r\n").unwrap();
        sleep(SHORT);
    }
    stream.write_all(b".\r\nQUIT\r\n").unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).unwrap();
    assert_eq!(codes(&replies)[4..], ["354", "250", "221"], "{replies}");
    check_timeout(&[limit, "--min-rate=1G"], MESSAGE, "x\r\n");
}

pub(super) async fn timeout_session() {
    check_timeout(&["--timeout-session=200ms"], "", "NOOP\r\n");
}

pub(super) async fn timeout_without_message() {
    check_timeout(&["--timeout-without-message=200ms"], "", "NOOP\r\n");
}

pub(super) async fn timeout_without_login() {
    let users = ["--user=a:b", "--require-auth"];
    let options = [&users[..], &["--timeout-without-login=200ms"]].concat();
    check_timeout(&options, "", "NOOP\r\n");
}

pub(super) async fn timeout_handshake() {
    let listener = ["--listen-tls=127.0.0.1:0", "--tls-self-signed"];
    let options = [&listener[..], &["--timeout-handshake=200ms"]].concat();
    let server = Reference::start(1, &options);
    let mut silent = connect(&server, "smtps");
    let (since, mut said) = (Instant::now(), Vec::new());
    silent.read_to_end(&mut said).unwrap();
    assert!(said.is_empty() && since.elapsed() >= SHORT / 2);
}

/// A client that reads nothing is disconnected, once more replies wait for it than the system buffers.
pub(super) async fn timeout_write() {
    let server = start(&["--timeout-write=200ms", "--max-idle-commands=100000000"]);
    let mut stream = connect(&server, "smtp");
    stream.set_write_timeout(Some(super::HANGS)).unwrap();
    let many = "EHLO c\r\n".repeat(1000);
    let error = loop {
        if let Err(error) = stream.write_all(many.as_bytes()) {
            break error;
        }
    };
    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
}

pub(super) async fn timeout_after_refusal() {
    let options = ["--proxy-from=127.0.0.1", "--timeout-after-refusal=200ms"];
    let since = Instant::now();
    let said = trickle(&start(&options), REFUSED, "");
    assert_eq!(codes(&said)[0], "554");
    assert!(since.elapsed() >= SHORT && since.elapsed() < Duration::from_secs(9));
}

/// How long a client may go on sending after the end of its session, so that it can still read the last reply.
pub(super) async fn timeout_linger() {
    for (option, lingers) in [
        ("--timeout-linger=100s", true),
        ("--timeout-linger=0", false),
    ] {
        let server = start(&["--max-errors=1", option]);
        let mut stream = connect(&server, "smtp");
        stream.write_all(b"WHAT\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(codes(&said), ["220", "421"]);
        let mut goes_on = || {
            sleep(SHORT);
            stream.write_all(b"NOOP\r\n").is_ok()
        };
        assert_eq!((0..3).all(|_| goes_on()), lingers, "{option}");
    }
}

/// A rejection that the tarpit delays comes before the server would have to answer in its place.
pub(super) async fn timeout_call() {
    let server = start_behind_proxy(&["--tarpit=25s", "--timeout-call=500ms"]);
    let since = Instant::now();
    let rejected = codes_from(&server, A, &format!("{MAIL}RCPT TO:<a@x.test>\r\n")).await;
    assert_eq!(rejected, ["250", "250", "550", "221"]);
    assert!(
        since.elapsed() < Duration::from_secs(20),
        "it waits for the tarpit"
    );
}

/// No disk stores a large message in a millisecond.
pub(super) async fn timeout_delivery() {
    let server = start(&["--timeout-delivery=1ms", "--max-size=100M"]);
    let large = message(&format!("{}\r\n", "x".repeat(900)).repeat(10_000));
    while codes_of(&server, &large).await[5] != "451" {}
    let server = start(&["--max-size=100M"]);
    assert_eq!(codes_of(&server, &large).await[5], "250");
}
