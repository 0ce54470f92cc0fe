//! The parameters of MAIL and RCPT: what is taken is what was sent, and is taken again.
#![no_main]

use std::time::Instant;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use smtpd_core::{
    Config, Connection, Step,
    connection::TlsFacts,
    extension::{
        DeliverBy, Extensions, FutureRelease, MtPriority, NoSoliciting, Prdr, RequireTls, Rrvs,
    },
    parameter::{
        BodyType, By, ByMode, DateTime, EnvelopeId, HoldFor, HoldUntil, MailAuth, Notify,
        OriginalRecipient, Parameter, Parameters, Priority, Ret, Size, SmtpUtf8, Solicit,
        ValidSince,
    },
    sasl::Mechanisms,
};

fuzz_target!(|input: &[u8]| {
    check_value(&String::from_utf8_lossy(input));
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

/// One value by itself: what is decoded is safe to show, and means the same when it is written anew.
fn check_value(text: &str) {
    if let Ok(id) = EnvelopeId::parse(Some(text)) {
        check_text(id.as_str());
        assert_eq!(EnvelopeId::new(id.as_str()).as_ref(), Ok(&id));
        check_again(&id, &xtext(id.as_str()), 100);
    }
    if let Ok(auth) = MailAuth::parse(Some(text))
        && let Some(mailbox) = auth.mailbox()
    {
        check_text(mailbox.as_str());
        check_again(&auth, &xtext(mailbox.as_str()), 500);
    }
    if let Ok(original) = OriginalRecipient::parse(Some(text)) {
        check_text(original.address());
        let written = format!("{};{}", original.address_type(), xtext(original.address()));
        check_again(&original, &written, 500);
    }
    if let Ok(by) = By::parse(Some(text)) {
        let mode = if by.mode() == ByMode::Return {
            'R'
        } else {
            'N'
        };
        let trace = if by.is_traced() { "T" } else { "" };
        check_again(&by, &format!("{};{mode}{trace}", by.seconds()), 20);
    }
    if let Ok(solicit) = Solicit::parse(Some(text)) {
        let keywords: Vec<_> = solicit.keywords().collect();
        assert!(keywords.iter().all(|keyword| !keyword.is_empty()));
        check_again(&solicit, &keywords.join(","), 1000);
    }
    if let Ok(time) = text.parse::<DateTime>() {
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!(
            HoldUntil::parse(Some(&time.to_string())).map(HoldUntil::time),
            Ok(time)
        );
        for seconds in [i64::MIN, -1, 1, i64::MAX] {
            let other = time.plus_seconds(seconds);
            assert_eq!(other.to_string().parse(), Ok(other));
        }
    }
}

fn check_text(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}

fn check_again<P: Parameter + PartialEq + std::fmt::Debug>(value: &P, written: &str, limit: usize) {
    match P::parse(Some(written)) {
        Ok(again) => assert_eq!(again, *value, "{written}"),
        Err(error) => assert!(written.len() > limit, "{written}: {error}"),
    }
}

/// RFC 3461 section 4. The backslash is encoded too, which has a meaning in addresses of type utf-8 (RFC 6533 section 3).
fn xtext(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'+' | b'=' | b'\\' | ..=b' ' | 0x7f.. => format!("+{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    text.bytes().map(byte).collect()
}

/// A value that was taken is one that its type can read.
fn check_types(parameters: &Parameters) {
    check::<Size>(parameters);
    check::<BodyType>(parameters);
    check::<SmtpUtf8>(parameters);
    check::<MailAuth>(parameters);
    check::<Ret>(parameters);
    check::<EnvelopeId>(parameters);
    check::<Notify>(parameters);
    check::<OriginalRecipient>(parameters);
    check::<By>(parameters);
    check::<HoldFor>(parameters);
    check::<HoldUntil>(parameters);
    check::<Priority>(parameters);
    check::<Solicit>(parameters);
    check::<ValidSince>(parameters);
}

fn check<P: Parameter>(parameters: &Parameters) {
    let given = parameters.contains(P::KEYWORD);
    assert_eq!(given, parameters.get::<P>().is_some(), "{}", P::KEYWORD);
}

/// Those with parameters of their own, with nothing that any value would be refused for.
fn extensions() -> Extensions {
    let latest = "9999-12-31T23:59:59Z".parse().unwrap();
    Extensions::default()
        .with(DeliverBy::new())
        .with(FutureRelease::new(HoldFor::MAX, latest))
        .with(MtPriority::new().trust_unauthenticated())
        .with(NoSoliciting::new())
        .with(Prdr)
        .with(RequireTls)
        .with(Rrvs)
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
        .max_message_size(None)
        .extensions(extensions())
        .mechanisms(Mechanisms::default());
    let (mut now, mut found) = (Instant::now(), None);
    let mut connection = Connection::with_tls(config.into());
    loop {
        match connection.poll(now, &mut input) {
            Step::Handshake(handshake) => handshake.done(&mut BytesMut::new(), TlsFacts::default()),
            Step::Connect(ask) => ask.accept(),
            Step::Helo(_, ask) => ask.accept(),
            Step::Mail(mail, ask) => {
                ask.accept();
                if command.starts_with("MAIL") {
                    found = found.or_else(|| Some(mail.parameters().clone()));
                }
            }
            Step::Rcpt(rcpt, ask) => {
                ask.accept();
                found = found.or_else(|| Some(rcpt.parameters().clone()));
            }
            Step::Write(mut writing) => writing.wrote(writing.bytes().len(), now),
            Step::Read(_) | Step::Closed(_) => return found,
            // Input with many errors: a reply is held back.
            Step::Answer(wait) => now = wait.until(),
            // What follows a CRLF in the parameters may be any command.
            other => drop(other),
        }
    }
}
