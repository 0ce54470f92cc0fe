//! The caller's answers to what it was asked.

use super::{Asked, CloseReason, Connection, State, Transaction};
use crate::{Code, DataReply, Reply};

impl Connection {
    /// Answers the event that was asked last.
    ///
    /// - To [`Event::Connect`](super::Event::Connect) and [`Event::XClient`](super::Event::XClient) any positive reply sends the greeting, and to
    ///   [`Event::Helo`](super::Event::Helo) the answer with the extensions.
    /// - To [`Event::Data`](super::Event::Data), a negative reply stands in place of 354; a positive one takes the message unseen,
    ///   once it has been received.
    /// - While a message is being received, it is the answer to it, given before its end: what is left is read and
    ///   dropped, and the reply sent at the end.
    /// - A reply that [closes](Reply::closes) ends the session.
    ///
    /// A [`DataReply`] has a reply for each recipient of a message. To any other question it is its
    /// [merged](DataReply::merged) reply.
    ///
    /// An intermediate reply (3yz) is no answer, and becomes 451 4.3.0. Without anything to answer this has no effect.
    pub fn reply(&mut self, reply: impl Into<DataReply>) {
        let mut replies = reply.into();
        if replies
            .replies()
            .iter()
            .any(|one| one.code().is_intermediate())
        {
            replies = replies.map(final_reply);
        }
        match self.asked {
            None => self.answer_early(replies),
            Some(Asked::Auth) => self.reply_auth(replies.merged().clone().into()),
            Some(asked) => {
                self.asked = None;
                self.answer_question(asked, replies);
            }
        }
    }

    fn answer_question(&mut self, asked: Asked, replies: DataReply) {
        let reply = replies.merged();
        match asked {
            Asked::Connect => self.greet(reply),
            Asked::Data => self.refuse_data(replies),
            Asked::Message => self.answer_message(replies),
            Asked::Chunk => {
                self.answer_early(replies);
                self.chunk_end();
            }
            _ if reply.closes() => self.close_with(reply.clone(), CloseReason::Refused),
            Asked::Helo(greeting) => self.greeted(greeting, reply),
            Asked::Mail => self.mail_answered(reply),
            Asked::Rcpt => self.rcpt_answered(reply),
            Asked::Command => self.answer_other(reply),
            Asked::Auth => {}
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
        // RFC 5321 section 3.1: after a refusal the client is to say QUIT, and hears 503 until it does.
        self.state = State::Refused;
        self.put(reply);
    }

    fn mail_answered(&mut self, reply: &Reply) {
        self.put(reply);
        if reply.is_positive() {
            self.state = State::Mail;
        } else {
            // None has begun, so what XFORWARD has said still holds for the next.
            self.transaction = Transaction::default();
        }
    }

    fn rcpt_answered(&mut self, reply: &Reply) {
        self.put(reply);
        if reply.is_positive() {
            self.state = State::Rcpt;
            self.transaction.recipients += 1;
        }
    }
}

fn final_reply(reply: Reply) -> Reply {
    if reply.code().is_intermediate() {
        Reply::try_again("Local error in processing")
    } else {
        reply
    }
}
