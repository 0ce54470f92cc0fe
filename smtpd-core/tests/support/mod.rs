//! Plays a session: what the client sends goes in, in whatever pieces; what the caller is told and what the server sends
//! is kept.
#![allow(dead_code, reason = "no test needs all of it")]

use std::{collections::VecDeque, fmt, sync::Arc, time::Instant};

use bytes::BytesMut;
use smtpd_core::{
    Ask, AuthOutcome, Config, Connection, DataReply, MessageError, Reply, Step, TlsFacts, ask_kind,
    sasl::Secret,
};

pub(crate) mod differential;
pub(crate) mod extensions;

/// Who answers the questions. What is left to the defaults is accepted, and the password of everybody is `secret`.
pub(crate) trait Caller {
    /// Answers a question, or what was told of a chunk. The client's first `taken` bytes have brought it about.
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

/// What the caller was told, in a word and what belongs to it.
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

#[derive(Debug)]
pub(crate) struct Session<C> {
    pub(crate) connection: Connection,
    /// What was given to the connection and not taken yet.
    pub(crate) input: BytesMut,
    pub(crate) output: Vec<u8>,
    pub(crate) now: Instant,
    /// Until when the session waits.
    pub(crate) until: Option<Instant>,
    pub(crate) caller: C,
    /// The wire log.
    pub(crate) log: Vec<String>,
    fed: usize,
    told: Vec<Told>,
}

impl<C: Caller> Session<C> {
    pub(crate) fn new(config: Arc<Config>, tls: bool, caller: C) -> Self {
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
            log: Vec::new(),
            fed: 0,
            told: Vec::new(),
        }
    }

    /// The client ends the TLS handshake that the session waits for.
    pub(crate) fn handshake(&mut self, facts: TlsFacts) {
        match self.connection.poll(self.now, &mut self.input) {
            Step::Handshake(handshake) => handshake.done(&mut self.input, facts),
            other => panic!("no handshake is awaited: {other:?}"),
        }
    }

    /// Gives bytes to the connection, and plays on until it has to wait for more.
    pub(crate) fn feed(&mut self, octets: &[u8]) {
        self.send(octets);
        while self.step() {}
    }

    /// Gives bytes to the connection, which is not polled.
    pub(crate) fn send(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        self.fed += octets.len();
    }

    /// Takes one step. Returns whether the session goes on.
    fn step(&mut self) -> bool {
        let (now, taken) = (self.now, self.fed);
        let (told, caller, input) = (&mut self.told, &mut self.caller, &mut self.input);
        let step = self.connection.poll(now, input);
        let taken = taken - input.len();
        let mut decide = |kind, text: String| {
            let this = Told::new(kind, text);
            let decision = caller.decide(&this, taken);
            told.push(this);
            decision
        };
        match step {
            Step::Write(mut writing) => {
                self.output.extend_from_slice(writing.bytes());
                writing.wrote(writing.bytes().len(), now);
            }
            Step::Read(reading) => return wait(&mut self.until, now, reading.until()),
            Step::Handshake(handshake) => return wait(&mut self.until, now, handshake.until()),
            Step::Answer(answering) => return wait(&mut self.until, now, answering.until()),
            Step::Closed(reason) => {
                if self.until.take().is_some()
                    || told.last().is_none_or(|last| last.kind != "closed")
                {
                    told.push(Told::new("closed", reason.to_string()));
                }
                return false;
            }
            Step::Connect(ask) => reply(ask, decide("connect", String::new())),
            Step::XClient(client, ask) => reply(ask, decide("xclient", shown(&client))),
            Step::Helo(helo, ask) => reply(ask, decide("helo", helo.name.to_string())),
            Step::Mail(mail, ask) => {
                let text = format!("{} {:?}", mail.sender, mail.parameters);
                reply(ask, decide("mail", text));
            }
            Step::Rcpt(rcpt, ask) => {
                let text = format!("{} {:?}", rcpt.recipient, rcpt.parameters);
                reply(ask, decide("rcpt", text));
            }
            Step::Command(_, ask) => reply(ask, None),
            Step::Auth(request, ask) => {
                let text = format!("{} {}", request.mechanism, request.credentials.username());
                match decide("auth", text) {
                    Some(Decision::Auth(outcome)) => ask.answer(outcome),
                    Some(Decision::Replies(replies)) => ask.answer(replies.merged().clone().into()),
                    None => ask.verify(Secret::plain("secret")),
                }
            }
            Step::StartTls(ask) => match decide("tls", String::new()) {
                Some(Decision::Replies(replies)) => ask.refuse(replies.merged().clone()),
                _ => ask.accept(),
            },
            Step::Data(ask) => match decide("data", String::new()) {
                Some(Decision::Replies(replies)) if replies.is_taken() => ask.discard(replies),
                Some(Decision::Replies(replies)) => ask.refuse(replies.merged().clone()),
                _ => ask.receive(),
            },
            Step::ChunkEnd(ask) => match decide("chunk-end", String::new()) {
                Some(Decision::Replies(replies)) => ask.discard(replies),
                _ => ask.taken(),
            },
            Step::Message(result, ask) => {
                let decision = match result {
                    Ok(()) => decide("taken", String::new()),
                    Err(MessageError::TooLarge) => decide("refused", "too large".into()),
                    Err(error) => decide("refused", error.to_string()),
                };
                match decision {
                    Some(Decision::Replies(replies)) => ask.reply(replies),
                    _ => ask.reply(Reply::ok("Taken")),
                }
            }
            Step::Chunk(octets, receiving) => {
                note_octets(told, &octets);
                let decision = caller.decide(&Told::new("early", String::new()), taken);
                if let Some(Decision::Replies(replies)) = decision {
                    receiving.discard(replies);
                }
            }
            Step::Authenticated(identity) => {
                told.push(Told::new("authenticated", identity.to_string()));
            }
            Step::Reset(_) => told.push(Told::new("reset", String::new())),
            Step::XForward(forwarded) => told.push(Told::new("xforward", shown(&forwarded))),
            Step::Line(line) => self.log.push(line.to_string()),
            Step::Overdue(_) => {}
        }
        true
    }

    /// Everything that the caller was told. Which octets of a message that then came to nothing had been handed on
    /// before depends on the pieces in which they came, so those of a message without end are left out.
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

/// No wait is without a deadline that lies ahead.
fn wait(kept: &mut Option<Instant>, now: Instant, until: Instant) -> bool {
    assert!(until > now, "a wait for what is over");
    *kept = Some(until);
    false
}

fn reply<K: ask_kind::OneReply>(ask: Ask<'_, K>, decision: Option<Decision>) {
    match decision {
        Some(Decision::Replies(replies)) => ask.reply(replies.merged().clone()),
        _ => ask.accept(),
    }
}

fn note_octets(told: &mut Vec<Told>, octets: &[u8]) {
    assert!(!octets.is_empty(), "a chunk of nothing");
    match told.last_mut() {
        Some(told) if told.kind == "octets" => told.text.extend_from_slice(octets),
        _ => told.push(Told {
            kind: "octets",
            text: octets.to_vec(),
        }),
    }
}

/// The fields of a struct that are there: `addr: Known(192.0.2.1), port: Known(25)`.
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
