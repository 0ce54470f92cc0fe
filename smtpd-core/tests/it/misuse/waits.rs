//! The driver's waits: each has a deadline, every state has one, and only the client's own time counts.

use std::{sync::Arc, time::Duration};

use smtpd_core::{
    Step,
    connection::{CloseReason, TlsFacts},
};

use super::{Answer, HELLO, PAUSES, TRANSACTION, after, config, seconds};
use crate::support::{Session, Yes};

#[test]
fn a_client_that_stalls_in_the_handshake_is_waited_for_without_end() {
    for implicit in [false, true] {
        let mut session = Session::new(Arc::new(config()), implicit, Yes);
        session.feed(if implicit { b"" } else { b"STARTTLS\r\n" });
        assert_eq!(session.until, Some(session.now + seconds(30)));
        session.now += seconds(30);
        assert_eq!(session.end(), CloseReason::TlsFailed);
    }
}

#[test]
fn a_handshake_that_begins_late_is_cut_off() {
    let mut session = after("STARTTLS\r\n");
    session.now += seconds(29);
    session.handshake(TlsFacts::default());
    session.sent();
    session.feed(HELLO.as_bytes());
    assert_eq!(session.codes(), [250]);
}

#[test]
fn the_time_to_take_the_220_is_part_of_the_handshake() {
    let mut session = after("");
    session.ask("STARTTLS\r\n")(&mut session.connection, Answer::Accept);
    assert!(matches!(session.poll(), Step::Write(_)));
    session.now += seconds(200);
    session.feed(b"");
    assert_eq!(session.until, Some(session.now + seconds(30)));
}

#[test]
fn a_driver_that_meets_eof_in_the_handshake_spins() {
    for implicit in [false, true] {
        let mut session = Session::new(Arc::new(config()), implicit, Yes);
        session.feed(if implicit { b"" } else { b"STARTTLS\r\n" });
        match session.poll() {
            Step::Handshake(handshake) => handshake.into_connection().handle_eof(),
            other => panic!("{other:?}"),
        }
        assert_eq!(session.end(), CloseReason::Lost);
    }
}

#[test]
fn nine_hundred_commands_in_one_write_get_fewer_replies() {
    let mut session = after("");
    session.sent();
    session.send(HELLO.repeat(900).as_bytes());
    let mut writes = 0;
    loop {
        let now = session.now;
        match session.connection.poll(now, &mut session.input) {
            Step::Helo(_, ask) => ask.accept(),
            Step::Write(mut writing) => {
                assert!(writing.until() > now);
                let sent = writing.bytes().to_vec();
                assert!(sent.len() <= (16 << 10) + 512, "{} bytes wait", sent.len());
                writing.wrote(sent.len(), now);
                session.output.extend(sent);
                writes += 1;
            }
            Step::Read(reading) => {
                assert!(reading.until() > now);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(session.input.is_empty() && writes > 1);
    assert_eq!(session.codes(), [250; 900]);
}

#[test]
fn a_wait_that_is_ignored_turns_into_another() {
    let mut session = after("");
    session.send(b"NOOP\r\n");
    for _ in 0..3 {
        assert!(matches!(session.poll(), Step::Write(_)));
    }
    session.feed(b"");
    for _ in 0..3 {
        assert!(matches!(session.poll(), Step::Read(_)));
    }
    let open = session.ask(HELLO);
    for _ in 0..3 {
        assert!(matches!(session.poll(), Step::Answer(_)));
    }
    assert!(open(&mut session.connection, Answer::Accept));
}

#[test]
fn a_slow_answer_is_charged_to_the_client() {
    let mut session = after(TRANSACTION);
    let open = session.ask("DATA\r\nab\r\n.\r\n");
    session.feed(b"");
    session.now += seconds(400);
    assert!(open(&mut session.connection, Answer::Accept));
    session.feed(b"");
    assert_eq!(session.until, Some(session.now + seconds(300)));
    // It makes no difference whether the question was deferred.
    session.send(b"MAIL FROM:<a@b>\r\n");
    match session.poll() {
        Step::Mail(_, ask) => ask.accept(),
        other => panic!("{other:?}"),
    }
    session.now += seconds(400);
    session.feed(b"");
    assert_eq!(session.until, Some(session.now + seconds(300)));
}

#[test]
fn a_busy_driver_ends_a_session_whose_command_has_come() {
    let mut session = after(HELLO);
    session.sent();
    session.now += seconds(310);
    session.feed(b"NOOP\r\n");
    assert_eq!(session.codes(), [250]);
}

#[test]
fn a_driver_that_is_late_ends_a_session_before_it_looks_at_its_socket() {
    // The client was in time, but the driver did not look.
    let mut session = after(HELLO);
    session.sent();
    session.now = session.until.unwrap() + seconds(1);
    session.feed(b"");
    session.feed(b"NOOP\r\n");
    assert_eq!(session.codes(), [250]);
    let mut session = after("STARTTLS\r\n");
    session.now = session.until.unwrap() + seconds(1);
    session.feed(b"");
    session.handshake(TlsFacts::default());
    let mut session = after("");
    session.send(b"NOOP\r\n");
    assert!(matches!(session.poll(), Step::Write(_)));
    session.now += seconds(301);
    session.sent();
    session.feed(b"");
    assert_eq!(session.codes(), [250]);
    let mut session = after(TRANSACTION);
    let open = session.ask("DATA\r\nab\r\n.\r\n");
    session.feed(b"");
    session.now = session.until.unwrap() + seconds(1);
    session.feed(b"");
    assert!(open(&mut session.connection, Answer::Accept));
}

#[test]
fn a_driver_that_is_always_late_ends_no_session() {
    for client in PAUSES {
        let mut session = after(client);
        session.now = session.until.unwrap() + seconds(1);
        session.feed(b"");
        session.now = session.until.unwrap() + seconds(1);
        session.feed(b"");
        assert!(matches!(session.poll(), Step::Closed(_)), "{client:?}");
    }
    // Replies and an answer are awaited at the same time.
    let mut session = after(TRANSACTION);
    let late = session.ask("DATA\r\nab\r\n.\r\n");
    for _ in 0..2 {
        session.now += seconds(541);
        assert!(matches!(session.poll(), Step::Write(_)));
    }
    session.now += seconds(541);
    assert!(matches!(session.poll(), Step::Overdue(_)));
    assert!(!late(&mut session.connection, Answer::Accept));
}

#[test]
fn a_clock_that_runs_backwards_ends_a_session() {
    let mut session = after(HELLO);
    session.sent();
    session.now -= Duration::from_millis(10);
    session.feed(b"NOOP\r\n");
    assert_eq!(session.codes(), [250]);
    assert!(session.until > Some(session.now + seconds(299)));
}
