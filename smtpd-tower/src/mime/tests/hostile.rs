//! Messages that are meant to harm their reader.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use mail_parser::{Message, MessageParser, PartType};

use crate::mime::{
    MimeError, Parsed,
    check::{Limits, check},
};

const SIZE: usize = 1_000_000;

/// Less stack than any thread that serves mail.
const SMALL_STACK: usize = 256 << 10;

fn on_stack<T: Send>(size: usize, f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(size);
        thread.spawn_scoped(scope, f).unwrap().join().unwrap()
    })
}

/// Concatenates what `piece` returns for 0, 1, 2 and so on, until there is 1 MB of it.
fn repeated(piece: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for number in 0.. {
        if text.len() >= SIZE {
            break;
        }
        text += &piece(number);
    }
    text
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for (number, group) in text.as_bytes().chunks(3).enumerate() {
        let padded = [0, 1, 2].map(|i| u32::from(*group.get(i).unwrap_or(&0)));
        let bits = padded.iter().fold(0, |bits, byte| bits << 8 | byte);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            let digit = if digit > group.len() {
                b'='
            } else {
                DIGITS[value as usize]
            };
            encoded.push(digit.into());
        }
        if number % 19 == 18 {
            encoded += "\r\n";
        }
    }
    encoded + "\r\n"
}

fn quoted_printable(text: &str) -> String {
    text.replace('=', "=3D").replace(':', "=3A=\r\n")
}

/// Returns a message that contains this one, encoded.
fn encoded(name: &str, message: &str) -> String {
    format!("Content-Transfer-Encoding: {name}\r\nContent-Type: message/rfc822\r\n\r\n{message}")
}

const MESSAGE: &str = "Content-Type: message/rfc822\r\n\r\n";

/// Returns a part of a multipart, which is not closed.
fn multipart(subtype: &str, boundary: &str) -> String {
    format!("Content-Type: multipart/{subtype}; boundary={boundary}\r\n\r\n--{boundary}\r\n")
}

fn shapes() -> Vec<(&'static str, String, Option<MimeError>)> {
    use MimeError::{TooComplex, TooDeep, TooManyParts};
    let messages = repeated(|_| MESSAGE.to_owned());
    let twice = encoded("base64", &base64(&encoded("base64", &base64(&messages))));
    let beyond = encoded("base64", &base64(&encoded("base64", &base64(&twice))));
    let in_encoded =
        multipart("mixed", "x") + &repeated(|_| format!("{MESSAGE}a: b\r\n\r\n\r\n--x\r\n"));
    vec![
        ("messages", messages.clone(), Some(TooDeep)),
        (
            "global",
            messages.replace("rfc822", "global"),
            Some(TooDeep),
        ),
        ("bare LF", messages.replace('\r', ""), Some(TooDeep)),
        ("folded", messages.replace(": ", ":\r\n\t"), Some(TooDeep)),
        (
            "spaced name",
            messages.replace("Content-Type", "Con tent - Ty pe"),
            Some(TooDeep),
        ),
        (
            "multiparts",
            repeated(|n| multipart("mixed", &format!("b{n}"))),
            Some(TooDeep),
        ),
        (
            "one boundary",
            repeated(|_| multipart("mixed", "b")),
            Some(TooDeep),
        ),
        (
            "digests",
            repeated(|n| multipart("digest", &format!("b{n}")) + "\r\n"),
            Some(TooDeep),
        ),
        (
            "mixed",
            repeated(|n| multipart("mixed", &format!("b{n}")) + MESSAGE),
            Some(TooDeep),
        ),
        (
            "base64",
            encoded("base64", &base64(&messages)),
            Some(TooComplex),
        ),
        (
            "quoted",
            encoded("quoted-printable", &quoted_printable(&messages)),
            Some(TooComplex),
        ),
        ("twice in base64", twice, Some(TooComplex)),
        ("more often than is decoded", beyond, None),
        (
            "parts",
            multipart("mixed", "x") + &repeated(|_| "\r\n\r\n--x\r\n".to_owned()),
            Some(TooManyParts),
        ),
        (
            "messages side by side",
            in_encoded.clone(),
            Some(TooManyParts),
        ),
        (
            "messages side by side in base64",
            encoded("base64", &base64(&in_encoded)),
            Some(TooComplex),
        ),
        (
            "unclosed",
            multipart("mixed", "x")
                + &repeated(|_| {
                    "Content-Type: multipart/mixed; boundary=y\r\n\r\n\r\n--x\r\n".to_owned()
                }),
            Some(TooComplex),
        ),
        ("fields", repeated(|_| "a:\r\n".to_owned()), None),
        (
            "many fields",
            repeated(|_| "a:\r\n".to_owned()).repeat(5),
            Some(TooComplex),
        ),
        (
            "parameters",
            format!(
                "Content-Type: text/plain{}\r\n\r\n",
                repeated(|n| format!(";\r\n a*{n}=b"))
            ),
            Some(TooComplex),
        ),
        (
            "addresses",
            format!("To: {}\r\n\r\n", repeated(|_| "a@b,".to_owned())),
            None,
        ),
        (
            "groups and comments",
            format!("To: {}\r\n\r\n", repeated(|_| "a:((".to_owned())),
            None,
        ),
    ]
}

#[test]
fn a_message_that_is_made_to_harm_its_reader_ends_the_process() {
    for (name, text, expected) in shapes() {
        let parsed = Parsed::new(text);
        let error = on_stack(SMALL_STACK, || parsed.message().err());
        assert_eq!(error, expected, "{name}");
    }
}

#[test]
fn as_many_levels_as_are_permitted_overflow_a_small_stack() {
    let most = Parsed::DEFAULT_MAX_NESTING;
    let digest = |n| multipart("digest", &format!("b{n}")) + "\r\n";
    for text in [
        MESSAGE.repeat(most) + "a: b\r\n\r\ntext\r\n",
        (0..most / 2).map(digest).collect::<String>() + "a: b\r\n\r\ntext\r\n",
        encoded(
            "base64",
            &base64(&(MESSAGE.repeat(most - 1) + "a: b\r\n\r\ntext\r\n")),
        ),
    ] {
        let parsed = Parsed::new(text.clone());
        // In a debug build, mail-parser needs 400 KiB of stack for them.
        on_stack(2 * SMALL_STACK, || {
            let message = parsed.message().unwrap();
            assert_eq!(message.clone(), message);
            drop(message.into_owned());
        });
        assert_eq!(
            Parsed::new(MESSAGE.to_owned() + &text).message().err(),
            Some(MimeError::TooDeep)
        );
    }
}

#[test]
fn many_messages_side_by_side_count_as_nested_ones() {
    let part = |n| format!("--x\r\n{MESSAGE}Subject: {n}\r\n\r\ntext\r\n");
    let parts: String = (0..500).map(part).collect();
    let head = "Content-Type: multipart/mixed; boundary=x\r\n\r\n";
    let text = format!("{head}{parts}--x--\r\n");
    let digest = text
        .replace("multipart/mixed", "multipart/digest")
        .replace(MESSAGE, "\r\n");
    for text in [text, digest] {
        let parsed = Parsed::new(text);
        let message = parsed.message().unwrap();
        assert_eq!(depth(&message), 1);
        assert_eq!(message.attachment_count(), 500);
    }
}

/// Returns how deep messages are nested.
fn depth(message: &Message<'_>) -> usize {
    let (mut deepest, mut left) = (0, vec![(message, 0)]);
    while let Some((message, depth)) = left.pop() {
        deepest = deepest.max(depth);
        for part in &message.parts {
            if let PartType::Message(nested) = &part.body {
                left.push((nested, depth + 1));
            }
        }
    }
    deepest
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % end
    }
}

/// Returns a message of random parts that determine its structure, in any order.
fn soup(random: &mut Random, encodings: usize) -> String {
    const PIECES: [&str; 24] = [
        MESSAGE,
        MESSAGE,
        MESSAGE,
        "Content-Type: message/global\r\n\r\n",
        "Content-Type: multipart/mixed; boundary=x\r\n\r\n",
        "Content-Type: multipart/digest; boundary=x\r\n\r\n",
        "Content-Type: multipart/digest; boundary=\"y\"\r\n\r\n--y\r\n\r\n",
        "Content-Type: multipart/alternative; boundary=xy\r\n",
        "Content-Type: multipart/mixed\r\n\r\n",
        "Content-Type: text/html; charset=utf-8\r\n\r\n",
        "Content-Transfer-Encoding: base64\r\n",
        "Content-Transfer-Encoding: quoted-printable\r\n",
        "a: b\r\n",
        "a: b\n",
        "\r\n",
        "\n",
        " \r\n",
        "--",
        "--x\r\n",
        "--y\r\n",
        "\r\n--x--\r\n",
        "--y--",
        "--xy\r\n",
        "text=3D--x",
    ];
    let mut text = String::new();
    for _ in 0..random.below(60) {
        if encodings > 0 && random.below(30) == 0 {
            let nested = soup(random, encodings - 1);
            text += &match random.below(2) {
                0 => encoded("base64", &base64(&nested)),
                _ => encoded("quoted-printable", &quoted_printable(&nested)),
            };
        } else {
            text += PIECES[random.below(PIECES.len())];
        }
    }
    text
}

fn passes(message: &str, nesting: usize) -> bool {
    let parts = usize::MAX;
    check(message.as_bytes(), Limits { nesting, parts }).is_ok()
}

#[test]
fn messages_are_nested_deeper_than_the_check_has_seen() {
    let mut random = Random(1);
    let (mut deepest, mut parsed) = (0, 0);
    for case in 0..3_000 {
        let mut text = soup(&mut random, 4);
        if random.below(4) == 0 {
            text += &soup(&mut random, 0).repeat(random.below(5));
        }
        // In a debug build, some malformed messages fail assertions of mail-parser.
        let parse = || MessageParser::new().parse(&text);
        let Ok(Some(message)) = catch_unwind(AssertUnwindSafe(parse)) else {
            continue;
        };
        let nested = depth(&message);
        let is_refused = nested == 0 || !passes(&text, nested - 1);
        assert!(is_refused, "case {case}: {nested} levels in {text:?}");
        assert!(passes(&text, usize::MAX), "case {case}: {text:?}");
        deepest = deepest.max(nested);
        parsed += 1;
    }
    assert!(
        deepest > 10 && parsed > 1_500,
        "{deepest} levels in {parsed} messages"
    );
}
