//! STARTTLS, and TLS from the first byte on.

use std::time::Duration;

use tokio::time::Instant;

use super::{Mode, Model, State, Transaction, commands::Line, expect};
use crate::{facts::Facts, swarm::Tls};

/// A handshake that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Shaking {
    pub since: Instant,
    /// How long it may take.
    pub limit: Option<Duration>,
    /// How much later the server may have begun to wait for it.
    pub late: Duration,
    /// What the client has sent is no TLS.
    pub spoilt: bool,
    /// Which certificate the server had.
    pub generation: usize,
}

impl Model {
    pub(super) fn begin_tls(&mut self) {
        self.mode = Mode::Handshake;
        self.handshake = Some(Shaking {
            since: Instant::now(),
            limit: self.swarm.times.handshake.map(Duration::from_millis),
            late: self.swarm.late_accept(),
            spoilt: false,
            generation: self.shared.generation(),
        });
        self.drop_plaintext();
    }

    /// Plaintext behind STARTTLS is never a command (RFC 3207 section 4.2), and no handshake either.
    pub(super) fn drop_plaintext(&mut self) {
        let dropped = self.stream.rest(u64::MAX).len();
        self.stream.advance(dropped);
        if let Some(handshake) = self.handshake.as_mut().filter(|_| dropped > 0) {
            handshake.spoilt = true;
        }
    }

    /// The session starts anew over TLS, and has forgotten everything before. SCRAM can bind to it, if `binds`.
    pub fn secured(&mut self, binds: bool) {
        if self.mode != Mode::Handshake {
            return;
        }
        self.shared.trace.event("secured", self.conn, String::new);
        self.mode = match self.greeted {
            true => Mode::Commands,
            false => Mode::Greeting,
        };
        self.state = State::Start;
        self.begun = false;
        self.binds = binds;
        self.transaction = Transaction::default();
        self.facts = Facts {
            peer: std::mem::take(&mut self.facts.peer),
            tls: true,
            ..Facts::default()
        };
    }

    /// Notes that the client has sent what is no command, perhaps a handshake before it was asked for.
    pub fn hurries(&mut self) {
        self.hurries |= !self.facts.tls && !self.awaits_header();
    }

    /// Whether a handshake is awaited.
    pub fn takes_tls(&self) -> bool {
        self.mode == Mode::Handshake
    }

    /// Whether the server is left with STARTTLS alone, and has no reason to refuse it and go on in plaintext.
    pub fn will_take_tls(&self) -> bool {
        let left = self.stream.rest(u64::MAX);
        self.mode == Mode::Commands && self.has_starttls() && left == b"STARTTLS\r\n"
    }

    fn has_starttls(&self) -> bool {
        let between = matches!(self.state, State::Start | State::Ready);
        self.swarm.tls == Some(Tls::Started) && between && !self.facts.tls
    }

    pub(super) fn starttls(&mut self, code: u16, line: &Line) -> Result<(), String> {
        if !matches!(self.state, State::Start | State::Ready) {
            return expect(code, &[503]);
        }
        if line.has_argument() {
            return expect(code, &[501]);
        }
        if self.facts.tls {
            return expect(code, &[503]);
        }
        let too_early = self.hurries || !self.stream.rest(u64::MAX).is_empty();
        if code == 554 && too_early {
            self.mode = Mode::Over;
            return Ok(());
        }
        self.begin_tls();
        expect(code, &[220])
    }
}
