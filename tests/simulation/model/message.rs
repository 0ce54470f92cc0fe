//! Which reply belongs to a message, and what must have been delivered before it.

use super::{
    Mode, Model, State, Transaction,
    ahead::Ahead,
    code_of, expect,
    stream::{has_bare_newline, unstuffed},
};
use crate::journal::{Call, Commit, Digest, Kind, Outcome, Pages};
use std::collections::VecDeque;
use tokio::time::Instant;

impl Model {
    pub(super) fn data(
        &mut self,
        event: u64,
        code: u16,
        line: &super::commands::Line,
    ) -> Result<(), String> {
        if self.state != State::Rcpt {
            return expect(code, &[503]);
        }
        if line.has_argument() {
            return expect(code, &[501]);
        }
        self.check_facts()?;
        if code == 354 {
            self.mode = Mode::Data;
            let asked = !self.data_calls().is_empty();
            return asked
                .then_some(())
                .ok_or_else(|| "the data service was not asked".to_owned());
        }
        let codes = self.codes(event, &[])?;
        self.end_transaction();
        expect(code, &refusals(&codes))
    }

    /// The reply to a message by DATA.
    pub(super) fn message(&mut self, event: u64, code: u16) -> Result<(), String> {
        let Some(len) = self.stream.message(u64::MAX) else {
            return self.drained(event, code);
        };
        let text = self.stream.advance(len);
        let content = unstuffed(&text[..len - 3]);
        self.mode = Mode::Commands;
        self.over(event, code, &content)
    }

    /// A reply in the middle of a message that is not worth to be read on.
    fn drained(&mut self, event: u64, code: u16) -> Result<(), String> {
        if !self.drains_little() {
            return Err("the message has not ended".to_owned());
        }
        let content = unstuffed(self.stream.rest(u64::MAX));
        let codes = refusals(&self.codes(event, &content)?);
        if self.swarm.lmtp && !self.data_calls().is_empty() {
            let each = self.codes_of_recipients(event, &content);
            let behind = each.iter().skip(1);
            self.tail = behind
                .map(|one| [&*refusals(one), &*codes].concat())
                .collect();
        }
        self.mode = Mode::Over;
        expect(code, &codes)
    }

    /// The reply to the last of a message.
    fn over(&mut self, event: u64, code: u16, content: &[u8]) -> Result<(), String> {
        self.check_facts()?;
        let codes = self.codes(event, content)?;
        self.may_close = self.drains_little() && code >= 400;
        self.check_deliveries(event, content)?;
        self.note_answered(content);
        if self.swarm.lmtp && !self.data_calls().is_empty() {
            let mut each = self.codes_of_recipients(event, content);
            // A message that has to be refused is refused for good, also where its service is late.
            if self.may_close || code >= 500 {
                each.iter_mut()
                    .for_each(|codes| codes.extend(self.flaws(content)));
            }
            self.end_transaction();
            return self.each(0, each, code);
        }
        self.end_transaction();
        expect(code, &codes)
    }

    /// LMTP: the reply for one recipient (RFC 2033 section 4.2).
    pub(super) fn each(
        &mut self,
        next: usize,
        codes: Vec<Vec<u16>>,
        code: u16,
    ) -> Result<(), String> {
        let expected = codes[next].clone();
        self.mode = match next + 1 < codes.len() {
            true => Mode::Each {
                next: next + 1,
                codes,
            },
            false => Mode::Commands,
        };
        expect(code, &expected)
    }

    /// LMTP: the codes for the recipients after the one that was just answered.
    pub(super) fn codes_behind(&self, event: u64) -> VecDeque<Vec<u16>> {
        let mut codes: VecDeque<Vec<u16>> = match (&self.mode, self.message_at_hand()) {
            (Mode::Each { next, codes }, _) => codes[*next..].to_vec().into(),
            (_, Some(content)) if self.swarm.lmtp => {
                self.codes_of_recipients(event, &content).into()
            }
            _ => return VecDeque::new(),
        };
        codes.pop_front();
        let panics = |call: &Call| matches!(call.outcome, Outcome::Panicked | Outcome::Fragile(_));
        let caught = self.swarm.router.is_some();
        if !caught && self.data_calls().iter().any(|(_, call)| panics(call)) {
            // Then that is the answer to all.
            codes.iter_mut().for_each(|codes| codes.push(421));
        }
        codes
    }

    /// The next message to be answered, if it is complete.
    fn message_at_hand(&self) -> Option<Vec<u8>> {
        let rest = self.stream.rest(u64::MAX);
        if self.mode == Mode::Data {
            let end = self.stream.message(u64::MAX)?;
            return Some(unstuffed(&rest[..end - 3]));
        }
        let (line, size, last) = self.chunk(u64::MAX)?;
        let chunk = rest.get(line..line + size).filter(|_| last)?;
        Some([&self.transaction.content[..], chunk].concat())
    }

    /// The reply to a chunk (RFC 3030 section 2).
    pub(super) fn bdat(&mut self, event: u64, code: u16) -> Result<(), String> {
        let Some((line, size, last)) = self.chunk(u64::MAX) else {
            return Err("there is no chunk that it answers".to_owned());
        };
        if self.stream.rest(u64::MAX).len() < line + size {
            self.may_close = self.drains_little();
            let early = self.may_close && code >= 400;
            return early
                .then_some(())
                .ok_or_else(|| "the chunk has not come".to_owned());
        }
        let chunk = self.stream.advance(line + size).split_off(line);
        if !matches!(self.state, State::Rcpt | State::Chunks) {
            self.may_close = self.drains_little() && size as u64 > self.swarm.limits.drain;
            return expect(code, &[503]);
        }
        self.transaction.content.extend_from_slice(&chunk);
        if last {
            let content = std::mem::take(&mut self.transaction.content);
            return self.over(event, code, &content);
        }
        self.chunk_taken(event, code)
    }

    fn chunk_taken(&mut self, event: u64, code: u16) -> Result<(), String> {
        if code == 250 {
            self.state = State::Chunks;
            let asked = !self.data_calls().is_empty();
            return asked
                .then_some(())
                .ok_or_else(|| "the data service was not asked".to_owned());
        }
        let content = std::mem::take(&mut self.transaction.content);
        let codes = self.codes(event, &content)?;
        self.state = State::Broken;
        self.facts.forwarded = None;
        self.may_close = self.drains_little();
        expect(code, &refusals(&codes))
    }

    /// An upper bound of how much of a message the server can have read by now, which is cheap to compute.
    pub fn most_available(&self, read: u64) -> usize {
        self.transaction.content.len() + self.stream.rest(read).len()
    }

    /// How much of the present message of that sender must be within the reach of its readers when the server has read so
    /// much, and whether that is all of it. `None` where the message is not one that readers see to its end.
    pub fn available(&self, sender: &str, read: u64) -> Option<(usize, bool)> {
        /// What may belong to the end of DATA is held back.
        const HELD_BACK: usize = 4;
        if self.transaction.sender != sender {
            return None;
        }
        let rest = self.stream.rest(read);
        let (content, whole) = match self.mode {
            Mode::Data => match self.stream.message(read) {
                Some(end) => (unstuffed(&rest[..end - 3]), true),
                None => (unstuffed(rest), false),
            },
            Mode::Commands => {
                let (line, size, last) = self.chunk(read)?;
                let chunk = &rest[line..rest.len().min(line + size)];
                let whole = last && chunk.len() == size;
                let mut content = self.transaction.content.clone();
                content.extend_from_slice(chunk);
                (content, whole)
            }
            _ => return None,
        };
        // A CR at the end may be half of a line end.
        let judged = content.strip_suffix(b"\r").unwrap_or(&content);
        let len = match (whole, &self.mode) {
            (true, _) => content.len(),
            (false, Mode::Data) => content.len().saturating_sub(HELD_BACK),
            (false, _) => judged.len(),
        };
        self.flaws(judged).is_empty().then_some((len, whole))
    }

    /// Whether that call has stored what the client has sent: before the reply to it, or since the last reply.
    pub fn knows(&self, call: usize, sender: &str, digest: Digest) -> bool {
        if let Some(answered) = self.answered.get(&call) {
            return *answered == Some(digest);
        }
        let unanswered = self.unanswered.clone();
        let unanswered = unanswered.unwrap_or_else(|| self.find_unanswered());
        unanswered.contains(&(sender.to_owned(), digest))
    }

    /// Records the summary of the message that a reply belongs to.
    fn note_answered(&mut self, content: &[u8]) {
        let sound = self.flaws(content).is_empty();
        let digest = sound.then(|| Digest::of(content));
        for (call, _) in self.data_calls() {
            self.answered.insert(call, digest);
        }
        self.answered_at = Some(Instant::now());
    }

    /// Records what is known of messages without a reply, because the session ends here.
    pub(super) fn note_unanswered(&mut self) {
        self.unanswered = Some(self.find_unanswered());
    }

    fn find_unanswered(&self) -> Vec<(String, Digest)> {
        let rest = self.stream.rest(u64::MAX);
        let mut ahead = Ahead::new(&self.transaction);
        if self.mode == Mode::Data {
            let end = self.stream.message(u64::MAX);
            ahead.message(&rest[..end.unwrap_or(0)]);
            ahead.walk(&rest[end.unwrap_or(rest.len())..]);
        } else {
            ahead.walk(rest);
        }
        ahead.found
    }

    fn end_transaction(&mut self) {
        self.state = State::Ready;
        self.counts.attempted = false;
        self.forget_transaction();
    }

    /// What XFORWARD has said ends with the transaction.
    pub(super) fn forget_transaction(&mut self) {
        self.transaction = Transaction::default();
        self.facts.forwarded = None;
    }

    /// The data services have seen the session as it is.
    fn check_facts(&self) -> Result<(), String> {
        let mut calls = self.data_calls().into_iter();
        let wrong = calls.find(|(_, call)| call.facts != self.facts);
        wrong.map_or(Ok(()), |(_, call)| {
            Err(format!(
                "the data service was told {:?}, not {:?}",
                call.facts, self.facts
            ))
        })
    }

    /// Whether the server closes rather than read on after a refusal.
    fn drains_little(&self) -> bool {
        self.swarm.limits.drain < 10_000
    }

    /// A router catches the panics of its routes.
    fn code_of_delivery(&self, outcome: Outcome) -> u16 {
        match outcome {
            Outcome::Panicked if self.swarm.router.is_some() => 451,
            _ => code_of(outcome),
        }
    }

    fn data_calls(&self) -> Vec<(usize, Call)> {
        let pages = self.shared.journal.lock();
        calls_of(&pages, self.conn, &self.transaction.sender)
    }

    /// The codes that the replies of the data services can have become.
    fn codes(&self, event: u64, content: &[u8]) -> Result<Vec<u16>, String> {
        let calls = self.data_calls();
        let mut codes: Vec<u16> = calls
            .iter()
            .map(|(_, call)| self.code_of_delivery(call.outcome))
            .collect();
        let flaws = self.flaws(content);
        let unfinished = |call: &Call| call.outcome == Outcome::Working || call.ended > event;
        if flaws.is_empty() && calls.iter().any(|(_, call)| unfinished(call)) {
            return Err("the data service has not answered".to_owned());
        }
        if calls.is_empty() && !self.may_be_unasked() {
            return Err("the data service was not asked".to_owned());
        }
        if self.may_be_unasked() && calls.len() < 2 {
            codes.push(451);
        }
        if codes.iter().any(|code| *code != 250) {
            // One reply for all routes is positive only if all are.
            codes.retain(|code| *code != 250 || self.swarm.lmtp || calls.len() == 1);
        }
        if !flaws.is_empty() {
            codes.retain(|code| *code != 250);
            codes.extend(flaws);
        }
        Ok(codes)
    }

    /// The codes of each recipient, by the service of its route.
    fn codes_of_recipients(&self, event: u64, content: &[u8]) -> Vec<Vec<u16>> {
        let calls = self.data_calls();
        let flaws = self.flaws(content);
        // Where the call as a whole has taken too long, that is the answer to all. A router gives the answers that are there.
        let one_call = calls.len() < 2;
        let late = |call: &Call| call.outcome == Outcome::Dropped;
        let all_late = one_call && calls.iter().any(|(_, call)| late(call));
        let codes = |recipient: &String| {
            let own = calls
                .iter()
                .find(|(_, call)| call.recipients.contains(recipient));
            match own {
                _ if all_late => vec![250, 451],
                Some((_, call))
                    if call.ended <= event && self.code_of_delivery(call.outcome) != 250 =>
                {
                    vec![self.code_of_delivery(call.outcome)]
                }
                Some(_) if flaws.is_empty() => vec![250],
                Some(_) => flaws.clone(),
                None => vec![451],
            }
        };
        self.transaction.recipients.iter().map(codes).collect()
    }

    /// What a message has that must never be accepted.
    fn flaws(&self, content: &[u8]) -> Vec<u16> {
        let size = self.swarm.limits.message_size;
        let mut flaws = Vec::new();
        if size.is_some_and(|limit| content.len() as u64 > limit) {
            flaws.push(552);
        }
        if has_bare_newline(content) {
            flaws.push(550);
        }
        if content.contains(&0) {
            flaws.push(554);
        }
        flaws
    }

    /// Checks that each service that has accepted the message has stored it once, byte by byte, before the reply.
    fn check_deliveries(&self, event: u64, content: &[u8]) -> Result<(), String> {
        let pages = self.shared.journal.lock();
        for (number, call) in calls_of(&pages, self.conn, &self.transaction.sender) {
            let accepted = self.code_of_delivery(call.outcome) == 250 && !call.discards;
            if !accepted || !self.flaws(content).is_empty() {
                continue;
            }
            let commits: Vec<&Commit> = pages
                .commits
                .iter()
                .filter(|commit| commit.call == number)
                .collect();
            match commits[..] {
                [commit] if commit.event >= event => {
                    return Err("the message was stored after the reply".to_owned());
                }
                [commit] if commit.digest != Digest::of(content) => {
                    let (stored, sent) = (commit.digest.len, content.len());
                    return Err(format!(
                        "{stored} bytes were stored where {sent} were sent, or others"
                    ));
                }
                [_] => {}
                _ => return Err(format!("the message was stored {} times", commits.len())),
            }
        }
        Ok(())
    }
}

fn calls_of(pages: &Pages, conn: u64, sender: &str) -> Vec<(usize, Call)> {
    let numbers = pages.by_conn.get(&conn).map_or(&[][..], Vec::as_slice);
    numbers
        .iter()
        .map(|number| (*number, &pages.calls[*number]))
        .filter(|(_, call)| call.kind == Kind::Data && call.subject == sender)
        .map(|(number, call)| (number, call.clone()))
        .collect()
}

fn refusals(codes: &[u16]) -> Vec<u16> {
    codes.iter().copied().filter(|code| *code >= 400).collect()
}
