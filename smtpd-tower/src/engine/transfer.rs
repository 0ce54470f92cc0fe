//! The message, from DATA or the first BDAT to the reply that ends it.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use smtpd_core::{DataReply, Deferred, MessageError, ask_kind as kind};
use tokio::time::Instant;

use super::{
    Driver, Io,
    ask::{Call, Failure, Outcome},
};
use crate::{
    body::{BodyError, Feed, Pieces, Served, incoming},
    fault::caught,
    phase::{Data, PhaseKind, Request},
    service::no_delivery,
};

/// A call of the data service that is going on, and the message that it reads.
pub(super) struct Transfer {
    call: Call<Data>,
    feed: Feed,
    /// What the connection waits for, and the service brings about.
    question: Question,
    /// What has come of the message and was not handed over.
    pieces: Pieces,
    /// The session is over, and the service has until then to clean up.
    abandoned: Option<Instant>,
}

/// Where a message stands between the connection and the service.
enum Question {
    /// The service has not asked for the message.
    Start(Deferred<kind::Data>),
    /// The client is to send more.
    None,
    /// The service has not taken what there is.
    Taken(Deferred<kind::Chunk>),
    /// The message has ended.
    End(Deferred<kind::Message>),
}

/// How long a service that has lost its client may take to clean up.
const GRACE: Duration = Duration::from_secs(10);

impl<IO: Io> Driver<IO> {
    /// DATA, or the first BDAT: asks the data service, which may ask for the message.
    pub(super) fn data(&mut self, cx: &mut Context<'_>, question: Deferred<kind::Data>) {
        let Some(service) = &self.engine.pipeline.data else {
            return self.answered(Question::Start(question), no_delivery().into());
        };
        let (feed, body) = incoming();
        let request = Request::new(self.session.clone(), Data::new(self.envelope(), body));
        let start = |cx: &mut Context<'_>| Poll::Ready(Call::start(service, request, cx));
        let Poll::Ready(Served::Answered(outcome)) = feed.poll_service(cx, start) else {
            return;
        };
        match outcome {
            Outcome::Answered(result) => self.settle(Question::Start(question), result),
            Outcome::Panicked(result, message) => {
                self.settle(Question::Start(question), result);
                self.panicked(Some(PhaseKind::Data), message);
            }
            Outcome::Pending(call) => {
                if !call.is_waiting() {
                    self.connection.begin(&question);
                }
                self.catch_up();
                self.polled.transfer = true;
                self.transfer = Some(Box::new(Transfer {
                    call,
                    feed,
                    question: Question::Start(question),
                    pieces: Pieces::default(),
                    abandoned: None,
                }));
            }
        }
    }

    /// Lets the data service go on. Ready when it has answered, or wants more of the message.
    pub(super) fn poll_transfer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(transfer) = &mut self.transfer else {
            return Poll::Pending;
        };
        let waited = transfer.call.is_waiting();
        let served = if std::mem::replace(&mut self.polled.transfer, true) {
            transfer.feed.poll_wanted(cx).map(|()| Served::Wanted)
        } else {
            let call = &mut transfer.call;
            transfer.feed.poll_service(cx, |cx| call.poll(cx))
        };
        let began = waited && !transfer.call.is_waiting();
        if began && let Question::Start(question) = &transfer.question {
            self.connection.begin(question);
        }
        let is_asking = transfer.is_asking();
        if began {
            self.catch_up();
        }
        match served {
            Poll::Ready(Served::Answered(result)) => self.finish_transfer(result),
            Poll::Ready(Served::Wanted) if is_asking => self.go_on(),
            _ => return Poll::Pending,
        }
        Poll::Ready(())
    }

    /// The service waits for more of the message.
    fn go_on(&mut self) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let connection = &mut self.connection;
        match std::mem::replace(&mut transfer.question, Question::None) {
            Question::Start(question) => connection.resume(question).map(|ask| ask.receive()),
            Question::Taken(question) => connection.resume(question).map(|ask| ask.taken()),
            // The end was handed over: there is no more.
            end => {
                transfer.question = end;
                None
            }
        };
    }

    /// Bytes of the message have come.
    pub(super) fn chunk(&mut self, cx: &mut Context<'_>, bytes: Bytes) {
        let piece = self.wire.piece(bytes);
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        transfer.pieces.push(piece);
        if transfer.pieces.are_many() {
            self.hand_over(cx);
        }
    }

    /// Hands over what has come of the message, and reads no more of it until the service has taken that. Returns whether there
    /// was anything.
    pub(super) fn hand_over(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(transfer) = &mut self.transfer else {
            return false;
        };
        if transfer.pieces.is_empty() {
            return false;
        }
        let held = self
            .connection
            .receiving()
            .and_then(|message| message.hold());
        if let Some(question) = held {
            transfer.question = Question::Taken(question);
        }
        transfer.hand_over(None, cx);
        self.handed_over();
        true
    }

    /// The service was given something, which it has to be polled for. The time that it has for it begins now.
    fn handed_over(&mut self) {
        self.polled.transfer = false;
        self.catch_up();
    }

    /// A BDAT chunk has ended. Its reply says that the service has taken it.
    pub(super) fn chunk_end(&mut self, cx: &mut Context<'_>, question: Deferred<kind::Chunk>) {
        if let Some(transfer) = &mut self.transfer
            && !transfer.pieces.is_empty()
        {
            transfer.question = Question::Taken(question);
            transfer.hand_over(None, cx);
            self.handed_over();
        } else if let Some(ask) = self.connection.resume(question) {
            ask.taken();
        }
    }

    /// The message has ended.
    pub(super) fn message_end(
        &mut self,
        cx: &mut Context<'_>,
        result: Result<(), MessageError>,
        question: Deferred<kind::Message>,
    ) {
        if let Some(transfer) = &mut self.transfer {
            transfer.question = Question::End(question);
            transfer.hand_over(Some(result.map_err(BodyError::from)), cx);
            self.handed_over();
        } else {
            // Nobody takes it, so the client has to send it again.
            drop(self.connection.resume(question));
        }
    }

    /// The service has answered.
    fn finish_transfer(&mut self, result: Result<DataReply, Failure>) {
        let Some(transfer) = self.transfer.take() else {
            return;
        };
        let Transfer { call, question, .. } = *transfer;
        // The call is dropped first, since it holds the session, but what it has answered stands.
        let dropped = caught(|| drop(call));
        self.settle(question, result);
        if let Err(message) = dropped {
            self.panicked(Some(PhaseKind::Data), message);
        }
    }

    fn settle(&mut self, question: Question, result: Result<DataReply, Failure>) {
        let reply = self.resolve::<Data>(result);
        self.answered(question, reply);
    }

    fn answered(&mut self, question: Question, reply: DataReply) {
        match question {
            Question::Start(question) => match self.connection.resume(question) {
                // The message was taken unseen.
                Some(ask) if reply.is_taken() => ask.discard(reply),
                Some(ask) => ask.refuse(reply.merged().clone()),
                None => {}
            },
            Question::End(question) => {
                if let Some(ask) = self.connection.resume(question) {
                    ask.reply(reply);
                }
            }
            Question::None | Question::Taken(_) => {
                if let Some(message) = self.connection.receiving() {
                    message.discard(reply);
                }
            }
        }
        self.answered = true;
        self.wire.end_large();
        self.end_transaction();
    }
}

impl Transfer {
    /// Whether the client waits for the service, and not the service for the client.
    pub(super) const fn is_asking(&self) -> bool {
        self.abandoned.is_some() || !matches!(self.question, Question::None)
    }

    /// Whether the message has come whole.
    pub(super) const fn is_whole(&self) -> bool {
        self.abandoned.is_none() && matches!(self.question, Question::End(_))
    }

    /// Until when the service may clean up, where the message was given up.
    pub(super) const fn abandoned(&self) -> Option<Instant> {
        self.abandoned
    }

    fn hand_over(&mut self, end: Option<Result<(), BodyError>>, cx: &Context<'_>) {
        let pieces = std::mem::take(&mut self.pieces);
        self.feed.hand_over(pieces, end, cx);
    }

    /// The session is over before the message is: the service learns of it, and may clean up for a moment.
    /// Only a service that waits for the message can notice; what else it does is in vain.
    pub(super) fn abandon(&mut self) {
        if self.abandoned.is_none() {
            self.feed.finish(Err(BodyError::Incomplete));
            self.abandoned = Some(Instant::now() + GRACE);
        }
    }
}
