//! Answers to a different question.

use std::sync::Arc;

use smtpd_core::Step;

use super::{Answer, HELLO, Open, QUESTIONS, after, config, seconds};
use crate::support::{Session, Yes};

#[test]
fn a_late_answer_reaches_the_next_question() {
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let late = session.ask(question);
        session.feed(b"");
        let until = session.until.unwrap();
        session.now = until;
        session.feed(b"");
        let next = session.ask_again();
        assert!(
            !late(&mut session.connection, Answer::Accept),
            "{question:?}"
        );
        if let Some(next) = next {
            assert!(next(&mut session.connection, Answer::Accept));
        }
    }
}

impl Session<Yes> {
    /// Leads to another question, if the session continues.
    fn ask_again(&mut self) -> Option<Open> {
        if self.input.is_empty() && !self.connection.is_receiving() {
            self.feed(b"RSET\r\n");
        }
        let goes_on = matches!(self.poll(), Step::Read(_)) && !self.connection.is_receiving();
        goes_on.then(|| self.ask("EHLO again\r\n"))
    }
}

#[test]
fn an_answer_reaches_another_session() {
    let (mut one, mut other) = (after(HELLO), after(HELLO));
    let open = one.ask("MAIL FROM:<a@b>\r\n");
    let same = other.ask("MAIL FROM:<a@b>\r\n");
    assert!(!open(&mut other.connection, Answer::Accept));
    assert!(same(&mut other.connection, Answer::Accept));
}

#[test]
fn a_service_that_became_ready_too_late_gives_time_to_the_next_question() {
    let mut session = after(HELLO);
    session.send(b"MAIL FROM:<a@b>\r\n");
    let queued = match session.poll() {
        Step::Mail(_, ask) => ask.queue(),
        other => panic!("{other:?}"),
    };
    session.feed(b"");
    session.now += seconds(30);
    session.feed(b"");
    let _next = session.ask("EHLO again\r\n");
    session.connection.begin(&queued);
    session.feed(b"");
    assert_eq!(session.until, Some(session.now + seconds(240)));
    assert!(session.connection.resume(queued).is_none());
}

#[test]
fn a_peer_is_trusted_after_it_was_greeted() {
    let mut session = Session::new(Arc::new(config()), false, Yes);
    session.feed(b"");
    session.connection.allow_xclient();
    session.connection.allow_xforward();
    session.sent();
    session.feed(b"XCLIENT NAME=a.example\r\nEHLO a\r\nXFORWARD NAME=a.example\r\n");
    assert_eq!(session.codes(), [550, 250, 550]);
}

#[test]
fn a_late_answer_reaches_a_question_that_was_not_handed_out_yet() {
    // With the wire log, the line of a command is returned before its question.
    let mut session = super::with(config().log_wire(true), HELLO);
    session.feed(b"MAIL FROM:<a@b>\r\n");
    session.input.extend_from_slice(b"RCPT TO:<c@d>\r\n");
    let late = loop {
        match session.poll() {
            Step::Rcpt(_, ask) => break ask.defer(),
            Step::Line(_) => {}
            other => panic!("{other:?}"),
        }
    };
    session.feed(b"");
    session.now = session.until.unwrap();
    session.feed(b"");
    session.input.extend_from_slice(b"RCPT TO:<e@f>\r\n");
    assert!(matches!(session.poll(), Step::Line(_)));
    assert!(session.connection.resume(late).is_none());
    session.output.clear();
    session.feed(b"");
    assert_eq!(session.output, b"250 2.0.0 OK\r\n");
    let envelope = session.connection.envelope().unwrap();
    assert_eq!(envelope.recipients().len(), 1);
}

#[test]
fn the_time_before_a_hold_is_the_client_s() {
    let mut session = after(&format!("{}DATA\r\nx", super::TRANSACTION));
    session.now += seconds(299);
    session.feed(b"");
    let held = session.connection.receiving().unwrap().hold().unwrap();
    session.feed(b"");
    session.connection.resume(held).unwrap().accept();
    session.feed(b"");
    // The timeout for silence starts anew, because the caller was not ready to read; the time of the message does not.
    let message = smtpd_core::Timeouts::default().transfer;
    for _ in 0..2 {
        session.now += seconds(299);
        session.feed(b"x");
        session.feed(b"");
    }
    let left = session.until.unwrap() - session.now;
    assert!(left <= message - seconds(3 * 299) + seconds(1), "{left:?}");
}
