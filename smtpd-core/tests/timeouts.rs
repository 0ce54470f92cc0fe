//! Deadlines, with a clock that is turned by hand.
#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use smtpd_core::{
    CloseReason, Config, Event, Reply, Timeouts,
    sasl::{CramMd5, Mechanisms},
};

use self::support::{Session, Yes};

mod support;

const TIMED_OUT: &str = "421 4.4.2 mx.example.org smtpd timed out, closing the connection\r\n";
const TRANSACTION: &str = "HELO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

fn config() -> Config {
    Config::new("mx.example.org")
        .starttls(true)
        .mechanisms(Mechanisms::none().with(CramMd5))
        .entropy(|nonce| {
            nonce.fill(0);
            true
        })
}

fn session() -> Session<Yes> {
    started(config())
}

fn started(config: Config) -> Session<Yes> {
    let mut session = Session::new(Arc::new(config), false, Yes);
    session.feed(b"");
    session
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Session<Yes> {
    /// So many seconds pass, then the client sends this.
    fn later(&mut self, passed: u64, octets: &str) {
        self.now += seconds(passed);
        let deadline = self.connection.poll_timeout();
        assert!(
            deadline.is_none_or(|deadline| deadline > self.now),
            "{passed} s were too long for {octets:?}"
        );
        self.connection.handle_timeout(self.now);
        self.feed(octets.as_bytes());
    }

    /// How many seconds are left.
    fn left(&self) -> Option<u64> {
        self.connection
            .poll_timeout()
            .map(|deadline| deadline.saturating_duration_since(self.now).as_secs())
    }

    /// The session ends when that time has passed, not before.
    fn assert_ends_in(&mut self, passed: u64) {
        let deadline = self.connection.poll_timeout().unwrap();
        assert_eq!(deadline, self.now + seconds(passed));
        self.output.clear();
        self.connection
            .handle_timeout(deadline - Duration::from_nanos(1));
        self.feed(b"");
        assert!(self.output.is_empty());
        self.now = deadline;
        self.connection.handle_timeout(deadline);
        self.feed(b"NOOP\r\n");
        assert_eq!(String::from_utf8_lossy(&self.output), TIMED_OUT);
        assert_eq!(
            format!("{:?}", self.told().last().unwrap()),
            "closed timeout"
        );
        assert_eq!(self.connection.poll_timeout(), None);
    }
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
fn silence_after_a_refused_greeting_ends_the_session() {
    let mut session = Session::new(Arc::new(config()), false, Yes);
    let mut input = BytesMut::new();
    session.connection.poll_event(session.now, &mut input);
    session.connection.reply(Reply::rejected("No service"));
    session.feed(b"NOOP\r\n");
    session.assert_ends_in(300);
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
    for octet in ["N", "O", "O", "P", " ", "x"] {
        session.later(10, octet);
    }
    session.assert_ends_in(10);
}

#[test]
fn the_pause_before_a_line_is_not_part_of_the_line() {
    let mut session = session();
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
    assert!(
        session
            .output
            .ends_with(b"552 5.3.4 Message exceeds the maximum size\r\n")
    );
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
fn octets_earn_time_at_the_least_rate() {
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
fn a_message_that_drips_chunk_by_chunk_ends_with_the_session_s_time() {
    let mut session = session();
    session.later(0, TRANSACTION);
    let mut passed = 0;
    while passed < 3600 + 900 - 299 {
        session.later(250, "BDAT 1\r\nx");
        passed += 250;
    }
    session.assert_ends_in(3600 + 900 - passed);
}

#[test]
fn what_the_caller_takes_is_not_held_against_the_client() {
    let mut session = Session::new(Arc::new(config()), false, Yes);
    let (connection, mut input) = (&mut session.connection, BytesMut::new());
    let mut now = session.now;
    assert!(matches!(
        connection.poll_event(now, &mut input),
        Some(Event::Connect)
    ));
    assert_eq!(connection.poll_timeout(), None);
    connection.handle_timeout(now + seconds(10_000));
    connection.reply(Reply::OK);
    input.extend_from_slice(b"EHLO client.example\r\n");
    now += seconds(1000);
    assert!(matches!(
        connection.poll_event(now, &mut input),
        Some(Event::Helo(_))
    ));
    // Half a line comes while the caller is busy.
    input.extend_from_slice(b"NO");
    assert!(connection.poll_event(now, &mut input).is_none());
    assert_eq!(connection.poll_timeout(), None);
    now += seconds(1000);
    connection.reply(Reply::OK);
    assert!(connection.poll_event(now, &mut input).is_none());
    assert_eq!(connection.poll_timeout(), Some(now + seconds(60)));
}

#[test]
fn what_the_caller_takes_for_a_piece_of_the_message_is_not_held_against_the_client() {
    let mut session = session();
    session.later(0, TRANSACTION);
    session.later(0, "DATA\r\n");
    for _ in 0..100 {
        session.input.extend_from_slice(b"x");
        let event = session
            .connection
            .poll_event(session.now, &mut session.input);
        assert!(matches!(event, Some(Event::Chunk(_))));
        assert_eq!(session.connection.poll_timeout(), None);
        session.now += seconds(100);
        assert!(
            session
                .connection
                .poll_event(session.now, &mut session.input)
                .is_none()
        );
        assert_eq!(session.left(), Some(300));
    }
}

#[test]
fn a_client_is_not_waited_for_while_it_has_replies_to_read() {
    let mut session = session();
    let mut input = BytesMut::from(&b"VRFY a\r\n".repeat(1000)[..]);
    assert!(
        session
            .connection
            .poll_event(session.now, &mut input)
            .is_none()
    );
    assert!(session.connection.is_congested() && !input.is_empty());
    assert_eq!(session.connection.poll_timeout(), None);
}

#[test]
fn the_time_of_a_handshake_is_not_held_against_the_client() {
    let mut session = session();
    session.later(0, "STARTTLS\r\n");
    assert_eq!(session.connection.poll_timeout(), None);
    session.now += seconds(299);
    session.connection.handle_tls();
    session.feed(b"");
    assert_eq!(session.left(), Some(300));
}

#[test]
fn a_session_s_time_ends_between_two_messages_only() {
    let mut session = session();
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
    session.later(0, ".\r\n");
    assert!(session.output.ends_with(b"250 2.0.0 Taken\r\n"));
    let deadline = session.connection.poll_timeout().unwrap();
    assert!(deadline <= session.now, "but no other begins");
    session.output.clear();
    session.connection.handle_timeout(session.now);
    session.feed(b"MAIL FROM:<a@b>\r\n");
    assert_eq!(String::from_utf8_lossy(&session.output), TIMED_OUT);
}

#[test]
fn a_transaction_is_not_kept_open_without_end() {
    let mut session = session();
    session.later(0, TRANSACTION);
    let mut passed = 0;
    while passed < 3600 + 900 - 299 {
        session.later(250, "RCPT TO:<>\r\nRCPT TO:<e@f>\r\n");
        passed += 250;
    }
    session.assert_ends_in(3600 + 900 - passed);
}

#[test]
fn limits_without_end_are_no_fault() {
    let mut timeouts = Timeouts::default().inactivity(Duration::MAX);
    timeouts.transfer = Duration::MAX;
    timeouts.line = Duration::MAX;
    timeouts.session = Duration::MAX;
    let mut session = started(config().timeouts(timeouts));
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
        assert_eq!(session.connection.handle_shutdown(), idle, "{client:?}");
        session.feed(b"");
        assert_eq!(
            String::from_utf8_lossy(&session.output),
            if idle { refused } else { "" },
            "{client:?}"
        );
        if !idle {
            session.feed(b"RCPT TO:<c@d>\r\nDATA\r\ntext\r\n.\r\n");
            assert!(session.output.ends_with(b"250 2.0.0 Taken\r\n"));
            assert!(session.connection.handle_shutdown());
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
    let mut session = Session::new(Arc::new(config()), false, Yes);
    let (connection, mut input) = (&mut session.connection, BytesMut::new());
    assert!(matches!(
        connection.poll_event(session.now, &mut input),
        Some(Event::Connect)
    ));
    assert!(!connection.handle_shutdown());
    connection.reply(Reply::OK);
    assert!(connection.handle_shutdown());
    assert!(matches!(
        connection.poll_event(session.now, &mut input),
        Some(Event::Closed(CloseReason::Shutdown))
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
    let mut session = Session::new(Arc::new(config()), false, Yes);
    let mut input = BytesMut::new();
    session.connection.poll_event(session.now, &mut input);
    session.connection.shut_down();
    session.connection.reply(Reply::OK);
    session.connection.accept_data();
    session.connection.accept_chunk();
    session
        .connection
        .reply(smtpd_core::DataReply::each([Reply::OK]));
    assert!(session.connection.output().starts_with(b"421 "));
    assert_eq!(
        session
            .connection
            .output()
            .iter()
            .filter(|&&octet| octet == b'\n')
            .count(),
        1
    );
}

#[test]
fn a_handshake_that_ends_after_a_shutdown_does_not_bring_the_session_back() {
    let mut session = session();
    session.later(0, "STARTTLS\r\n");
    session.output.clear();
    session.connection.shut_down();
    session.connection.handle_tls();
    session.feed(b"EHLO client.example\r\n");
    assert_eq!(
        format!("{:?}", session.told().last().unwrap()),
        "closed shutdown"
    );
    // What is sent in plaintext while a handshake is awaited would be taken for a part of it.
    assert_eq!(String::from_utf8_lossy(&session.output), "");
}
