//! Replies whose code means something else to the client.

use std::sync::Arc;

use smtpd_core::{
    Code, DataReply, Protocol, Reply, Status, Step,
    sasl::{Anonymous, Mechanisms},
};

use super::{Answer, HELLO, QUESTIONS, TRANSACTION, after, config, driver, settings, with};
use crate::support::{Session, Yes};

#[test]
fn a_reply_has_a_code_that_does_not_answer_the_command() {
    let all = [
        200, 211, 214, 220, 221, 235, 250, 251, 252, 253, 299, 334, 354,
    ];
    for (client, kept) in [
        ("MAIL FROM:<a@b>\r\n", &[][..]),
        ("RCPT TO:<c@d>\r\n", &[251]),
        ("FROBNICATE\r\n", &[200, 211, 214, 251, 252, 253, 299]),
        ("DATA\r\nab\r\n.\r\n", &[]),
    ] {
        for code in all {
            let mut session = after(if client.starts_with('M') {
                HELLO
            } else {
                TRANSACTION
            });
            session.send(client.as_bytes());
            let reply = Reply::new(Code::new(code).unwrap(), Status::UNDEFINED, "Yes");
            loop {
                match session.poll() {
                    Step::Mail(_, ask) => break ask.reply(reply),
                    Step::Rcpt(_, ask) => break ask.reply(reply),
                    Step::Command(_, ask) => break ask.reply(reply),
                    Step::Message(_, ask) => break ask.reply(reply),
                    Step::Data(ask) => ask.receive(),
                    other => drop(other),
                }
            }
            session.feed(b"");
            let expected = match code {
                300.. => 451,
                _ if kept.contains(&code) => code,
                _ => 250,
            };
            assert_eq!(session.codes().last(), Some(&expected), "{code} {client}");
        }
    }
}

#[test]
fn a_greeting_has_a_code_that_is_none() {
    for code in [200, 221, 235, 250, 354, 450, 550, 421] {
        let mut session = Session::new(Arc::new(config()), false, Yes);
        match session.poll() {
            Step::Connect(ask) => ask.reply(Reply::new(
                Code::new(code).unwrap(),
                Status::UNDEFINED,
                "Hello",
            )),
            other => panic!("{other:?}"),
        }
        session.feed(b"");
        let expected = match code {
            ..300 => 220,
            550 => 550,
            _ => 421,
        };
        assert_eq!(session.codes(), [expected], "{code}");
    }
}

#[test]
fn a_refusal_accepts() {
    for (before, question) in QUESTIONS {
        for code in [250, 235, 221, 354] {
            let mut session = after(before);
            let open = session.ask(question);
            let reply = Reply::new(Code::new(code).unwrap(), Status::UNDEFINED, "Yes");
            open(&mut session.connection, Answer::Refuse(reply));
            session.feed(if question.ends_with("hold") {
                b"\r\n.\r\n"
            } else {
                b""
            });
            let sent = session.codes();
            assert!(sent.last() >= Some(&400), "{code} {question:?} {sent:?}");
            assert_eq!(session.connection.messages(), 0);
        }
    }
}

#[test]
#[cfg(feature = "scram")]
fn an_authentication_without_proof_succeeds() {
    use super::AUTH;
    use smtpd_core::sasl::{CramMd5, Identity, Scram, Secret};

    let config = |mechanisms| {
        driver(settings().mechanisms(mechanisms).entropy(|bytes| {
            bytes.fill(0);
            true
        }))
    };
    let plain = || Mechanisms::default();
    let scram = || Mechanisms::none().with(Scram::sha256());
    let cram = || Mechanisms::none().with(CramMd5);
    let scram_login = "AUTH SCRAM-SHA-256 biwsbj1hbGljZSxyPWFiYw==\r\n";
    let cram_login = "AUTH CRAM-MD5\r\nYWxpY2UgMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA=\r\n";
    type Answer = fn(smtpd_core::Ask<'_, smtpd_core::connection::ask_kind::Auth>);
    let outcomes: [(Mechanisms, &str, Answer); 5] = [
        (plain(), AUTH, |ask| ask.answer(Reply::OK.into())),
        (plain(), AUTH, |ask| {
            let reply = Reply::new(Code::AUTHENTICATED, Status::UNDEFINED, "Yes");
            ask.answer(reply.into());
        }),
        (plain(), AUTH, |ask| ask.accept(Identity::new(""))),
        (scram(), scram_login, |ask| {
            ask.accept(Identity::new("alice"))
        }),
        (cram(), cram_login, |ask| ask.verify(Secret::password(""))),
    ];
    for (number, (mechanisms, client, answer)) in outcomes.into_iter().enumerate() {
        let mut session = with(config(mechanisms), HELLO);
        session.send(client.as_bytes());
        loop {
            let now = session.now;
            match session.poll() {
                Step::Auth(_, ask) => break answer(ask),
                Step::Write(mut writing) => writing.wrote(writing.bytes().len(), now),
                other => panic!("{other:?}"),
            }
        }
        session.sent();
        session.feed(b"");
        assert_eq!(session.codes().last(), Some(&535), "{number}");
        assert!(session.connection.identity().is_none());
    }
}

#[test]
fn a_mechanism_is_left_out_for_want_of_random_bytes_that_it_does_not_need() {
    let anonymous = Mechanisms::none().with(Anonymous);
    let mut session = with(driver(settings().mechanisms(anonymous)), HELLO);
    assert!(session.sent().contains("AUTH ANONYMOUS\r\n"));
    session.send(b"AUTH ANONYMOUS dHJhY2U=\r\n");
    assert!(matches!(session.poll(), Step::Auth(..)));
}

#[test]
fn a_recipient_of_lmtp_gets_no_reply_or_a_wrong_one() {
    let of = |code| Reply::new(Code::new(code).unwrap(), Status::UNDEFINED, "So");
    let cases: [(DataReply, &[u16]); 4] = [
        (DataReply::each([of(250), of(550), of(250)]), &[250, 550]),
        (DataReply::each([]), &[451, 451]),
        (DataReply::each([of(354), of(221)]), &[451, 250]),
        (DataReply::each([of(250), of(421)]), &[250, 421]),
    ];
    for (replies, expected) in cases {
        let lmtp = config().protocol(Protocol::Lmtp);
        let client = TRANSACTION.replace("EHLO", "LHLO");
        let mut session = with(lmtp, &format!("{client}RCPT TO:<e@f>\r\nDATA\r\n"));
        session.send(b"ab\r\n.\r\n");
        session.sent();
        loop {
            match session.poll() {
                Step::Message(_, ask) => break ask.reply(replies),
                other => drop(other),
            }
        }
        session.feed(b"");
        assert_eq!(session.codes(), expected);
    }
}

#[test]
fn a_password_for_a_mechanism_that_is_off_reaches_the_caller() {
    let settings = settings().mechanisms(Mechanisms::none());
    for command in ["AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n", "auth login\r\n"] {
        let mut session = with(driver(settings.clone()), HELLO);
        session.send(command.as_bytes());
        assert!(
            matches!(session.poll(), Step::Write(_)),
            "nobody is asked about {command}"
        );
        session.feed(b"");
        assert_eq!(session.codes().last(), Some(&500));
    }
}
