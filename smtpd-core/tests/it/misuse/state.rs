//! The session's own state. A driver's copy of it would become stale.

use smtpd_core::{Reply, Step, connection::TlsFacts};

use super::{AUTH, Answer, HELLO, TRANSACTION, after};
use crate::support::{Session, Yes};

/// Returns the identity, the HELO name, the sender and the recipients.
fn known(session: &Session<Yes>) -> [Option<String>; 4] {
    let connection = &session.connection;
    let envelope = connection.envelope();
    [
        connection.identity().map(ToString::to_string),
        connection.helo().map(|helo| helo.name().to_string()),
        envelope.map(|envelope| envelope.sender().to_string()),
        envelope.map(|envelope| {
            let recipients = envelope.recipients().iter();
            recipients
                .map(|one| one.path().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        }),
    ]
}

#[test]
fn an_identity_or_an_envelope_outlives_what_it_was_given_for() {
    let transaction = TRANSACTION.strip_prefix(HELLO).unwrap();
    let (alice, client) = (Some("alice"), Some("client.example"));
    let open = [alice, client, Some("a@b"), Some("c@d")];
    let message = format!("{transaction}DATA\r\nab\r\n.\r\n");
    for (then, expected) in [
        ("", [alice, client, None, None]),
        (
            "MAIL FROM:<a@b>\r\n",
            [alice, client, Some("a@b"), Some("")],
        ),
        (transaction, open),
        (&format!("{transaction}RCPT TO:<>\r\n"), open),
        (&format!("{transaction}DATA\r\n"), open),
        (&format!("{transaction}BDAT 2\r\nab"), open),
        (
            &format!("{transaction}BDAT x\r\n"),
            [alice, client, None, None],
        ),
        (&message, [alice, client, None, None]),
        (
            &format!("{transaction}RSET\r\n"),
            [alice, client, None, None],
        ),
        (
            &format!("{transaction}EHLO other\r\n"),
            [alice, Some("other"), None, None],
        ),
        (&format!("{transaction}EHLO\r\n"), open),
        ("XCLIENT NAME=a.example\r\n", [None; 4]),
        ("XCLIENT LOGIN=bob\r\n", [Some("bob"), None, None, None]),
    ] {
        let mut session = after(HELLO);
        session.feed(AUTH.as_bytes());
        session.feed(then.as_bytes());
        let expected = expected.map(|one| one.map(ToOwned::to_owned));
        assert_eq!(known(&session), expected, "{then:?}");
    }
    let mut session = after(HELLO);
    session.feed(AUTH.as_bytes());
    session.feed(b"STARTTLS\r\n");
    session.handshake(TlsFacts::default());
    assert_eq!(known(&session), [const { None }; 4]);
}

#[test]
fn a_refused_data_leaves_an_envelope() {
    let mut session = after(TRANSACTION);
    let open = session.ask("DATA\r\n");
    open(&mut session.connection, Answer::Refuse(Reply::busy()));
    assert!(session.connection.envelope().is_none());
    session.sent();
    session.feed(b"RCPT TO:<e@f>\r\nDATA\r\n");
    assert_eq!(session.codes().last(), Some(&503));
}

#[test]
fn what_was_refused_is_in_the_envelope() {
    let mut session = after(HELLO);
    let no = || Answer::Refuse(Reply::no_such_user());
    session.ask("MAIL FROM:<a@b>\r\n")(&mut session.connection, no());
    assert!(session.connection.envelope().is_none());
    session.feed(b"MAIL FROM:<a@b>\r\n");
    session.ask("RCPT TO:<c@d>\r\n")(&mut session.connection, no());
    assert_eq!(known(&session)[3].as_deref(), Some(""));
    let refused = session.ask("EHLO other\r\n");
    refused(&mut session.connection, no());
    assert_eq!(
        known(&session)[1..3],
        [Some("client.example".into()), Some("a@b".into())]
    );
}

#[test]
fn the_word_for_received_is_not_that_of_the_session() {
    for (client, word) in [
        ("HELO a\r\n", "SMTP"),
        (HELLO, "ESMTP"),
        ("EHLO a\r\nMAIL FROM:<a@b> SMTPUTF8\r\n", "UTF8SMTP"),
        ("EHLO a\r\nMAIL FROM:<a@b> SMTPUTF8\r\nRSET\r\n", "ESMTP"),
        ("EHLO a\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n", "ESMTPA"),
    ] {
        assert_eq!(after(client).connection.protocol_word(), word, "{client}");
    }
}

#[test]
fn a_transaction_that_ends_without_a_message_is_forgotten_silently() {
    const CHUNK: &str = "BDAT 3\r\nabc";
    for (client, command, recipients) in [
        (TRANSACTION, "RSET\r\n", Some(Some(1))),
        (TRANSACTION, "EHLO again.example\r\n", Some(Some(1))),
        (TRANSACTION, "EHLO two words\r\n", None),
        (HELLO, "RSET\r\n", Some(None)),
        (HELLO, "EHLO again.example\r\n", None),
    ]
    .into_iter()
    .chain([
        (&*format!("{TRANSACTION}{CHUNK}"), "RSET\r\n", Some(Some(1))),
        (
            &*format!("{TRANSACTION}{CHUNK}"),
            "EHLO a\r\n",
            Some(Some(1)),
        ),
    ]) {
        let mut session = after(client);
        session.send(command.as_bytes());
        let mut reset = None;
        loop {
            let now = session.now;
            match session.poll() {
                Step::Helo(_, ask) => ask.accept(),
                Step::Reset(envelope) => {
                    reset = Some(envelope.map(|envelope| envelope.recipients().len()));
                }
                Step::Write(mut writing) => writing.wrote(writing.bytes().len(), now),
                Step::Read(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(reset, recipients, "{client}{command}");
        assert!(session.connection.envelope().is_none() || command.contains("two"));
    }
}
