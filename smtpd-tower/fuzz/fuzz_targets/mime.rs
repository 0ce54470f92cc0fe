//! MIME: whatever the message, parsing it ends, and what is found in it lies within it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd_tower::mime::{
    Parsed,
    mail_parser::{Message, PartType},
};

fuzz_target!(|input: &[u8]| {
    let parsed = Parsed::new(input.to_vec());
    if let Some(message) = parsed.message().into_iter().next() {
        check(&message, input.len(), 0);
    }
    assert!(format!("{parsed:?}").len() < 100);
    assert_eq!(parsed.bytes(), input);
});

/// Counts the parts, those of nested messages too.
fn check(message: &Message<'_>, len: usize, depth: usize) -> usize {
    let mut parts = message.parts.len();
    assert!(parts <= len + 1, "{parts} parts in {len} bytes");
    let numbers = [&message.html_body, &message.text_body, &message.attachments];
    for &number in numbers.into_iter().flatten() {
        assert!((number as usize) < parts, "there is no part {number}");
    }
    for part in &message.parts {
        let (header, body, end) = (part.offset_header, part.offset_body, part.offset_end);
        assert!(
            header <= body && body as usize <= message.raw_message.len(),
            "{header} {body}"
        );
        assert!(end as usize <= message.raw_message.len(), "{end}");
        match &part.body {
            PartType::Message(inner) if depth < 100 => parts += check(inner, len, depth + 1),
            PartType::Multipart(numbers) => {
                assert!(
                    numbers
                        .iter()
                        .all(|&number| (number as usize) < message.parts.len())
                );
            }
            _ => {}
        }
    }
    parts
}
