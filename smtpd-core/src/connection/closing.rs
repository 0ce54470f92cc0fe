//! How a session comes to its end, and what brings it nearer.

use super::{CloseReason, Connection, Event, Reading, State};
use crate::{Code, Reply, Status};

impl Connection {
    /// Ends the session with 421 4.3.2 where it is between two commands and no answer is outstanding. Returns whether
    /// it has: a transaction that is going on may still end.
    pub fn handle_shutdown(&mut self) -> bool {
        let idle = matches!(self.state, State::Start | State::Ready | State::Refused);
        self.asked.is_none() && self.message.is_none() && idle && self.shut_down()
    }

    /// Ends the session with 421 4.3.2 wherever it is, as when the time for a graceful shutdown is over. Returns whether
    /// it has not ended before.
    pub fn shut_down(&mut self) -> bool {
        let open = self.reading != Reading::Closed;
        let text = format!(
            "{} {} shuts down, closing the connection",
            self.config.hostname, self.config.app_name
        );
        self.close_with(Reply::closing(text), CloseReason::Shutdown);
        open
    }

    /// Answers a command that was wrong, and ends the session where it was one too many.
    pub(super) fn fault(&mut self, reply: Reply) {
        self.counts.errors += 1;
        if self.counts.errors >= self.config.limits.errors {
            let reply = Reply::new(
                Code::SERVICE_UNAVAILABLE,
                Status::POLICY,
                "Too many errors, closing the connection",
            );
            return self.close_with(reply, CloseReason::Limit);
        }
        self.put(&reply);
    }

    pub(super) fn close_with(&mut self, reply: Reply, reason: CloseReason) {
        match self.reading {
            Reading::Closed => return,
            // The client would take a reply in plaintext for a part of the handshake.
            Reading::Handshake => {}
            _ => self.put(&reply),
        }
        self.close(reason);
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        self.reading = Reading::Closed;
        self.asked = None;
        self.exchange = None;
        self.end_transaction();
        self.tell(Event::Closed(reason));
    }
}
