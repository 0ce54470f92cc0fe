//! Plays a session: the client's bytes go in, split in any way; what the caller receives and what the server sends is recorded.
#![allow(
    dead_code,
    reason = "the fuzz targets, which include it, need a part of it"
)]

use std::{collections::VecDeque, fmt, sync::Arc, time::Instant};

use bytes::BytesMut;
use smtpd_core::{
    Ask, Connection, DataReply, Reply, Step,
    config::DriverConfig,
    connection::{AuthOutcome, MessageError, TlsFacts, ask_kind},
    sasl::Secret,
};

use self::whims::{Happening, Open, Treated, Whims};

pub(crate) mod differential;
pub(crate) mod extensions;
pub(crate) mod whims;

/// Answers the questions. By default, everything is accepted, and everybody's password is `secret`.
pub(crate) trait Caller {
    /// Answers a question, or a chunk. It was caused by the client's first `taken` bytes.
    fn decide(&mut self, told: &Told, taken: usize) -> Option<Decision>;
}

/// An answer that is not the default.
#[derive(Debug)]
pub(crate) enum Decision {
    Replies(DataReply),
    Auth(AuthOutcome),
}

impl From<Reply> for Decision {
    fn from(reply: Reply) -> Self {
        Self::Replies(reply.into())
    }
}

/// Accepts everything.
#[derive(Debug)]
pub(crate) struct Yes;

impl Caller for Yes {
    fn decide(&mut self, _: &Told, _: usize) -> Option<Decision> {
        None
    }
}

/// What the caller received, as a word and a text.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) kind: &'static str,
    pub(crate) text: Vec<u8>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.text.escape_ascii())
    }
}

pub(crate) struct Session<C> {
    pub(crate) connection: Connection,
    /// The bytes that the connection has not consumed yet.
    pub(crate) input: BytesMut,
    pub(crate) output: Vec<u8>,
    pub(crate) now: Instant,
    /// The deadline of the current wait.
    pub(crate) until: Option<Instant>,
    pub(crate) caller: C,
    pub(crate) whims: Whims,
    /// The maximum number of bytes that may wait to be written.
    pub(crate) most_output: usize,
    /// The wire log.
    pub(crate) log: Vec<String>,
    fed: usize,
    told: Vec<Told>,
    open: Option<Box<dyn Open>>,
    /// The questions that the connection has answered by itself.
    stale: Vec<Box<dyn Open>>,
    /// Whether a question was neither answered nor kept.
    leaked: bool,
}

/// The outcome of a step.
enum Taken {
    On,
    Waits,
    Closed,
    Question(Treated),
    Answer(Instant),
    /// A reply is held back until then.
    Held(Instant),
    Overdue,
}

impl<C: Caller> Session<C> {
    pub(crate) fn new(config: Arc<DriverConfig>, tls: bool, caller: C) -> Self {
        let connection = if tls {
            Connection::with_tls(config)
        } else {
            Connection::new(config)
        };
        Self {
            connection,
            input: BytesMut::new(),
            output: Vec::new(),
            now: Instant::now(),
            until: None,
            caller,
            whims: Whims::default(),
            most_output: usize::MAX,
            log: Vec::new(),
            fed: 0,
            told: Vec::new(),
            open: None,
            stale: Vec::new(),
            leaked: false,
        }
    }

    /// Completes the TLS handshake that the session waits for.
    pub(crate) fn handshake(&mut self, facts: TlsFacts) {
        match self.connection.poll(self.now, &mut self.input) {
            Step::Handshake(handshake) => handshake.done(&mut self.input, facts),
            other => panic!("no handshake is awaited: {other:?}"),
        }
    }

    /// Passes bytes to the connection, and plays until it has to wait for more.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.send(bytes);
        // Each step consumes input, or a choice of the driver, or is one of the few with which a session ends.
        let most = 100 + 8 * self.input.len() + 4 * self.whims.left();
        let steps = (0..=most).take_while(|_| self.step()).count();
        assert!(steps <= most, "the session makes no progress");
    }

    /// Returns whether the connection has been closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.told.last().is_some_and(|told| told.kind == "closed")
    }

    /// Passes bytes to the connection without polling it.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.fed += bytes.len();
    }

    /// Plays one step. Returns whether the session continues.
    fn step(&mut self) -> bool {
        let is_open = self.open.is_some();
        let taken = self.take();
        if let Taken::Question(_) | Taken::Waits = taken {
            assert!(!is_open, "the session goes on without an answer");
        }
        match taken {
            Taken::On => return true,
            Taken::Waits => return false,
            Taken::Closed => {
                self.stale.extend(self.open.take());
                self.check_stale();
                return false;
            }
            Taken::Question(Treated::Answered) => {}
            Taken::Question(Treated::Open(open)) => {
                self.check_stale();
                self.open = Some(open);
            }
            Taken::Question(Treated::Leaked) => self.leaked = true,
            Taken::Answer(until) => return self.answer_later(until),
            Taken::Held(until) => {
                self.now = until;
                self.happen();
            }
            Taken::Overdue => {
                self.leaked = false;
                self.stale.extend(self.open.take());
            }
        }
        true
    }

    /// A question that the connection has answered stays answered, whatever is asked now.
    fn check_stale(&mut self) {
        for stale in self.stale.drain(..) {
            assert!(!stale.answer(&mut self.connection), "it is answered twice");
        }
    }

    fn take(&mut self) -> Taken {
        let (now, taken) = (self.now, self.fed);
        let (told, caller, input) = (&mut self.told, &mut self.caller, &mut self.input);
        let whims = &mut self.whims;
        let step = self.connection.poll(now, input);
        let taken = taken - input.len();
        let mut decide = |kind, text: String| {
            let this = Told::new(kind, text);
            let decision = caller.decide(&this, taken);
            told.push(this);
            decision
        };
        Taken::Question(match step {
            Step::Write(mut writing) => {
                check_wait(now, writing.until());
                let waiting = writing.bytes().len();
                assert!(waiting <= self.most_output, "{waiting} bytes wait");
                let written = whims.written(waiting);
                self.output.extend_from_slice(&writing.bytes()[..written]);
                writing.wrote(written, now);
                if written < waiting {
                    self.now = whims.later(now, writing.until());
                }
                return Taken::On;
            }
            Step::Read(reading) => return wait(&mut self.until, now, reading.until()),
            Step::Handshake(handshake) => return wait(&mut self.until, now, handshake.until()),
            Step::Answer(answering) => {
                let until = answering.until();
                wait(&mut self.until, now, until);
                return match answering.holds_reply() {
                    true => Taken::Held(until),
                    false => Taken::Answer(until),
                };
            }
            Step::Closed(reason) => {
                if self.until.take().is_some()
                    || told.last().is_none_or(|last| last.kind != "closed")
                {
                    told.push(Told::new("closed", reason.to_string()));
                }
                return Taken::Closed;
            }
            Step::Connect(ask) => reply(whims, ask, decide("connect", String::new())),
            Step::XClient(client, ask) => reply(whims, ask, decide("xclient", shown(&client))),
            Step::Helo(helo, ask) => reply(whims, ask, decide("helo", helo.name().to_string())),
            Step::Mail(mail, ask) => {
                let text = format!("{} {:?}", mail.sender(), mail.parameters());
                reply(whims, ask, decide("mail", text))
            }
            Step::Rcpt(rcpt, ask) => {
                let text = format!("{} {:?}", rcpt.recipient(), rcpt.parameters());
                reply(whims, ask, decide("rcpt", text))
            }
            Step::Command(_, ask) => reply(whims, ask, None),
            Step::Auth(request, ask) => {
                let text = format!(
                    "{} {}",
                    request.mechanism(),
                    request.credentials().username()
                );
                let decision = decide("auth", text);
                whims.treat(ask, |ask| match decision {
                    Some(Decision::Auth(outcome)) => ask.answer(outcome),
                    Some(Decision::Replies(replies)) => ask.answer(replies.merged().clone().into()),
                    None => ask.verify(Secret::password("secret")),
                })
            }
            Step::StartTls(ask) => {
                let decision = decide("tls", String::new());
                whims.treat(ask, |ask| match decision {
                    Some(Decision::Replies(replies)) => ask.refuse(replies.merged().clone()),
                    _ => ask.accept(),
                })
            }
            Step::Data(ask) => {
                let decision = decide("data", String::new());
                whims.treat(ask, |ask| match decision {
                    Some(Decision::Replies(replies)) if replies.is_accepted() => {
                        ask.discard(replies)
                    }
                    Some(Decision::Replies(replies)) => ask.refuse(replies.merged().clone()),
                    _ => ask.receive(),
                })
            }
            Step::ChunkEnd(ask) => {
                let decision = decide("chunk-end", String::new());
                whims.treat(ask, |ask| match decision {
                    Some(Decision::Replies(replies)) => ask.discard(replies),
                    _ => ask.accept(),
                })
            }
            Step::Message(result, ask) => {
                let decision = match result {
                    Ok(()) => decide("taken", String::new()),
                    Err(MessageError::TooLarge) => decide("refused", "too large".into()),
                    Err(error) => decide("refused", error.to_string()),
                };
                whims.treat(ask, |ask| match decision {
                    Some(Decision::Replies(replies)) => ask.reply(replies),
                    _ => ask.reply(Reply::ok("Taken")),
                })
            }
            Step::Chunk(bytes, receiving) => {
                note_octets(told, &bytes);
                let decision = caller.decide(&Told::new("early", String::new()), taken);
                match decision {
                    Some(Decision::Replies(replies)) => {
                        receiving.discard(replies);
                        Treated::Answered
                    }
                    _ if whims.pick(4) == 1 => match receiving.hold() {
                        Some(held) => Treated::open(held, |ask| ask.accept()),
                        None => panic!("a message cannot be held up"),
                    },
                    _ => Treated::Answered,
                }
            }
            Step::Authenticated(identity) => {
                told.push(Told::new("authenticated", identity.to_string()));
                return Taken::On;
            }
            Step::Reset(_) => {
                told.push(Told::new("reset", String::new()));
                return Taken::On;
            }
            Step::XForward(forwarded) => {
                told.push(Told::new("xforward", shown(&forwarded)));
                return Taken::On;
            }
            Step::Line(line) => {
                self.log.push(line.to_string());
                return Taken::On;
            }
            Step::Overdue(_) => return Taken::Overdue,
            Step::Answered(_) => return Taken::On,
        })
    }

    /// Makes something happen while the session waits: time passes, a handshake ends, or an outside event.
    pub(crate) fn happens(&mut self) {
        self.happen();
        if let Some(until) = self.until {
            self.now = self.whims.later(self.now, until);
        }
        if let Step::Handshake(handshake) = self.connection.poll(self.now, &mut self.input) {
            match self.whims.pick(4) {
                0 => handshake.failed(),
                1 => {}
                _ => handshake.done(&mut self.input, TlsFacts::default()),
            }
        }
    }

    fn happen(&mut self) {
        match self.whims.happening() {
            Some(Happening::Drain) => self.connection.drain(),
            Some(Happening::ShutDown) => self.connection.shut_down(),
            Some(Happening::Eof) => self.connection.handle_eof(),
            Some(Happening::Lost) => self.connection.handle_lost(),
            None => {}
        }
    }

    /// Plays a wait for an answer. Returns whether the driver does anything about it.
    fn answer_later(&mut self, until: Instant) -> bool {
        let Some(open) = self.open.take() else {
            if std::mem::take(&mut self.leaked) {
                self.now = until;
                return true;
            }
            return false;
        };
        match self.whims.pick(4) {
            1 => {
                self.now = self.whims.later(self.now, until);
                self.happen();
                self.open = Some(open);
            }
            2 => {
                open.begin(&mut self.connection);
                self.open = Some(open);
            }
            _ => assert!(open.answer(&mut self.connection), "an answer is lost"),
        }
        true
    }

    /// Returns everything that the caller received. Which bytes of an incomplete message were passed on depends on how the input
    /// was split, so they are left out.
    pub(crate) fn told(&self) -> Vec<Told> {
        let mut told = VecDeque::from(self.told.clone());
        let mut kept = Vec::new();
        while let Some(this) = told.pop_front() {
            let is_whole = told
                .front()
                .is_some_and(|next| next.kind == "chunk-end" || next.kind == "taken");
            if this.kind != "octets" || is_whole {
                kept.push(this);
            }
        }
        kept
    }
}

impl Told {
    fn new(kind: &'static str, text: String) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }
}

/// Asserts that every wait has a deadline in the future.
fn check_wait(now: Instant, until: Instant) {
    assert!(until > now, "a wait for what is over");
}

fn wait(kept: &mut Option<Instant>, now: Instant, until: Instant) -> Taken {
    check_wait(now, until);
    *kept = Some(until);
    Taken::Waits
}

fn reply<K: ask_kind::OneReply + 'static>(
    whims: &mut Whims,
    ask: Ask<'_, K>,
    decision: Option<Decision>,
) -> Treated {
    whims.treat(ask, |ask| match decision {
        Some(Decision::Replies(replies)) => ask.reply(replies.merged().clone()),
        _ => ask.accept(),
    })
}

fn note_octets(told: &mut Vec<Told>, bytes: &[u8]) {
    assert!(!bytes.is_empty(), "a chunk of nothing");
    match told.last_mut() {
        Some(told) if told.kind == "octets" => told.text.extend_from_slice(bytes),
        _ => told.push(Told {
            kind: "octets",
            text: bytes.to_vec(),
        }),
    }
}

/// Formats the fields of a struct that are present: `addr: Known(192.0.2.1), port: Known(25)`.
fn shown(of: &impl fmt::Debug) -> String {
    let text = format!("{of:?}");
    let fields = text
        .trim_start_matches(|c| c != '{')
        .trim_matches(['{', '}', ' ']);
    let given = fields
        .split(", ")
        .filter(|field| !field.ends_with(": None"));
    let given = given.map(|field| field.replace("Some(", "(").replace('"', "'"));
    given.collect::<Vec<_>>().join(", ")
}
