//! What a trusted peer reports about its client: the PROXY header, XCLIENT and XFORWARD.

use std::time::Duration;

use super::{Mode, Model, State, Transaction, commands::Line, expect};
use crate::{facts::Facts, journal::Kind, swarm::Tls};

/// Who the peer may speak for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claims {
    may_claim: bool,
    /// What ADDR and PORT have come to so far.
    named: (Option<&'static str>, Option<u16>),
}

/// The attributes that clients give, all of which are known.
const ATTRIBUTES: [&str; 8] = [
    "NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "IDENT", "SOURCE",
];

/// The addresses that clients give.
pub const ADDRESSES: [&str; 2] = ["198.51.100.7", "203.0.113.9"];

/// How long after a header is due the session may end at the latest.
const SLACK: Duration = Duration::from_millis(50);

impl Model {
    /// Begins, with a header if one is due.
    pub(super) fn begin_session(&mut self) {
        if self.swarm.proxy.is_some() {
            self.mode = Mode::Header;
            return;
        }
        self.header_read(None);
    }

    /// Whether the header has not been read.
    pub fn awaits_header(&self) -> bool {
        self.mode == Mode::Header
    }

    /// The server has read a header, if one was due, that names this client.
    pub fn header_read(&mut self, peer: Option<String>) {
        self.claims.may_claim = self.swarm.trusts == Some(true) && peer.is_none();
        if let Some(peer) = peer {
            self.facts.peer = peer;
        }
        self.mode = Mode::Greeting;
        if self.swarm.tls == Some(Tls::First) {
            self.begin_tls();
        }
    }

    /// How long the session has waited for a header beyond its time.
    pub fn waits_too_long_for_header(&self) -> Option<Duration> {
        let limit = self.swarm.proxy.filter(|_| self.awaits_header())?;
        let age = self.started.elapsed();
        (age > limit + self.swarm.late_accept() + SLACK).then_some(age)
    }

    /// How much later than it came the connection may have been accepted.
    pub fn late_accept(&self) -> Duration {
        self.swarm.late_accept()
    }

    /// Whether the time for a header is over.
    pub fn is_late_for_header(&self) -> bool {
        let limit = self.swarm.proxy;
        limit.is_some_and(|limit| self.started.elapsed() + SLACK >= limit)
    }

    /// Whether XCLIENT is the next command to be answered.
    pub(super) fn is_asked_anew(&self) -> bool {
        self.stream.rest(u64::MAX).starts_with(b"XCLIENT ")
    }

    pub(super) fn xclient(&mut self, event: u64, code: u16, line: &Line) -> Result<(), String> {
        let Some(attributes) = self.attributes(line) else {
            return self.claims_nothing(code, line);
        };
        let of = |name: &str| attributes.iter().rev().find(|(known, _)| known == name);
        let value = |name: &str| of(name).map(|(_, value)| value.clone());
        self.name_peer(value("ADDR"), value("PORT"));
        self.facts = Facts {
            peer: self.facts.peer.clone(),
            tls: self.facts.tls,
            helo: value("HELO"),
            identity: value("LOGIN"),
            forwarded: None,
        };
        self.state = State::Start;
        self.begun = false;
        self.transaction = Transaction::default();
        self.mode = Mode::Greeting;
        let codes = self.answers(Kind::Connect, "", event)?;
        self.greeted(code, &codes)
    }

    fn name_peer(&mut self, addr: Option<String>, port: Option<String>) {
        let known = |addr: String| ADDRESSES.into_iter().find(|known| *known == addr);
        if let Some(addr) = addr {
            self.claims.may_claim = false;
            self.claims.named.0 = known(addr);
        }
        if let Some(port) = port.and_then(|port| port.parse().ok()) {
            self.claims.named.1 = Some(port);
        }
        let (ip, old) = self.facts.peer.rsplit_once(':').unwrap_or_default();
        let old = old.parse().unwrap_or(0);
        self.facts.peer = match self.claims.named {
            (Some(addr), port) => format!("{addr}:{}", port.unwrap_or(0)),
            (None, Some(port)) => format!("{ip}:{port}"),
            (None, None) => format!("{ip}:{old}"),
        };
    }

    pub(super) fn xforward(&mut self, code: u16, line: &Line) -> Result<(), String> {
        let Some(attributes) = self.attributes(line) else {
            return self.claims_nothing(code, line);
        };
        let ident = attributes.into_iter().find(|(name, _)| name == "IDENT");
        if let Some((_, ident)) = ident {
            self.facts.forwarded = Some(ident);
        }
        expect(code, &[250])
    }

    /// The attributes, where they are in order.
    fn attributes(&self, line: &Line) -> Option<Vec<(String, String)>> {
        let between = matches!(self.state, State::Start | State::Ready);
        if !self.claims.may_claim || !between || !line.has_argument() {
            return None;
        }
        let words = line.argument().split_ascii_whitespace();
        words
            .map(|word| {
                let (name, value) = word.split_once('=')?;
                let known = ATTRIBUTES.contains(&name);
                known.then(|| (name.to_owned(), value.to_owned()))
            })
            .collect()
    }

    fn claims_nothing(&self, code: u16, line: &Line) -> Result<(), String> {
        let between = matches!(self.state, State::Start | State::Ready);
        match (between, line.has_argument(), self.claims.may_claim) {
            (false, ..) => expect(code, &[503]),
            (true, true, false) => expect(code, &[550]),
            (true, ..) => expect(code, &[501]),
        }
    }
}
