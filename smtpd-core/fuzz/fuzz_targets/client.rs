//! A client whose server sends anything at all: it never panics, never waits without a deadline, never keeps much, and what it sends
//! is commands and messages alone. However the input is cut, the result is the same.
#![no_main]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use smtpd_core::{
    Envelope, Protocol,
    client::{Account, Client, ClientConfig, Outcome, StartTls, Step, Transaction},
};

const BODY: &[u8] = b"Subject: x\r\n\r\n.\r\n..dot\r\nend";

fuzz_target!(|input: &[u8]| {
    let Some((&[flags, cut], replies)) = input.split_first_chunk() else {
        return;
    };
    // A reply that comes before its command is sent is a fault, so each run gets one reply at a time.
    let whole = play(flags, replies, usize::MAX);
    assert_eq!(play(flags, replies, 1 + usize::from(cut)), whole);
});

fn config(flags: u8) -> ClientConfig {
    let is_on = |bit: u8| flags >> bit & 1 == 1;
    let config = ClientConfig::new("client.example".parse().expect("a name"))
        .chunking(is_on(0))
        .pipelining(is_on(1))
        .protocol(match is_on(2) {
            true => Protocol::Lmtp,
            false => Protocol::Smtp,
        })
        .start_tls(match is_on(3) {
            true => StartTls::IfOffered,
            false => StartTls::Never,
        })
        .entropy(|bytes| {
            bytes.fill(7);
            true
        });
    match is_on(4) {
        true => config.account(account().allow_plaintext(true)),
        false => config,
    }
}

fn account() -> Account {
    Account::password("alice", "secret").expect("a password")
}

/// Feeds the server's replies, each in pieces of `step` bytes when the client waits for it. Returns what was sent and the outcomes.
fn play(flags: u8, replies: &[u8], step: usize) -> (Vec<u8>, Vec<Outcome>) {
    let mut client = Client::new(Arc::new(config(flags)));
    let (mut input, mut sent, mut outcomes) = (BytesMut::new(), Vec::new(), Vec::new());
    let mut lines = replies.split_inclusive(|&byte| byte == b'\n');
    let (mut now, mut begun, mut line) = (Instant::now(), 0, &[][..]);
    let mut is_told = false;
    for _ in 0..100_000 {
        assert!(input.len() <= (16 << 10) + 4096 + replies.len());
        match client.poll(now, &mut input) {
            Step::Write(mut writing) => {
                assert!(writing.until() > now && !writing.bytes().is_empty());
                sent.extend_from_slice(writing.bytes());
                writing.wrote(writing.bytes().len(), now);
            }
            Step::Read(wait) => {
                assert!(wait.until() > now, "a wait without a deadline");
                if line.is_empty() {
                    match lines.next() {
                        Some(next) => line = next,
                        None if flags >> 5 & 1 == 1 => now = wait.until(),
                        None => wait.into_client().handle_lost(),
                    }
                }
                let (part, rest) = line.split_at(line.len().min(step));
                input.extend_from_slice(part);
                line = rest;
            }
            Step::Handshake(wait) => wait.failed(),
            Step::Ready(ready) if begun == 1 && flags >> 6 & 1 == 1 && !is_told => {
                is_told = true;
                let line = ["NOOP x", "XCLIENT ADDR=192.0.2.1"][usize::from(flags >> 7)];
                ready.command(line).expect("a command");
            }
            Step::Ready(ready) if begun < 2 => {
                begun += 1;
                ready.send(Transaction::new(envelope()));
            }
            Step::Ready(ready) => ready.quit(),
            Step::Body(mut sending) => {
                assert!(sending.until() > now);
                sending.send(BODY);
                sending.end();
            }
            Step::Done(report) => outcomes.extend_from_slice(report.outcomes()),
            Step::Replied(_) => {}
            Step::Closed(_) => {
                check(&sent);
                assert_eq!(outcomes.len(), 2 * begun, "one outcome for each recipient");
                return (sent, outcomes);
            }
        }
        now += Duration::from_nanos(1);
    }
    panic!("it spins");
}

fn envelope() -> Arc<Envelope> {
    let recipient = |name: &str| name.parse().expect("an address");
    let envelope = Envelope::default().with_recipient(recipient("b@example.org"));
    Arc::new(envelope.with_recipient(recipient("c@example.org")))
}

/// Everything that is sent consists of lines, and no control character gets into a command.
fn check(sent: &[u8]) {
    assert!(
        sent.iter()
            .all(|&byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n'))
    );
    let mut pairs = sent.windows(2);
    assert!(pairs.all(|pair| (pair[0] == b'\r') == (pair[1] == b'\n')));
}
