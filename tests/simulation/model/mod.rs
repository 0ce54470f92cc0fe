//! The server as RFC 5321 has it, played beside the real one: it knows what the client has sent and what the services have
//! answered, and so which reply has to be next.

mod ahead;
mod claims;
mod commands;
mod message;
mod replies;
mod sasl;
mod secure;
mod stream;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

pub use self::{claims::ADDRESSES, secure::Shaking};
use self::{claims::Claims, replies::ReplyReader, sasl::Sasl, stream::Stream};
use crate::{
    facts::Facts,
    journal::{Call, Digest, Kind, Outcome},
    shared::Shared,
    swarm::Swarm,
};

/// What is known of one session.
pub struct Model {
    conn: u64,
    shared: Shared,
    swarm: Arc<Swarm>,
    stream: Stream,
    replies: ReplyReader,
    mode: Mode,
    state: State,
    transaction: Transaction,
    /// How many of the calls of this connection the replies have accounted for.
    used: usize,
    counts: Counts,
    pub started: Instant,
    /// When a client whose greeting was 5yz is given up.
    pub refused_until: Option<Instant>,
    /// What services are to see of the session.
    facts: Facts,
    claims: Claims,
    /// The last line of the last reply.
    last_line: String,
    /// The session has something that SCRAM can bind to.
    binds: bool,
    /// The proof that the client sends next is right.
    proves: bool,
    /// The client has not waited for the reply to STARTTLS.
    hurries: bool,
    /// The handshake, if there was one.
    pub handshake: Option<Shaking>,
    /// The last reply was one after which the server may close without another.
    may_close: bool,
    shuts_down: bool,
    greeted: bool,
    /// A command was answered since the session began, or was reset.
    begun: bool,
    /// LMTP: the codes of the replies that still belong to the one that has closed, for the recipients behind.
    tail: VecDeque<Vec<u16>>,
    /// What each call that a reply has answered may have stored: the message that the client has sent to its end, unless it
    /// has flaws.
    answered: BTreeMap<usize, Option<Digest>>,
    /// When the last message was answered.
    pub answered_at: Option<Instant>,
    /// The complete messages that had no reply when the session was closed.
    unanswered: Option<Vec<(String, Digest)>>,
}

/// What the next bytes of the client are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    /// A PROXY header.
    Header,
    Greeting,
    Commands,
    /// A TLS handshake, and nothing of the protocol.
    Handshake,
    /// The message after 354.
    Data,
    /// A response within AUTH.
    Sasl(Sasl),
    /// LMTP: the replies to the recipients from that one on.
    Each {
        next: usize,
        codes: Vec<Vec<u16>>,
    },
    Over,
}

/// The state of the session (RFC 5321 section 4.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Ready,
    Mail,
    Rcpt,
    Chunks,
    Broken,
    Refused,
}

#[derive(Debug, Default)]
struct Transaction {
    sender: String,
    recipients: Vec<String>,
    /// What the chunks have brought so far.
    content: Vec<u8>,
}

#[derive(Debug, Default)]
struct Counts {
    errors: u32,
    junk: u32,
    /// Whether there was a MAIL, and since then neither a message nor an end of the transaction.
    attempted: bool,
    auth_failures: u32,
    /// Commands after a greeting of 5yz.
    refused: u32,
}

impl Model {
    pub fn new(shared: &Shared, conn: u64) -> Self {
        let mut model = Self::begin(shared, conn);
        model.begin_session();
        model
    }

    fn begin(shared: &Shared, conn: u64) -> Self {
        Self {
            conn,
            shared: shared.clone(),
            swarm: shared.swarm.clone(),
            stream: Stream::default(),
            replies: ReplyReader::default(),
            mode: Mode::Greeting,
            state: State::Start,
            transaction: Transaction::default(),
            used: 0,
            counts: Counts::default(),
            started: Instant::now(),
            refused_until: None,
            facts: Facts::of_connection(conn),
            claims: Claims::default(),
            last_line: String::new(),
            binds: false,
            proves: false,
            hurries: false,
            handshake: None,
            may_close: false,
            shuts_down: false,
            greeted: false,
            begun: false,
            tail: VecDeque::new(),
            answered: BTreeMap::new(),
            answered_at: None,
            unanswered: None,
        }
    }

    /// Notes what the client has sent.
    pub fn sent(&mut self, bytes: &[u8]) {
        self.stream.push(bytes);
        if self.mode == Mode::Handshake {
            self.drop_plaintext();
        }
    }

    /// Notes that the server is being shut down.
    pub fn shut_down(&mut self) {
        self.shuts_down = true;
    }

    /// Checks what the server has written, by the event of that, up to where a handshake begins. Returns how much that is.
    pub fn received(&mut self, event: u64, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            if self.mode == Mode::Handshake {
                return at;
            }
            let checked = match self.replies.push(*byte) {
                Ok(None) => continue,
                Ok(Some((code, line))) => {
                    self.shared.trace.event("reply", self.conn, || line.clone());
                    self.last_line.clone_from(&line);
                    self.reply(event, code)
                        .map_err(|fault| format!("reply {line:?}: {fault}"))
                }
                Err(fault) => Err(fault),
            };
            if let Err(fault) = checked {
                let place = format!("in {:?} at {:?}", self.mode, self.state);
                let conn = self.conn;
                self.shared
                    .trace
                    .violate(format!("session {conn}: {fault} ({place})"));
                self.mode = Mode::Over;
            }
        }
        bytes.len()
    }

    /// Whether the server has to answer something of the first `read` bytes.
    pub fn is_owed(&self, read: u64) -> bool {
        match &self.mode {
            Mode::Greeting | Mode::Each { .. } => true,
            Mode::Commands => self.unit(read).is_some(),
            Mode::Data => self.stream.message(read).is_some(),
            Mode::Sasl(_) => self.stream.line(read).is_some(),
            Mode::Over | Mode::Handshake | Mode::Header => false,
        }
    }

    /// The maximum number of commands that the server has to answer.
    pub fn owed(&self) -> u32 {
        let rest = self.stream.rest(u64::MAX);
        1 + rest.iter().filter(|byte| **byte == b'\n').count() as u32
    }

    /// Whether a message is expected, after 354.
    pub fn takes_data(&self) -> bool {
        self.mode == Mode::Data
    }

    /// Whether the session is between two messages, and no reply is due.
    pub fn is_idle(&self) -> bool {
        let between = matches!(self.state, State::Start | State::Ready | State::Refused);
        between && self.mode == Mode::Commands && self.stream.rest(u64::MAX).is_empty()
    }

    /// Whether the server may close now.
    pub fn may_end(&self) -> bool {
        self.mode == Mode::Over || self.may_close
    }

    /// Whether the greeting has been said.
    pub fn has_begun(&self) -> bool {
        self.greeted
    }

    /// How many bytes the server has read beyond what it is about to answer.
    pub fn ahead(&self, read: u64) -> usize {
        let rest = self.stream.rest(read).len();
        let unit = match &self.mode {
            Mode::Data => self.stream.message(read).unwrap_or(rest),
            Mode::Commands => match self.chunk(read) {
                Some((line, size, _)) => rest.min(line + size),
                None if self.stream.line(read).is_none() => rest,
                None => 0,
            },
            // What was sent behind the end is dropped. Nothing is read any more until the way out is shut.
            Mode::Over => rest,
            _ => 0,
        };
        rest - unit
    }

    fn reply(&mut self, event: u64, code: u16) -> Result<(), String> {
        self.may_close = false;
        if self.mode == Mode::Over
            && let Some(codes) = self.tail.pop_front()
        {
            // LMTP has a reply for each recipient, also where the first closes (RFC 2033 section 4.2).
            return expect(code, &codes);
        }
        if code == 421 && self.mode != Mode::Over {
            return self.closing(event);
        }
        if (500..600).contains(&code) {
            self.counts.errors += 1;
            self.counts.refused += u32::from(self.state == State::Refused);
        }
        match self.mode.clone() {
            Mode::Greeting => self.greeting(event, code),
            Mode::Commands => self.command(event, code),
            Mode::Data => self.message(event, code),
            Mode::Sasl(sasl) => self.sasl(event, code, sasl),
            Mode::Each { next, codes } => self.each(next, codes, code),
            Mode::Handshake | Mode::Header => Err("comes before the session".to_owned()),
            Mode::Over => Err("comes after the end".to_owned()),
        }
    }

    fn greeting(&mut self, event: u64, code: u16) -> Result<(), String> {
        let codes = self.answers(Kind::Connect, "", event)?;
        self.greeted(code, &codes)
    }

    /// The client is let in, or not.
    fn greeted(&mut self, code: u16, codes: &[u16]) -> Result<(), String> {
        self.mode = Mode::Commands;
        self.greeted = true;
        match code {
            220 if codes.contains(&250) => Ok(()),
            500..600 if codes.contains(&code) => {
                self.state = State::Refused;
                self.refused_until = Some(Instant::now() + AFTER_REFUSAL);
                Ok(())
            }
            _ => Err(format!("the connect service has said {codes:?}")),
        }
    }

    /// 421 needs a reason, for it loses what was sent behind.
    fn closing(&mut self, event: u64) -> Result<(), String> {
        let pages = self.shared.journal.lock();
        let panicked = pages.panics.contains_key(&self.conn);
        let by_service = pages.calls_of(self.conn).any(|call| {
            let caught = call.kind == Kind::Data && self.swarm.router.is_some();
            let closes = call.outcome == Outcome::Replied(421)
                || call.outcome == Outcome::Panicked && !caught;
            // A refusal for now is no greeting (RFC 5321 section 3.8).
            let refuses = call.kind == Kind::Connect && call.outcome != Outcome::Replied(250);
            (closes || refuses) && call.ended < event
        });
        drop(pages);
        let limits = &self.swarm.limits;
        let counted = self.counts.errors + 1 >= limits.errors
            || self.counts.junk + 1 >= limits.idle_commands
            || self.counts.auth_failures + 1 >= 5
            || self.counts.refused >= 3;
        let comes = matches!(self.mode, Mode::Greeting | Mode::Header) || self.is_asked_anew();
        let turned_away = comes && (self.swarm.max_sessions < 100 || self.swarm.per_ip.is_some());
        let late = self.started.elapsed() >= self.swarm.times.least().saturating_sub(SLACK);
        let stays = |until| Instant::now() + SLACK >= until;
        let timed_out = late || self.refused_until.is_some_and(stays);
        let unasked = self.may_be_unasked();
        let reasons = [
            self.shuts_down,
            panicked,
            by_service,
            counted,
            turned_away,
            timed_out,
            unasked,
        ];
        self.tail = self.codes_behind(event);
        self.note_unanswered();
        self.mode = Mode::Over;
        match reasons.contains(&true) {
            true => Ok(()),
            false => Err("there is no reason for it".to_owned()),
        }
    }

    /// Returns the codes that the service's reply can have become, and marks the call as accounted for.
    fn answers(&mut self, kind: Kind, subject: &str, event: u64) -> Result<Vec<u16>, String> {
        if !self.swarm.has(kind) {
            return Ok(vec![250]);
        }
        let pages = self.shared.journal.lock();
        let numbers = pages.by_conn.get(&self.conn).map_or(&[][..], Vec::as_slice);
        let is_next = |number: &&usize| pages.calls[**number].kind != Kind::Data;
        let mut rest = numbers.iter().enumerate().skip(self.used);
        let next = rest.find(|(_, number)| is_next(number));
        let call = next.map(|(at, number)| (at, pages.calls[*number].clone()));
        drop(pages);
        match call {
            Some((at, call)) if call.kind == kind && call.subject == subject => {
                if call.facts != self.facts {
                    return self.told_wrong(kind, &call);
                }
                self.used = at + 1;
                codes_of(&call, event)
            }
            _ if self.may_be_unasked() => Ok(vec![local_error(kind)]),
            Some((_, call)) => Err(format!(
                "{kind:?} should have been asked about {subject:?}, not {:?} about {:?}",
                call.kind, call.subject
            )),
            None => Err(format!("{kind:?} was not asked about {subject:?}")),
        }
    }

    /// The next call does not see the session as it is, unless it belongs to a later command that says the same.
    fn told_wrong(&self, kind: Kind, call: &Call) -> Result<Vec<u16>, String> {
        if self.may_be_unasked() {
            return Ok(vec![local_error(kind)]);
        }
        let (told, facts) = (&call.facts, &self.facts);
        Err(format!(
            "the {kind:?} service was told {told:?}, not {facts:?}"
        ))
    }

    /// Whether the next call is that one.
    fn is_asked(&self, kind: Kind, subject: &str) -> bool {
        let pages = self.shared.journal.lock();
        let mut calls = pages.calls_of(self.conn).skip(self.used);
        let next = calls.find(|call| call.kind != Kind::Data);
        next.is_some_and(|call| call.kind == kind && call.subject == subject)
    }

    /// Whether a service may not be asked though it should be: it was not ready, or a limit is in its way.
    fn may_be_unasked(&self) -> bool {
        use crate::services::Fault::{NeverReady, ReadyError, ReadyPanic, Unready};
        let swarm = &self.swarm;
        let unready = [Unready, NeverReady, ReadyError, ReadyPanic];
        let faulty = swarm.fault_rate > 0 && unready.iter().any(|f| swarm.faults.contains(f));
        faulty || swarm.permits.is_some()
    }
}

/// Timers are as exact as a millisecond.
const SLACK: Duration = Duration::from_millis(2);

/// How long a client is waited for after a greeting of 5yz.
pub const AFTER_REFUSAL: Duration = Duration::from_secs(10);

fn codes_of(call: &Call, event: u64) -> Result<Vec<u16>, String> {
    if call.outcome == Outcome::Working || call.ended > event {
        return Err(format!(
            "the {:?} service has not answered about {:?}",
            call.kind, call.subject
        ));
    }
    Ok(vec![match code_of(call.outcome) {
        451 => local_error(call.kind),
        code => code,
    }])
}

/// The code where the fault is on the server's side (RFC 4954 section 6).
fn local_error(kind: Kind) -> u16 {
    if kind == Kind::Auth { 454 } else { 451 }
}

fn code_of(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::Replied(code) | Outcome::Fragile(code) => code,
        Outcome::Failed | Outcome::Dropped | Outcome::Working => 451,
        Outcome::Panicked => 421,
    }
}

fn expect(code: u16, codes: &[u16]) -> Result<(), String> {
    match codes.contains(&code) {
        true => Ok(()),
        false => Err(format!("expected {codes:?}")),
    }
}
