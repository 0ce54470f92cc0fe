//! The header section: split off in any pieces, put back as it was, and its fields as a line-by-line reading finds them.
#![no_main]

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use smtpd_tower::{
    Body, BodyError, Data, Envelope, Request, Session, body::Head, layer::SubmissionFieldsLayer,
};
use smtpd_tower_fuzz::{Choices, body, drive, through};

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices(input);
    let (cuts, limit) = (choices.cuts(), usize::from(choices.byte()) * 4);
    let message = choices.0;
    check_head(message, cuts, limit);
    check_fields(message);
    check_submission(message, cuts);
});

fn check_head(message: &[u8], cuts: &[u8], limit: usize) {
    let len = head_len(message);
    match drive(body(message, cuts, Ok(())).head(limit)) {
        Ok((head, rest)) => {
            assert!(len <= limit);
            assert_eq!(head.as_bytes(), &message[..len]);
            let whole = drive(head.into_body(rest).collect()).expect("a whole message");
            assert_eq!(whole, message);
        }
        Err(BodyError::HeadTooLarge) => assert!(len > limit),
        Err(error) => panic!("{error:?}"),
    }
    match drive(body(message, cuts, Err(BodyError::Incomplete)).head(limit)) {
        Ok((head, rest)) => {
            assert!(head.as_bytes().ends_with(b"\r\n"));
            let end = drive(rest.collect()).expect_err("it breaks off");
            assert!(matches!(end, BodyError::Incomplete));
        }
        Err(BodyError::HeadTooLarge) => assert!(len > limit),
        Err(error) => assert!(matches!(error, BodyError::Incomplete)),
    }
}

/// Up to the first empty line, which belongs to the head (RFC 5322 section 2.1).
fn head_len(message: &[u8]) -> usize {
    let mut len = 0;
    for line in lines(message) {
        len += line.len();
        if line == b"\r\n" {
            break;
        }
    }
    len
}

/// With their CRLF, which the last need not have.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with(b"\r\n") {
            lines.push(&text[start..at + 2]);
            start = at + 2;
            at += 1;
        }
        at += 1;
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    lines
}

fn check_fields(message: &[u8]) {
    let head = Head::from(Bytes::copy_from_slice(message));
    let found: Vec<_> = head.fields().collect();
    let expected = fields(message);
    let raw: Vec<_> = found.iter().map(|field| field.raw()).collect();
    assert_eq!(raw, expected);
    for field in &found {
        let name = field.name();
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!name.contains(':') && field.raw().starts_with(name.as_bytes()));
        assert!(field.is(&name.to_ascii_uppercase()));
        let first = head.field(name).expect("there is one");
        assert!(first.raw().as_ptr() <= field.raw().as_ptr());
        let line = field.unfolded();
        assert!(!line.windows(2).any(|two| two == b"\r\n") || line.contains(&b'\r'));
        assert_eq!(without_breaks(&line), without_breaks(field.value()));
        // A field that is written anew is found again.
        let again = [name.as_bytes(), b": ", field.value(), b"\r\n\r\n"].concat();
        let again = Head::from(Bytes::from(again));
        let mut fields = again.fields();
        assert_eq!(
            fields.next().map(|field| (field.name(), field.value())),
            Some((name, field.value()))
        );
        assert_eq!(fields.next(), None);
    }
    let shown = format!("{head:?}");
    assert!(shown.is_ascii() && !shown.contains(char::is_control));
}

/// Lines that begin with white space go on with the line before (RFC 5322 section 2.2.3).
fn fields(message: &[u8]) -> Vec<&[u8]> {
    let mut fields: Vec<&[u8]> = Vec::new();
    let mut start = 0;
    for line in lines(&message[..head_len(message)]) {
        let end = start + line.len();
        let is_folded = matches!(line, [b' ' | b'\t', ..]);
        match fields.last_mut() {
            Some(field) if is_folded => {
                let begin = start - field.len();
                *field = &message[begin..end];
            }
            _ if line == b"\r\n" => {}
            _ => fields.push(&message[start..end]),
        }
        start = end;
    }
    fields.retain(|field| is_field(field));
    fields
}

/// A name in printable ASCII, white space perhaps, a colon (RFC 5322 sections 2.2 and 4.5).
fn is_field(raw: &[u8]) -> bool {
    let Some(colon) = raw.iter().position(|&byte| byte == b':') else {
        return false;
    };
    let end = raw[..colon].iter().rposition(|byte| !b" \t".contains(byte));
    end.is_some_and(|end| raw[..=end].iter().all(u8::is_ascii_graphic))
}

/// Whether its first line, of 998 bytes at most (RFC 5322 section 2.1.1), is neither empty nor that of a field.
fn begins_with_text(message: &[u8]) -> bool {
    let line = lines(message).first().copied().unwrap_or(b"\r\n");
    line != b"\r\n" && !begins_with_field(line) && !begins_with_mailbox_line(message)
}

fn begins_with_field(line: &[u8]) -> bool {
    is_field(&line[..line.len().min(998)])
}

/// Whether a line of an mbox stands above its first field.
fn begins_with_mailbox_line(message: &[u8]) -> bool {
    let [first, second, ..] = lines(message)[..] else {
        return false;
    };
    let quotes = first.iter().take_while(|&&byte| byte == b'>').count();
    let Some(rest) = first[quotes..].strip_prefix(b"From ") else {
        return false;
    };
    let sender = rest.iter().find(|byte| !b" \t".contains(byte));
    let is_sender = sender.is_some_and(|&byte| byte.is_ascii_graphic() && byte != b':');
    is_sender && first.len() <= 998 && begins_with_field(second)
}

fn without_breaks(text: &[u8]) -> Vec<u8> {
    text.iter()
        .copied()
        .filter(|byte| !b"\r\n".contains(byte))
        .collect()
}

/// What a message lacks is added once, before it, however it comes.
fn check_submission(message: &[u8], cuts: &[u8]) {
    let layer = SubmissionFieldsLayer::new()
        .clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_377_600));
    let add = |body: Body| {
        let data = Data::new(Envelope::default(), body);
        through(layer, Request::new(Session::local(), data))
    };
    let added = add(body(message, cuts, Ok(())));
    assert!(added.ends_with(message));
    if head_len(message) > 64 << 10 && !begins_with_text(message) {
        return assert_eq!(added, message);
    }
    // What is text is no header, whatever follows it.
    let header = match begins_with_text(message) {
        true => &[],
        false => message,
    };
    let count = |name: &str, text: &[u8]| {
        let is = |field: &&[u8]| {
            let start = field.get(..name.len()).unwrap_or_default();
            let rest = field.get(name.len()..).unwrap_or_default();
            start.eq_ignore_ascii_case(name.as_bytes()) && rest.trim_ascii_start().starts_with(b":")
        };
        fields(text).iter().filter(|field| is(field)).count()
    };
    for name in ["Date", "Message-ID"] {
        assert_eq!(count(name, &added), count(name, header).max(1), "{name}");
    }
    let before = &added[..added.len() - message.len()];
    let end: &[u8] = match begins_with_mailbox_line(message) {
        true => b"\r\nX-Mailbox-Line: ",
        false => b"\r\n",
    };
    assert!(before.is_empty() || before.ends_with(end));
    assert_eq!(before.ends_with(b"\r\n\r\n"), begins_with_text(message));
    assert!(before.iter().filter(|&&byte| byte == b'\n').count() <= 4);
    let again = add(Body::from(added.to_vec()));
    assert_eq!(again, added);
}
