//! A message in chunks: every byte arrives, whatever it is and however it is cut; and what is no message does no harm.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd_core_fuzz::{check_session, told};

const START: &str = "EHLO x\r\nLHLO x\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<c@d>\r\n";

fuzz_target!(|input: &[u8]| {
    check_session(input, START, "");
    let Some((&size, bytes)) = input.split_first() else {
        return;
    };
    let mut session = START.as_bytes().to_vec();
    for chunk in bytes.chunks(usize::from(size).max(1)) {
        session.extend_from_slice(format!("BDAT {}\r\n", chunk.len()).as_bytes());
        session.extend_from_slice(chunk);
    }
    session.extend_from_slice(b"BDAT 0 LAST\r\nNOOP\r\n");
    let told = told(&session, 1 + bytes.len() % 7);
    let taken: Vec<_> = told
        .iter()
        .filter(|(kind, _)| *kind == "octets")
        .flat_map(|(_, text)| text)
        .copied()
        .collect();
    assert!(taken == bytes, "{}", taken.escape_ascii());
    assert_eq!(told.last(), Some(&("taken", Vec::new())));
});
