//! Plays a session: what the client sends goes in, in whatever pieces; what the caller is told and what the server sends
//! is kept.
#![allow(dead_code, reason = "no test needs all of it")]

use std::{collections::VecDeque, fmt, sync::Arc, time::Instant};

use bytes::BytesMut;
use smtpd_core::{Config, Connection, Event, MessageError, Reply, sasl::Secret};

pub(crate) mod differential;
pub(crate) mod extensions;

/// Who answers the events. What is left to the defaults is accepted, and the password of everybody is `secret`.
pub(crate) trait Caller {
    /// Answers an event that the client's first `taken` octets have brought about, or tells that the default is due.
    fn answer(&mut self, connection: &mut Connection, event: &Event, taken: usize) -> bool;
}

/// Accepts everything.
#[derive(Debug)]
pub(crate) struct Yes;

impl Caller for Yes {
    fn answer(&mut self, _: &mut Connection, _: &Event, _: usize) -> bool {
        false
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
    pub(crate) caller: C,
    fed: usize,
    told: Vec<Told>,
}

impl<C: Caller> Session<C> {
    pub(crate) fn new(config: Arc<Config>, tls: bool, caller: C) -> Self {
        let now = Instant::now();
        let connection = if tls {
            Connection::with_tls(config, now)
        } else {
            Connection::new(config, now)
        };
        Self {
            connection,
            input: BytesMut::new(),
            output: Vec::new(),
            now,
            caller,
            fed: 0,
            told: Vec::new(),
        }
    }

    /// Gives octets to the connection, and plays on until it needs more.
    pub(crate) fn feed(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        self.fed += octets.len();
        loop {
            while let Some(event) = self.connection.poll_event(self.now, &mut self.input) {
                self.take(&event);
            }
            let congested = self.connection.is_congested();
            self.output.extend_from_slice(self.connection.output());
            self.connection
                .advance_output(self.connection.output().len());
            if !congested {
                break;
            }
        }
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

    fn take(&mut self, event: &Event) {
        self.note(event);
        let taken = self.fed - self.input.len();
        if self.caller.answer(&mut self.connection, event, taken) {
            return;
        }
        match event {
            Event::Connect
            | Event::XClient(_)
            | Event::Helo(_)
            | Event::Mail(_)
            | Event::Rcpt(_) => self.connection.reply(Reply::OK),
            Event::MessageEnd(_) => self.connection.reply(Reply::ok("Taken")),
            Event::Auth(_) => self.connection.reply_auth(Secret::plain("secret").into()),
            Event::Data => self.connection.accept_data(),
            Event::ChunkEnd => self.connection.accept_chunk(),
            _ => {}
        }
    }

    fn note(&mut self, event: &Event) {
        let (kind, text) = match event {
            Event::Connect => ("connect", String::new()),
            Event::XClient(client) => ("xclient", shown(client)),
            Event::XForward(forwarded) => ("xforward", shown(forwarded)),
            Event::Helo(helo) => ("helo", helo.name.to_string()),
            Event::Auth(request) => (
                "auth",
                format!("{} {}", request.mechanism, request.credentials.username()),
            ),
            Event::Authenticated(identity) => ("authenticated", identity.to_string()),
            Event::Mail(mail) => ("mail", format!("{} {:?}", mail.sender, mail.parameters)),
            Event::Rcpt(rcpt) => ("rcpt", format!("{} {:?}", rcpt.recipient, rcpt.parameters)),
            Event::Data => ("data", String::new()),
            Event::Chunk(octets) => return self.note_octets(octets),
            Event::ChunkEnd => ("chunk-end", String::new()),
            Event::MessageEnd(Ok(())) => ("taken", String::new()),
            Event::MessageEnd(Err(MessageError::TooLarge)) => ("refused", "too large".into()),
            Event::MessageEnd(Err(error)) => ("refused", error.to_string()),
            Event::Reset => ("reset", String::new()),
            Event::StartTls => ("tls", String::new()),
            Event::Closed(reason) => ("closed", reason.to_string()),
            other => panic!("an event that the tests do not know: {other:?}"),
        };
        self.told.push(Told {
            kind,
            text: text.into(),
        });
    }

    fn note_octets(&mut self, octets: &[u8]) {
        assert!(!octets.is_empty(), "a chunk of nothing");
        match self.told.last_mut() {
            Some(told) if told.kind == "octets" => told.text.extend_from_slice(octets),
            _ => self.told.push(Told {
                kind: "octets",
                text: octets.to_vec(),
            }),
        }
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
