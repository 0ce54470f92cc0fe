//! The attributes of XCLIENT and XFORWARD: what is read is safe to write, and is read again from what it is written as.
#![no_main]

use std::{fmt::Display, net::IpAddr};

use libfuzzer_sys::fuzz_target;
use smtpd_core::{
    address::ClientName,
    connection::Greeting,
    fuzzing,
    proxied::{Attribute, Forwarded, MailSource, XClient},
};

fuzz_target!(|input: &[u8]| {
    let first = input.split(|&byte| byte == b'\n').next();
    let mut client = XClient::default();
    let mut forwarded = Forwarded::default();
    for argument in input.split(|&byte| byte == b'\n') {
        if let Ok(next) = fuzzing::xclient_and(&client, argument) {
            check_client(&client, &next, argument);
            client = next;
        }
        if let Ok(next) = fuzzing::forwarded_and(&forwarded, argument) {
            check_forwarded(&forwarded, &next, argument);
            forwarded = next;
        }
    }
    // Text and bytes are read alike.
    if let Some(text) = first.and_then(|argument| std::str::from_utf8(argument).ok()) {
        let client = fuzzing::xclient_and(&XClient::default(), text.as_bytes());
        assert_eq!(text.parse(), client);
        let forwarded = fuzzing::forwarded_and(&Forwarded::default(), text.as_bytes());
        assert_eq!(text.parse(), forwarded);
    }
});

fn check_client(before: &XClient, client: &XClient, argument: &[u8]) {
    for name in [client.name(), client.helo()].into_iter().flatten() {
        name.known().into_iter().for_each(check_name);
    }
    let login = client.login().and_then(Attribute::known);
    assert!(login.is_none_or(|login| !login.as_str().contains(char::is_control)));
    if fits(&written(client)) {
        assert_eq!(written(client).parse().as_ref(), Ok(client));
        // Every attribute is said anew here, so what was said before makes no difference.
        let again = fuzzing::xclient_and(before, written(client).as_bytes());
        assert_eq!(again.as_ref(), Ok(client));
    }
    assert!(fuzzing::xclient_and(before, &shout(argument)).is_ok());
}

fn check_forwarded(before: &Forwarded, forwarded: &Forwarded, argument: &[u8]) {
    let names = [forwarded.name(), forwarded.helo()].into_iter().flatten();
    names.for_each(check_name);
    for word in [forwarded.protocol(), forwarded.ident()]
        .into_iter()
        .flatten()
    {
        let is_safe = |byte: u8| byte.is_ascii_graphic() && !b"<>()\\\";@".contains(&byte);
        assert!(word.len() <= 255 && word.bytes().all(is_safe), "{word}");
    }
    let text = [
        pair("NAME", forwarded.name()),
        pair("ADDR", forwarded.addr().map(address)),
        pair("PORT", forwarded.port()),
        pair("PROTO", forwarded.protocol()),
        pair("HELO", forwarded.helo()),
        pair("IDENT", forwarded.ident()),
        pair("SOURCE", forwarded.source().map(source)),
    ];
    let text = text.join(" ");
    if fits(&text) {
        let again = fuzzing::forwarded_and(before, text.as_bytes());
        assert_eq!(again.as_ref(), Ok(forwarded));
    }
    let shouted = fuzzing::forwarded_and(before, &shout(argument));
    assert!(shouted.is_ok());
}

fn check_name(name: &ClientName) {
    let name = name.as_str();
    assert!(!name.is_empty() && name.len() <= 255, "{name}");
    assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
}

/// An XCLIENT command that says all of it, and takes back what is not there.
fn written(client: &XClient) -> String {
    let login = client
        .login()
        .map(|login| login.known().map(|identity| identity.as_str()));
    let protocol = client.protocol().map(|protocol| match protocol {
        Greeting::Helo => "SMTP",
        Greeting::Ehlo => "ESMTP",
        Greeting::Lhlo => "LMTP",
        other => panic!("{other:?} is not an attribute"),
    });
    [
        attribute("NAME", client.name()),
        attribute("ADDR", client.addr().map(map_address).as_ref()),
        attribute("PORT", client.port()),
        protocol.map_or(String::new(), |protocol| format!("PROTO={protocol}")),
        attribute("HELO", client.helo()),
        login.map_or(String::new(), |login| pair("LOGIN", login)),
        attribute("DESTADDR", client.dest_addr().map(map_address).as_ref()),
        attribute("DESTPORT", client.dest_port()),
    ]
    .join(" ")
}

fn attribute<T: Display>(name: &str, value: Option<&Attribute<T>>) -> String {
    match value {
        None => String::new(),
        Some(Attribute::TemporarilyUnavailable) => format!("{name}=[TEMPUNAVAIL]"),
        Some(value) => pair(name, value.known()),
    }
}

fn pair(name: &str, value: Option<impl Display>) -> String {
    let value = value.map_or("[UNAVAILABLE]".to_owned(), |value| {
        xtext(&value.to_string())
    });
    format!("{name}={value}")
}

/// Whether no value is longer than the 255 characters that it may have as xtext: some are when they are encoded anew.
fn fits(attributes: &str) -> bool {
    let values = attributes
        .split(' ')
        .filter_map(|word| word.split_once('='));
    values.map(|(_, value)| value.len()).all(|len| len <= 255)
}

/// RFC 3461 section 4.
fn xtext(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'+' | b'=' | ..=b' ' | 0x7f.. => format!("+{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    text.bytes().map(byte).collect()
}

fn map_address(addr: &Attribute<IpAddr>) -> Attribute<String> {
    match addr {
        Attribute::Known(ip) => Attribute::Known(address(*ip)),
        Attribute::TemporarilyUnavailable => Attribute::TemporarilyUnavailable,
        _ => Attribute::Unavailable,
    }
}

fn address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("IPV6:{ip}"),
    }
}

fn source(source: MailSource) -> &'static str {
    match source {
        MailSource::Local => "LOCAL",
        MailSource::Remote => "REMOTE",
        other => panic!("{other:?} is not an attribute"),
    }
}

/// The same with the names of the attributes in upper case, which they are in any case (XCLIENT_README).
fn shout(argument: &[u8]) -> Vec<u8> {
    let mut is_name = true;
    let each = |&byte: &u8| {
        is_name = byte == b' ' || is_name && byte != b'=';
        match is_name {
            true => byte.to_ascii_uppercase(),
            false => byte,
        }
    };
    argument.iter().map(each).collect()
}
