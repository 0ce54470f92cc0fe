//! How long a session waits, for whatever it waits for.

use super::{
    Asked, CloseReason, Connection, Mode, Overdue,
    event::Event,
    message::Message,
    step::{Found, Need},
};
use crate::{
    reply::{Code, Reply, Status},
    time::{Moment, Nanos},
};

impl Connection {
    /// The client is awaited. `None` where it has been too long.
    pub(super) fn starved(&mut self, now: Moment, input: usize) -> Option<Found> {
        if !self.output.as_slice().is_empty() {
            // Not before it has the replies.
            self.pause(now);
            return self.await_write(now);
        }
        if self.eof {
            self.close(CloseReason::Lost);
            return None;
        }
        if self.clock.wait(now, input) {
            self.late = false;
        }
        let until = self.read_deadline(now);
        if until > now {
            return Some(Found::Wait(Need::Read, until));
        }
        match lateness(&mut self.late, until, now) {
            Some(late) => self.clock.postpone(late),
            None => self.time_out(),
        }
        None
    }

    fn read_deadline(&self, now: Moment) -> Moment {
        let limits = &self.config.times;
        let for_message = self.message.as_deref().map_or(Nanos::MAX, |message| {
            self.transfer_limit().less(message.waited())
        });
        let since = self.clock.waiting_since(now);
        if self.reading == Mode::Message {
            return since.plus(limits.data.min(for_message));
        }
        let mut left = limits.command.min(for_message);
        if self.line.is_within() {
            left = left.min(self.clock.left_of_line(limits.line));
        }
        let idle = self.clock.idle();
        if limits.without_message.less(idle) < left {
            left = left.min(self.extended(limits.without_message).less(idle));
        }
        if self.must_authenticate() {
            left = left.min(limits.without_login.less(idle));
        }
        let until = since.plus(left);
        match self.session_limit() {
            end if end <= until => until.min(self.session_end(end)),
            _ => until,
        }
    }

    /// Whether the session has lasted too long, whatever the client still sends.
    pub(super) fn is_over_time(&self, now: Moment) -> bool {
        let end = self.session_limit();
        end <= now
            && matches!(self.reading, Mode::Commands | Mode::SaslResponse)
            && self.session_end(end) <= now
    }

    fn session_limit(&self) -> Moment {
        Moment::START.plus(self.config.times.session)
    }

    /// When the session has to end, which is later than its limit within a transaction.
    fn session_end(&self, limit: Moment) -> Moment {
        limit.plus(self.extended(Nanos::ZERO))
    }

    /// A limit on what leads to no message. Within a transaction it is longer by what a message may take: without any,
    /// commands that lead nowhere would keep it open without end.
    fn extended(&self, limit: Nanos) -> Nanos {
        if self.is_between_messages() {
            limit
        } else {
            limit.plus(self.transfer_limit())
        }
    }

    fn transfer_limit(&self) -> Nanos {
        let limits = &self.config.times;
        let received = self.message.as_deref().map_or(0, Message::received);
        limits
            .transfer
            .plus(Nanos::earned(received, limits.min_rate))
    }

    pub(super) fn time_out(&mut self) {
        let text = format!(
            "{} {} timed out, closing the connection",
            self.config.hostname, self.config.app_name
        );
        self.close_with(
            Reply::new(Code::SERVICE_UNAVAILABLE, Status::BAD_CONNECTION, text),
            CloseReason::Timeout,
        );
    }

    /// The client has to take replies. `None` where it has taken too long over them.
    pub(super) fn await_write(&mut self, now: Moment) -> Option<Found> {
        let limits = &self.config.times;
        let limit = if self.cut {
            limits.linger
        } else {
            limits.write
        };
        let (since, is_new) = self.output.waiting_since(now);
        if is_new {
            self.late_to_write = false;
        }
        let until = since.plus(limit);
        if until > now {
            return Some(Found::Wait(Need::Write, until));
        }
        match lateness(&mut self.late_to_write, until, now) {
            Some(late) => self.output.postpone(late),
            None => self.lose(CloseReason::Timeout),
        }
        None
    }

    /// What is left to be written is awaited, then nothing.
    pub(super) fn await_end(&mut self, now: Moment) -> Option<Found> {
        if self.output.as_slice().is_empty() {
            return self.closed.map(Found::Closed);
        }
        self.await_write(now)
    }

    pub(super) fn await_handshake(&mut self, now: Moment) -> Option<Found> {
        if self.draining {
            self.close(CloseReason::Shutdown);
            return None;
        }
        if !self.output.as_slice().is_empty() {
            return self.await_write(now);
        }
        if self.eof {
            self.close(CloseReason::Lost);
            return None;
        }
        match self.due_in(self.config.times.handshake, now) {
            Some(until) => Some(Found::Wait(Need::Handshake, until)),
            None => {
                self.close(CloseReason::TlsFailed);
                None
            }
        }
    }

    /// The answer to a question is awaited. `None` where it did not come in time.
    pub(super) fn await_answer(&mut self, now: Moment) -> Option<Found> {
        let Some(due) = self.due_in(self.answer_limit(), now) else {
            self.overdue();
            return None;
        };
        if self.output.as_slice().is_empty() {
            return Some(Found::Wait(Need::Answer, due));
        }
        match self.await_write(now)? {
            Found::Wait(Need::Write, until) => Some(Found::Wait(Need::Write, until.min(due))),
            other => Some(other),
        }
    }

    /// When a handshake or an answer is due. `None` if that has passed.
    fn due_in(&mut self, limit: Nanos, now: Moment) -> Option<Moment> {
        let Some(due) = self.due else {
            self.late = false;
            self.due = Some(now.plus(limit));
            return self.due.filter(|due| *due > now);
        };
        if due <= now {
            let late = lateness(&mut self.late, due, now)?;
            self.due = Some(due.plus(late));
        }
        self.due
    }

    fn answer_limit(&self) -> Nanos {
        let limits = &self.config.times;
        match self.asked {
            _ if self.queued => limits.ready,
            Some(Asked::Data) => limits.data_start,
            Some(Asked::Room | Asked::Chunk | Asked::Message) => limits.delivery,
            _ => limits.call,
        }
    }

    fn overdue(&mut self) {
        let (overdue, reply) = match self.asked {
            _ if self.queued => (Overdue::NotReady, Reply::busy()),
            // RFC 4954 section 6: so clients know that nothing is wrong with the password.
            Some(Asked::Auth) => (Overdue::Unanswered, Reply::auth_unavailable()),
            _ => (Overdue::Unanswered, Reply::timed_out()),
        };
        self.give_up_question(reply);
        self.tell(Event::Overdue(overdue));
    }
}

/// How late a poll may be and still count as on time.
const PUNCTUAL: Nanos = Nanos::from_millis(10);

/// How much to postpone a missed deadline, once per wait. A driver that is late was too busy to look at its socket, where what it
/// waits for may have arrived in time. It is given a moment to find it.
fn lateness(was_late: &mut bool, until: Moment, now: Moment) -> Option<Nanos> {
    let late = now.since(until);
    (late > PUNCTUAL && !std::mem::replace(was_late, true)).then(|| late.plus(PUNCTUAL))
}
