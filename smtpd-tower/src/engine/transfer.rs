//! The message, from DATA or the first BDAT to the reply that ends it.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use smtpd_core::{
    config::Protocol,
    connection::{Ask, Connection, MessageError, Receiving, ask_kind as kind},
    reply::DataReply,
};
use tokio::time::Instant;

use super::{
    ask::{Call, Failure, Outcome, resolve},
    data_call::{DataCall, Question},
    work::{After, Desk, Panic},
};
use crate::{
    body::{Body, BodyError, Served, incoming},
    fault::{caught, quietly},
    memory::{MemoryBudget, Reservation},
    meter::CANCELLED,
    phase::{Data, Deadline, Phase, Request},
    phase_kind::PhaseKind,
    reply::Verdict,
    service::Pipeline,
    session::Session,
};

/// The message of a transaction on its way to the data service.
#[derive(Default)]
pub(super) struct Transfer {
    call: Option<Box<DataCall>>,
    /// The transaction's message was answered, whatever the client sends of it from now on.
    answered: bool,
}

/// How long a service whose client is lost may take to clean up.
const GRACE: Duration = Duration::from_secs(10);

impl Transfer {
    /// Records that the session was woken.
    pub(super) fn wake(&mut self) {
        if let Some(call) = &mut self.call {
            call.polled = false;
        }
    }

    /// MAIL: another transaction begins.
    pub(super) const fn begin(&mut self) {
        self.answered = false;
    }

    /// DATA, or the first BDAT: calls the data service, which may request the message.
    pub(super) fn start(
        &mut self,
        cx: &mut Context<'_>,
        pipeline: &Pipeline,
        session: &Session,
        memory: &MemoryBudget,
        ask: Ask<'_, kind::Data>,
    ) -> After {
        let envelope = ask.connection().envelope().cloned().unwrap_or_default();
        let Some(service) = &pipeline.data else {
            let unset = Data::new(envelope, Body::default()).default_response();
            return self.reply(ask, unset);
        };
        if let Err(reply) = memory.admit_message() {
            return self.reply(ask, reply.into());
        }
        let (feed, body) = incoming();
        let body = body.with_budget(memory.clone());
        feed.set_due(Some(Instant::from_std(ask.until())));
        let deadline = Deadline::of_message(feed.due());
        let request = Request::due(session.clone(), Data::new(envelope, body), deadline);
        let start = |cx: &mut Context<'_>| Poll::Ready(Call::start(service, request, cx));
        let Poll::Ready(Served::Answered(outcome)) = feed.poll_service(cx, start) else {
            return After::Done;
        };
        match outcome {
            Outcome::Answered(result) => self.reply_unread(session, ask, result),
            Outcome::Panicked(result, message) => After::Panicked(Box::new(Panic {
                phase: PhaseKind::Data,
                message,
                then: self.reply_unread(session, ask, result),
            })),
            Outcome::Pending(call) => {
                let reserved = Reservation::empty(memory.clone());
                self.call = Some(Box::new(DataCall::new(call, feed, reserved, ask)));
                After::Given
            }
        }
    }

    /// Polls the data service. Ready when it has answered, or wants more of the message.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, desk: Desk<'_>) -> Poll<After> {
        let Some(call) = &mut self.call else {
            return Poll::Pending;
        };
        let (served, began) = call.poll(cx);
        if began && let Question::Start(question) = &call.question {
            desk.connection.begin(question);
        }
        let is_asking = call.is_asking();
        if began {
            desk.pace.catch_up(desk.connection);
        }
        match served {
            Poll::Ready(Served::Answered(result)) => Poll::Ready(self.finish(desk, result)),
            Poll::Ready(Served::Wanted) if is_asking => {
                call.go_on(desk.connection);
                Poll::Ready(After::Done)
            }
            _ => {
                call.release_read();
                Poll::Pending
            }
        }
    }

    /// Takes bytes of the message that have arrived.
    pub(super) fn chunk(
        &mut self,
        cx: &Context<'_>,
        bytes: Bytes,
        message: Receiving<'_>,
    ) -> After {
        let Some(call) = &mut self.call else {
            return After::Done;
        };
        call.unread += bytes.len() as u64;
        call.reserved.cover(call.unread);
        call.received += bytes.len() as u64;
        call.pieces.push(bytes);
        if !call.pieces.are_many() {
            return After::Done;
        }
        call.give(Some(message), cx);
        After::Given
    }

    /// Hands over what has arrived of the message, and reads no more of it until the service has read that. Returns whether there
    /// was anything.
    pub(super) fn hand_over(&mut self, cx: &Context<'_>, connection: &mut Connection) -> bool {
        match &mut self.call {
            Some(call) if !call.pieces.is_empty() => {
                call.give(connection.receiving(), cx);
                true
            }
            _ => false,
        }
    }

    /// Takes the end of a BDAT chunk. Its reply means that the service has read it.
    pub(super) fn chunk_end(&mut self, cx: &Context<'_>, ask: Ask<'_, kind::Chunk>) -> After {
        match &mut self.call {
            Some(call) if !call.pieces.is_empty() => {
                call.feed.set_due(Some(Instant::from_std(ask.until())));
                call.question = Question::Taken(ask.defer());
                call.hand_over(None, cx);
                After::Given
            }
            _ => {
                ask.accept();
                After::Done
            }
        }
    }

    /// Takes the end of the message.
    pub(super) fn end(
        &mut self,
        cx: &Context<'_>,
        result: Result<(), MessageError>,
        ask: Ask<'_, kind::Message>,
    ) -> After {
        let Some(call) = &mut self.call else {
            // Nothing reads it, so the client has to send it again.
            drop(ask);
            return After::Done;
        };
        call.feed.set_due(Some(Instant::from_std(ask.until())));
        call.question = Question::End(ask.defer());
        call.hand_over(Some(result.map_err(BodyError::from)), cx);
        After::Given
    }

    /// Ends the transaction, also by RSET or EHLO between the chunks of its message.
    pub(super) fn end_transaction(&mut self, session: &mut Session) {
        self.abandon();
        session.end_transaction();
        session.forward(None);
    }

    /// Abandons the message because the session ends before it: the service is notified, and may clean up for a moment. Only a
    /// service that waits for the message can notice; any other work is wasted. Returns whether there is a service.
    pub(super) fn abandon(&mut self) -> bool {
        let Some(call) = &mut self.call else {
            return false;
        };
        if call.abandoned.is_none() {
            call.feed.finish(Err(BodyError::Incomplete));
            call.abandoned = Some(Instant::now() + GRACE);
        }
        true
    }

    /// Takes the call out, to drop it.
    pub(super) const fn take(&mut self) -> Option<Box<DataCall>> {
        self.call.take()
    }

    pub(super) const fn is_some(&self) -> bool {
        self.call.is_some()
    }

    /// Returns whether the transaction's message was answered.
    pub(super) const fn is_answered(&self) -> bool {
        self.answered
    }

    /// Returns whether the client waits for the service, and not the service for the client.
    pub(super) fn is_asking(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.is_asking())
    }

    /// Returns whether the message has arrived whole.
    pub(super) fn is_whole(&self) -> bool {
        self.call.as_ref().is_some_and(|call| {
            call.abandoned.is_none() && matches!(call.question, Question::End(_))
        })
    }

    /// Returns until when the service may clean up, if the message was abandoned.
    pub(super) fn abandoned(&self) -> Option<Instant> {
        self.call.as_ref()?.abandoned
    }

    /// Passes on an answer that a service gave at once, before a byte of the message arrived.
    fn reply_unread(
        &mut self,
        session: &Session,
        ask: Ask<'_, kind::Data>,
        result: Result<DataReply, Failure>,
    ) -> After {
        let reply = resolve::<Data>(session, result);
        measure(session, &reply, None);
        if reply.is_accepted() {
            warn_of_unread(session);
        }
        self.reply(ask, reply)
    }

    /// Answers before the message.
    fn reply(&mut self, ask: Ask<'_, kind::Data>, reply: DataReply) -> After {
        let is_lmtp = ask.connection().config().get_protocol() == Protocol::Lmtp;
        if reply.is_accepted() || is_lmtp && differs(&reply) {
            // The message was accepted unread, or is read for each recipient to receive its own reply: the one instead of 354,
            // and those to a refused BDAT, are the same for all.
            ask.discard(reply);
        } else {
            ask.refuse(reply.merged().clone());
        }
        self.answered = true;
        After::Answered
    }

    /// Passes on the service's answer.
    fn finish(&mut self, desk: Desk<'_>, result: Result<DataReply, Failure>) -> After {
        let Some(ended) = self.call.take() else {
            return After::Done;
        };
        let DataCall {
            call,
            feed,
            question,
            abandoned,
            received,
            ..
        } = *ended;
        // The call is dropped first, since it holds the session, but its answer stands.
        let dropped = caught(|| drop(call));
        let reply = resolve::<Data>(desk.session, result);
        match abandoned {
            None => measure(desk.session, &reply, Some(received)),
            // Nobody receives the answer.
            Some(_) => desk.session.meters().message(CANCELLED, Some(received)),
        }
        if reply.is_accepted() && abandoned.is_none() && !feed.is_read() {
            warn_of_unread(desk.session);
        }
        let then = self.answer(desk.connection, question, reply);
        match dropped {
            Ok(()) => then,
            Err(message) => After::Panicked(Box::new(Panic {
                phase: PhaseKind::Data,
                message,
                then,
            })),
        }
    }

    fn answer(
        &mut self,
        connection: &mut Connection,
        question: Question,
        reply: DataReply,
    ) -> After {
        match question {
            Question::Start(question) => {
                if let Some(ask) = connection.resume(question) {
                    return self.reply(ask, reply);
                }
            }
            Question::End(question) => {
                if let Some(ask) = connection.resume(question) {
                    ask.reply(reply);
                }
            }
            Question::None | Question::Taken(_) => {
                if let Some(message) = connection.receiving() {
                    message.discard(reply);
                }
            }
        }
        self.answered = true;
        After::Answered
    }
}

/// Measures a message that a service has answered.
fn measure(session: &Session, reply: &DataReply, size: Option<u64>) {
    if session.meters().are_on() {
        session.meters().message(Verdict::outcome(reply), size);
    }
}

/// Returns whether some recipients have another reply than others.
fn differs(reply: &DataReply) -> bool {
    reply
        .replies()
        .windows(2)
        .any(|pair| pair.first() != pair.last())
}

/// Warns about a service that has accepted a message without knowing all of it, which is the easiest way to lose mail.
fn warn_of_unread(session: &Session) {
    let (session, peer) = (session.id(), session.client_addr());
    quietly(
        || tracing::warn!(session, %peer, "a message was accepted without being read to its end"),
    );
}
