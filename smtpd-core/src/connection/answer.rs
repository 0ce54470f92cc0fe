//! The caller's answers to what it was asked.

use std::sync::Arc;

use super::{
    Asked, AuthOutcome, CloseReason, Connection, MessageError, Mode, Slot, State, Transaction,
};
use crate::reply::{Code, DataReply, Reply};

impl Connection {
    /// Asks a question: it is handed out next.
    pub(super) fn ask(&mut self, asked: Asked, about: impl Into<Slot>) {
        self.asked = Some(asked);
        self.notified = false;
        self.slot = about.into();
    }

    /// Opens a question, which no answer to an earlier one fits.
    pub(super) fn open(&mut self, asked: Asked) {
        self.asked = Some(asked);
        self.queued = false;
        self.due = None;
        self.serial += 1;
    }

    /// Refuses whatever is asked.
    pub(super) fn refuse_question(&mut self, reply: Reply) {
        match self.asked {
            Some(Asked::Auth) => self.answer_auth(AuthOutcome::Refuse(reply)),
            Some(Asked::Message) => self.answer_whole(reply.into()),
            Some(Asked::Room | Asked::Chunk) => self.discard_rest(reply.into()),
            Some(Asked::Data) => {
                self.asked = None;
                self.refuse_data(reply);
            }
            _ => self.answer_question(reply),
        }
    }

    /// Answers a question that the caller has not answered. A message that has to be refused for good is not refused for now:
    /// the client would send it again and again.
    pub(super) fn give_up_question(&mut self, reply: Reply) {
        let error = match self.asked {
            Some(Asked::Message) => self.message.as_ref().and_then(|message| message.error()),
            _ => None,
        };
        self.refuse_question(error.map_or(reply, MessageError::reply));
    }

    /// Answers a question that has one reply.
    pub(super) fn answer_question(&mut self, reply: Reply) {
        let asked = self.asked.take();
        let reply = fitting(asked, reply);
        match asked {
            Some(Asked::Connect) => self.greet(&reply),
            _ if reply.closes() => self.close_with(reply, CloseReason::Refused),
            Some(Asked::Rcpt) => self.rcpt_answered(&reply),
            Some(Asked::Mail) => self.mail_answered(&reply),
            Some(Asked::Helo) => self.greeted(&reply),
            Some(Asked::StartTls) => self.put(&reply),
            Some(Asked::Command) => self.answer_other(&reply),
            _ => {}
        }
    }

    /// Answers the message that has ended.
    pub(super) fn answer_whole(&mut self, replies: DataReply) {
        self.asked = None;
        let lost = self.closed;
        self.answer_message(final_replies(replies));
        if let Some(reason) = lost {
            // The client was lost while the message was delivered.
            self.close(reason);
        }
    }

    /// Receives the message that [`Event::Data`] has announced.
    pub(super) fn begin_message(&mut self) {
        self.asked = None;
        self.reading = Mode::Message;
        self.clock.begin_line();
        if self.message.is_none() {
            self.begin_text();
        }
    }

    /// Receives the message only to drop it.
    pub(super) fn begin_discarding(&mut self, replies: DataReply) {
        self.begin_message();
        self.answer_early(final_replies(replies));
    }

    /// The caller has taken what there was of the message.
    pub(super) fn go_on(&mut self) {
        if self.asked.take() == Some(Asked::Chunk) {
            self.put_chunk_taken();
        }
    }

    /// Drops what is left of the message, and keeps the reply for its end.
    pub(super) fn discard_rest(&mut self, replies: DataReply) {
        // The question of a command between two chunks stays open.
        let asked = match self.asked {
            Some(Asked::Room | Asked::Chunk) => self.asked.take(),
            _ => None,
        };
        self.answer_early(final_replies(replies));
        if asked == Some(Asked::Chunk) {
            self.chunk_end();
        }
    }

    fn greet(&mut self, reply: &Reply) {
        if reply.is_positive() {
            return self.put_banner();
        }
        if reply.code().is_transient() {
            // RFC 5321 section 3.8: to refuse for now is to close with 421.
            let reply = Reply::new(
                Code::SERVICE_UNAVAILABLE,
                reply.status(),
                reply.text().to_owned(),
            );
            return self.close_with(reply, CloseReason::Refused);
        }
        if reply.closes() {
            return self.close_with(reply.clone(), CloseReason::Refused);
        }
        // RFC 5321 section 3.1: after a refusal the client is to say QUIT, and receives 503 until it does.
        self.state = State::Refused;
        self.put(reply);
    }

    fn mail_answered(&mut self, reply: &Reply) {
        self.put(reply);
        match self.take_slot() {
            Slot::Mail(envelope) if reply.is_positive() => {
                self.state = State::Mail;
                self.transaction.envelope = Some(envelope);
            }
            // None has begun, so what XFORWARD has said still holds for the next.
            _ => self.transaction = Transaction::default(),
        }
    }

    fn rcpt_answered(&mut self, reply: &Reply) {
        self.put(reply);
        if let Slot::Rcpt(recipient) = self.take_slot()
            && let Some(envelope) = &mut self.transaction.envelope
            && reply.is_positive()
        {
            self.state = State::Rcpt;
            // Mostly nobody else holds the envelope any more, so nothing is copied.
            Arc::make_mut(envelope).push(recipient);
        }
    }
}

/// The reply with a code that the client can take for nothing but the answer to its command (RFC 5321 section 4.3.2).
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
        _ if code.is_intermediate() => Reply::try_again("Local error in processing"),
        _ if fits => reply,
        _ => reply.with_code(Code::OK),
    }
}

/// The replies to a message, each with a code that is one (RFC 5321 section 4.3.2).
fn final_replies(replies: DataReply) -> DataReply {
    let fit = |reply: &Reply| reply.code() == Code::OK || !reply.is_positive();
    if replies.replies().iter().all(fit) {
        replies
    } else {
        replies.map(|reply| fitting(None, reply))
    }
}
