//! Deadlines, with a manual clock.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use smtpd_core::{
    Code, Config, Connection, Reply, Status, Step, Timeouts,
    config::DriverConfig,
    connection::{CloseReason, Overdue, TlsFacts},
    sasl::{CramMd5, Identity, Mechanisms},
};

use crate::support::{Caller, Decision, Session, Told, Yes};

const TIMED_OUT: &str = "421 4.4.2 mx.example.org smtpd timed out, closing the connection\r\n";
const TRANSACTION: &str = "HELO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

fn config() -> Config {
    Config::new("mx.example.org")
        .mechanisms(Mechanisms::none().with(CramMd5))
        .entropy(|nonce| {
            nonce.fill(0);
            true
        })
}

fn driver(config: Config) -> Arc<DriverConfig> {
    Arc::new(DriverConfig::new(config).starttls(true))
}

fn session() -> Session<Yes> {
    started(config())
}

fn started(config: Config) -> Session<Yes> {
    let mut session = Session::new(driver(config), false, Yes);
    session.feed(b"");
    session
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl<C: Caller> Session<C> {
    /// Lets `passed` seconds pass, then sends this from the client.
    fn later(&mut self, passed: u64, bytes: &str) {
        self.now += seconds(passed);
        assert!(
            self.until.is_none_or(|until| until > self.now),
            "{passed} s were too long for {bytes:?}"
        );
        self.feed(bytes.as_bytes());
    }

    /// Returns how many seconds are left.
    fn left(&self) -> Option<u64> {
        self.until
            .map(|until| until.saturating_duration_since(self.now).as_secs())
    }

    /// Asserts that the session ends after that time, not before.
    fn assert_ends_in(&mut self, passed: u64) {
        let deadline = self.until.unwrap();
        assert_eq!((deadline - self.now).as_secs(), passed);
        self.output.clear();
        self.now = deadline - Duration::from_nanos(1);
        self.feed(b"");
        assert!(self.output.is_empty());
        self.now = deadline;
        self.feed(b"");
        assert_eq!(String::from_utf8_lossy(&self.output), TIMED_OUT);
        assert_eq!(
            format!("{:?}", self.told().last().unwrap()),
            "closed timeout"
        );
        self.feed(b"NOOP\r\n");
        assert_eq!(String::from_utf8_lossy(&self.output), TIMED_OUT);
    }
}

/// Returns settings whose limits are never reached.
fn patient() -> Config {
    config().timeouts(|timeouts| timeouts.without_message = Duration::MAX)
}

#[test]
fn silence_ends_a_session_in_every_state() {
    let transaction = |rest: &str| format!("{TRANSACTION}{rest}");
    for (client, limit) in [
        (String::new(), 300),
        ("NO".into(), 60),
        ("EHLO client.example\r\n".into(), 300),
        ("EHLO client.example\r\nAUTH CRAM-MD5\r\n".into(), 300),
        ("EHLO client.example\r\nAUTH CRAM-MD5\r\nYWx".into(), 60),
        ("HELO client.example\r\nMAIL FROM:<a@b>\r\n".into(), 300),
        (transaction(""), 300),
        (transaction("RCPT TO:"), 60),
        (transaction("DATA\r\n"), 300),
        (transaction("DATA\r\ntext"), 300),
        (transaction("DATA\r\ntext\r\n."), 300),
        (transaction("DATA\r\ntext\r\n.\r\n"), 300),
        (transaction("BDAT 10\r\ntext"), 300),
        (transaction("BDAT 4\r\ntext"), 300),
        (transaction("BDAT 2 LAST\r\n\n\n"), 300),
        ("BDAT 10\r\ntext".into(), 300),
        (format!("NOOP {}", "x".repeat(5000)), 60),
    ] {
        let mut session = session();
        session.feed(client.as_bytes());
        session.assert_ends_in(limit);
    }
}

#[test]
fn a_poll_without_input_renews_nothing() {
    let mut session = session();
    session.later(0, "NO");
    session.later(20, "");
    session.later(20, "");
    session.assert_ends_in(20);
}

#[test]
fn a_dripping_command_line_ends_the_session() {
    let mut session = session();
    for byte in ["N", "O", "O", "P", " ", "x"] {
        session.later(10, byte);
    }
    session.assert_ends_in(10);
}

#[test]
fn the_pause_before_a_line_is_not_part_of_the_line() {
    let mut session = started(patient());
    session.later(250, "NO");
    assert_eq!(session.left(), Some(60));
    session.later(50, "OP\r\nNOOP\r\n");
    assert_eq!(session.left(), Some(300));
    session.later(250, "EHLO client.example\r\nAUTH CRAM-MD5\r\n");
    session.later(250, "YWx");
    assert_eq!(session.left(), Some(60));
}

#[test]
fn a_dripping_line_that_is_too_long_ends_the_session() {
    let mut session = session();
    session.later(0, &"x".repeat(3000));
    for _ in 0..5 {
        session.later(10, "xxx");
    }
    session.assert_ends_in(10);
}

#[test]
fn a_slow_message_that_lives_is_never_cut() {
    let mut session = session();
    session.later(0, &format!("{TRANSACTION}DATA\r\n"));
    for _ in 0..100 {
        session.later(100, &"0123456789".repeat(5000));
    }
    session.later(100, "\r\n.\r\n");
    // The message has outlived the session's limit, which now ends the session.
    let expected = format!("552 5.3.4 Message exceeds the maximum size\r\n{TIMED_OUT}");
    assert!(String::from_utf8_lossy(&session.output).ends_with(&expected));
}

#[test]
fn a_dripping_message_ends_the_session() {
    for command in ["DATA\r\n", "BDAT 1000000 LAST\r\n"] {
        let mut session = session();
        session.later(0, TRANSACTION);
        session.later(0, command);
        for _ in 0..89 {
            session.later(10, "x");
        }
        session.assert_ends_in(10);
    }
}

#[test]
fn bytes_gain_time_at_the_minimum_rate() {
    let mut session = session();
    session.later(0, TRANSACTION);
    session.later(0, "DATA\r\n");
    session.later(0, &"x".repeat(5000));
    for _ in 0..4 {
        session.later(200, "x");
    }
    session.assert_ends_in(900 + 10 - 800);
}

#[test]
fn a_message_that_drips_chunk_by_chunk_has_the_time_of_one_message() {
    let mut session = session();
    session.later(0, TRANSACTION);
    session.later(0, "BDAT 1\r\nx");
    for _ in 0..359 {
        session.later(2, "BDAT");
        session.later(0, " 1\r\nx");
    }
    // Each of the 360 bytes has gained 2 ms.
    let left = session.until.unwrap() - session.now;
    assert_eq!(left, seconds(900 - 718) + Duration::from_millis(720));
}

#[test]
fn a_message_that_drips_from_command_to_command_ends_the_session() {
    let mut session = session();
    session.later(0, TRANSACTION);
    session.later(0, "BDAT 0\r\n");
    let mut passed = 0;
    while passed + 250 < 900 {
        session.later(250, "BDAT 0\r\n");
        passed += 250;
    }
    session.assert_ends_in(900 - passed);
}

const LOGIN: &str =
    "EHLO a\r\nAUTH CRAM-MD5\r\nYWxpY2UgMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA=\r\n";

/// Plays a question that is deferred and never answered.
fn unanswered(client: &str, ready: bool) -> (Vec<u64>, String) {
    let config = DriverConfig::new(config().allow_insecure_auth(true)).custom_commands(true);
    let mut connection = Connection::new(Arc::new(config));
    let (mut now, mut input) = (std::time::Instant::now(), BytesMut::new());
    let (mut waits, mut output) = (Vec::new(), String::new());
    let mut client = client
        .split_inclusive('\n')
        .collect::<std::collections::VecDeque<_>>();
    loop {
        let last = client.is_empty();
        match connection.poll(now, &mut input) {
            Step::Connect(ask) => defer_if(last, ready, ask),
            Step::Helo(_, ask) => defer_if(last, ready, ask),
            Step::Mail(_, ask) => defer_if(last, ready, ask),
            Step::Rcpt(_, ask) => defer_if(last, ready, ask),
            Step::Command(_, ask) => defer_if(last, ready, ask),
            Step::Data(ask) if last => drop(if ready { ask.defer() } else { ask.queue() }),
            Step::Data(ask) => ask.receive(),
            Step::ChunkEnd(ask) if last => drop(ask.defer()),
            Step::ChunkEnd(ask) => ask.accept(),
            Step::Message(_, ask) if last => drop(ask.defer()),
            Step::Auth(_, ask) => drop(if ready { ask.defer() } else { ask.queue() }),
            Step::Chunk(_, receiving)
                if last
                    && client.is_empty()
                    && output.ends_with("354 Start mail input; end with <CRLF>.<CRLF>\r\n") =>
            {
                assert!(receiving.hold().is_some());
            }
            Step::Write(mut writing) => {
                output.push_str(std::str::from_utf8(writing.bytes()).unwrap());
                writing.wrote(writing.bytes().len(), now);
            }
            Step::Read(_) => match client.pop_front() {
                Some(line) => input.extend_from_slice(line.as_bytes()),
                None => break,
            },
            Step::Answer(answering) => {
                waits.push((answering.until() - now).as_secs());
                now = answering.until();
            }
            Step::Overdue(overdue) => {
                assert_eq!(overdue == Overdue::NotReady, !ready);
                let _ = output.split_off(0);
            }
            Step::Closed(_) => break,
            _ => {}
        }
    }
    (waits, output)
}

fn defer_if<K: smtpd_core::connection::ask_kind::OneReply>(
    last: bool,
    ready: bool,
    ask: smtpd_core::Ask<'_, K>,
) {
    match (last, ready) {
        (false, _) => ask.accept(),
        (true, true) => drop(ask.defer()),
        (true, false) => drop(ask.queue()),
    }
}

/// Refuses every client.
#[derive(Debug)]
struct No;

impl Caller for No {
    fn decide(&mut self, told: &Told, _: usize) -> Option<Decision> {
        let connects = matches!(told.kind, "connect" | "xclient");
        connects.then(|| Reply::rejected("No service here").into())
    }
}

/// A session whose greeting was 554.
fn refused() -> Session<No> {
    let mut session = Session::new(driver(config()), false, No);
    session.feed(b"");
    assert_eq!(session.output, b"554 5.7.1 No service here\r\n");
    session
}

#[test]
fn a_client_that_stays_after_554_keeps_its_session_for_minutes() {
    refused().assert_ends_in(10);
    // Whatever it sends, and in whatever pieces.
    for bytes in ["NOOP\r\n", "N", "\r\n", "BDAT 9000000 LAST\r\n", "QUIT"] {
        let mut session = refused();
        session.later(4, bytes);
        assert_eq!(session.left(), Some(6), "{bytes:?}");
        session.later(5, "x");
        session.assert_ends_in(1);
    }
    let mut session = refused();
    session.later(9, "QUIT\r\n");
    assert!(
        session
            .output
            .ends_with(b"221 2.0.0 mx.example.org smtpd closing the connection\r\n")
    );
    assert!(session.is_closed());
}

#[test]
fn a_client_that_stays_after_554_may_send_commands_for_minutes() {
    let mut session = refused();
    for _ in 0..3 {
        session.output.clear();
        session.later(1, "NOOP\r\n");
        assert_eq!(session.output, b"503 5.5.1 Bad sequence of commands\r\n");
    }
    session.output.clear();
    session.later(1, "NOOP\r\nNOOP\r\n");
    let closing = "421 4.7.0 mx.example.org smtpd too many errors, closing the connection\r\n";
    assert_eq!(String::from_utf8_lossy(&session.output), closing);
    assert!(session.is_closed());
}

#[test]
fn a_client_that_does_not_read_its_554_keeps_its_session_for_minutes() {
    let mut session = Session::new(driver(config()), false, No);
    session.input = BytesMut::from(&b"NOOP\r\n"[..]);
    let start = session.now;
    // What the service takes is not the client's time.
    let deferred = match session.connection.poll(start, &mut session.input) {
        Step::Connect(ask) => ask.defer(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        session.connection.poll(start, &mut session.input),
        Step::Answer(_)
    ));
    let answered = start + seconds(200);
    let ask = session.connection.resume(deferred).unwrap();
    ask.refuse(Reply::rejected("No service here"));
    for passed in [0, 4, 9] {
        let now = answered + seconds(passed);
        match session.connection.poll(now, &mut session.input) {
            Step::Write(mut writing) => {
                assert_eq!(writing.until(), answered + seconds(10));
                writing.wrote(1, now);
            }
            other => panic!("{passed}: {other:?}"),
        }
    }
    let end = session
        .connection
        .poll(answered + seconds(10), &mut session.input);
    assert!(matches!(end, Step::Closed(CloseReason::Timeout)));
}

#[test]
fn a_client_that_xclient_names_and_that_is_refused_has_its_own_time() {
    let config = DriverConfig::new(config()).xclient(true);
    let mut session = Session::new(config.into(), false, Yes);
    session.connection.allow_xclient();
    session.feed(b"");
    session.later(60, "EHLO proxy.example\r\n");
    session
        .input
        .extend_from_slice(b"XCLIENT ADDR=192.0.2.1\r\n");
    session.now += seconds(60);
    match session.connection.poll(session.now, &mut session.input) {
        Step::XClient(_, ask) => ask.refuse(Reply::rejected("No service here")),
        other => panic!("{other:?}"),
    }
    session.feed(b"");
    session.assert_ends_in(10);
}

#[test]
fn what_a_busy_driver_takes_is_not_held_against_a_refused_client() {
    let mut session = refused();
    let since = session.now;
    session.now += seconds(7);
    session.connection.handle_busy(since, session.now);
    session.feed(b"");
    session.assert_ends_in(10);
}

#[test]
fn a_question_that_is_never_answered_is_answered_451_in_time() {
    let late = "451 4.3.0 Timed out, try again later\r\n";
    let transaction = |rest: &str| format!("{TRANSACTION}{rest}");
    for (client, limit, answer) in [
        (
            String::new(),
            240,
            "421 4.3.0 Timed out, try again later\r\n",
        ),
        ("EHLO a\r\n".into(), 240, late),
        (
            LOGIN.into(),
            240,
            "454 4.7.0 Temporary authentication failure\r\n",
        ),
        ("EHLO a\r\nMAIL FROM:<a@b>\r\n".into(), 240, late),
        (transaction(""), 240, late),
        (transaction("FROBNICATE\r\n"), 240, late),
        (transaction("DATA\r\n"), 85, late),
        (transaction("BDAT 2\r\nx\n"), 540, ""),
        (transaction("DATA\r\nHello\r\n.\r\n"), 540, late),
    ] {
        let (waits, output) = unanswered(&client, true);
        assert_eq!(waits, [limit], "{client}");
        assert!(output.ends_with(answer), "{client}: {output}");
    }
}

#[test]
fn a_service_that_is_never_ready_costs_30_seconds() {
    let (waits, output) = unanswered(TRANSACTION, false);
    assert_eq!(waits, [30]);
    assert_eq!(output, "451 4.3.2 System is busy, try again later\r\n");
}

/// RFC 4954 section 6: so that clients know that the password is not wrong.
#[test]
fn an_authentication_service_that_is_never_ready_is_answered_454() {
    let (waits, output) = unanswered(LOGIN, false);
    assert_eq!(waits, [30]);
    assert_eq!(output, "454 4.7.0 System is busy, try again later\r\n");
}

/// Polls until a question is asked, which consumes the output before it.
fn until_mail(
    session: &mut Session<Yes>,
) -> smtpd_core::connection::Deferred<smtpd_core::connection::ask_kind::Mail> {
    session.input.extend_from_slice(b"MAIL FROM:<a@b>\r\n");
    match session.connection.poll(session.now, &mut session.input) {
        Step::Mail(_, ask) => ask.queue(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_that_becomes_ready_has_the_time_of_a_call() {
    let mut session = session();
    session.feed(b"EHLO a\r\n");
    let deferred = until_mail(&mut session);
    session.feed(b"");
    assert_eq!(session.left(), Some(30));
    session.now += seconds(29);
    session.connection.begin(&deferred);
    session.feed(b"");
    assert_eq!(session.left(), Some(240));
    session.now += seconds(239);
    session.connection.resume(deferred).unwrap().accept();
    session.feed(b"");
    assert_eq!(
        session.left(),
        Some(300),
        "what a service took is not the client's time"
    );
}

#[test]
fn the_time_for_an_answer_is_not_known_before_the_question_is_deferred() {
    let mut session = session();
    session.later(0, "EHLO a\r\n");
    session.now += seconds(7);
    session.input.extend_from_slice(b"MAIL FROM:<a@b>\r\n");
    let (until, mail) = match session.connection.poll(session.now, &mut session.input) {
        Step::Mail(_, ask) => (ask.until(), ask.defer()),
        other => panic!("{other:?}"),
    };
    assert_eq!(until, session.now + seconds(240));
    assert_due(&mut session, until);
    session.connection.resume(mail).unwrap().accept();

    session.later(3, "RCPT TO:<c@d>\r\n");
    session.input.extend_from_slice(b"DATA\r\n");
    let (until, data) = match session.connection.poll(session.now, &mut session.input) {
        Step::Data(ask) => (ask.until(), ask.defer()),
        other => panic!("{other:?}"),
    };
    assert_eq!(until, session.now + seconds(85));
    assert_due(&mut session, until);
    session.connection.resume(data).unwrap().receive();

    session.later(5, "");
    session.input.extend_from_slice(b"x");
    let (until, held) = match session.connection.poll(session.now, &mut session.input) {
        Step::Chunk(_, receiving) => (receiving.until(), receiving.hold().unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!(until, session.now + seconds(540));
    assert_due(&mut session, until);
    session.connection.resume(held).unwrap().accept();
}

fn assert_due(session: &mut Session<Yes>, expected: std::time::Instant) {
    match session.connection.poll(session.now, &mut session.input) {
        Step::Answer(answer) => assert_eq!(answer.until(), expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_caller_takes_for_a_piece_of_the_message_is_not_held_against_the_client() {
    let mut session = session();
    session.later(0, TRANSACTION);
    session.later(0, "DATA\r\n");
    for _ in 0..100 {
        session.input.extend_from_slice(b"x");
        let held = match session.connection.poll(session.now, &mut session.input) {
            Step::Chunk(_, receiving) => receiving.hold().unwrap(),
            other => panic!("{other:?}"),
        };
        session.now += seconds(100);
        assert!(matches!(
            session.connection.poll(session.now, &mut session.input),
            Step::Answer(_)
        ));
        session.connection.resume(held).unwrap().accept();
        session.feed(b"");
        assert_eq!(session.left(), Some(300));
    }
}

#[test]
fn a_message_that_is_held_up_too_long_is_answered_451_at_its_end() {
    let mut session = session();
    session.later(0, &format!("{TRANSACTION}DATA\r\n"));
    session.input.extend_from_slice(b"x");
    match session.connection.poll(session.now, &mut session.input) {
        Step::Chunk(_, receiving) => assert!(receiving.hold().is_some()),
        other => panic!("{other:?}"),
    }
    session.feed(b"more\r\n.\r\n");
    assert_eq!((session.left(), session.input.len()), (Some(540), 9));
    session.now += seconds(540);
    session.output.clear();
    session.feed(b"");
    assert_eq!(
        String::from_utf8_lossy(&session.output),
        "451 4.3.0 Timed out, try again later\r\n"
    );
}

#[test]
fn a_client_that_does_not_take_its_replies_is_given_up_in_time() {
    let mut session = session();
    session.input = BytesMut::from(&b"NOOP\r\n".repeat(10)[..]);
    let start = session.now;
    // It receives a byte now and then, which gains 2 ms each time.
    for n in 0..29 {
        session.now = start + seconds(10 * n);
        match session.connection.poll(session.now, &mut session.input) {
            Step::Write(mut writing) => {
                let earned = if n == 0 { 0 } else { n - 1 };
                assert!(
                    writing.until() <= start + seconds(300) + Duration::from_millis(2 * earned)
                );
                writing.wrote(usize::from(n > 0), session.now);
            }
            other => panic!("{n}: {other:?}"),
        }
    }
    // It was 290 s old then, and has gained 56 ms.
    session.now = start + seconds(300) + Duration::from_millis(60);
    assert!(matches!(
        session.connection.poll(session.now, &mut session.input),
        Step::Closed(CloseReason::Timeout)
    ));
}

#[test]
fn what_a_busy_driver_takes_is_not_held_against_the_client() {
    let mut session = session();
    session.feed(b"NOOP");
    // The driver has polled with the time at which it was woken, and finds out that it has worked for 100 s since.
    for (input, left) in [("", 60), ("\r\nNOOP\r\n", 300)] {
        session.input.extend_from_slice(input.as_bytes());
        let woken = session.now;
        let _ = session.connection.poll(woken, &mut session.input);
        session.now = woken + seconds(100);
        session.connection.handle_busy(woken, session.now);
        let until = match session.connection.poll(session.now, &mut session.input) {
            Step::Write(writing) => writing.until(),
            Step::Read(reading) => reading.until(),
            other => panic!("{other:?}"),
        };
        assert_eq!(until, session.now + seconds(left), "{input:?}");
    }
    session.feed(b"");
    // The time spent waiting for the client still counts.
    session.later(100, "");
    assert_eq!(session.left(), Some(200));
}

#[test]
fn what_a_busy_driver_takes_is_not_held_against_a_handshake() {
    let mut session = Session::new(driver(config()), true, Yes);
    session.feed(b"");
    assert_eq!(session.left(), Some(30));
    let woken = session.now + seconds(10);
    session.now = woken + seconds(100);
    session.connection.handle_busy(woken, session.now);
    session.feed(b"");
    assert_eq!(session.left(), Some(20));
}

#[test]
fn a_client_that_does_not_take_its_replies_is_not_read_from() {
    let mut session = started(config().limits(|limits| limits.idle_commands = u32::MAX));
    session.input = BytesMut::from(&b"VRFY a\r\n".repeat(2000)[..]);
    let before = session.input.len();
    let mut writes = 0;
    loop {
        match session.connection.poll(session.now, &mut session.input) {
            Step::Write(mut writing) => {
                let unsent = writing.bytes().len();
                assert!(unsent <= (16 << 10) + 512, "{unsent} bytes wait");
                writes += 1;
                if writes <= 3 {
                    // Nothing is written: the same wait again.
                    continue;
                }
                writing.wrote(unsent, session.now);
            }
            Step::Read(_) => break,
            other => panic!("{other:?}"),
        }
        assert!(session.input.len() < before);
    }
    assert!(
        session.input.is_empty(),
        "input is left after the replies were written"
    );
}

#[test]
fn a_handshake_has_a_deadline() {
    for tls_first in [false, true] {
        let mut session = Session::new(driver(config()), tls_first, Yes);
        session.feed(if tls_first { b"" } else { b"STARTTLS\r\n" });
        assert_eq!(session.left(), Some(30));
        session.output.clear();
        session.now += seconds(30);
        session.feed(b"EHLO client.example\r\n");
        assert_eq!(
            format!("{:?}", session.told().last().unwrap()),
            "closed tls failed"
        );
        // The client would read plaintext as part of the handshake.
        assert!(session.output.is_empty());
    }
}

#[test]
fn the_time_of_a_handshake_is_not_held_against_the_client() {
    let mut session = session();
    session.later(0, "STARTTLS\r\n");
    session.now += seconds(29);
    session.handshake(TlsFacts::default());
    session.feed(b"");
    assert_eq!(session.left(), Some(300));
}

#[test]
fn a_session_s_time_ends_between_two_messages_only() {
    let mut session = started(patient());
    session.later(0, "HELO client.example\r\n");
    for _ in 0..17 {
        session.later(200, "NOOP\r\n");
    }
    assert_eq!(
        session.left(),
        Some(200),
        "a command may be awaited until the end"
    );
    session.later(199, "MAIL FROM:<a@b>\r\n");
    assert_eq!(session.left(), Some(300), "a transaction may go on");
    session.later(200, "RCPT TO:<c@d>\r\n");
    session.later(200, "DATA\r\n");
    session.later(200, "text\r\n");
    session.later(0, ".\r\nMAIL FROM:<a@b>\r\n");
    let expected = format!("250 2.0.0 Taken\r\n{TIMED_OUT}");
    assert!(String::from_utf8_lossy(&session.output).ends_with(&expected));
}

#[test]
fn a_session_s_time_ends_while_commands_keep_coming() {
    let mut session = started(patient());
    session.feed(b"HELO client.example\r\n");
    session.output.clear();
    session
        .input
        .extend_from_slice(&b"MAIL FROM:<a@b>\r\nRSET\r\n".repeat(40));
    for _ in 0..40 {
        session.now += seconds(100);
        session.input.extend_from_slice(b"NOOP\r\n");
        match session.connection.poll(session.now, &mut session.input) {
            Step::Mail(_, ask) => ask.refuse(Reply::busy()),
            Step::Write(mut writing) => {
                session.output.extend_from_slice(writing.bytes());
                writing.wrote(writing.bytes().len(), session.now);
            }
            _ => {}
        }
    }
    session.feed(b"");
    let output = String::from_utf8_lossy(&session.output);
    assert!(output.ends_with(TIMED_OUT), "{output}");
    assert!(!session.told().iter().any(|told| told.kind == "mail"));
}

#[test]
fn a_transaction_is_not_kept_open_without_end() {
    let prompt = patient().limits(|limits| limits.prompt_refusals = 100);
    let mut session = started(prompt);
    session.later(0, TRANSACTION);
    let mut passed = 0;
    while passed < 3600 + 900 - 299 {
        session.later(250, "RCPT TO:<>\r\nRCPT TO:<e@f>\r\n");
        passed += 250;
    }
    session.assert_ends_in(3600 + 900 - passed);
}

#[test]
fn a_session_that_delivers_nothing_ends() {
    let mut session = session();
    session.later(0, "HELO client.example\r\n");
    for _ in 0..2 {
        session.later(250, "NOOP\r\n");
    }
    assert_eq!(session.left(), Some(100));
    session.later(
        99,
        "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nHello\r\n.\r\n",
    );
    assert_eq!(session.left(), Some(300), "a message was accepted");
    for _ in 0..2 {
        session.later(250, "NOOP\r\n");
    }
    session.assert_ends_in(100);
}

#[test]
fn the_time_of_a_service_is_not_time_without_a_message() {
    let mut session = session();
    session.feed(b"EHLO a\r\n");
    for _ in 0..10 {
        let deferred = until_mail(&mut session);
        session.connection.begin(&deferred);
        session.feed(b"");
        session.now += seconds(200);
        let ask = session.connection.resume(deferred).unwrap();
        ask.refuse(Reply::new(Code::MAILBOX_BUSY, Status::UNDEFINED, "Later"));
        session.feed(b"");
        assert_eq!(session.left(), Some(300));
    }
}

#[test]
fn a_client_that_does_not_log_in_where_it_has_to_is_ended_sooner() {
    let mut session = started(
        config()
            .require_auth(true)
            .allow_insecure_auth(true)
            .mechanisms(Mechanisms::default()),
    );
    session.later(0, "EHLO client.example\r\n");
    session.later(250, "NOOP\r\n");
    assert_eq!(session.left(), Some(50));
    session.later(49, "AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n");
    assert_eq!(session.connection.identity(), Some(&Identity::new("alice")));
    assert_eq!(session.left(), Some(300));
}

#[test]
fn limits_without_end_are_no_fault() {
    let mut timeouts = Timeouts::default().inactivity(Duration::MAX);
    timeouts.transfer = Duration::MAX;
    timeouts.line = Duration::MAX;
    timeouts.without_message = Duration::MAX;
    timeouts.without_login = Duration::MAX;
    timeouts.session = Duration::MAX;
    let mut session = started(config().timeouts(|own| *own = timeouts));
    for text in [
        "NO",
        "OP\r\n",
        TRANSACTION,
        "DATA\r\n",
        &"x".repeat(10_000),
        "\r\n.\r\n",
    ] {
        session.later(1_000_000, text);
        assert!(session.left() > Some(1 << 29));
    }
}

#[test]
fn limits_on_a_service_without_end_are_no_fault() {
    let mut timeouts = Timeouts::default();
    for limit in [
        &mut timeouts.write,
        &mut timeouts.handshake,
        &mut timeouts.ready,
        &mut timeouts.call,
        &mut timeouts.data_start,
        &mut timeouts.delivery,
        &mut timeouts.linger,
    ] {
        *limit = Duration::MAX;
    }
    let mut session = started(config().timeouts(|own| *own = timeouts));
    session.feed(b"EHLO a\r\n");
    let deferred = until_mail(&mut session);
    session.feed(b"");
    assert!(session.left() > Some(1 << 29));
    session.connection.begin(&deferred);
    session.feed(b"");
    assert!(session.left() > Some(1 << 29));
    session.connection.resume(deferred).unwrap().accept();
    session.feed(b"RSET\r\nSTARTTLS\r\n");
    assert!(session.left() > Some(1 << 29));
}

#[test]
fn a_shutdown_ends_what_is_idle_and_waits_for_what_is_not() {
    let refused = "421 4.3.2 mx.example.org smtpd shuts down, closing the connection\r\n";
    for (client, idle) in [
        ("", true),
        ("NO", true),
        ("HELO client.example\r\n", true),
        ("HELO client.example\r\nMAIL FROM:<a@b>\r\n", false),
        (TRANSACTION, false),
        ("HELO client.example\r\nMAIL FROM:<a@b>\r\nRSET\r\n", true),
    ] {
        let mut session = session();
        session.later(0, client);
        session.output.clear();
        session.connection.drain();
        session.feed(b"");
        assert_eq!(
            String::from_utf8_lossy(&session.output),
            if idle { refused } else { "" },
            "{client:?}"
        );
        if !idle {
            // The driver need not call it again.
            session.feed(b"RCPT TO:<c@d>\r\nDATA\r\ntext\r\n.\r\n");
            let expected = format!("250 2.0.0 Taken\r\n{refused}");
            assert!(String::from_utf8_lossy(&session.output).ends_with(&expected));
            session.feed(b"MAIL FROM:<a@b>\r\n");
            assert!(session.output.ends_with(refused.as_bytes()));
        }
        assert_eq!(
            format!("{:?}", session.told().last().unwrap()),
            "closed shutdown"
        );
    }
}

#[test]
fn a_shutdown_waits_for_an_answer_that_is_due() {
    let mut connection = Connection::new(driver(config()));
    let (now, mut input) = (std::time::Instant::now(), BytesMut::new());
    let deferred = match connection.poll(now, &mut input) {
        Step::Connect(ask) => ask.defer(),
        other => panic!("{other:?}"),
    };
    connection.drain();
    assert!(matches!(connection.poll(now, &mut input), Step::Answer(_)));
    connection.resume(deferred).unwrap().accept();
    match connection.poll(now, &mut input) {
        Step::Write(mut writing) => {
            let text = String::from_utf8_lossy(writing.bytes()).into_owned();
            assert!(
                text.starts_with("220 ") && text.contains("\r\n421 4.3.2 "),
                "{text}"
            );
            writing.wrote(text.len(), now);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        connection.poll(now, &mut input),
        Step::Closed(CloseReason::Shutdown)
    ));
}

#[test]
fn a_forced_shutdown_ends_everything_and_late_answers_say_nothing() {
    for client in [TRANSACTION, "MAIL"] {
        let mut session = session();
        session.later(0, client);
        session.connection.shut_down();
        session.output.clear();
        session.feed(b"NOOP\r\n");
        assert!(session.output.starts_with(b"421 4.3.2 "));
    }
    let mut session = session();
    session.feed(b"EHLO a\r\n");
    let deferred = until_mail(&mut session);
    session.connection.shut_down();
    assert!(session.connection.resume(deferred).is_none());
    session.output.clear();
    session.feed(b"");
    assert!(session.output.starts_with(b"421 "));
    assert_eq!(
        session.output.iter().filter(|&&byte| byte == b'\n').count(),
        1
    );
}

#[test]
fn the_last_reply_of_a_forced_shutdown_has_a_second() {
    let mut session = session();
    session.input.extend_from_slice(b"NOOP\r\n");
    assert!(matches!(
        session.connection.poll(session.now, &mut session.input),
        Step::Write(_)
    ));
    session.now += seconds(100);
    session.connection.shut_down();
    for _ in 0..3 {
        // A second call changes nothing.
        session.connection.shut_down();
        match session.connection.poll(session.now, &mut session.input) {
            Step::Write(writing) => assert!(writing.until() <= session.now + seconds(1)),
            other => panic!("{other:?}"),
        }
        session.now += Duration::from_millis(300);
    }
    session.now += Duration::from_millis(100);
    assert!(matches!(
        session.connection.poll(session.now, &mut session.input),
        Step::Closed(CloseReason::Shutdown)
    ));
}

#[test]
fn a_handshake_is_not_awaited_after_a_shutdown() {
    let mut session = session();
    session.later(0, "STARTTLS\r\n");
    session.output.clear();
    session.connection.shut_down();
    session.feed(b"EHLO client.example\r\n");
    assert_eq!(
        format!("{:?}", session.told().last().unwrap()),
        "closed shutdown"
    );
    // The client would read plaintext as part of the awaited handshake.
    assert_eq!(String::from_utf8_lossy(&session.output), "");
}

/// Rejects the recipients at `x`, and defers those at `y`.
#[derive(Debug)]
struct Guessed;

impl Caller for Guessed {
    fn decide(&mut self, told: &Told, _: usize) -> Option<Decision> {
        let text = String::from_utf8_lossy(&told.text);
        match (told.kind, text.contains("@x "), text.contains("@y ")) {
            ("rcpt", true, _) => Some(Reply::no_such_user().into()),
            ("rcpt", _, true) => Some(Reply::busy().into()),
            _ => None,
        }
    }
}

/// A session in a transaction, and what it sends after this: the replies, each with the second in which it was sent.
fn pace(sent: &str) -> (Vec<(u64, u16)>, Option<CloseReason>) {
    let mut session = Session::new(driver(config()), false, Guessed);
    session.feed(TRANSACTION.as_bytes());
    session.output.clear();
    session.send(sent.as_bytes());
    let (start, mut now, mut replies) = (session.now, session.now, Vec::new());
    loop {
        match session.connection.poll(now, &mut session.input) {
            Step::Write(mut writing) => {
                let text = String::from_utf8(writing.bytes().to_vec()).unwrap();
                let codes = text.lines().map(|line| line[..3].parse().unwrap());
                replies.extend(codes.map(|code| ((now - start).as_secs(), code)));
                writing.wrote(text.len(), now);
            }
            Step::Answer(wait) => {
                assert!(wait.holds_reply() && !wait.outlives_client());
                now = wait.until();
            }
            Step::Rcpt(rcpt, ask) => match rcpt.recipient().as_str() {
                path if path.ends_with("@x") => ask.refuse(Reply::no_such_user()),
                path if path.ends_with("@y") => ask.refuse(Reply::busy()),
                _ => ask.accept(),
            },
            Step::Mail(_, ask) => ask.accept(),
            Step::Data(ask) => ask.receive(),
            Step::Message(_, ask) => ask.reply(Reply::OK),
            Step::Read(_) => return (replies, None),
            Step::Closed(reason) => return (replies, Some(reason)),
            step => drop(step),
        }
    }
}

#[test]
fn addresses_are_guessed_as_fast_as_the_client_can_send() {
    let (replies, closed) = pace(&"RCPT TO:<guess@x>\r\n".repeat(1000));
    assert_eq!(closed, Some(CloseReason::Limit));
    assert_eq!(replies.len(), 50);
    assert!(replies[..10].iter().all(|reply| *reply == (0, 550)));
    let mut due = 0;
    for (number, reply) in (1_u64..).zip(&replies[10..49]) {
        due += number.min(3);
        assert_eq!(*reply, (due, 550));
    }
    assert_eq!(replies[49], (114, 421));
}

#[test]
fn wrong_commands_are_answered_as_fast_as_the_client_can_send() {
    let (replies, closed) = pace(&"FROBNICATE\r\n".repeat(1000));
    assert_eq!(closed, Some(CloseReason::Limit));
    assert_eq!(replies.len(), 20);
    assert_eq!((replies[9], replies[18]), ((0, 500), (24, 500)));
    assert_eq!(replies[19], (24, 421));
}

#[test]
fn a_flood_of_recipients_beyond_the_limit_is_answered_without_end() {
    let (replies, closed) = pace(&"RCPT TO:<more@y>\r\n".repeat(20_000));
    assert_eq!(closed, Some(CloseReason::Limit));
    assert_eq!(replies.len(), 10_000);
    assert_eq!((replies[998], replies[999]), ((0, 451), (1, 451)));
    assert_eq!(replies[9_999], (9, 421));
}

#[test]
fn a_list_of_a_thousand_recipients_is_held_up() {
    let message = "DATA\r\n.\r\n";
    let rcpts = |n: usize| "RCPT TO:<list@z>\r\n".repeat(n);
    // The first is part of the transaction that is open.
    let mut list = format!("{}{message}", rcpts(999));
    for sent in 1..10 {
        let rest = rcpts(1000 - 100 * sent);
        list = format!("{list}MAIL FROM:<a@b>\r\n{rest}{message}");
    }
    let (replies, closed) = pace(&list);
    assert_eq!(closed, None);
    assert!(replies.iter().all(|(second, _)| *second == 0));
    let deferred = replies.iter().filter(|(_, code)| *code == 452).count();
    assert_eq!(deferred, 4_500);
}

/// A session that holds a reply back for a second.
fn holding() -> Session<Guessed> {
    let mut session = Session::new(driver(config()), false, Guessed);
    session.feed(TRANSACTION.as_bytes());
    session.feed("RCPT TO:<guess@x>\r\n".repeat(10).as_bytes());
    session.output.clear();
    session.send(b"RCPT TO:<guess@x>\r\nNOOP\r\n");
    match session.connection.poll(session.now, &mut session.input) {
        Step::Rcpt(_, ask) => ask.refuse(Reply::no_such_user()),
        other => panic!("{other:?}"),
    }
    let until = session.now + seconds(1);
    for _ in 0..3 {
        match session.connection.poll(session.now, &mut session.input) {
            Step::Answer(wait) => assert_eq!((wait.holds_reply(), wait.until()), (true, until)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(session.input.as_ref(), b"NOOP\r\n", "it is read meanwhile");
    session
}

#[test]
fn a_reply_that_is_held_back_outlives_its_session() {
    let said = |session: &Session<Guessed>| String::from_utf8_lossy(&session.output).into_owned();

    let mut session = holding();
    session.connection.shut_down();
    session.feed(b"");
    assert!(said(&session).starts_with("421 4.3.2 "));

    let mut session = holding();
    session.connection.handle_lost();
    session.feed(b"");
    assert!(session.is_closed() && session.output.is_empty());

    // An open transaction may continue, but nothing is held back any more.
    let mut session = holding();
    session.connection.drain();
    let before = session.now;
    session.feed(b"");
    assert_eq!((said(&session).len(), session.now), (38, before));

    let mut session = holding();
    session.connection.handle_eof();
    session.feed(b"");
    assert!(said(&session).starts_with("550 ") && said(&session).ends_with("250 2.0.0 OK\r\n"));
    assert!(session.is_closed());
}

#[test]
fn the_client_is_charged_for_the_time_in_which_its_reply_is_held_back() {
    let mut session = holding();
    session.now += seconds(599);
    session.feed(b"");
    // Ten minutes without a message are over if that counts.
    session.later(299, "RSET\r\n");
    session.later(299, "RSET\r\n");
}

/// Returns a session that watches its client for 6 seconds before it greets it.
fn delayed(config: Config, tls: bool) -> Session<Yes> {
    let config = driver(config.greeting_delay(seconds(6)));
    let mut session = Session::new(config, tls, Yes);
    if tls {
        session.handshake(TlsFacts::default());
    }
    session.feed(b"");
    assert!(session.output.is_empty());
    assert_eq!(session.left(), Some(6));
    session
}

#[test]
fn a_client_that_waits_is_greeted_after_the_delay() {
    for tls in [false, true] {
        let mut session = delayed(config().refuse_early_talkers(true), tls);
        session.later(5, "");
        assert!(session.output.is_empty());
        session.now += seconds(1);
        session.feed(b"");
        assert!(session.output.starts_with(b"220 "), "{tls}");
        session.later(1, "HELO client.example\r\nQUIT\r\n");
        assert!(!session.connection.talked_early());
        assert!(session.is_closed());
    }
}

#[test]
fn a_client_that_talks_before_its_greeting_is_not_noticed() {
    for tls in [false, true] {
        let mut session = delayed(config(), tls);
        session.later(2, "EHLO client.ex");
        assert!(session.connection.talked_early());
        assert!(
            session.output.starts_with(b"220 "),
            "nothing more is learnt"
        );
        session.later(1, "ample\r\nQUIT\r\n");
        assert!(session.output.windows(5).any(|line| line == b"\r\n221"));

        let mut session = delayed(config().refuse_early_talkers(true), tls);
        session.later(2, "E");
        assert!(session.connection.talked_early());
        assert_eq!(
            session.output,
            b"554 5.5.1 Commands were sent too early\r\n"
        );
        assert!(session.is_closed());
    }
}

/// Its first bytes would otherwise be looked at after the delay, or not before a service has answered.
#[test]
fn a_client_of_another_protocol_is_kept_until_the_greeting() {
    for hello in [&b"\x16\x03\x01\x02\x00\x01"[..], b"\x05\x01\x00", b"\x04"] {
        let mut session = delayed(config(), false);
        session.feed(hello);
        assert_eq!(session.output, b"554 5.5.1 This is a mail server\r\n");
        assert!(session.is_closed());

        let mut connection = Connection::new(driver(config()));
        let (now, mut input) = (std::time::Instant::now(), BytesMut::new());
        let Step::Connect(ask) = connection.poll(now, &mut input) else {
            panic!("no question");
        };
        let late = ask.defer();
        input.extend_from_slice(hello);
        let Step::Write(mut writing) = connection.poll(now, &mut input) else {
            panic!("it waits for the answer");
        };
        let len = writing.bytes().len();
        writing.wrote(len, now);
        assert!(connection.resume(late).is_none());
        let step = connection.poll(now, &mut input);
        assert!(matches!(step, Step::Closed(CloseReason::Violation)));
    }
}

#[test]
fn a_client_that_talks_while_a_service_works_is_not_noticed() {
    for refuse in [false, true] {
        let mut connection = Connection::new(driver(config().refuse_early_talkers(refuse)));
        let (now, mut input) = (std::time::Instant::now(), BytesMut::new());
        let Step::Connect(ask) = connection.poll(now, &mut input) else {
            panic!("no question");
        };
        let question = ask.defer();
        connection.resume(question).unwrap().accept();
        // The greeting has not been returned.
        input.extend_from_slice(b"EHLO client.example\r\n");
        let code = match connection.poll(now, &mut input) {
            Step::Write(writing) => writing.bytes()[..3].to_vec(),
            Step::Helo(..) => b"220".to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(code, if refuse { b"554" } else { b"220" });
        assert!(connection.talked_early());
    }
}

#[test]
fn a_shutdown_or_the_loss_of_the_client_waits_for_the_greeting() {
    let mut session = delayed(config(), false);
    session.connection.drain();
    session.feed(b"");
    assert!(session.output.starts_with(b"421 4.3.2 "));
    assert!(session.is_closed());

    let mut session = delayed(config(), false);
    session.connection.handle_eof();
    session.feed(b"");
    assert!(session.output.is_empty());
    assert!(session.is_closed());
}
