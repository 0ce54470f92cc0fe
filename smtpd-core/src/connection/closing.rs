//! How a session comes to its end, and what brings it nearer.

use std::time::Instant;

use super::{Asked, CloseReason, Connection, Mode, Refusal, Slot, State};
use crate::{
    reply::{Code, Reply, Status},
    time::Nanos,
};

impl Connection {
    /// Ends the session with 421 4.3.2 (RFC 5321 section 3.8) as soon as it is between two messages: at once, or when the
    /// transaction that is open has come to its end. What a client has sent ahead is not answered any more, and a TLS handshake
    /// is not waited for. It holds from now on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Ends the session with 421 4.3.2 wherever it is, as when the time for a graceful shutdown is over. What remains to be
    /// written has [`Timeouts::linger`](crate::config::Timeouts::linger).
    ///
    /// Answers that are outstanding can no longer be given: a client that has sent a whole message is not told that it was
    /// taken, and will send it again. [`drain`](Self::drain) waits for them.
    pub fn shut_down(&mut self) {
        let text = format!(
            "{} {} shuts down, closing the connection",
            self.config.hostname, self.config.app_name
        );
        if self.closed.is_none() {
            self.close_with(Reply::closing(text), CloseReason::Shutdown);
        } else if self.reading != Mode::Closed {
            // The client is lost, and only the answer to its message was awaited.
            self.close(CloseReason::Shutdown);
        }
        if !self.cut {
            self.cut = true;
            self.output.restart();
        }
    }

    /// Ends the session with that reply wherever it is, as after a fault of the caller's. Answers that are outstanding can no
    /// longer be given.
    pub fn end(&mut self, refusal: impl Into<Refusal>) {
        self.close_with(refusal.into().reply().clone(), CloseReason::Refused);
    }

    /// Notes that the client sends nothing more. What it has sent is still answered, and then the session is over; a message
    /// that is not whole is void. During a TLS handshake the session is over at once.
    pub fn handle_eof(&mut self) {
        self.eof = true;
    }

    /// Notes that the driver was busy between these two times and did not look at its socket. That time is not charged to the
    /// client: the deadlines of [`Read`](super::Step::Read), [`Write`](super::Step::Write) and
    /// [`Handshake`](super::Step::Handshake) move later by it. The deadline of an [`Answer`](super::Step::Answer) does not
    /// move. `since` is the time of the last poll, or later. Poll again after it.
    ///
    /// A driver that reads the clock anew for every [`poll`](Self::poll) does not need this. It is for one that polls many
    /// times with the time at which it was woken, and finds only later how much has passed since.
    pub fn handle_busy(&mut self, since: Instant, now: Instant) {
        let busy = Nanos::of(now.saturating_duration_since(since));
        self.clock.postpone(busy);
        self.output.postpone(busy);
        if self.reading == Mode::Handshake {
            self.due = self.due.map(|due| due.plus(busy));
        }
    }

    /// Notes that the connection is lost: nothing can be read or written any more. Only a message that has come whole is
    /// still answered, so that its delivery can end (RFC 5321 section 6.1).
    pub fn handle_lost(&mut self) {
        self.lose(CloseReason::Lost);
    }

    pub(super) fn lose(&mut self, reason: CloseReason) {
        self.output.clear();
        match self.closed {
            Some(_) => {}
            None if self.is_delivering() => self.closed = Some(reason),
            None => self.close(reason),
        }
    }

    /// Whether a message has come whole, and the answer to it is awaited.
    pub(super) fn is_delivering(&self) -> bool {
        let message = self.message.as_ref();
        self.asked == Some(Asked::Message)
            && message.is_some_and(|message| message.error().is_none())
    }

    /// Whether no transaction is open, so that the session may end here.
    pub(super) const fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Start | State::Ready | State::Refused) && self.message.is_none()
    }

    pub(super) fn shut_down_if_draining(&mut self) -> bool {
        let due = self.draining && self.is_between_messages() && self.reading != Mode::Closed;
        if due {
            self.shut_down();
            self.cut = false;
        }
        due
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
            Mode::Closed => return,
            // The client would take a reply in plaintext for a part of the handshake.
            Mode::Handshake => {}
            _ => self.put(&reply),
        }
        self.close(reason);
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        self.reading = Mode::Closed;
        // Of a client that was lost before that, it stays the reason.
        self.closed.get_or_insert(reason);
        self.asked = None;
        self.notified = true;
        self.slot = Slot::Empty;
        self.exchange = None;
        self.end_transaction();
    }
}
