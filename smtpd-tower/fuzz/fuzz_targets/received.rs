//! The trace header: one field, whatever the client and its proxies call themselves, that other parsers can read.
#![no_main]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use smtpd_tower::{
    Body, Data, Envelope, Request, Session,
    address::{ClientName, ForwardPath, Leniency, ReversePath},
    body::Head,
    config::Protocol,
    fuzzing,
    layer::{ReceivedLayer, ReverseName},
    mime::mail_parser::MessageParser,
    net::PeerAddr,
    session::{Greeting, TlsInfo, TlsVersion},
    smtpd_core::{
        address::{Charset, PathOptions},
        parameter::Parameters,
    },
};
use smtpd_tower_fuzz::{Choices, through};

const NOW: u64 = 1_795_377_600;
const REST: &[u8] = b"Subject: hi\r\n\r\nHello\r\n";

// What parts the texts of an input: flags, an address, host name, software, HELO, reverse name, cipher, parameters, login,
// and then recipients.
fuzz_target!(|input: &[u8]| {
    let mut texts = input.split(|&byte| byte == b'\n');
    let mut choices = Choices(texts.next().unwrap_or_default());
    let flags = choices.byte();
    let mut text = || String::from_utf8_lossy(texts.next().unwrap_or_default()).into_owned();
    let names = [text(), text(), text(), text(), text(), text(), text()];
    let session = session(flags, choices.bytes(16), &names);
    let (envelope, is_utf8) = envelope(choices.byte(), &names[5], texts);
    let data = Data::new(envelope, Body::from(REST.to_vec()));
    let layer = ReceivedLayer::new().clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
    let message = through(layer, Request::new(session, data));
    let header = message.strip_suffix(REST).expect("the message stays");
    check_lines(header, is_utf8);
    check_structure(header);
    check_parsers(&message, header);
});

fn session(flags: u8, address: &[u8], names: &[String; 7]) -> Session {
    let [hostname, app_name, helo, reverse_name, cipher, _, login] = names;
    let peer = match *address {
        [] => PeerAddr::Unknown,
        [_] => PeerAddr::unix(Some(reverse_name)),
        [a, b, c, d, ..] if flags & 1 != 0 => (Ipv4Addr::new(a, b, c, d), 25).into(),
        _ => {
            let mut ip = [0; 16];
            ip[..address.len()].copy_from_slice(address);
            (IpAddr::from(Ipv6Addr::from(ip)), 25).into()
        }
    };
    let (protocol, greeting) = match flags >> 1 & 3 {
        0 => (Protocol::Lmtp, Greeting::Lhlo),
        1 => (Protocol::Smtp, Greeting::Helo),
        _ => (Protocol::Smtp, Greeting::Ehlo),
    };
    // A server without a name cannot write a trace header.
    let hostname = if hostname.is_empty() { "mx" } else { hostname };
    let mut session = fuzzing::session(hostname, app_name, peer, protocol);
    if let Ok(name) = ClientName::parse(helo.as_bytes()) {
        session = session.with_helo(name, greeting);
    }
    if let Some(name) = ReverseName::new(reverse_name) {
        session.insert(name);
    }
    if flags & 8 != 0 {
        session = session.with_tls(TlsInfo::new(TlsVersion::Tls13, cipher.clone()));
    }
    match flags & 16 != 0 {
        true => session.with_identity(login.as_str()),
        false => session,
    }
}

/// An envelope, and whether its message may have UTF-8 in its header.
fn envelope<'a>(
    flags: u8,
    words: &str,
    recipients: impl Iterator<Item = &'a [u8]>,
) -> (Envelope, bool) {
    let leniency = Leniency::STRICT
        .allow_missing_brackets(true)
        .allow_long_local_part(flags & 1 != 0)
        .allow_underscore_in_domain(flags & 2 != 0)
        .allow_trailing_dot_in_domain(flags & 4 != 0)
        .allow_stray_dots_in_local_part(flags & 8 != 0);
    let options = PathOptions::new(leniency, Charset::Utf8);
    let parameters: Parameters = words.parse().unwrap_or_default();
    let is_utf8 = parameters
        .get::<smtpd_tower::parameter::SmtpUtf8>()
        .is_some();
    let envelope = Envelope::new(ReversePath::Null).with_parameters(parameters);
    let paths = recipients.filter_map(|path| ForwardPath::parse(path, options).ok());
    let envelope = paths.fold(envelope, |envelope, (path, _)| {
        envelope.with_recipient(path)
    });
    (envelope, is_utf8)
}

/// RFC 5322 sections 2.1.1 and 2.2.3; RFC 6532 section 3.2 with SMTPUTF8 only.
fn check_lines(header: &[u8], is_utf8: bool) {
    let header = str::from_utf8(header).expect("text");
    let text = header.strip_suffix("\r\n").expect("its end");
    assert!(
        text.starts_with("Received: from ") && header.len() < 4096,
        "{header}"
    );
    for (number, line) in text.split("\r\n").enumerate() {
        assert!(line.len() <= 998, "{header}");
        let rest = line.strip_prefix('\t').unwrap_or(line);
        assert_eq!(rest.len() == line.len(), number == 0, "{header}");
        assert!(
            !rest.trim().is_empty() && !rest.contains(char::is_control),
            "{header}"
        );
        assert!(is_utf8 || line.is_ascii(), "{header}");
    }
}

/// What follows the last semicolon is the time, and before it the clauses are in their order (RFC 5321 section 4.4).
fn check_structure(header: &[u8]) {
    let tokens = tokens(header);
    let (clauses, time) = tokens.split_once(';').expect("a time");
    assert_eq!(time, "\r\n\tSun, 22 Nov 2026 20:00:00 +0000\r\n");
    let words: Vec<_> = clauses.split_ascii_whitespace().collect();
    let [
        field,
        "from",
        _,
        "by",
        _,
        "with",
        protocol,
        "id",
        id,
        rest @ ..,
    ] = &words[..]
    else {
        panic!("{}", header.escape_ascii());
    };
    assert!(*field == "Received:" && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert!(protocol.trim_end_matches(['S', 'A']).ends_with("MTP"));
    check_additional_clauses(rest);
}

/// The header without its comments and strings, each of which ends.
fn tokens(header: &[u8]) -> String {
    let (mut depth, mut quoted, mut tokens) = (0, false, String::new());
    let mut chars = str::from_utf8(header).expect("text").chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted || depth > 0 => drop(chars.next()),
            '"' if depth == 0 => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 => tokens.push(c),
            _ => {}
        }
        assert!(depth == 0 || depth == 1, "{}", header.escape_ascii());
    }
    assert!(depth == 0 && !quoted, "{}", header.escape_ascii());
    tokens
}

fn check_additional_clauses(mut rest: &[&str]) {
    if let ["for", path, after @ ..] = rest {
        assert!(path.starts_with('<') && path.ends_with('>'), "{path}");
        rest = after;
    }
    // RFC 8314 section 4.3.
    if let ["tls", cipher, after @ ..] = rest {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        assert!(cipher.bytes().all(is_allowed), "{cipher}");
        rest = after;
    }
    if let ["PRIORITY", priority, after @ ..] = rest {
        assert!((-9..=9).contains(&priority.parse::<i8>().expect("a number")));
        rest = after;
    }
    assert!(rest.is_empty(), "{rest:?}");
}

fn check_parsers(message: &[u8], header: &[u8]) {
    let head = Head::from(Bytes::copy_from_slice(message));
    let fields: Vec<_> = head.fields().collect();
    assert_eq!(fields[0].raw(), header);
    assert_eq!(fields[1].raw(), b"Subject: hi\r\n");
    let parsed = MessageParser::new().parse(message).expect("a message");
    assert_eq!(parsed.headers().len(), 2);
    assert_eq!(parsed.subject(), Some("hi"));
    // It does not know quoted strings, and takes a semicolon in them or in a comment for the last one.
    let semicolons = header.iter().filter(|&&byte| byte == b';').count();
    if semicolons > 1 || header.contains(&b'"') {
        return;
    }
    let received = parsed.received().expect("a trace header");
    let id = received.id().expect("an id");
    assert!(
        header
            .windows(id.len())
            .any(|window| window == id.as_bytes())
    );
    let date = received.date().map(|date| date.to_timestamp());
    assert_eq!(date, Some(NOW as i64), "{}", header.escape_ascii());
}
