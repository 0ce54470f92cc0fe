//! What is to be done next.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::{Connection, Mode, Slot, event::Event, step::Found};
use crate::sasl::MAX_RESPONSE_LINE;

impl Connection {
    pub(super) fn find(&mut self, now: Instant, input: &mut BytesMut) -> Found {
        self.count(now, input.len());
        loop {
            if let Some(found) = self.look(now, input) {
                return found;
            }
        }
    }

    /// Counts the time that the client has taken, where it has sent something.
    fn count(&mut self, now: Instant, input: usize) {
        self.clock.begin(now, self.config.timeouts.session);
        let waited = self.clock.arrived(now, input);
        self.charge(waited);
        // The pause before a line is not part of the line.
        if self.is_between_lines() {
            self.clock.begin_line();
        }
    }

    /// Notes that the client is not waited for, and counts the time that it was until now.
    pub(super) fn pause(&mut self, now: Instant) {
        let waited = self.clock.pause(now);
        self.charge(waited);
    }

    fn charge(&mut self, waited: Duration) {
        if waited.is_zero() {
            return;
        }
        if let Some(message) = &mut self.message {
            message.count(waited);
        }
        if self.reading != Mode::Message {
            self.clock.count(waited);
        }
    }

    /// Looks for what is to be done next. `None` where something was done, so that it has to be looked for again.
    fn look(&mut self, now: Instant, input: &mut BytesMut) -> Option<Found> {
        if let Some(line) = self.wire.as_mut().and_then(|wire| wire.pop()) {
            return Some(Found::Event(Event::Line(line)));
        }
        // Looked at before it is taken: an event is large, and mostly there is none.
        if matches!(self.slot, Slot::News(_)) {
            self.pause(now);
            return self.take_news().map(Found::Event);
        }
        if self.asked.is_some() {
            self.pause(now);
            return self.await_answer(now);
        }
        match self.reading {
            Mode::Closed => {
                input.clear();
                return self.await_end(now);
            }
            Mode::Handshake => return self.await_handshake(now),
            _ => {}
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
    fn step(&mut self, input: &mut BytesMut) -> bool {
        match self.reading {
            Mode::Commands => self.step_line(input, self.config.line_limit(), Self::command),
            Mode::SaslResponse => self.step_line(input, MAX_RESPONSE_LINE + 2, Self::sasl_response),
            Mode::Message => self.step_message(input),
            Mode::Handshake | Mode::Closed => true,
        }
    }
}
