//! The text of a message by DATA, against the rule of RFC 5321 section 4.5.2 as simple as can be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd_core_fuzz::{check_session, told};

const START: &str = "EHLO x\r\nLHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
const END: &str = "\r\n.\r\n";

fuzz_target!(|input: &[u8]| {
    check_session(input, START, END);
    let text = [input, END.as_bytes()].concat();
    let session = [START.as_bytes(), &text].concat();
    for cut in [usize::MAX, 1 + input.len() % 7] {
        let told = told(&session, cut);
        let end = told
            .iter()
            .position(|(kind, _)| *kind == "taken")
            .expect("it ends");
        let bytes = told[..end]
            .iter()
            .find(|(kind, _)| *kind == "octets")
            .map_or(&[][..], |(_, text)| text);
        assert!(bytes == decode(&text), "{}", bytes.escape_ascii());
    }
});

/// Line by line, up to the line that is just a dot.
fn decode(mut text: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let Some(end) = text.windows(2).position(|two| two == b"\r\n") {
        let (line, rest) = text.split_at(end + 2);
        if line == b".\r\n" {
            break;
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        text = rest;
    }
    message
}
