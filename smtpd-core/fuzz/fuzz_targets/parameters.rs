//! The parameters of MAIL and RCPT: what is taken is what was sent, and is taken again.
#![no_main]

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use smtpd_core::{
    BodyType, Config, Connection, EnvelopeId, Event, MailAuth, Notify, OriginalRecipient,
    Parameters, Reply, Ret, Size, SmtpUtf8, sasl::Mechanisms,
};

fuzz_target!(|input: &[u8]| {
    for command in ["MAIL FROM:<a@b> ", "RCPT TO:<c@d> "] {
        let Some(parameters) = parse(command, input) else {
            continue;
        };
        let words: Vec<_> = parameters
            .iter()
            .map(|(keyword, value)| {
                value.map_or(keyword.to_owned(), |value| format!("{keyword}={value}"))
            })
            .collect();
        assert_eq!(
            parse(command, words.join(" ").as_bytes()).as_ref(),
            Some(&parameters)
        );
        check_types(&parameters);
    }
});

/// A value that was taken is one that its type can read.
fn check_types(parameters: &Parameters) {
    assert_eq!(
        parameters.contains("SIZE"),
        parameters.get::<Size>().is_some()
    );
    assert_eq!(
        parameters.contains("BODY"),
        parameters.get::<BodyType>().is_some()
    );
    assert_eq!(
        parameters.contains("SMTPUTF8"),
        parameters.get::<SmtpUtf8>().is_some()
    );
    assert_eq!(
        parameters.contains("AUTH"),
        parameters.get::<MailAuth>().is_some()
    );
    assert_eq!(
        parameters.contains("RET"),
        parameters.get::<Ret>().is_some()
    );
    assert_eq!(
        parameters.contains("ENVID"),
        parameters.get::<EnvelopeId>().is_some()
    );
    assert_eq!(
        parameters.contains("NOTIFY"),
        parameters.get::<Notify>().is_some()
    );
    assert_eq!(
        parameters.contains("ORCPT"),
        parameters.get::<OriginalRecipient>().is_some()
    );
}

/// The parameters of the first such command that is taken.
fn parse(command: &str, parameters: &[u8]) -> Option<Parameters> {
    let mut start = "HELO x\r\n".to_owned();
    if command.starts_with("RCPT") {
        start.push_str("MAIL FROM:<a@b> SMTPUTF8\r\n");
    }
    let mut input =
        BytesMut::from(&[start.as_bytes(), command.as_bytes(), parameters, b"\r\n"].concat()[..]);
    let config = Config::new("mx.example.org")
        .max_message_size(0)
        .mechanisms(Mechanisms::default());
    let (now, mut found) = (Instant::now(), None);
    let mut connection = Connection::new(Arc::new(config), now);
    while let Some(event) = connection.poll_event(now, &mut input) {
        match event {
            Event::Mail(mail) if command.starts_with("MAIL") => {
                found = found.or(Some(mail.parameters))
            }
            Event::Rcpt(rcpt) => found = found.or(Some(rcpt.parameters)),
            _ => {}
        }
        connection.reply(Reply::OK);
    }
    found
}
