//! The end of a session, from outside and from within.

use std::sync::Arc;

use smtpd_core::{Reply, Step, connection::CloseReason};

use super::{
    Answer, HELLO, PAUSES, QUESTIONS, TRANSACTION, after, config, is_whole_message, seconds, with,
};
use crate::support::{Session, Yes};

#[test]
fn a_client_that_sends_nothing_more_leaves_a_session_or_loses_a_reply() {
    for client in PAUSES {
        let mut session = after(client);
        session.sent();
        match session.poll() {
            Step::Read(reading) => reading.into_connection().handle_eof(),
            Step::Handshake(handshake) => handshake.into_connection().handle_eof(),
            other => panic!("{other:?}"),
        }
        assert_eq!(session.end(), CloseReason::Lost, "{client:?}");
        assert!(session.output.is_empty());
        assert_eq!(
            session.connection.messages(),
            0,
            "a message that is cut is void"
        );
        assert!(session.connection.envelope().is_none());
    }
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let open = session.ask(question);
        session.sent();
        session.connection.handle_eof();
        assert!(matches!(session.poll(), Step::Answer(_) | Step::Write(_)));
        assert!(open(&mut session.connection, Answer::Accept));
        assert_eq!(session.end(), CloseReason::Lost, "{question:?}");
        assert!(
            !session.output.is_empty() || question.ends_with("hold"),
            "{question:?}"
        );
        let messages = u32::from(is_whole_message(question));
        assert_eq!(session.connection.messages(), messages, "{question:?}");
    }
}

#[test]
fn commands_before_the_end_of_the_input_are_not_answered() {
    let mut session = after("");
    session.sent();
    session.send(format!("{TRANSACTION}DATA\r\nab\r\n.\r\n").as_bytes());
    session.connection.handle_eof();
    assert_eq!(session.end(), CloseReason::Lost);
    assert_eq!(session.codes(), [250, 250, 250, 354, 250]);
    let mut session = after("");
    session.send(b"QUIT\r\n");
    session.connection.handle_eof();
    assert_eq!(session.end(), CloseReason::Quit);
}

#[test]
fn a_lost_client_leaves_a_session_or_loses_a_whole_message() {
    for client in PAUSES {
        let mut session = after(client);
        session.sent();
        session.connection.handle_lost();
        assert_eq!(session.end(), CloseReason::Lost, "{client:?}");
        assert!(session.output.is_empty());
    }
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let open = session.ask(question);
        session.sent();
        session.connection.handle_lost();
        let whole = is_whole_message(question);
        match session.poll() {
            Step::Answer(answering) => assert!(whole && answering.outlives_client()),
            Step::Closed(CloseReason::Lost) => assert!(!whole, "{question:?}"),
            other => panic!("{question:?} {other:?}"),
        }
        assert_eq!(open(&mut session.connection, Answer::Accept), whole);
        assert_eq!(session.end(), CloseReason::Lost);
        assert!(session.output.is_empty());
        assert_eq!(session.connection.messages(), u32::from(whole));
    }
}

#[test]
fn a_lost_client_is_closed_for_another_reason() {
    let mut session = after(TRANSACTION);
    let open = session.ask("DATA\r\nab\r\n.\r\n");
    session.connection.handle_lost();
    open(
        &mut session.connection,
        Answer::Refuse(Reply::closing("Down")),
    );
    assert_eq!(session.end(), CloseReason::Lost);
    // A client that has sent QUIT is not lost.
    let mut session = after("");
    session.send(b"QUIT\r\n");
    assert!(matches!(session.poll(), Step::Write(_)));
    session.connection.handle_lost();
    assert_eq!(session.end(), CloseReason::Quit);
}

#[test]
fn a_message_is_delivered_without_end_for_a_client_that_is_lost() {
    let mut session = after(TRANSACTION);
    let late = session.ask("DATA\r\nab\r\n.\r\n");
    session.connection.handle_lost();
    session.feed(b"");
    session.now += seconds(540);
    assert_eq!(session.end(), CloseReason::Lost);
    assert!(!late(&mut session.connection, Answer::Accept));
    // The whole server must shut down.
    let mut session = after(TRANSACTION);
    let late = session.ask("DATA\r\nab\r\n.\r\n");
    session.connection.handle_lost();
    session.connection.shut_down();
    assert_eq!(session.end(), CloseReason::Lost);
    assert!(!late(&mut session.connection, Answer::Accept));
}

#[test]
fn a_session_outlives_a_forced_shutdown() {
    for client in PAUSES {
        let mut session = after(client);
        session.sent();
        session.send(b"NOOP\r\n");
        session.connection.shut_down();
        assert_eq!(session.end(), CloseReason::Shutdown, "{client:?}");
        let is_handshake = client.ends_with("STARTTLS\r\n");
        let expected = if is_handshake { &[][..] } else { &[421] };
        assert_eq!(session.codes(), expected, "{client:?}");
    }
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let late = session.ask(question);
        session.connection.shut_down();
        assert!(!late(&mut session.connection, Answer::Accept));
        assert_eq!(session.end(), CloseReason::Shutdown, "{question:?}");
        assert_eq!(session.codes().last(), Some(&421), "{question:?}");
        assert_eq!(session.connection.messages(), 0);
    }
    for implicit in [false, true] {
        let mut session = Session::new(Arc::new(config()), implicit, Yes);
        session.connection.shut_down();
        assert_eq!(session.end(), CloseReason::Shutdown);
        let expected = if implicit { &[][..] } else { &[421] };
        assert_eq!(
            session.codes(),
            expected,
            "before it is polled for the first time"
        );
    }
}

#[test]
fn an_answer_is_lost_or_a_session_left_when_the_server_drains() {
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let open = session.ask(question);
        session.sent();
        session.connection.drain();
        assert!(matches!(session.poll(), Step::Answer(_) | Step::Write(_)));
        assert!(
            open(&mut session.connection, Answer::Accept),
            "{question:?}"
        );
        session.feed(b"");
        if session.connection.is_receiving() {
            let rest: &[u8] = match question {
                "BDAT 2\r\nab" => b"BDAT 0 LAST\r\n",
                "BDAT 2 LAST\r\nab" => b"",
                _ => b"\r\n.\r\n",
            };
            session.feed(rest);
        }
        if session.connection.envelope().is_some() {
            session.feed(b"RCPT TO:<c@d>\r\nDATA\r\nab\r\n.\r\n");
        }
        assert_eq!(session.end(), CloseReason::Shutdown, "{question:?}");
        let sent = session.codes();
        // A handshake is not awaited, and the client would read a reply as part of it.
        let last = if question == "STARTTLS\r\n" { 220 } else { 421 };
        assert_eq!(sent.last(), Some(&last), "{question:?}");
        let answered = sent.len() > 1 || last == 220;
        assert!(answered, "the answer itself: {question:?} {sent:?}");
    }
}

#[test]
fn a_session_that_is_closed_says_or_asks_something() {
    for client in ["QUIT\r\n", "GET / HTTP/1.1\r\n", "BDAT x\r\n"] {
        let mut session = after(client);
        let reason = session.end();
        session.sent();
        for _ in 0..3 {
            session.send(TRANSACTION.as_bytes());
            session.now += seconds(1000);
            assert!(matches!(session.poll(), Step::Closed(same) if same == reason));
            assert!(
                session.input.is_empty(),
                "what comes after the end is dropped"
            );
        }
        session.connection.drain();
        session.connection.handle_eof();
        session.connection.handle_lost();
        session.connection.shut_down();
        assert_eq!(session.end(), reason);
        assert!(session.output.is_empty());
        assert!(session.connection.receiving().is_none());
    }
}

#[test]
fn a_client_that_takes_no_replies_is_waited_for_without_end() {
    let mut session = after("");
    session.send(b"NOOP\r\n");
    let now = session.now;
    match session.poll() {
        Step::Write(mut writing) => {
            assert_eq!(writing.until(), now + seconds(300));
            writing.wrote(0, now);
        }
        other => panic!("{other:?}"),
    }
    session.sent();
    session.now += seconds(300);
    assert_eq!(session.end(), CloseReason::Timeout);
    assert!(session.output.is_empty());
}

#[test]
fn input_that_the_driver_drops_is_mistaken_for_something_else() {
    let mut session = with(config().custom_commands(false), HELLO);
    session.sent();
    session.feed(b"MAIL FRO");
    session.input.clear();
    session.feed(b"M:<a@b>\r\nNOOP\r\n");
    assert_eq!(session.codes(), [500, 250]);
}
