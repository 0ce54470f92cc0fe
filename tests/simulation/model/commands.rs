//! Which reply belongs to a command in which state.

use super::{Mode, Model, State, Transaction, expect, stream::chunk_size};
use crate::{journal::Kind, swarm::Tls};

/// A command line, cut at its first space.
pub(super) struct Line {
    verb: String,
    argument: String,
    text: Vec<u8>,
}

impl Line {
    pub(super) fn new(text: &[u8]) -> Self {
        let trimmed = text.trim_ascii_end();
        let space = trimmed.iter().position(|byte| *byte == b' ');
        let (verb, argument) = match space {
            Some(space) => (&trimmed[..space], trimmed[space + 1..].trim_ascii_start()),
            None => (trimmed, &[][..]),
        };
        Self {
            verb: String::from_utf8_lossy(verb).to_ascii_uppercase(),
            argument: String::from_utf8_lossy(argument).into_owned(),
            text: text.to_vec(),
        }
    }

    /// Returns what is between `<` and `>`, if the rest is valid.
    pub(super) fn path(&self, prefix: &str) -> Option<&str> {
        let path = self.argument.strip_prefix(prefix)?;
        let path = path.strip_prefix('<')?.strip_suffix('>')?;
        (!path.contains(['<', '>', ' ']) && path.contains('@')).then_some(path)
    }

    pub(super) fn argument(&self) -> &str {
        &self.argument
    }

    pub(super) fn verb(&self) -> &str {
        &self.verb
    }

    pub(super) fn has_argument(&self) -> bool {
        !self.argument.is_empty()
    }

    fn has_control(&self) -> bool {
        let text = &self.text[..self.text.len() - 2];
        text.iter()
            .any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f)
    }
}

/// The commands that bring no mail about, of which there may be only so many.
const JUNK: [&str; 10] = [
    "HELO", "EHLO", "LHLO", "STARTTLS", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "XCLIENT",
];

/// Those that end what a MAIL has begun, and are free then.
const ENDS: [&str; 4] = ["HELO", "EHLO", "LHLO", "RSET"];

/// Not longer than any limit of a line.
const SHORT: usize = 2000;

/// Longer than any limit of a line that is not AUTH's.
const LONG: usize = 15_000;

impl Model {
    /// The length of the next command, with the chunk that belongs to it, if all of it is there.
    pub(super) fn unit(&self, read: u64) -> Option<usize> {
        let line = self.stream.line(read)?;
        match chunk_size(&self.stream.rest(read)[..line - 2]) {
            Some((size, _)) => {
                let there = self.stream.rest(read).len() >= line + size;
                there.then_some(line + size)
            }
            None => Some(line),
        }
    }

    /// The length of the line of the next command, the size of its chunk and whether it is the last.
    pub(super) fn chunk(&self, read: u64) -> Option<(usize, usize, bool)> {
        let line = self.stream.line(read)?;
        let (size, last) = chunk_size(&self.stream.rest(read)[..line - 2])?;
        Some((line, size, last))
    }

    pub(super) fn command(&mut self, event: u64, code: u16) -> Result<(), String> {
        if self.begins_another_protocol() {
            return self.violated(code, &[554], true);
        }
        self.begun = true;
        let Some(line) = self.stream.line(u64::MAX) else {
            return Err("there is no command that it answers".to_owned());
        };
        if self.chunk(u64::MAX).is_some() {
            return self.bdat(event, code);
        }
        let line = Line::new(&self.stream.advance(line));
        if line.text.len() > LONG || line.has_control() {
            return expect(code, &[500]);
        }
        if code == 500 && line.text.len() > SHORT {
            return Ok(());
        }
        if self.state == State::Refused && line.verb != "QUIT" {
            let foreign = self.is_foreign(&line);
            return self.violated(code, if foreign { &[503, 554] } else { &[503] }, foreign);
        }
        self.count(&line);
        self.run(event, code, &line)
    }

    /// Whether what comes first is no text at all, but TLS or the like.
    fn begins_another_protocol(&self) -> bool {
        let first = self.stream.rest(u64::MAX).first();
        !self.begun && first.is_some_and(|byte| [0, 3, 4, 5, 0x16, 0x80].contains(byte))
    }

    fn count(&mut self, line: &Line) {
        if ENDS.contains(&line.verb.as_str()) && std::mem::take(&mut self.counts.attempted) {
            return;
        }
        self.counts.junk += u32::from(JUNK.contains(&line.verb.as_str()));
    }

    fn run(&mut self, event: u64, code: u16, line: &Line) -> Result<(), String> {
        let lmtp = self.swarm.lmtp;
        match line.verb.as_str() {
            "NOOP" => expect(code, &[250]),
            "RSET" if line.argument.is_empty() => self.rset(code),
            "RSET" => expect(code, &[501]),
            "QUIT" => {
                self.mode = Mode::Over;
                expect(code, &[221])
            }
            "HELO" | "EHLO" if !lmtp => self.hello(event, code, line),
            "LHLO" if lmtp => self.hello(event, code, line),
            "MAIL" => self.mail(event, code, line),
            "RCPT" => self.rcpt(event, code, line),
            "DATA" => self.data(event, code, line),
            "BDAT" => {
                // Where the message ends cannot be known.
                self.violated(code, &[501], true)
            }
            "AUTH" => self.auth(event, code, line),
            "XCLIENT" if self.swarm.trusts.is_some() => self.xclient(event, code, line),
            "XFORWARD" if self.swarm.trusts.is_some() => self.xforward(code, line),
            "STARTTLS" if self.swarm.tls == Some(Tls::Started) => self.starttls(code, line),
            "VRFY" if line.argument.is_empty() => expect(code, &[501]),
            _ => self.other(event, code, line),
        }
    }

    fn rset(&mut self, code: u16) -> Result<(), String> {
        if self.state != State::Start {
            self.state = State::Ready;
        }
        self.forget_transaction();
        expect(code, &[250])
    }

    fn hello(&mut self, event: u64, code: u16, line: &Line) -> Result<(), String> {
        if line.argument.is_empty() {
            return expect(code, &[501]);
        }
        let codes = self.answers(Kind::Helo, &line.argument, event)?;
        if code == 250 {
            self.state = State::Ready;
            self.facts.helo = Some(line.argument.clone());
            self.forget_transaction();
        }
        expect(code, &codes)
    }

    fn mail(&mut self, event: u64, code: u16, line: &Line) -> Result<(), String> {
        if self.state != State::Ready {
            return expect(code, &[503]);
        }
        self.counts.attempted = true;
        let Some(sender) = line.path("FROM:") else {
            return expect(code, &[500, 501, 553, 555]);
        };
        let codes = self.answers(Kind::Mail, sender, event)?;
        if code == 250 {
            self.state = State::Mail;
            self.transaction = Transaction {
                sender: sender.to_owned(),
                ..Transaction::default()
            };
        }
        expect(code, &codes)
    }

    fn rcpt(&mut self, event: u64, code: u16, line: &Line) -> Result<(), String> {
        if !matches!(self.state, State::Mail | State::Rcpt) {
            return expect(code, &[503]);
        }
        let Some(recipient) = line.path("TO:") else {
            return expect(code, &[500, 501, 553, 555]);
        };
        let full = self.transaction.recipients.len() >= self.swarm.limits.recipients as usize;
        if full && !self.is_asked(Kind::Rcpt, recipient) {
            return expect(code, &[452]);
        }
        let codes = self.answers(Kind::Rcpt, recipient, event)?;
        if code == 250 {
            self.state = State::Rcpt;
            self.transaction.recipients.push(recipient.to_owned());
        }
        expect(code, &codes)
    }

    /// VRFY, EXPN, HELP and all that the protocol does not know.
    fn other(&mut self, event: u64, code: u16, line: &Line) -> Result<(), String> {
        let subject = format!("{} {}", line.verb, line.argument);
        if self.is_asked(Kind::Command, &subject) {
            let codes = self.answers(Kind::Command, &subject, event)?;
            return expect(code, &codes);
        }
        if self.is_foreign(line) {
            return self.violated(code, &[554], true);
        }
        let faulty = if self.may_be_unasked() { 451 } else { 500 };
        match line.verb.as_str() {
            "VRFY" => expect(code, &[252, 502, faulty]),
            "HELP" => expect(code, &[214, faulty]),
            _ => expect(code, &[500, 502, 503, faulty]),
        }
    }

    /// A reply after which the server closes, if `closes`.
    fn violated(&mut self, code: u16, codes: &[u16], closes: bool) -> Result<(), String> {
        if closes {
            self.mode = Mode::Over;
        }
        expect(code, codes)
    }

    /// Whether it is no command of mail at all: HTTP, or a line of a header.
    fn is_foreign(&self, line: &Line) -> bool {
        line.verb.ends_with(':') || line.verb == "GET"
    }
}
