//! The message, from DATA or the first BDAT to the reply that ends it.

use std::{
    future::poll_fn,
    mem::take,
    task::{Context, Poll},
    time::Duration,
};

use smtpd_core::{DataReply, Event};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    Driver, Stop,
    ask::{Call, Failure, Outcome, in_context},
};
use crate::{
    BodyError, Data, Request,
    body::{Feed, Pieces, incoming},
    pipeline::no_delivery,
    server::Stage,
};

/// A call of the data service that is going on, and the message that it reads.
struct Transfer {
    call: Call<Data>,
    feed: Feed,
    /// The service has just been polled, and has been given nothing since.
    polled: bool,
    /// The service has asked for the message.
    started: bool,
    /// The message has come to its end; all that is missing is the answer.
    ended: bool,
    /// The service has not taken all octets of a chunk that is over.
    chunk_open: bool,
}

/// What to do next.
enum Next {
    Answered(Result<DataReply, Failure>),
    /// The service asks for more of the message.
    Wanted,
    Input,
    ClientGone,
    ClientTimeout,
    Ending,
}

/// How long a service that has lost its client may take to clean up.
const GRACE: Duration = Duration::from_secs(10);

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Driver<IO> {
    /// Runs the data service beside the client. An event that has ended the message before its time is left for later.
    pub(super) async fn transfer(&mut self) -> Result<(), Stop> {
        let Some(service) = &self.engine.pipeline.data else {
            self.answered(no_delivery().into());
            return Ok(());
        };
        let (feed, body) = incoming();
        let envelope = self.envelope.clone().unwrap_or_default();
        let request = Request::new(self.session.clone(), Data::new(envelope, body));
        let call = match in_context(|cx| Call::start(service, request, cx)).await {
            Outcome::Pending(call) => call,
            Outcome::Answered(result) => {
                self.settle(result);
                return Ok(());
            }
        };
        let result = self
            .run_transfer(&mut Transfer {
                call,
                feed,
                polled: true,
                started: false,
                ended: false,
                chunk_open: false,
            })
            .await;
        self.wire.end_large();
        result
    }

    async fn run_transfer(&mut self, transfer: &mut Transfer) -> Result<(), Stop> {
        loop {
            match self.serve_message(transfer).await {
                Next::Answered(result) => {
                    self.settle(result);
                    return Ok(());
                }
                Next::ClientGone => return self.lose(transfer).await,
                Next::Ending => return self.give_up(transfer),
                Next::Wanted if !transfer.started => {
                    transfer.started = true;
                    self.connection.accept_data();
                }
                _ => {}
            }
            match self.feed(transfer).await {
                Feeding::Fed => {}
                Feeding::Answered(result) => {
                    self.settle(result);
                    return Ok(());
                }
                Feeding::Interrupted(event) => {
                    self.abandon(transfer).await;
                    self.next = Some(Box::new(event));
                    return Ok(());
                }
                Feeding::ClientGone => return self.lose(transfer).await,
                Feeding::Ending => return self.give_up(transfer),
            }
        }
    }

    /// Lets the service work until it answers or asks for more of the message.
    async fn serve_message(&mut self, transfer: &mut Transfer) -> Next {
        let mut polled = take(&mut transfer.polled);
        let mut began = None;
        poll_fn(|cx| {
            if !take(&mut polled)
                && let Poll::Ready(result) = transfer.call.poll(cx)
            {
                return Poll::Ready(Next::Answered(result));
            }
            if !transfer.ended && transfer.feed.poll_wanted(cx).is_ready() {
                transfer.polled = true;
                return Poll::Ready(Next::Wanted);
            }
            // RFC 5321 section 6.1: a message that has come whole is delivered, even if nobody waits for the reply.
            match self.poll_idle(cx, !transfer.ended) {
                Poll::Ready(Stop::Closed(_)) => return Poll::Ready(Next::Ending),
                Poll::Ready(_) if !transfer.ended => return Poll::Ready(Next::ClientGone),
                _ => {}
            }
            let (limit, failure) = self.limit_of(transfer);
            let deadline = *began.get_or_insert_with(Instant::now) + limit;
            self.wire
                .timer
                .poll_until(cx, deadline)
                .map(|()| Next::Answered(Err(failure)))
        })
        .await
    }

    /// How long the service may take over what it does, and what it is if it takes longer.
    fn limit_of(&self, transfer: &Transfer) -> (Duration, Failure) {
        let timeouts = self.engine.config.timeouts_ref();
        if transfer.call.is_waiting() {
            (timeouts.ready, Failure::NotReady)
        } else if transfer.started {
            (timeouts.delivery, Failure::TimedOut)
        } else {
            (timeouts.ready + timeouts.data_start, Failure::TimedOut)
        }
    }

    /// Gets more of the message to the service, which waits for it.
    async fn feed(&mut self, transfer: &mut Transfer) -> Feeding {
        if take(&mut transfer.chunk_open) {
            // It asks for more, so it has taken what there was.
            self.connection.accept_chunk();
        }
        loop {
            let (fed, event) = in_context(|cx| self.pour(transfer, cx)).await;
            match event {
                Some(Event::ChunkEnd) if fed => transfer.chunk_open = true,
                Some(Event::ChunkEnd) => {
                    self.connection.accept_chunk();
                    continue;
                }
                None | Some(Event::MessageEnd(_)) => {}
                Some(event) => return Feeding::Interrupted(event),
            }
            if fed {
                return Feeding::Fed;
            }
            match self.more(transfer).await {
                Next::Answered(result) => return Feeding::Answered(result),
                Next::ClientGone => return Feeding::ClientGone,
                Next::ClientTimeout => self.connection.handle_timeout(Instant::now().into_std()),
                Next::Ending => return Feeding::Ending,
                _ => {}
            }
        }
    }

    /// Hands over what has come of the message. Returns whether there was anything, and the event that is something else.
    fn pour(&mut self, transfer: &mut Transfer, cx: &Context<'_>) -> (bool, Option<Event>) {
        let now = Instant::now().into_std();
        let mut pieces = Pieces::default();
        let event = loop {
            let event = self.connection.poll_event(now, &mut self.wire.input);
            self.log_wire();
            match event {
                Some(Event::Chunk(octets)) => pieces.push(self.wire.piece(octets)),
                other => break other,
            }
        };
        let end = match event {
            Some(Event::MessageEnd(result)) => Some(result.map_err(BodyError::from)),
            _ => None,
        };
        transfer.ended = end.is_some();
        let fed = transfer.ended || !pieces.is_empty();
        if fed {
            transfer.polled = false;
            transfer.feed.hand_over(pieces, end, cx);
        }
        (fed, event)
    }

    /// Waits for more input, or for the service to answer without it.
    async fn more(&mut self, transfer: &mut Transfer) -> Next {
        let deadline = self.connection.poll_timeout().map(Instant::from_std);
        if self.connection.is_receiving() {
            self.wire.begin_large();
        }
        let mut polled = take(&mut transfer.polled);
        poll_fn(|cx| {
            if let Poll::Ready(Err(_)) = self.wire.poll_flush(cx, &mut self.connection) {
                return Poll::Ready(Next::ClientGone);
            }
            if let Poll::Ready(read) = self.wire.poll_read(cx) {
                return Poll::Ready(if matches!(read, Ok(1..)) {
                    Next::Input
                } else {
                    Next::ClientGone
                });
            }
            if !take(&mut polled)
                && let Poll::Ready(result) = transfer.call.poll(cx)
            {
                return Poll::Ready(Next::Answered(result));
            }
            if deadline.is_some_and(|deadline| self.wire.timer.poll_until(cx, deadline).is_ready())
            {
                return Poll::Ready(Next::ClientTimeout);
            }
            self.seat
                .poll_stage(cx, Stage::Ending)
                .map(|()| Next::Ending)
        })
        .await
    }

    /// Passes the service's answer on.
    fn settle(&mut self, result: Result<DataReply, Failure>) {
        let reply = self.judge::<Data>(result);
        self.answered(reply);
    }

    fn answered(&mut self, reply: DataReply) {
        self.connection.reply(reply);
        self.end_transaction();
    }

    /// The client is gone before the end: the service hears of it, and gets a moment to clean up.
    async fn lose(&mut self, transfer: &mut Transfer) -> Result<(), Stop> {
        self.abandon(transfer).await;
        Err(Stop::Lost(None))
    }

    /// The time for a graceful shutdown is over: the call is dropped.
    fn give_up(&mut self, transfer: &Transfer) -> Result<(), Stop> {
        self.connection.shut_down();
        transfer.feed.finish(Err(BodyError::Incomplete));
        self.end_transaction();
        Ok(())
    }

    async fn abandon(&mut self, transfer: &mut Transfer) {
        transfer.feed.finish(Err(BodyError::Incomplete));
        // Only a service that waits for the message can notice; what else it does is in vain.
        let answer = poll_fn(|cx| transfer.call.poll(cx));
        if let Ok(result) = tokio::time::timeout(GRACE, answer).await {
            // Nobody hears the answer, but a failure is told of.
            self.judge::<Data>(result);
        }
        self.end_transaction();
    }
}

/// What has come of feeding.
enum Feeding {
    Fed,
    Answered(Result<DataReply, Failure>),
    /// The session has gone on without the end of the message.
    Interrupted(Event),
    ClientGone,
    Ending,
}
