//! STARTTLS: plaintext that becomes commands within TLS, and a handshake that fails.

use smtpd_core::{
    Code, Reply, Status, Step,
    connection::{CloseReason, TlsFacts},
};

use super::{Answer, HELLO, after};
use crate::support::{Session, Yes};

#[test]
fn plaintext_after_starttls_becomes_a_command_within_tls() {
    const INJECTED: &[u8] = b"EHLO injected\r\nMAIL FROM:<x@y.z>\r\n";
    for moment in 0..4 {
        let mut session = after(HELLO);
        let inject = |session: &mut Session<Yes>, now: u32| {
            if now == moment {
                session.send(INJECTED);
            }
        };
        let open = session.ask("STARTTLS\r\n");
        inject(&mut session, 0);
        assert!(matches!(session.poll(), Step::Write(_) | Step::Answer(_)));
        open(&mut session.connection, Answer::Accept);
        inject(&mut session, 1);
        assert!(matches!(session.poll(), Step::Write(_)));
        inject(&mut session, 2);
        session.feed(b"");
        inject(&mut session, 3);
        session.handshake(TlsFacts::default());
        assert!(session.input.is_empty());
        session.sent();
        session.feed(b"");
        assert!(session.output.is_empty() && session.connection.is_tls());
        assert!(session.connection.helo().is_none());
        assert!(!session.told().iter().any(|told| told.kind == "mail"));
    }
}

#[test]
fn plaintext_in_the_same_write_as_starttls_becomes_a_command_under_tls() {
    let mut session = after("STARTTLS\r\nEHLO injected\r\n");
    assert_eq!(session.end(), CloseReason::Violation);
}

#[test]
fn the_handshake_begins_before_the_220_is_written() {
    let mut session = after("");
    session.ask("STARTTLS\r\n")(&mut session.connection, Answer::Accept);
    let now = session.now;
    loop {
        match session.poll() {
            Step::Write(mut writing) => writing.wrote(1, now),
            Step::Handshake(handshake) => break handshake.failed(),
            other => panic!("{other:?}"),
        }
    }
    // Nothing is sent in plaintext after a failed handshake.
    session.sent();
    assert_eq!(session.end(), CloseReason::TlsFailed);
    assert!(session.output.is_empty());
}

#[test]
fn starttls_cannot_be_refused() {
    let mut session = after("");
    session.sent();
    let unavailable = Reply::new(Code::TLS_UNAVAILABLE, Status::POLICY, "No TLS now");
    let open = session.ask("STARTTLS\r\n");
    open(&mut session.connection, Answer::Refuse(unavailable));
    session.feed(b"NOOP\r\n");
    assert_eq!(session.codes(), [454, 250]);
    assert!(!session.connection.is_tls());
}

#[test]
fn starttls_that_is_refused_can_be_asked_for_without_end() {
    let mut session = after("");
    let mut asked = 0;
    let reason = loop {
        session.send(b"STARTTLS\r\n");
        let now = session.now;
        match session.poll() {
            Step::StartTls(ask) => {
                asked += 1;
                ask.refuse(Reply::busy());
            }
            Step::Write(mut writing) => writing.wrote(writing.bytes().len(), now),
            Step::Read(_) => {}
            Step::Closed(reason) => break reason,
            other => panic!("{other:?}"),
        }
        session.input.clear();
    };
    // The 1000th idle command ends the session.
    assert_eq!((asked, reason), (999, CloseReason::Limit));
}
