//! Answers that accept what nobody has seen, or refuse what was accepted.

use std::{sync::Arc, time::Instant};

use smtpd_core::{
    Connection, Reply, Step,
    bytes::BytesMut,
    connection::{MessageError, Overdue},
};

use super::{AUTH, Answer, HELLO, QUESTIONS, TRANSACTION, after, codes, config, seconds};

/// The steps that a careless driver handles, as a bit set; it drops all others, as a wildcard arm does.
#[derive(Clone, Copy, Debug)]
struct Known(u32);

impl Known {
    const ALL: u32 = 0b111_1111;
    const CHUNK_END: u32 = 5;

    const fn has(self, kind: u32) -> bool {
        self.0 & 1 << kind != 0
    }

    /// Plays a session. Returns the codes that the client received, and the message.
    fn play(self, client: &str) -> (Vec<u16>, Option<Vec<u8>>) {
        let mut connection = Connection::new(Arc::new(config()));
        let (mut now, mut input) = (Instant::now(), BytesMut::from(client.as_bytes()));
        let (mut sent, mut message, mut whole) = (String::new(), Vec::new(), None);
        loop {
            match connection.poll(now, &mut input) {
                Step::Write(mut writing) => {
                    sent.push_str(std::str::from_utf8(writing.bytes()).unwrap());
                    writing.wrote(writing.bytes().len(), now);
                }
                Step::Read(reading) => now = reading.until(),
                Step::Closed(_) => return (codes(&sent), whole),
                Step::Connect(ask) if self.has(0) => ask.accept(),
                Step::Helo(_, ask) if self.has(1) => ask.accept(),
                Step::Mail(_, ask) if self.has(2) => ask.accept(),
                Step::Rcpt(_, ask) if self.has(3) => ask.accept(),
                Step::Data(ask) if self.has(4) => ask.receive(),
                Step::ChunkEnd(ask) if self.has(Self::CHUNK_END) => ask.accept(),
                Step::Message(result, ask) if self.has(6) => {
                    whole = result.ok().map(|()| std::mem::take(&mut message));
                    ask.reply(Reply::ok("Taken"));
                }
                Step::Chunk(bytes, _) => message.extend_from_slice(&bytes),
                other => drop(other),
            }
        }
    }
}

#[test]
fn a_wildcard_arm_loses_a_message_with_250() {
    for text in [
        "DATA\r\nHello\r\n.\r\n",
        "BDAT 3\r\nHelBDAT 4 LAST\r\nlo\r\n",
    ] {
        let client = format!("{TRANSACTION}{text}");
        let is_chunked = text.starts_with("BDAT");
        let needed = Known::ALL & !(u32::from(!is_chunked) << Known::CHUNK_END);
        for known in (0..=Known::ALL).map(Known) {
            let (codes, message) = known.play(&client);
            let accepted = codes.iter().filter(|&&code| code == 250).count();
            if known.0 & needed == needed {
                assert_eq!(message.as_deref(), Some(&b"Hello\r\n"[..]));
            } else {
                assert_eq!(message, None, "{known:?}");
                // At most EHLO, MAIL, RCPT and the first chunk.
                let most = 3 + usize::from(is_chunked);
                assert!(accepted <= most, "{known:?} {codes:?}");
            }
        }
    }
}

#[test]
fn a_forgotten_question_stalls_the_session_or_accepts() {
    for (before, question) in QUESTIONS {
        let mut session = after(before);
        let open = session.ask(question);
        assert!(open(&mut session.connection, Answer::Drop));
        session.feed(if question.ends_with("hold") {
            b"\r\n.\r\n"
        } else {
            b""
        });
        let expected = match question {
            _ if question.ends_with("\n\n") => 550,
            _ if question.starts_with("XCLIENT") => 421,
            _ if question == AUTH => 454,
            _ => 451,
        };
        let sent = session.codes();
        assert_eq!(sent.last(), Some(&expected), "{question:?} {sent:?}");
        assert_eq!(session.connection.messages(), 0);
    }
}

#[test]
fn a_question_that_is_leaked_holds_the_session_without_end() {
    let mut session = after(HELLO);
    session.send(b"MAIL FROM:<a@b>\r\n");
    match session.poll() {
        Step::Mail(_, ask) => std::mem::forget(ask),
        other => panic!("{other:?}"),
    }
    session.feed(b"");
    session.now = session.until.unwrap();
    assert!(matches!(session.poll(), Step::Overdue(Overdue::Unanswered)));
    session.sent();
    session.feed(b"");
    assert_eq!(session.codes(), [451]);
}

#[test]
fn a_message_that_is_refused_for_good_is_sent_again_because_its_question_was_forgotten_or_late() {
    for (text, code) in [
        (format!("DATA\r\n{}\r\n.\r\n", "x".repeat(200)), 552),
        ("BDAT 2 LAST\r\n\n\n".to_owned(), 550),
    ] {
        for late in [false, true] {
            let mut session = after(TRANSACTION);
            session.send(text.as_bytes());
            let deferred = loop {
                match session.poll() {
                    Step::Data(ask) => ask.receive(),
                    Step::Message(Err(_), ask) => break ask.defer(),
                    other => drop(other),
                }
            };
            if late {
                session.feed(b"");
                session.now += seconds(540);
            } else {
                drop(session.connection.resume(deferred));
            }
            session.feed(b"");
            assert_eq!(session.codes().last(), Some(&code), "{late} {text:?}");
        }
    }
}

#[test]
fn a_message_with_a_fault_is_accepted() {
    for early in [false, true] {
        for (text, error, code) in [
            (
                format!("DATA\r\nabc{}\r\n.\r\n", "x".repeat(200)),
                MessageError::TooLarge,
                552,
            ),
            (
                "DATA\r\nabc\n\r\n.\r\n".to_owned(),
                MessageError::BareNewline,
                550,
            ),
            (
                "DATA\r\nabc\0\r\n.\r\n".to_owned(),
                MessageError::NulByte,
                554,
            ),
        ] {
            let mut session = after(TRANSACTION);
            session.feed(&text.as_bytes()[..8]);
            if early {
                // The whole message is checked anyway.
                let receiving = session.connection.receiving();
                receiving.unwrap().discard(Reply::ok("Taken"));
            }
            session.feed(&text.as_bytes()[8..]);
            assert_eq!(session.codes().last(), Some(&code), "{early} {error}");
            assert_eq!(session.connection.messages(), 0);
        }
    }
}

#[test]
fn a_chunk_that_is_refused_leaves_its_bytes_to_be_commands() {
    let mut session = after(TRANSACTION);
    let open = session.ask("BDAT 6\r\nNOOP\r\nBDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\nNOOP\r\n");
    session.sent();
    open(
        &mut session.connection,
        Answer::Refuse(Reply::rejected("No")),
    );
    session.feed(b"");
    assert_eq!(session.codes(), [554, 503, 503, 250]);
}

#[test]
fn bytes_of_an_earlier_message_are_mistaken_for_the_next() {
    // The first chunk belongs to a transaction that EHLO ends.
    let client = format!("{TRANSACTION}BDAT 3\r\nold{TRANSACTION}DATA\r\nnew\r\n.\r\n");
    let mut session = after("");
    session.feed(client.as_bytes());
    let told = session.told();
    let begun = told.iter().rposition(|told| told.kind == "data").unwrap();
    let after_data: Vec<_> = told[begun..].iter().map(|told| told.kind).collect();
    // Every message begins with Step::Data, even if the previous one was not finished.
    assert_eq!(after_data, ["data", "octets", "taken"]);
    assert_eq!(told[begun + 1].text, b"new\r\n");
}
