//! The files of `tests/corpus`: its README describes the format.

use std::{fs, path::Path};

use smtpd_core::config::{BareNewline, NulByte};

/// The columns of the verdicts, in their order.
pub(crate) const POLICIES: [(BareNewline, NulByte); 9] = [
    (BareNewline::Reject, NulByte::Reject),
    (BareNewline::Reject, NulByte::Strip),
    (BareNewline::Reject, NulByte::PassThrough),
    (BareNewline::Normalize, NulByte::Reject),
    (BareNewline::Normalize, NulByte::Strip),
    (BareNewline::Normalize, NulByte::PassThrough),
    (BareNewline::PassThrough, NulByte::Reject),
    (BareNewline::PassThrough, NulByte::Strip),
    (BareNewline::PassThrough, NulByte::PassThrough),
];

/// The contents of one file.
pub(crate) struct Corpus {
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Row {
    pub(crate) string: Vec<u8>,
    /// How many messages there are, accepted or not.
    pub(crate) messages: usize,
    /// The replies after that to the first message.
    then: Vec<u16>,
    verdicts: Vec<Verdict>,
}

enum Verdict {
    Refused(u16),
    /// What is stored of the string.
    Stored(Vec<u8>),
}

/// What must come of a row under one policy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) stored: Vec<Vec<u8>>,
    /// From the reply to the first message to that to QUIT.
    pub(crate) replies: Vec<u16>,
}

impl Corpus {
    /// Reads the file of this name in the folder of the corpus.
    pub(crate) fn read(folder: &Path, name: &str) -> Self {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let mut lines = text.lines();
        let mut head = |name: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name));
            unescaped(line.unwrap())
        };
        let _verb = head("#verb\t");
        let (before, after) = (head("#before\t"), head("#after\t"));
        let rows = lines.skip(1).map(Row::parse).collect();
        Self {
            before,
            after,
            rows,
        }
    }

    /// Returns the string of a row with what stands around it.
    pub(crate) fn text(&self, row: &Row) -> Vec<u8> {
        [&self.before[..], &row.string, &self.after].concat()
    }

    /// Returns what must come of a row under the policy with this index.
    pub(crate) fn outcome(&self, row: &Row, policy: usize) -> Outcome {
        let mut outcome = Outcome {
            stored: Vec::new(),
            replies: row.then.clone(),
        };
        let first = match &row.verdicts[policy] {
            Verdict::Refused(code) => *code,
            Verdict::Stored(text) => {
                let tail = if row.then == [221] {
                    &self.after[..]
                } else {
                    b""
                };
                outcome
                    .stored
                    .push([&self.before, &text[..], tail].concat());
                250
            }
        };
        if row.messages > 1 {
            outcome.stored.push(b"smuggled\r\n".to_vec());
        }
        outcome.replies.insert(0, first);
        outcome
    }
}

impl Row {
    fn parse(line: &str) -> Self {
        let mut cells = line.split('\t');
        let mut next = || cells.next().unwrap();
        let (string, messages, then) = (next(), next(), next());
        let verdicts: Vec<_> = cells
            .map(|cell| match cell.parse() {
                Ok(code) => Verdict::Refused(code),
                Err(_) => Verdict::Stored(unescaped(cell)),
            })
            .collect();
        assert_eq!(verdicts.len(), POLICIES.len(), "{line}");
        Self {
            string: unescaped(string),
            messages: messages.parse().unwrap(),
            then: then.split(' ').map(|code| code.parse().unwrap()).collect(),
            verdicts,
        }
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    let plain = text.replace("\\r", "\r").replace("\\n", "\n");
    plain.replace("\\0", "\0").into_bytes()
}
