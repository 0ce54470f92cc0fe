//! The published corpus of smuggling attempts, `tests/corpus`, played against a connection at every split.
//!
//! Each string is played under one of the policies, or under all of them if `SMUGGLING_ALL` is set, as CI does.

mod rows;

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;
use smtpd_core::{
    Config, Connection, Reply, Step,
    config::{BareNewline, DriverConfig, NulByte},
};

use self::rows::{Corpus, Outcome, POLICIES, Row};

/// How many strings each file has.
const STRINGS: usize = 4296;

const BEGINNING: &[u8] = b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";

#[test]
fn no_string_ends_a_message_sent_with_data_too_early() {
    Corpus::read(&folder(), "data.tsv").play_with_data();
}

#[test]
fn no_string_ends_a_message_at_its_first_line_too_early() {
    Corpus::read(&folder(), "data_at_start.tsv").play_with_data();
}

#[test]
fn no_string_ends_a_message_sent_in_chunks() {
    let corpus = Corpus::read(&folder(), "bdat.tsv");
    corpus.each(|config, row, outcome| {
        let text = corpus.text(row);
        let whole = [chunk(&text, true), b"QUIT\r\n".to_vec()].concat();
        at_every_split(config, &whole, corpus.around(row, &whole), outcome);
        for cut in corpus.around(row, &text) {
            let (first, second) = text.split_at(cut);
            let two = [chunk(first, false), chunk(second, true)].concat();
            let played = play(config, &[&two, b"QUIT\r\n"]);
            let shown = two.escape_ascii();
            assert_eq!(played.stored, outcome.stored, "{shown}");
            // Either chunk may be refused. If it is the first one, the second is out of order.
            let refused = outcome.replies[0] != 250;
            let (first, replies) = played.replies.split_first().unwrap();
            match refused {
                false => assert_eq!((*first, replies), (250, &[250, 221][..]), "{shown}"),
                true if *first == 250 => assert_eq!(replies, [outcome.replies[0], 221], "{shown}"),
                true => {
                    assert!(matches!(first, 550 | 554), "{shown}: {first}");
                    assert_eq!(replies, [503, 221], "{shown}");
                }
            }
        }
    });
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn chunk(text: &[u8], is_last: bool) -> Vec<u8> {
    let last = if is_last { " LAST" } else { "" };
    [format!("BDAT {}{last}\r\n", text.len()).as_bytes(), text].concat()
}

impl Corpus {
    fn play_with_data(&self) {
        self.each(|config, row, outcome| {
            let text = [&self.text(row)[..], b".\r\nQUIT\r\n"].concat();
            let mut outcome = Outcome {
                stored: outcome.stored.clone(),
                replies: outcome.replies.clone(),
            };
            outcome.replies.insert(0, 354);
            let input = [&b"DATA\r\n"[..], &text].concat();
            at_every_split(config, &input, self.around(row, &input), &outcome);
        });
    }

    /// Plays each row, under each policy or the next one.
    fn each(&self, play: impl Fn(&Arc<DriverConfig>, &Row, &Outcome)) {
        assert_eq!(self.rows.len(), STRINGS, "the corpus is not whole");
        let is_all = env::var_os("SMUGGLING_ALL").is_some();
        for (policy, (newline, nul)) in POLICIES.into_iter().enumerate() {
            let config = config(newline, nul);
            for (at, row) in self.rows.iter().enumerate() {
                if is_all || at % POLICIES.len() == policy {
                    play(&config, row, &self.outcome(row, policy));
                }
            }
        }
    }

    /// Returns the positions within the string of a row, and one before and behind it.
    fn around(&self, row: &Row, input: &[u8]) -> std::ops::RangeInclusive<usize> {
        let end = position(input, &self.after);
        (end - row.string.len()).saturating_sub(1)..=end + 1
    }
}

fn position(text: &[u8], part: &[u8]) -> usize {
    let mut windows = text.windows(part.len());
    windows.position(|window| window == part).unwrap()
}

fn config(newline: BareNewline, nul: NulByte) -> Arc<DriverConfig> {
    Config::new("mx.example.org")
        .bare_newline(newline)
        .nul_byte(nul)
        .into()
}

/// Plays a session whose input comes at once, byte by byte, or in two writes.
fn at_every_split(
    config: &Arc<DriverConfig>,
    input: &[u8],
    splits: impl Iterator<Item = usize>,
    outcome: &Outcome,
) {
    let bytes: Vec<_> = input.chunks(1).collect();
    let check = |pieces: &[&[u8]]| {
        let shown = input.escape_ascii();
        assert_eq!(play(config, pieces), *outcome, "{shown} in {pieces:?}");
    };
    check(&[input]);
    check(&bytes);
    for split in splits {
        let (first, second) = input.split_at(split);
        check(&[first, second]);
    }
}

/// Plays a session that accepts everything: what it stores, and the replies after that to RCPT.
fn play(config: &Arc<DriverConfig>, pieces: &[&[u8]]) -> Outcome {
    let mut connection = Connection::new(config.clone());
    let mut pieces = pieces.iter();
    let (now, mut input) = (Instant::now(), BytesMut::from(BEGINNING));
    let (mut output, mut message, mut stored) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        match connection.poll(now, &mut input) {
            Step::Write(mut writing) => {
                output.extend_from_slice(writing.bytes());
                writing.wrote(writing.bytes().len(), now);
            }
            Step::Read(_) => input.extend_from_slice(pieces.next().unwrap()),
            Step::Closed(_) => break,
            Step::Connect(ask) => ask.accept(),
            Step::Helo(_, ask) => ask.accept(),
            Step::Mail(_, ask) => ask.accept(),
            Step::Rcpt(_, ask) => ask.accept(),
            Step::Data(ask) => ask.receive(),
            Step::Chunk(bytes, _) => message.extend_from_slice(&bytes),
            Step::ChunkEnd(ask) => ask.accept(),
            Step::Message(result, ask) => {
                let message = std::mem::take(&mut message);
                stored.extend(result.is_ok().then_some(message));
                ask.reply(Reply::OK);
            }
            other => panic!("{other:?}"),
        }
    }
    let lines = output.split_inclusive(|&byte| byte == b'\n');
    let last = lines.filter(|line| line[3] == b' ').skip(4);
    let code = |line: &[u8]| std::str::from_utf8(&line[..3]).unwrap().parse().unwrap();
    Outcome {
        replies: last.map(code).collect(),
        stored,
    }
}
