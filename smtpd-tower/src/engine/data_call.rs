//! A call of the data service, and the message on its way to it.

use std::task::{Context, Poll};

use smtpd_core::{
    connection::{Ask, Connection, Deferred, Receiving, ask_kind as kind},
    reply::DataReply,
};
use tokio::time::Instant;

use super::ask::{Call, Failure};
use crate::{
    body::{BodyError, Feed, Pieces, Served},
    memory::Reservation,
    phase::Data,
};

/// A running call of the data service, and the message that it reads.
pub(super) struct DataCall {
    pub(super) call: Call<Data>,
    pub(super) feed: Feed,
    /// What the connection waits for, and the service has to provide.
    pub(super) question: Question,
    /// Chunks of the message that have arrived and were not handed over.
    pub(super) pieces: Pieces,
    /// Their bytes.
    pub(super) unread: u64,
    /// As much as has been in memory at a time since the service last waited.
    pub(super) reserved: Reservation,
    /// The number of bytes that have arrived.
    pub(super) received: u64,
    /// The session is over, and the service has until then to clean up.
    pub(super) abandoned: Option<Instant>,
    /// It was polled since the session was woken, and was given nothing since.
    pub(super) polled: bool,
}

/// The state of a message between the connection and the service.
pub(super) enum Question {
    /// The service has not requested the message.
    Start(Deferred<kind::Data>),
    /// The client is to send more.
    None,
    /// The service has not read what there is.
    Taken(Deferred<kind::Chunk>),
    /// The message has ended.
    End(Deferred<kind::Message>),
}

impl DataCall {
    /// A call that has just begun, and has been polled.
    pub(super) fn new(
        call: Call<Data>,
        feed: Feed,
        reserved: Reservation,
        ask: Ask<'_, kind::Data>,
    ) -> Self {
        let question = if call.is_waiting() {
            ask.queue()
        } else {
            ask.defer()
        };
        Self {
            call,
            feed,
            question: Question::Start(question),
            pieces: Pieces::default(),
            unread: 0,
            reserved,
            received: 0,
            abandoned: None,
            polled: true,
        }
    }

    /// Polls the service. Also returns whether it was called just now, after it had not been ready.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> (Poll<Served<Result<DataReply, Failure>>>, bool) {
        let waited = self.call.is_waiting();
        let served = if std::mem::replace(&mut self.polled, true) {
            self.feed.poll_wanted(cx).map(|()| Served::Wanted)
        } else {
            let call = &mut self.call;
            self.feed.poll_service(cx, |cx| call.poll(cx))
        };
        (served, waited && !self.call.is_waiting())
    }

    /// Returns how many bytes of the message have arrived.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    pub(super) const fn is_asking(&self) -> bool {
        self.abandoned.is_some() || !matches!(self.question, Question::None)
    }

    /// Continues when the service waits for more of the message.
    pub(super) fn go_on(&mut self, connection: &mut Connection) {
        self.reserved.shrink_to(0);
        match std::mem::replace(&mut self.question, Question::None) {
            Question::Start(question) => {
                self.feed.set_due(None);
                if let Some(ask) = connection.resume(question) {
                    ask.receive();
                }
            }
            Question::Taken(question) => {
                self.feed.set_due(None);
                if let Some(ask) = connection.resume(question) {
                    ask.accept();
                }
            }
            // The end was handed over: there is no more.
            end => self.question = end,
        }
    }

    /// Hands over what has arrived, and pauses the message until the service has read it.
    pub(super) fn give(&mut self, message: Option<Receiving<'_>>, cx: &Context<'_>) {
        if let Some(message) = message {
            let until = message.until();
            if let Some(question) = message.hold() {
                self.feed.set_due(Some(Instant::from_std(until)));
                self.question = Question::Taken(question);
            }
        }
        self.hand_over(None, cx);
    }

    /// Gives the memory of the message back once the service has read it to its end: what it keeps, it counts itself.
    pub(super) fn release_read(&mut self) {
        if self.reserved.bytes() > 0
            && matches!(self.question, Question::End(_))
            && self.feed.is_read()
        {
            self.reserved.shrink_to(0);
        }
    }

    /// Gives the service what has arrived. The service has to be polled afterwards.
    pub(super) fn hand_over(&mut self, end: Option<Result<(), BodyError>>, cx: &Context<'_>) {
        let pieces = std::mem::take(&mut self.pieces);
        self.unread = 0;
        self.feed.hand_over(pieces, end, cx);
        self.polled = false;
    }
}
