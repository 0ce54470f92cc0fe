//! What is to be done next.

use std::time::Instant;

use bytes::BytesMut;

use super::{Connection, Mode, event::Event, line::drop_all, step::Found};
use crate::{
    sasl::MAX_RESPONSE_LINE,
    time::{Moment, Nanos},
};

impl Connection {
    /// Counts the time that the client has taken, if it has sent something. Returns the present time.
    fn count(&mut self, now: Instant, input: usize) -> Moment {
        let now = self.clock.moment(now);
        let waited = self.clock.arrived(now, input);
        self.charge(waited);
        // The pause before a line is not part of the line.
        if self.is_between_lines() {
            self.clock.begin_line();
        }
        now
    }

    /// Notes that the client is not waited for, and counts the time that it was until now.
    pub(super) fn pause(&mut self, now: Moment) {
        let waited = self.clock.pause(now);
        self.charge(waited);
    }

    fn charge(&mut self, waited: Nanos) {
        if waited == Nanos::ZERO {
            return;
        }
        if let Some(message) = &mut self.message {
            message.count(waited);
        }
        if self.reading != Mode::Message {
            self.clock.count(waited);
        }
    }

    /// Goes on until there is something to be handed out or waited for.
    pub(super) fn find(&mut self, now: Instant, input: &mut BytesMut) -> Found {
        let now = self.count(now, input.len());
        loop {
            if let Some(line) = self.wire.as_mut().and_then(|wire| wire.pop()) {
                return Found::Event(Event::Line(line));
            }
            if !self.notified {
                self.pause(now);
                if let Some(event) = self.hand_out() {
                    return Found::Event(event);
                }
            }
            if let Some(found) = self.look(now, input) {
                return found;
            }
        }
    }

    /// Looks once for what is to be done next. `None` if something was done, so that `find` has to look again.
    fn look(&mut self, now: Moment, input: &mut BytesMut) -> Option<Found> {
        if self.asked.is_some() {
            self.pause(now);
            return self.await_answer(now);
        }
        match self.reading {
            Mode::Closed => {
                drop_all(input);
                return self.await_end(now);
            }
            Mode::Handshake => return self.await_handshake(now),
            Mode::Commands | Mode::SaslResponse | Mode::Message => {}
        }
        if self.output.unsent() >= Self::MAX_UNSENT {
            self.pause(now);
            return self.await_write(now);
        }
        if self.shut_down_if_draining() {
            return None;
        }
        if self.is_over_time(now) {
            self.time_out();
            return None;
        }
        if self.step(input) {
            return None;
        }
        self.starved(now, input.len())
    }

    /// Takes something from the input. Returns whether there was enough of it.
    #[inline]
    fn step(&mut self, input: &mut BytesMut) -> bool {
        match self.reading {
            Mode::Message => self.step_message(input),
            // A line ends with something; a message may end with nothing, as a chunk of no bytes does.
            _ if input.is_empty() => false,
            Mode::Commands if self.begins_another_protocol(input) => {
                self.log_received("[another protocol]");
                self.close_foreign();
                true
            }
            Mode::Commands => self.step_line(input, self.config.line_limit(), Self::command),
            Mode::SaslResponse => self.step_line(input, MAX_RESPONSE_LINE + 2, Self::sasl_response),
            Mode::Handshake | Mode::Closed => true,
        }
    }
}
