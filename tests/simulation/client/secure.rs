//! How a client comes to TLS, and leaves it.

use std::time::Duration;

use tokio::time::Instant;

use super::Client;
use crate::{
    acts::{Cut, Op},
    model::Model,
    network::Wires,
    tls::{Flaw, Meaning, Secure},
};

impl Client {
    /// Begins a handshake where the server waits for one, or, if `blind`, where it will as soon as it has read STARTTLS.
    pub(super) fn begin_tls(&mut self, model: &Model, blind: bool, flaw: Flaw) {
        let takes = model.takes_tls() || (blind && model.will_take_tls());
        if !takes {
            return;
        }
        let read = self.link.lock().down.read;
        match flaw {
            Flaw::Plaintext => self.say(b"NOOP\r\nMAIL FROM:<evil@sender.example>\r\n".to_vec()),
            Flaw::Silence => self.ops.clear(),
            Flaw::None | Flaw::Rubbish(_) => {
                let config = self.shared.clients.clone();
                self.tls = config.map(|config| Secure::new(config, flaw, read));
            }
        }
    }

    pub(super) fn can_go_on_with_tls(&self, now: Instant) -> bool {
        let Some(tls) = &self.tls else {
            return true;
        };
        let read = self.link.lock().down.read;
        let over = self.until.is_none_or(|until| until <= now);
        over || tls.is_due(read) || tls.is_done(read)
    }

    /// Sends what is due of a handshake, until it is done or has taken too long.
    pub(super) fn go_on_with_tls(&mut self, model: &mut Model, limit: u64) {
        let Some(tls) = &mut self.tls else {
            return;
        };
        let read = self.link.lock().down.read;
        let now = Instant::now();
        if let Some(bytes) = tls.due(read) {
            self.out.push(bytes, Meaning::Nothing);
        } else if tls.is_done(read) {
            self.until = None;
            self.speaks_tls = true;
            return model.secured(tls.exporter().is_some());
        } else if self.until.is_some_and(|until| until <= now) {
            let cut = self.shared.dice.pick(&Cut::ALL);
            return self.perform_cut(cut);
        }
        let until = now + Duration::from_millis(limit);
        self.until.get_or_insert(until);
        self.ops.push_front(Op::Secured(limit));
    }

    /// Sends close_notify: it sends nothing more.
    pub(super) fn finish_tls(&mut self) {
        if let Some(tls) = self.tls.as_mut().filter(|_| self.speaks_tls) {
            let bytes = tls.finish();
            self.out.push(bytes, Meaning::Nothing);
            self.finished = true;
        }
    }

    /// Notes whether it leaves in the middle of a handshake.
    pub(super) fn gives_tls_up(&mut self) {
        let holds = self.tls.as_ref().is_some_and(|tls| tls.holds());
        self.gives_up |= !self.speaks_tls && (holds || !self.out.is_empty());
    }

    /// Whether the server has come to the end of the handshake, or can have.
    pub fn is_shaken(&self, wires: &Wires) -> bool {
        let Some(tls) = &self.tls else {
            return false;
        };
        let said = self.speaks_tls || (!tls.holds() && self.out.is_empty());
        // It may still have tickets to write.
        let stuck = wires.unwritten.is_some() && !tls.has_spoken();
        tls.is_settled() && said && !stuck && !self.gives_up && wires.up.read >= self.shaken_at
    }

    /// Whether it has sent what is no TLS where TLS was awaited.
    pub fn is_spoilt(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.spoilt)
    }

    /// Whether it will send nothing more, as far as the server can know.
    pub fn has_ended(&self, wires: &Wires) -> bool {
        wires.up.is_ended() || (self.finished && self.out.is_empty())
    }
}
