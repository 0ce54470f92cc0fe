//! The state of a session, without its time.

use std::sync::Arc;

use bytes::{Buf, BytesMut};

use super::{
    authentication::Authentication,
    claims::Claims,
    event::{CloseReason, Event},
    fixed,
    offer::Offer,
    question::{Asked, Question},
    replies::Replies,
    state::State,
    tally::{Tally, When},
    transaction::Transaction,
    transfer::Transfer,
    waiting::TlsFacts,
};
use crate::{
    command::is_foreign_start,
    config::DriverConfig,
    framing::{Line, LineReader, is_auth, wipe_front},
    helo::{Greeting, Helo},
    reply::Reply,
    sasl::{Identity, MAX_RESPONSE_LINE, SaslError},
    time::Nanos,
};

/// The sequence of a session: which command is allowed, how the next bytes are read, which question is open. Related state is
/// kept by a struct of its own, whose outcomes say what to send and do.
///
/// What the client claimed and proved is in `helo` and `authentication`. A session that starts anew forgets both as a whole, so
/// that nothing can be mistaken for a fact about another client. The [guide](crate::guide::driver) has a table of what each
/// command keeps, and `tests/it/survival.rs` tests it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) config: Arc<DriverConfig>,
    pub(super) state: State,
    pub(super) reading: Mode,
    pub(super) tls: bool,
    pub(super) closed: Option<CloseReason>,
    /// Client errors.
    pub(super) errors: u32,
    /// What was refused, and a reply that is held back.
    pub(super) tally: Tally,
    /// Commands since the last accepted message that may have led to none, or since a greeting of 5yz.
    pub(super) idle_commands: u32,
    /// Accepted messages.
    pub(super) messages: u32,
    /// Bytes that were processed, without those of TLS, if they are limited.
    pub(super) received: u64,
    /// The total time of all waits for commands since the last accepted message.
    pub(super) idle: Nanos,
    pub(super) line: LineReader,
    pub(super) helo: Option<Box<Helo>>,
    pub(super) question: Question,
    pub(super) replies: Replies,
    pub(super) authentication: Authentication,
    pub(super) transaction: Transaction,
    /// The message that is being received.
    pub(super) transfer: Transfer,
    /// What a trusted peer claims about its client.
    pub(super) claims: Claims,
}

/// How the next bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    // What is read most comes first: each command is compared with these.
    Commands,
    SaslResponse,
    Message,
    /// The client is watched before the caller is asked about it.
    Delay,
    /// The client is greeted once the caller has accepted it.
    Greeting,
    /// A TLS handshake, which the caller performs.
    Handshake,
    /// Nothing is read any more, and further input is dropped.
    Closed,
}

impl Mode {
    /// Returns whether lines are read.
    pub(super) const fn is_line(self) -> bool {
        matches!(self, Self::Commands | Self::SaslResponse)
    }
}

/// Why a command is refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// It was wrong, and counts as an error.
    Fault(Reply),
    /// It was not wrong.
    Answered(Reply),
    /// It was not wrong, but it is a recipient, and those are counted.
    Recipient(Reply),
    /// It was not wrong, but it is an attempt to authenticate, and those are counted.
    Login(Reply),
    /// It exceeds a limit of the session, which ends.
    OverLimit(Reply),
    /// The session ends.
    Closed(Reply, CloseReason),
}

impl Refused {
    /// The caller's reply closes the session.
    pub(super) const fn because_it_closes(reply: Reply) -> Self {
        Self::Closed(reply, CloseReason::Refused)
    }
}

impl Session {
    pub(super) fn new(config: Arc<DriverConfig>) -> Self {
        Self {
            replies: Replies::new(&config),
            config,
            state: State::Start,
            reading: Mode::Commands,
            tls: false,
            closed: None,
            errors: 0,
            tally: Tally::default(),
            idle_commands: 0,
            messages: 0,
            received: 0,
            idle: Nanos::ZERO,
            line: LineReader::default(),
            helo: None,
            question: Question::new(),
            authentication: Authentication::default(),
            transaction: Transaction::default(),
            transfer: Transfer::default(),
            claims: Claims::default(),
        }
    }

    /// Processes one unit of input, and counts its bytes. Returns whether there was enough input.
    #[inline]
    pub(super) fn step_counted(&mut self, input: &mut BytesMut) -> bool {
        let before = input.len();
        let is_enough = self.step(input);
        self.received += (before - input.len()) as u64;
        is_enough
    }

    // Called in one place only: each command would cost three percent more if it were in two, and not inlined.
    #[inline(always)]
    fn step(&mut self, input: &mut BytesMut) -> bool {
        match self.reading {
            Mode::Message => self.take_message(input),
            // A line always has bytes; a message may end without any, like a chunk of no bytes.
            _ if input.is_empty() => false,
            Mode::Commands if self.begins_another_protocol(input) => {
                self.replies.log_received("[another protocol]");
                self.close_foreign();
                true
            }
            Mode::Commands => {
                let limit = self.config.prepared.line_limit;
                self.take_line(input, limit, |session, line, more| {
                    session.command(line, more);
                    let mechanisms = &session.config.settings.mechanisms;
                    session.replies.end_command(line, mechanisms);
                })
            }
            Mode::SaslResponse => {
                self.take_line(input, MAX_RESPONSE_LINE + 2, |session, line, _| {
                    session.sasl_response(line);
                })
            }
            Mode::Delay | Mode::Greeting | Mode::Handshake | Mode::Closed => true,
        }
    }

    /// Ends the session if it has received more bytes than it may. Returns whether it has.
    #[inline]
    pub(super) fn has_received_too_much(&mut self) -> bool {
        let is_over = self.received > self.config.prepared.session_bytes;
        if is_over {
            self.close_over_limit(&fixed::TOO_MANY_BYTES);
        }
        is_over
    }

    /// Begins the session of a client that has connected, or completed its first TLS handshake.
    pub(super) fn begin(&mut self) {
        match self.config.prepared.greeting_delay {
            Nanos::ZERO => self.ask_connect(),
            _ => self.read(Mode::Delay),
        }
    }

    /// Asks about the client.
    pub(super) fn ask_connect(&mut self) {
        self.read(Mode::Greeting);
        self.question.ask(Asked::Connect, Event::Connect);
    }

    /// Notes that the client has sent something before it was greeted, for which it must wait (RFC 5321 section 4.3.1).
    #[cold]
    pub(super) fn heard_early(&mut self, input: &[u8]) {
        if self.begins_another_protocol(input) {
            self.replies.log_received("[another protocol]");
            self.close_foreign();
        } else if self.config.settings.refuse_early_talkers {
            self.close_with(fixed::TOO_EARLY, CloseReason::Violation);
        }
    }

    /// Processes a line. Returns whether there was one. Lines that may contain a password or a token are overwritten in the
    /// input: a SASL response, AUTH, and whatever was refused or is unknown, because it may be a response at the wrong moment.
    #[inline]
    fn take_line(
        &mut self,
        input: &mut BytesMut,
        limit: usize,
        handle: impl FnOnce(&mut Self, &[u8], bool),
    ) -> bool {
        // An initial response counts as part of the exchange, not of the command (RFC 4954 section 4).
        let is_auth = is_auth(input);
        let limit = if is_auth {
            limit.max(MAX_RESPONSE_LINE + 32)
        } else {
            limit
        };
        let is_secret = is_auth || self.reading == Mode::SaslResponse;
        let errors = self.errors;
        match self.line.poll(input, limit) {
            None => return false,
            Some(Line::TooLong { is_auth }) => self.line_too_long(is_auth),
            Some(Line::Complete(len)) => {
                let more = input.len() > len + 2;
                handle(self, &input[..len], more);
                // An unknown command is not refused yet if its service is asked.
                let is_unknown = self.question.asked() == Some(Asked::Command);
                if is_secret || is_unknown || self.errors != errors {
                    wipe_front(input, len + 2);
                } else {
                    input.advance(len + 2);
                }
            }
        }
        true
    }

    fn line_too_long(&mut self, is_auth: bool) {
        self.replies.log_received("[line too long]");
        if self.reading == Mode::SaslResponse {
            self.break_authentication_off(SaslError::TooLong)
        } else if is_auth && !self.config.settings.mechanisms.is_empty() {
            self.fault(SaslError::TooLong.reply())
        } else {
            self.fault(fixed::LINE_TOO_LONG)
        }
    }

    /// Returns whether the client begins with a protocol that has no lines: both it and this session would wait until the
    /// timeout. Only the first byte of a session is checked, so that commands cost no more.
    fn begins_another_protocol(&self, input: &[u8]) -> bool {
        self.line.is_new() && input.first().is_some_and(|&byte| is_foreign_start(byte))
    }

    pub(super) fn close_foreign(&mut self) {
        self.close_with(fixed::FOREIGN, CloseReason::Violation)
    }

    /// Returns whether a complete message awaits its answer.
    pub(super) fn is_delivering(&self) -> bool {
        self.question.asked() == Some(Asked::Message)
            && self.transfer.is_under_way()
            && self.transfer.error().is_none()
    }

    /// Returns whether no transaction is open, so that the session may end here.
    pub(super) const fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Start | State::Ready | State::Refused)
            && !self.transfer.is_under_way()
    }

    pub(super) fn must_authenticate(&self) -> bool {
        self.config.settings.is_auth_required()
            && !self.config.settings.mechanisms.is_empty()
            && !self.authentication.is_done()
    }

    pub(super) const fn identity(&self) -> Option<&Identity> {
        self.authentication.identity()
    }

    pub(super) fn greeting(&self) -> Option<Greeting> {
        self.helo.as_ref().map(|helo| helo.greeting())
    }

    pub(super) fn offer(&self) -> Offer<'_> {
        Offer::new(&self.config, self.tls, self.authentication.is_done())
    }

    /// Charges time to the client.
    pub(super) fn charge(&mut self, waited: Nanos) {
        self.transfer.charge(waited);
        if self.reading != Mode::Message {
            self.idle = self.idle.plus(waited);
        }
    }

    /// Appends a reply in the form of the session's current state.
    #[inline]
    pub(super) fn put(&mut self, reply: &Reply) {
        self.replies.put(reply, self.transaction.is_utf8());
    }

    /// Sends the reply to a wrong command, and ends the session if the limit is reached.
    pub(super) fn fault(&mut self, reply: Reply) {
        self.errors += 1;
        let when = When::of_error(self.errors, &self.config.settings.limits);
        if self.is_turned_away() {
            return self.close_over_limit(&fixed::TOO_MANY_ERRORS);
        }
        let when = match when {
            // There are few of these, and little time for them.
            When::After(_) if self.state == State::Refused => When::Now,
            when => when,
        };
        self.put_when(when, reply, &fixed::TOO_MANY_ERRORS);
    }

    /// Sends the reply to a recipient that is refused, and ends the session if the limit is reached.
    pub(super) fn refuse_recipient(&mut self, reply: Reply) {
        let limits = &self.config.settings.limits;
        let tally = &mut self.tally;
        let (when, too_many) = match reply.blames_client() {
            true => (tally.rejected_recipient(limits), fixed::TOO_MANY_REJECTED),
            false => (tally.deferred_recipient(limits), fixed::TOO_MANY_DEFERRED),
        };
        self.put_when(when, reply, &too_many);
    }

    /// Sends a refusal at once or later, or ends the session with `too_many` instead.
    fn put_when(&mut self, when: When, reply: Reply, too_many: &Reply) {
        match when {
            When::Now => self.put(&reply),
            When::After(delay) => {
                self.tally.hold(reply, delay);
                self.replies.hold();
            }
            When::Never => self.close_over_limit(too_many),
        }
    }

    /// Sends the reply that was held back, if any.
    pub(super) fn release(&mut self) {
        if let Some(reply) = self.tally.release() {
            self.put(&reply);
        }
    }

    /// Sends the reply to a refused command.
    pub(super) fn refuse(&mut self, refused: Refused) {
        match refused {
            Refused::Fault(reply) => self.fault(reply),
            Refused::Answered(reply) => self.put(&reply),
            Refused::Recipient(reply) => self.refuse_recipient(reply),
            Refused::Login(reply) => {
                let when = self.tally.deferred_login(&self.config.settings.limits);
                let too_many = fixed::TOO_MANY_LOGINS.or_origin_of(reply.origin());
                self.put_when(when, reply, &too_many);
            }
            Refused::OverLimit(reply) => self.close_over_limit(&reply),
            Refused::Closed(reply, reason) => self.close_with(reply, reason),
        }
    }

    /// Notes that the session ends by itself, which answers no command unless one is being answered.
    pub(super) fn interrupt(&mut self) {
        let is_answering = self.question.asked().is_some() || self.tally.is_holding();
        if !is_answering && self.reading == Mode::Commands {
            self.replies.begin_nothing();
        }
    }

    /// Ends the session because it has reached a limit. RFC 5321 section 4.2.3: the reply names the host.
    pub(super) fn close_over_limit(&mut self, reply: &Reply) {
        self.close_signed(reply, CloseReason::Limit);
    }

    /// Ends the session with a reply whose text follows the names of the host and the program.
    pub(super) fn close_signed(&mut self, reply: &Reply, reason: CloseReason) {
        let text = self.config.settings.signed(reply.text());
        self.close_with(reply.clone().with_text(text), reason);
    }

    /// Ends the open transaction, if any.
    pub(super) fn end_transaction(&mut self) {
        self.transaction.end();
        self.transfer.forget();
        self.claims.forget_forwarded();
        if !matches!(self.state, State::Start | State::Refused) {
            self.state = State::Ready;
        }
    }

    /// Restarts the session, up to HELO.
    pub(super) fn start_anew(&mut self, identity: Option<Identity>, channel: TlsFacts) {
        self.end_transaction();
        self.helo = None;
        self.authentication.start_anew(identity, channel);
        self.line = LineReader::default();
        self.state = State::Start;
        self.reading = Mode::Commands;
    }

    /// Restarts the session, because the connection is encrypted from here on.
    pub(super) fn encrypted(&mut self, facts: TlsFacts) {
        self.start_anew(None, facts);
        self.tls = true;
    }

    pub(super) fn close_with(&mut self, reply: Reply, reason: CloseReason) {
        match self.reading {
            Mode::Closed => return,
            // The client would read a plaintext reply as part of the handshake.
            Mode::Handshake => {}
            _ => self.put(&reply),
        }
        self.close(reason);
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        self.reading = Mode::Closed;
        self.give_up(reason);
        self.question.forget();
        self.tally.release();
        self.authentication.cancel();
        self.end_transaction();
    }

    /// Notes that the client is lost. Only the answer to a complete message is still awaited.
    pub(super) fn lose(&mut self, reason: CloseReason) {
        self.replies.drop_unsent();
        match self.closed {
            Some(_) => {}
            None if self.is_delivering() => self.give_up(reason),
            None => self.close(reason),
        }
    }

    /// Stops sending anything to the client. If the client was lost before, that remains the reason.
    fn give_up(&mut self, reason: CloseReason) {
        self.closed.get_or_insert(reason);
        self.replies.finish();
    }
}

/// Drops all input, which may also contain a password.
pub(super) fn drop_all(input: &mut BytesMut) {
    wipe_front(input, input.len());
}
