//! What a session waits for, and until when.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    Connection,
    event::{CloseReason, Event, Overdue},
    fixed,
    question::Asked,
    session::{Mode, drop_all},
    state::State,
    step::Found,
    waiting::{Need, Wait},
};
use crate::{
    config::Times,
    reply::{Origin, Reply},
    time::{Moment, Nanos},
};

impl Connection {
    /// No command is processed while this many bytes of replies wait to be written.
    const MAX_UNSENT: usize = 16 << 10;

    /// Runs until there is something to return or to wait for.
    pub(super) fn find(&mut self, now: Instant, input: &mut BytesMut) -> Found {
        let now = self.count(now, input.len());
        if self.session.reading.is_line() {
            // The pause before a line is not part of the line.
            if !self.session.line.is_within() {
                self.clock.begin_line();
            }
        } else if matches!(self.session.reading, Mode::Delay | Mode::Greeting) && !input.is_empty()
        {
            self.talked_early = true;
            self.session.heard_early(input);
        }
        loop {
            if let Some(report) = self.session.replies.next_report(now) {
                return Found::Event(report);
            }
            if !self.session.question.is_notified() {
                self.pause(now);
                self.clock.forget_due();
                if let Some(event) = self.session.question.hand_out() {
                    return Found::Event(event);
                }
            }
            if let Some(wait) = self.look(now, input) {
                return Found::Wait(wait);
            }
        }
    }

    /// Charges the client's time, if it has sent something. Returns the current time.
    fn count(&mut self, now: Instant, input: usize) -> Moment {
        let now = self.clock.moment(now);
        let waited = self.clock.arrived(now, input);
        self.charge(waited);
        now
    }

    /// Notes that the session does not wait for the client, and charges its time until now.
    fn pause(&mut self, now: Moment) {
        let waited = self.clock.pause(now);
        self.charge(waited);
    }

    fn charge(&mut self, waited: Nanos) {
        if waited == Nanos::ZERO {
            return;
        }
        self.session.charge(waited);
        if self.session.reading != Mode::Message {
            self.clock.count(waited);
        }
    }

    /// Looks once for what to do next. Returns `None` if something was done, so that `find` has to look again.
    // Without inlining, each command costs one percent more.
    #[inline(always)]
    fn look(&mut self, now: Moment, input: &mut BytesMut) -> Option<Wait> {
        if self.session.question.asked().is_some() {
            self.pause(now);
            return self.await_answer(now);
        }
        if self.session.tally.is_holding() {
            self.pause(now);
            return self.await_release(now);
        }
        if !self.session.reading.is_line() && self.session.reading != Mode::Message {
            return self.look_aside(now, input);
        }
        if self.session.replies.unsent_len() >= Self::MAX_UNSENT {
            self.pause(now);
            return self.await_write(now);
        }
        if self.draining && self.session.is_between_messages() {
            self.say_shutdown();
            self.session.replies.restart();
            return None;
        }
        if self.is_over_time(now) {
            self.time_out();
            return None;
        }
        if self.session.has_received_too_much() {
            return None;
        }
        if self.session.step_counted(input) {
            self.clock.begin_line();
            return None;
        }
        self.await_input(now, input.len())
    }

    /// Looks what to do while nothing is read.
    #[cold]
    fn look_aside(&mut self, now: Moment, input: &mut BytesMut) -> Option<Wait> {
        match self.session.reading {
            Mode::Closed => {
                drop_all(input);
                self.await_end(now)
            }
            Mode::Handshake => self.await_handshake(now),
            Mode::Delay => self.await_silence(now, input.is_empty()),
            Mode::Greeting => {
                self.session.put_banner();
                None
            }
            Mode::Commands | Mode::SaslResponse | Mode::Message => None,
        }
    }

    /// Waits for the client. Returns `None` if its time is over.
    fn await_input(&mut self, now: Moment, input: usize) -> Option<Wait> {
        if !self.session.replies.unsent().is_empty() {
            // Not before it has received the replies.
            self.pause(now);
            return self.await_write(now);
        }
        if self.eof {
            self.session.close(CloseReason::Lost);
            return None;
        }
        self.clock.wait(now, input);
        let until = self.read_deadline(now);
        let until = self.clock.read_deadline(until, now);
        match self.cut_after_refusal(until, now) {
            Some(until) => Some(Wait::Until(Need::Read, until)),
            None => {
                self.time_out();
                None
            }
        }
    }

    /// After a greeting of 5yz, returns the deadline or the time at which the client is given up, whichever is earlier. No
    /// question is asked any more, so the clock counts that time.
    fn cut_after_refusal(&mut self, until: Option<Moment>, now: Moment) -> Option<Moment> {
        if self.session.state != State::Refused {
            return until;
        }
        let times = self.times();
        let limit = match self.session.closed {
            None => times.after_refusal,
            Some(_) => times.linger,
        };
        let due = self.clock.due_in(limit, now)?;
        until.map(|until| until.min(due))
    }

    fn times(&self) -> &Times {
        &self.session.config.prepared.times
    }

    fn read_deadline(&self, now: Moment) -> Moment {
        let limits = self.times();
        let session = &self.session;
        let for_message = match session.transfer.waited() {
            Some(waited) => self.transfer_limit().less(waited),
            None => Nanos::MAX,
        };
        let since = self.clock.waiting_since(now);
        if session.reading == Mode::Message {
            return since.plus(limits.data.min(for_message));
        }
        let mut left = limits.command.min(for_message);
        if session.line.is_within() {
            left = left.min(self.clock.left_of_line(limits.line));
        }
        let idle = session.idle;
        if limits.without_message.less(idle) < left {
            left = left.min(self.extended(limits.without_message).less(idle));
        }
        if session.must_authenticate() {
            left = left.min(limits.without_login.less(idle));
        }
        let until = since.plus(left);
        match self.session_limit() {
            end if end <= until => until.min(self.session_end(end)),
            _ => until,
        }
    }

    /// Returns whether the session's time is over, whatever the client still sends.
    fn is_over_time(&self, now: Moment) -> bool {
        let end = self.session_limit();
        end <= now
            && matches!(self.session.reading, Mode::Commands | Mode::SaslResponse)
            && self.session_end(end) <= now
    }

    fn session_limit(&self) -> Moment {
        Moment::START.plus(self.times().session)
    }

    /// Returns when the session must end, which is later than its limit within a transaction.
    fn session_end(&self, limit: Moment) -> Moment {
        limit.plus(self.extended(Nanos::ZERO))
    }

    /// Returns a limit on time that leads to no message. Within a transaction, it is extended by the time that a message may
    /// take: without any limit, useless commands would keep a transaction open forever.
    fn extended(&self, limit: Nanos) -> Nanos {
        if self.session.is_between_messages() {
            limit
        } else {
            limit.plus(self.transfer_limit())
        }
    }

    fn transfer_limit(&self) -> Nanos {
        let limits = self.times();
        let received = self.session.transfer.received();
        limits
            .transfer
            .plus(Nanos::earned(received, limits.min_rate))
    }

    fn time_out(&mut self) {
        // The reply has its own time.
        self.clock.forget_due();
        self.session.interrupt();
        let reply = fixed::TIMED_OUT.with_origin(Origin::Timeout);
        self.session.close_signed(&reply, CloseReason::Timeout);
    }

    /// Waits for the client to receive replies. Returns `None` if its time is over.
    fn await_write(&mut self, now: Moment) -> Option<Wait> {
        let limits = self.times();
        let limit = if self.cut {
            limits.linger
        } else {
            limits.write
        };
        let until = self.session.replies.deadline(limit, now);
        let until = self.cut_after_refusal(until, now);
        if until.is_none() {
            self.session.lose(CloseReason::Timeout);
        }
        until.map(|until| Wait::Until(Need::Write, until))
    }

    /// Waits for the remaining output to be written, then for nothing.
    fn await_end(&mut self, now: Moment) -> Option<Wait> {
        if self.session.replies.unsent().is_empty() {
            return self.session.closed.map(Wait::Closed);
        }
        self.await_write(now)
    }

    /// Waits before the client is greeted. Returns `None` when that is over: nothing more can be learnt from a client that has
    /// sent something.
    fn await_silence(&mut self, now: Moment, is_silent: bool) -> Option<Wait> {
        if self.draining {
            self.say_shutdown();
            self.session.replies.restart();
            return None;
        }
        if is_silent && self.eof {
            self.session.close(CloseReason::Lost);
            return None;
        }
        let delay = self.session.config.prepared.greeting_delay;
        let until = self.clock.due_in(delay, now).filter(|_| is_silent);
        if until.is_none() {
            self.session.ask_connect();
        }
        until.map(|until| Wait::Until(Need::Read, until))
    }

    fn await_handshake(&mut self, now: Moment) -> Option<Wait> {
        if self.draining {
            self.session.close(CloseReason::Shutdown);
            return None;
        }
        if !self.session.replies.unsent().is_empty() {
            return self.await_write(now);
        }
        if self.eof {
            self.session.close(CloseReason::Lost);
            return None;
        }
        let limit = self.times().handshake;
        let until = self.clock.due_in(limit, now);
        if until.is_none() {
            self.session.close(CloseReason::TlsFailed);
        }
        until.map(|until| Wait::Until(Need::Handshake, until))
    }

    /// Waits for the answer to a question. Returns `None` if its time is over.
    fn await_answer(&mut self, now: Moment) -> Option<Wait> {
        let limit = self.answer_limit();
        let Some(due) = self.clock.due_in(limit, now) else {
            self.overdue();
            return None;
        };
        self.await_until(due, now)
    }

    /// Waits until the reply that is held back may be sent, which a shutdown does not wait for.
    fn await_release(&mut self, now: Moment) -> Option<Wait> {
        let until = self.session.tally.held_until(now)?;
        if until <= now || self.draining {
            self.session.release();
            return None;
        }
        self.await_until(until, now)
    }

    /// Waits for that time, or for the replies that were put before to be written.
    fn await_until(&mut self, due: Moment, now: Moment) -> Option<Wait> {
        if self.session.replies.unsent().is_empty() {
            return Some(Wait::Until(Need::Answer, due));
        }
        match self.await_write(now)? {
            Wait::Until(Need::Write, until) => Some(Wait::Until(Need::Write, until.min(due))),
            other => Some(other),
        }
    }

    /// Returns when an answer that has so much time from now is due.
    pub(super) fn due_for(&self, limit: Nanos) -> Instant {
        self.clock.instant_in(limit)
    }

    /// Returns when an answer is due that is awaited once the message is put on hold.
    pub(super) fn hold_until(&self) -> Instant {
        self.due_for(self.times().delivery)
    }

    pub(super) fn answer_limit(&self) -> Nanos {
        let limits = self.times();
        match self.session.question.asked() {
            _ if self.session.question.is_queued() => limits.ready,
            Some(Asked::Data) => limits.data_start,
            Some(Asked::Room | Asked::Chunk | Asked::Message) => limits.delivery,
            _ => limits.call,
        }
    }

    fn overdue(&mut self) {
        let question = &self.session.question;
        let (overdue, reply) = match question.asked() {
            _ if question.is_queued() => (Overdue::NotReady, Reply::busy()),
            // RFC 4954 section 6: so that clients know that the password is not wrong.
            Some(Asked::Auth) => (Overdue::Unanswered, Reply::auth_unavailable()),
            _ => (Overdue::Unanswered, Reply::timed_out()),
        };
        let reply = reply.with_origin(Origin::Timeout);
        self.session.give_up_question(reply);
        self.session.question.notify(Event::Overdue(overdue));
    }
}
