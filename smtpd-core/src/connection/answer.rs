//! Applies the caller's answers, and processes the parts of a message.

use std::sync::Arc;

use bytes::BytesMut;

use super::{
    authentication::Progress,
    event::{AuthOutcome, CloseReason, Event, MessageError},
    fixed, hello,
    offer::Offer,
    question::{Asked, Slot},
    redact,
    replies::PLAIN,
    session::{Mode, Session},
    state::State,
    transfer::{AfterChunk, AfterMessage, Part, UnreadReply},
};
use crate::{
    helo::Greeting,
    protocol::Protocol,
    reply::{Code, DataReply, Origin, Reply, Status},
    sasl::SaslError,
    time::Nanos,
};

/// Answers to questions.
impl Session {
    /// Refuses whatever is asked.
    pub(super) fn refuse_question(&mut self, reply: Reply) {
        match self.question.asked() {
            Some(Asked::Auth) => self.answer_auth(AuthOutcome::Refuse(reply)),
            Some(Asked::Message) => self.answer_whole(reply.into()),
            Some(Asked::Room | Asked::Chunk) => self.discard_rest(reply.into()),
            Some(Asked::Data) => {
                self.question.close();
                self.refuse_data(reply);
            }
            _ => self.answer_question(reply),
        }
    }

    /// Answers a question that the caller has not answered. A message that must be rejected is not deferred, because the client
    /// would send it again and again.
    pub(super) fn give_up_question(&mut self, reply: Reply) {
        let error = match self.question.asked() {
            Some(Asked::Message) => self.transfer.error(),
            _ => None,
        };
        self.refuse_question(error.map_or(reply, MessageError::reply));
    }

    /// Answers a question that has one reply.
    pub(super) fn answer_question(&mut self, reply: Reply) {
        let asked = self.question.close();
        let reply = fitting(asked, reply);
        match asked {
            Some(Asked::Connect) => self.greet(reply),
            _ if reply.closes() => {
                let slot = self.question.take_slot();
                self.about(&slot);
                self.close_with(reply, CloseReason::Refused);
            }
            Some(Asked::Rcpt) => self.rcpt_answered(reply),
            Some(Asked::Mail) => self.mail_answered(&reply),
            Some(Asked::Helo) => self.helo_answered(&reply),
            Some(Asked::StartTls) => self.put(&reply),
            Some(Asked::Command) => self.answer_other(reply),
            _ => {}
        }
    }

    fn greet(&mut self, reply: Reply) {
        if reply.is_positive() {
            if self.reading != Mode::Greeting {
                // After XCLIENT. Otherwise, what has arrived in the meantime is looked at first.
                self.put_banner();
            }
            return;
        }
        self.read(Mode::Commands);
        if reply.code().is_transient() {
            // RFC 5321 section 3.8: deferring a client means closing with 421.
            let text = reply.text().to_owned();
            let reply = reply.with_code(Code::SERVICE_UNAVAILABLE).with_text(text);
            return self.close_with(reply, CloseReason::Refused);
        }
        if reply.closes() {
            return self.close_with(reply, CloseReason::Refused);
        }
        // RFC 5321 section 3.1: after a rejection the client should send QUIT, and receives 503 until it does.
        self.state = State::Refused;
        self.idle_commands = 0;
        self.put(&reply);
    }

    /// The greeting itself (RFC 5321 section 4.3.1), without an enhanced code (RFC 2034 section 4).
    pub(super) fn put_banner(&mut self) {
        self.read(Mode::Commands);
        let service = match self.config.protocol {
            Protocol::Lmtp => "LMTP",
            Protocol::Smtp => "ESMTP",
        };
        let text = self.config.settings.signed(service);
        let reply = Reply::new(Code::READY, Status::UNDEFINED, text);
        self.replies.put_as(&reply, PLAIN);
    }

    /// RFC 5321 section 4.1.4: it resets the session as RSET does, but if it is refused, nothing changes.
    fn helo_answered(&mut self, reply: &Reply) {
        let helo = match self.question.take_slot() {
            Slot::Helo(helo) if reply.is_positive() => helo,
            slot => {
                self.about(&slot);
                return self.put(reply);
            }
        };
        let envelope = self.transaction.reset();
        self.end_transaction();
        self.helo = Some(helo);
        self.state = State::Ready;
        self.put_hello();
        if envelope.is_some() {
            self.question.notify(Event::Reset(envelope));
        }
    }

    /// Sends the positive reply to HELO, EHLO or LHLO.
    fn put_hello(&mut self) {
        if self.greeting() == Some(Greeting::Helo) {
            let hostname = self.config.settings.hostname.clone();
            let reply = Reply::new(Code::OK, Status::UNDEFINED, hostname);
            return self.replies.put_as(&reply, PLAIN);
        }
        let offer = Offer::new(&self.config, self.tls, self.authentication.is_done());
        let mut own = self.claims.keywords().peekable();
        if own.peek().is_some() {
            let answer = hello::answer(offer, &self.authentication, own);
            return self.replies.put_raw(&answer);
        }
        let kind = usize::from(self.tls) | self.authentication.kind() << 1;
        let answer = || hello::answer(offer, &self.authentication, own);
        let answer = self.config.prepared.ehlo(kind, answer);
        self.replies.put_raw(answer);
    }

    fn mail_answered(&mut self, reply: &Reply) {
        let slot = self.question.take_slot();
        if !reply.is_positive() {
            self.about(&slot);
        }
        self.put(reply);
        match slot {
            Slot::Mail(envelope) if reply.is_positive() => {
                self.state = State::Mail;
                self.transaction.open(envelope);
            }
            // No transaction has begun, so XFORWARD still applies to the next one.
            _ => self.transaction.end(),
        }
    }

    fn rcpt_answered(&mut self, reply: Reply) {
        let slot = self.question.take_slot();
        if !reply.is_positive() {
            self.about(&slot);
            return self.refuse_recipient(reply);
        }
        self.put(&reply);
        if let Slot::Rcpt(recipient) = slot
            && self.transaction.add(recipient)
        {
            self.state = State::Rcpt;
        }
    }

    /// Notes what a reply is about that refuses.
    #[cold]
    fn about(&mut self, slot: &Slot) {
        match slot {
            Slot::Helo(helo) => self.replies.about(helo.name().as_str()),
            Slot::Mail(envelope) => self.replies.about_address(envelope.sender().as_str()),
            Slot::Rcpt(recipient) => self.replies.about_address(recipient.path().as_str()),
            Slot::Empty | Slot::Notification(_) => {}
        }
    }

    /// Waits for the handshake, after the client was told to begin it.
    pub(super) fn begin_tls(&mut self) {
        self.question.close();
        self.put(&fixed::START_TLS);
        self.read(Mode::Handshake);
    }
}

/// AUTH (RFC 4954).
impl Session {
    /// Processes a line that answers a challenge.
    pub(super) fn sasl_response(&mut self, line: &[u8]) {
        self.replies.log_received(redact::REDACTED);
        self.replies.arrived();
        self.read(Mode::Commands);
        let progress = self.authentication.respond(line, &self.config.settings);
        self.authenticate(progress);
    }

    /// Ends the exchange because the client sent something other than a response.
    pub(super) fn break_authentication_off(&mut self, error: SaslError) {
        self.read(Mode::Commands);
        let progress = self.authentication.break_off(error, &self.config.settings);
        self.authenticate(progress);
    }

    pub(super) fn answer_auth(&mut self, outcome: AuthOutcome) {
        self.question.close();
        if let Some(progress) = self.authentication.answer(outcome, &self.config.settings) {
            self.authenticate(progress);
        }
    }

    /// Applies the outcome of an authentication step.
    pub(super) fn authenticate(&mut self, progress: Progress) {
        match progress {
            Progress::Challenge(line) => {
                self.replies.put_raw(&line);
                if let Some(mechanism) = self.authentication.mechanism() {
                    self.replies.authenticates(mechanism, None);
                }
                self.read(Mode::SaslResponse);
            }
            Progress::Ask(request) => {
                let user = request.credentials().username();
                self.replies.authenticates(request.mechanism(), Some(user));
                self.question.ask(Asked::Auth, Event::Auth(request));
            }
            Progress::Done(identity) => {
                self.put(&fixed::AUTHENTICATED);
                self.question.notify(Event::Authenticated(identity));
            }
            Progress::Refused(refused) => self.refuse(refused),
        }
    }
}

/// The message.
impl Session {
    /// Sets how the next bytes are read.
    pub(super) const fn read(&mut self, mode: Mode) {
        self.reading = mode;
    }

    /// Receives the message that DATA or BDAT has announced.
    pub(super) fn begin_message(&mut self) {
        self.question.close();
        self.read(Mode::Message);
        if !self.transfer.is_under_way() {
            let is_binary = self.transaction.is_binary();
            self.transfer.begin_dots(&self.config.settings, is_binary);
            self.replies.put_raw(fixed::START_MAIL);
        }
    }

    /// Receives the message only to drop it.
    pub(super) fn begin_discarding(&mut self, replies: DataReply) {
        self.begin_message();
        self.transfer.answer(final_replies(replies));
    }

    /// Sends a reply instead of receiving the message. The bytes of a first chunk then have to be read and dropped.
    fn refuse_data(&mut self, reply: Reply) {
        if reply.closes() {
            return self.close_with(reply, CloseReason::Refused);
        }
        let Some(size) = self.transfer.chunk_size() else {
            self.put(&reply);
            return self.end_transaction();
        };
        self.read(Mode::Message);
        self.transfer.answer(reply.into());
        if size > self.config.settings.limits.drain {
            self.close_unread(CloseReason::Refused);
        }
    }

    /// Replies, and ends the session because what was refused is too long to be read to its end.
    fn close_unread(&mut self, reason: CloseReason) {
        match self.transfer.refusal() {
            Some(UnreadReply::Message(replies)) => {
                let recipients = self.transaction.recipients();
                let envelope = self.transaction.envelope().map(Arc::as_ref);
                self.replies.put_data_reply(&replies, recipients, envelope);
                self.close(reason);
            }
            Some(UnreadReply::Chunk(reply)) => self.close_with(reply, reason),
            None => {}
        }
    }

    /// Processes the available part of a message. Returns whether there was any.
    pub(super) fn take_message(&mut self, input: &mut BytesMut) -> bool {
        let Some(part) = self.transfer.poll(input, self.config.settings.limits.drain) else {
            return false;
        };
        match part {
            Part::Bytes(bytes) => self.question.notify(Event::Chunk(bytes)),
            Part::Dropped => {}
            Part::Drained => self.close_unread(CloseReason::Limit),
            Part::ChunkEnd => self.chunk_ended(),
            Part::End => self.message_ended(),
        }
        true
    }

    fn chunk_ended(&mut self) {
        self.read(Mode::Commands);
        self.replies.arrived();
        match self.transfer.end_chunk() {
            Some(AfterChunk::Ask) => self.question.ask(Asked::Chunk, Event::ChunkEnd),
            Some(AfterChunk::Taken(size)) => self.put_chunk_taken(size),
            Some(AfterChunk::Faulty(error)) => self.ask_about_message(Err(error)),
            Some(AfterChunk::Broken(reply)) => self.break_chunks(&reply),
            // The transaction is unchanged.
            Some(AfterChunk::Void(reply)) => self.fault(reply),
            None => {}
        }
    }

    fn message_ended(&mut self) {
        let received = self.transfer.received();
        let after = self.transfer.end();
        if let Some(AfterMessage::Rest(rest)) = after {
            return self.question.notify(Event::Chunk(rest));
        }
        self.read(Mode::Commands);
        self.replies.arrived();
        if let Some(AfterMessage::Ask(_) | AfterMessage::Answered(_)) = after {
            self.replies.log_message(received);
        }
        match after {
            Some(AfterMessage::Ask(result)) => self.ask_about_message(result),
            Some(AfterMessage::Answered(reply)) => self.answer_message(reply),
            Some(AfterMessage::Void(reply)) => self.fault(reply),
            Some(AfterMessage::Rest(_)) | None => {}
        }
    }

    fn ask_about_message(&mut self, result: Result<(), MessageError>) {
        self.question.ask(Asked::Message, Event::MessageEnd(result));
    }

    /// Continues after the caller has handled the available part of the message.
    pub(super) fn go_on(&mut self) {
        if self.question.close() == Some(Asked::Chunk) {
            self.put_chunk_taken(self.transfer.chunk_size().unwrap_or_default());
        }
    }

    fn put_chunk_taken(&mut self, size: u64) {
        self.state = State::Chunks;
        self.put(&Reply::ok(format!("{size} octets received")));
    }

    /// RFC 3030 section 2: after a refused chunk, only RSET ends the transaction.
    fn break_chunks(&mut self, reply: &Reply) {
        self.transfer.forget();
        self.state = State::Broken;
        if reply.closes() {
            return self.close_with(reply.clone(), CloseReason::Refused);
        }
        self.put(reply);
    }

    /// Drops the rest of the message, and keeps the reply for its end.
    pub(super) fn discard_rest(&mut self, replies: DataReply) {
        // The question of a command between two chunks stays open.
        let asked = match self.question.asked() {
            Some(Asked::Room | Asked::Chunk) => self.question.close(),
            _ => None,
        };
        self.transfer.answer(final_replies(replies));
        if asked == Some(Asked::Chunk) {
            self.chunk_ended();
        }
    }

    /// Sends the reply to a complete message.
    pub(super) fn answer_whole(&mut self, replies: DataReply) {
        self.question.close();
        let lost = self.closed;
        self.answer_message(final_replies(replies));
        if let Some(reason) = lost {
            // The client was lost while the message was being delivered.
            self.close(reason);
        }
    }

    fn answer_message(&mut self, reply: DataReply) {
        let Some((reply, is_whole)) = self.transfer.finish(reply) else {
            return;
        };
        if !is_whole {
            return self.break_chunks(reply.merged());
        }
        if reply.is_accepted() {
            self.messages += 1;
            self.idle_commands = 0;
            self.idle = Nanos::ZERO;
            self.transaction.succeeded();
            self.tally.succeeded();
        }
        let recipients = self.transaction.recipients();
        let envelope = self.transaction.envelope().map(Arc::as_ref);
        let closes = self.replies.put_data_reply(&reply, recipients, envelope);
        self.end_transaction();
        if closes {
            self.close(CloseReason::Refused);
        }
    }
}

/// Returns the reply with a code that the client can only understand as the reply to its command (RFC 5321 section 4.3.2).
fn fitting(asked: Option<Asked>, reply: Reply) -> Reply {
    let code = reply.code();
    if code == Code::OK || !code.is_positive() {
        return reply;
    }
    let fits = match (asked, code) {
        (_, Code::READY | Code::CLOSING | Code::AUTHENTICATED) => false,
        (Some(Asked::Rcpt), code) => code == Code::WILL_FORWARD,
        (Some(Asked::Command), _) => true,
        _ => false,
    };
    match code {
        _ if code.is_intermediate() => fixed::FORGOTTEN.with_origin(Origin::Fault),
        _ if fits => reply,
        _ => reply.with_code(Code::OK),
    }
}

/// Returns the replies to a message, each with a code that is valid for one (RFC 5321 section 4.3.2).
fn final_replies(replies: DataReply) -> DataReply {
    let fit = |reply: &Reply| reply.code() == Code::OK || !reply.is_positive();
    if replies.replies().iter().all(fit) {
        replies
    } else {
        replies.map(|reply| fitting(None, reply))
    }
}
