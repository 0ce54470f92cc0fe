//! Replies: whatever text is put in, the lines are short and clean, and the test client reads the same code, status and text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd_tower::{
    Reply,
    reply::{Code, Status},
    smtpd_core::fuzzing,
    test::{Client, ClientError, ClientReply},
};
use smtpd_tower_fuzz::{Choices, Wire, drive};

fuzz_target!(|input: &[u8]| {
    check_wire(input);
    let mut choices = Choices(input);
    let flags = choices.byte();
    let mut number = || u16::from_be_bytes([choices.byte(), choices.byte()]) % 1000;
    let code = Code::new(200 + number() % 400).expect("from 200 to 599");
    let status = Status::new(number(), number()).expect("up to three digits");
    let text = String::from_utf8_lossy(choices.0).into_owned();
    let reply = make(flags, code, status, text);
    assert_eq!((reply.code(), reply.status()), (code, status));
    for form in 0..4 {
        check_reply(&reply, form & 1 != 0, form & 2 != 0);
    }
});

/// A record separator parts the lines; anything else is text, line ends included.
fn make(flags: u8, code: Code, status: Status, text: String) -> Reply {
    let lines = text.split('\x1e').map(str::to_owned);
    match flags % 4 {
        0 => Reply::new(code, status, text),
        1 => Reply::multiline(code, status, lines),
        2 => lines.fold(Reply::new(code, status, ""), Reply::with_line),
        _ => Reply::new(code, status, "").with_line("a").with_text(text),
    }
}

fn check_reply(reply: &Reply, with_status: bool, utf8: bool) {
    let wire = fuzzing::encode_reply(reply, with_status, utf8);
    let lines: Vec<_> = wire.split_inclusive(|&byte| byte == b'\n').collect();
    for (at, line) in lines.iter().enumerate() {
        let is_last = at + 1 == lines.len();
        check_line(line, reply.code(), is_last, utf8);
    }
    // No line is broken that need not be, so the size is bounded by that of the text.
    let text = reply.text().len();
    assert!(wire.len() <= text + 16 * (reply.lines().count() + text / 490));
    assert!(!reply.to_string().contains(char::is_control));

    let read = parse(&wire, 1 + wire.len() % 600).expect("a reply");
    assert_eq!(read.code(), reply.code());
    assert_eq!(
        read.to_string().replace('\n', "\r\n") + "\r\n",
        String::from_utf8_lossy(&wire)
    );
    let has_status = with_status && !reply.code().is_intermediate();
    if has_status {
        assert_eq!(read.status(), Some(reply.status()));
        let parsed: Reply = String::from_utf8_lossy(&wire).parse().expect("a reply");
        assert_eq!(
            (parsed.code(), parsed.status()),
            (reply.code(), reply.status())
        );
        assert!(parsed.lines().eq(read.lines()));
    } else if reply.code().is_intermediate() {
        assert_eq!(read.status(), None);
    } else if read.status().is_some() {
        // A text that begins as a status does is taken for one.
        return;
    }
    check_text(reply, &read, utf8);
}

/// RFC 5321 sections 4.2.1 and 4.5.3.1.5.
fn check_line(line: &[u8], code: Code, is_last: bool, utf8: bool) {
    let shown = line.escape_ascii();
    assert!(line.len() <= 512, "{shown}");
    let text = line
        .strip_suffix(b"\r\n")
        .and_then(|line| str::from_utf8(line).ok());
    let text = text.unwrap_or_else(|| panic!("{shown}"));
    assert!(
        !text.contains(char::is_control) && (utf8 || text.is_ascii()),
        "{shown}"
    );
    assert!(text.starts_with(&code.to_string()), "{shown}");
    assert_eq!(
        text.as_bytes().get(3),
        Some(if is_last { &b' ' } else { &b'-' }),
        "{shown}"
    );
}

/// The maximum number of lines on the wire; `...` stands for those that follow.
const MAX_LINES: usize = 100;

/// Each line of the reply is one or more of those that were read.
fn check_text(reply: &Reply, read: &ClientReply, utf8: bool) {
    let read: Vec<_> = read.lines().collect();
    assert!(read.len() <= MAX_LINES);
    let (read, is_cut) = match read.as_slice() {
        [start @ .., "..."] if read.len() == MAX_LINES => (start, true),
        all => (all, false),
    };
    let mut read = read.iter().copied();
    for line in reply.lines() {
        let expected = match utf8 {
            true => line.to_owned(),
            false => line
                .chars()
                .map(|c| if c.is_ascii() { c } else { '?' })
                .collect(),
        };
        let mut found = String::new();
        while found.is_empty() || found.len() < expected.len() {
            match read.next() {
                Some(piece) => found += piece,
                None if is_cut => return,
                None => panic!("{line:?} is cut short"),
            }
            if expected.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected);
    }
    assert_eq!(read.next(), None);
}

/// What a client reads from a server that says anything at all.
fn check_wire(wire: &[u8]) {
    let (whole, pieces) = (parse(wire, usize::MAX), parse(wire, 1 + wire.len() % 7));
    match (&whole, &pieces) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
        _ => panic!("{whole:?} or {pieces:?}"),
    }
    let Ok(reply) = whole else { return };
    let shown = reply.to_string().replace('\n', "\r\n") + "\r\n";
    assert!(wire.starts_with(shown.as_bytes()));
    assert_eq!(reply.text().split('\n').count(), reply.lines().count());
}

/// The first reply in bytes that come so many at a time.
fn parse(wire: &[u8], piece: usize) -> Result<ClientReply, ClientError> {
    drive(Client::over(Wire::new(wire, piece)).reply())
}
