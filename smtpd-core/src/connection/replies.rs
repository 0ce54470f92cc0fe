//! Replies on their way to the client, and the log of the lines of both sides.

use super::{answered::AnsweredLog, event::Event, fixed, output::Output, redact, wire::WireLog};
use crate::{
    command::Verb,
    config::DriverConfig,
    envelope::Envelope,
    protocol::Protocol,
    reply::{DataReply, Form, Reply},
    sasl::{MechanismName, Mechanisms},
    time::{Moment, Nanos},
};

/// Without enhanced status codes, for the greeting and the reply to HELO (RFC 2034 section 4).
pub(super) const PLAIN: Form = Form {
    status: false,
    utf8: false,
};

/// Writes replies in the form of the session's current state.
#[derive(Debug)]
pub(super) struct Replies {
    output: Output,
    /// What is reported to the driver, if it wants anything.
    reports: Option<Box<Reports>>,
    /// The number of replies that refuse.
    refusals: u32,
    /// Whether the client is lost, or the last reply was written.
    is_over: bool,
    /// Whether the driver was notified once that it is late for a write.
    late: bool,
    /// Whether replies have enhanced status codes. RFC 2034 section 4 requires them from the reply to EHLO on. They are also sent
    /// before it: a client that does not know them sees text.
    status: bool,
    /// Whether each recipient of a message always gets a reply (RFC 2033 section 4.2).
    for_each: bool,
}

/// What is reported to the driver.
#[derive(Debug)]
struct Reports {
    wire: Option<WireLog>,
    answered: Option<AnsweredLog>,
}

impl Reports {
    fn new(config: &DriverConfig) -> Option<Box<Self>> {
        let reports = config.log_wire || config.report_replies;
        reports.then(|| {
            Box::new(Self {
                wire: config.log_wire.then(WireLog::default),
                answered: config.report_replies.then(AnsweredLog::default),
            })
        })
    }

    fn next(&mut self, now: Moment) -> Option<Event> {
        if let Some(line) = self.wire.as_mut().and_then(WireLog::pop) {
            return Some(Event::Line(line));
        }
        let answered = self.answered.as_mut()?.pop(now);
        answered.map(Event::Answered)
    }
}

impl Replies {
    pub(super) fn new(config: &DriverConfig) -> Self {
        Self {
            output: Output::default(),
            reports: Reports::new(config),
            refusals: 0,
            is_over: false,
            late: false,
            status: config.settings.extensions.known().status_codes,
            for_each: config.protocol == Protocol::Lmtp,
        }
    }

    /// Appends a reply.
    pub(super) fn put(&mut self, reply: &Reply, utf8: bool) {
        let status = self.status;
        if !reply.is_positive() {
            self.note_refusal(reply);
        }
        self.put_as(reply, Form { status, utf8 });
    }

    pub(super) fn put_as(&mut self, reply: &Reply, form: Form) {
        self.append(|buffer| reply.encode(form, buffer));
    }

    /// Appends bytes that are already a whole reply.
    pub(super) fn put_raw(&mut self, bytes: &[u8]) {
        self.append(|buffer| buffer.extend_from_slice(bytes));
    }

    /// Appends the reply to a message: one, or one for each of its recipients. Returns whether any of them closes the session.
    pub(super) fn put_data_reply(
        &mut self,
        reply: &DataReply,
        to: Recipients,
        envelope: Option<&Envelope>,
    ) -> bool {
        if self.for_each {
            return self.put_each(reply, to, envelope);
        }
        let is_first = |number| reply.for_recipient(number) == reply.for_recipient(0);
        if !to.each_asked || (1..to.number).all(is_first) {
            self.put(reply.merged(), to.utf8);
            return reply.merged().closes();
        }
        // draft-hall-prdr-00 section 4.5.
        self.put(&fixed::EACH_RECIPIENT, to.utf8);
        let closes = self.put_each(reply, to, envelope);
        let overall = reply.overall();
        self.put(&overall, to.utf8);
        closes || overall.closes()
    }

    fn put_each(&mut self, reply: &DataReply, to: Recipients, envelope: Option<&Envelope>) -> bool {
        let mut closes = false;
        let recipients = envelope.map_or(&[][..], Envelope::recipients);
        for number in 0..to.number {
            let reply = reply.for_recipient(number);
            closes |= reply.closes();
            if !reply.is_positive()
                && let Some(recipient) = recipients.get(number)
            {
                self.about_address(recipient.path().as_str());
            }
            self.put(reply, to.utf8);
        }
        closes
    }

    /// Counts and reports a reply that refuses.
    #[cold]
    fn note_refusal(&mut self, reply: &Reply) {
        if self.is_over {
            return;
        }
        self.refusals = self.refusals.saturating_add(1);
        if let Some(answered) = self.answered() {
            answered.refused(reply);
        }
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.is_over {
            return;
        }
        let buffer = self.output.buffer();
        let start = buffer.len();
        write(buffer);
        if let Some(Reports {
            wire: Some(wire), ..
        }) = self.reports.as_deref_mut()
        {
            wire.sent(&buffer[start..]);
        }
    }

    /// Stops sending anything to the client.
    pub(super) const fn finish(&mut self) {
        self.is_over = true;
    }

    /// Drops what was not written yet: the client is lost.
    pub(super) fn drop_unsent(&mut self) {
        self.output.clear();
    }

    pub(super) fn unsent(&self) -> &[u8] {
        self.output.as_slice()
    }

    pub(super) fn unsent_len(&self) -> usize {
        self.output.unsent()
    }

    pub(super) fn wrote(&mut self, written: usize, least_rate: u32, now: impl FnOnce() -> Moment) {
        self.output.wrote(written, least_rate, now);
    }

    /// Returns until when the client may receive them. Returns `None` if that time is over, except that a late driver is notified
    /// once.
    pub(super) fn deadline(&mut self, limit: Nanos, now: Moment) -> Option<Moment> {
        let (since, is_new) = self.output.waiting_since(now);
        if is_new {
            self.late = false;
        }
        let until = since.plus(limit);
        if until > now {
            return Some(until);
        }
        let late = now.lateness(until, &mut self.late)?;
        self.output.postpone(late);
        Some(until.plus(late))
    }

    /// Moves the start of the client's time later.
    pub(super) fn postpone(&mut self, late: Nanos) {
        self.output.postpone(late);
    }

    /// Measures the time that the client may take anew from now.
    pub(super) const fn restart(&mut self) {
        self.output.restart();
    }

    /// Returns how many replies have refused.
    pub(super) const fn refusals(&self) -> u32 {
        self.refusals
    }

    /// Returns the next report: a line of either side, or a reply that refuses.
    #[inline]
    pub(super) fn next_report(&mut self, now: Moment) -> Option<Event> {
        self.reports.as_mut()?.next(now)
    }

    /// Logs a placeholder for something that the client sent.
    pub(super) fn log_received(&mut self, text: &str) {
        if let Some(wire) = self.wire() {
            wire.received(text.to_owned());
        }
    }

    /// Notes a command, and logs it without what may be a password.
    #[inline]
    pub(super) fn begin_command(
        &mut self,
        line: &[u8],
        verb: Option<Verb>,
        mechanisms: &Mechanisms,
    ) {
        let Some(reports) = &mut self.reports else {
            return;
        };
        if let Some(wire) = &mut reports.wire {
            wire.received(redact::command_line(line, mechanisms));
        }
        if let Some(answered) = &mut reports.answered {
            answered.begin(verb);
        }
    }

    /// Notes that the command was answered, or a question is asked about it.
    #[inline]
    pub(super) fn end_command(&mut self, line: &[u8], mechanisms: &Mechanisms) {
        if let Some(answered) = self.answered() {
            answered.complete(line, mechanisms);
        }
    }

    /// Notes that the reply to the command is held back.
    pub(super) fn hold(&mut self) {
        if let Some(answered) = self.answered() {
            answered.hold();
        }
    }

    /// Notes that what follows answers no command.
    pub(super) fn begin_nothing(&mut self) {
        if let Some(answered) = self.answered() {
            answered.begin_nothing();
        }
    }

    /// Notes that the session greets another client.
    pub(super) fn begin_greeting(&mut self) {
        if let Some(answered) = self.answered() {
            answered.begin_greeting();
        }
    }

    /// Notes that the rest of what is being answered has arrived.
    pub(super) fn arrived(&mut self) {
        if let Some(answered) = self.answered() {
            answered.arrived();
        }
    }

    /// Notes the address that the next replies are about.
    pub(super) fn about_address(&mut self, address: &str) {
        if let Some(answered) = self.answered() {
            answered.about_address(address);
        }
    }

    /// Notes the argument of the command that is being answered.
    pub(super) fn about(&mut self, argument: &str) {
        if let Some(answered) = self.answered() {
            answered.about(argument);
        }
    }

    /// Notes an exchange of AUTH.
    pub(super) fn authenticates(&mut self, mechanism: MechanismName, user: Option<&str>) {
        if let Some(answered) = self.answered() {
            answered.authenticates(mechanism, user);
        }
    }

    pub(super) fn log_message(&mut self, received: u64) {
        if self.wire().is_some() {
            self.log_received(&format!("[message of {received} bytes]"));
        }
    }

    #[inline]
    fn answered(&mut self) -> Option<&mut AnsweredLog> {
        self.reports.as_mut()?.answered.as_mut()
    }

    fn wire(&mut self) -> Option<&mut WireLog> {
        self.reports.as_mut()?.wire.as_mut()
    }
}

/// The recipients of the reply to a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipients {
    pub(super) number: usize,
    /// Whether the client requested a reply for each.
    pub(super) each_asked: bool,
    pub(super) utf8: bool,
}
