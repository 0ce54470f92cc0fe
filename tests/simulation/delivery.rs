//! Data services: what they read, where, how fast, and what they reply.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use smtpd_tower::{Body, BodyError, BoxError, Data, DataReply, Request};
use tokio::{sync::oneshot, time::timeout};
use tower::Service;

use crate::{
    journal::{Call, Digest, Kind, Outcome},
    services::{CallGuard, Fault, Guarded, Readiness, code_of, conn_of, reply},
    shared::Shared,
};

/// How a service reads a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// By `collect`.
    Whole,
    /// Chunk by chunk.
    Chunks,
    /// With pauses between the chunks.
    Paused,
    /// Gives up a poll for a chunk that takes too long, and goes on later.
    Abandoning,
    /// A few chunks, and no more.
    Half,
    /// Not at all.
    Unread,
    /// Not at all, and the body outlives the reply.
    Kept,
    /// Ignores errors for a while.
    Stubborn,
}

impl Style {
    pub const ALL: [Self; 8] = [
        Self::Whole,
        Self::Chunks,
        Self::Paused,
        Self::Abandoning,
        Self::Half,
        Self::Unread,
        Self::Kept,
        Self::Stubborn,
    ];

    const fn reads_to_the_end(self) -> bool {
        !matches!(self, Self::Half | Self::Unread | Self::Kept)
    }
}

/// Where a service reads a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In its own future.
    Here,
    /// In a separate task.
    Task,
    /// In the task of the session, beside it, as in `join!(serve_connection, consumer)`.
    Beside,
}

/// The service of DATA, or of one route of it.
pub struct Delivery {
    shared: Shared,
    route: usize,
    readiness: Readiness,
}

impl Delivery {
    pub fn new(shared: &Shared, route: usize) -> Self {
        Self {
            shared: shared.clone(),
            route,
            readiness: Readiness::default(),
        }
    }
}

impl Clone for Delivery {
    fn clone(&self) -> Self {
        Self::new(&self.shared, self.route)
    }
}

impl Service<Request<Data>> for Delivery {
    type Response = DataReply;
    type Error = BoxError;
    type Future = Guarded<DataReply>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.readiness.poll(&self.shared, cx)
    }

    fn call(&mut self, request: Request<Data>) -> Self::Future {
        let shared = self.shared.clone();
        let fault = self.readiness.fault_of_call();
        let conn = conn_of(request.session());
        let call = begin(&shared, self.route, &request);
        if fault == Some(Fault::PanicInCall) {
            shared.journal.end(call, Outcome::Panicked);
            panic!("sim: a data service panics in call");
        }
        let guard = CallGuard::new(&shared, call);
        let reading = Reading::new(shared, call, fault, request.into_body());
        Guarded::new(reading.answer(conn), guard, fault)
    }
}

fn begin(shared: &Shared, route: usize, request: &Request<Data>) -> usize {
    let sender = request.envelope().sender().as_str().to_owned();
    let recipients = request.envelope().recipients().iter();
    let recipients = recipients
        .map(|recipient| recipient.path().as_str().to_owned())
        .collect();
    let call = shared.journal.begin(request.session(), Kind::Data, sender);
    shared.journal.with(call, |call| {
        (call.route, call.recipients) = (route, recipients)
    });
    call
}

/// A message that is being read, and what to do with it.
struct Reading {
    shared: Shared,
    call: usize,
    fault: Option<Fault>,
    style: Style,
    body: Body,
}

impl Reading {
    fn new(shared: Shared, call: usize, fault: Option<Fault>, body: Body) -> Self {
        let style = shared.dice.pick(&shared.swarm.styles);
        Self {
            shared,
            call,
            fault,
            style,
            body,
        }
    }

    async fn answer(self, conn: u64) -> Result<DataReply, BoxError> {
        let (shared, call) = (self.shared.clone(), self.call);
        let early = shared.dice.chance(20);
        if early {
            shared.delay(self.fault).await;
        }
        let result = match shared.dice.pick(&shared.swarm.places) {
            Place::Here => self.read().await,
            place => self.read_elsewhere(conn, place).await,
        };
        let code = match result {
            Ok(code) => code,
            Err(error) => {
                shared.journal.end(call, Outcome::Replied(code_of(&error)));
                return Err(error.into());
            }
        };
        Self::finish(&shared, call, code)
    }

    async fn read_elsewhere(self, conn: u64, place: Place) -> Result<u16, BodyError> {
        let shared = self.shared.clone();
        let (done, result) = oneshot::channel();
        let job = async move {
            let _ = done.send(self.read().await);
        };
        match place {
            Place::Beside => shared.help(conn, Box::pin(job)),
            _ => shared.spawner.spawn(job),
        }
        result.await.unwrap_or(Ok(PANICKED))
    }

    /// Reads the message, stores it if the service does, and returns the code of the reply.
    async fn read(mut self) -> Result<u16, BodyError> {
        let digest = self.read_body().await?;
        let code = self.code();
        match digest {
            Some(digest) if code == 250 => self.shared.journal.commit(self.call, digest),
            None if code == 250 => {
                let discard = |call: &mut Call| call.discards = true;
                self.shared.journal.with(self.call, discard);
            }
            _ => {}
        }
        if self.shared.swarm.slow_delivery && code == 250 {
            self.shared.sleep(&[3000, 100_000, 500_000]).await;
        }
        self.shared.delay(self.fault).await;
        Ok(code)
    }

    /// Returns the code of the reply, if the message has arrived.
    fn code(&self) -> u16 {
        match self.fault {
            Some(Fault::Reject | Fault::ThrownReply) => 550,
            Some(Fault::Defer) => 451,
            Some(Fault::Close) => 421,
            Some(Fault::Error) => FAILED,
            Some(Fault::PanicInPoll) => PANICKED,
            _ if !self.style.reads_to_the_end() && self.shared.dice.chance(80) => 550,
            _ => 250,
        }
    }

    fn finish(shared: &Shared, call: usize, code: u16) -> Result<DataReply, BoxError> {
        match code {
            FAILED => {
                shared.journal.end(call, Outcome::Failed);
                Err("sim: disk full".into())
            }
            PANICKED => {
                shared.journal.end(call, Outcome::Panicked);
                panic!("sim: a data service panics in poll");
            }
            _ => {
                shared.journal.end(call, Outcome::Replied(code));
                Ok(reply(code).into())
            }
        }
    }

    /// Reads as much as the style does, or returns `None` if that is not the whole message.
    async fn read_body(&mut self) -> Result<Option<Digest>, BodyError> {
        match self.style {
            Style::Unread => Ok(None),
            Style::Kept => {
                let body = std::mem::take(&mut self.body);
                let keep = |call: &mut Call| call.keeps = true;
                self.shared.journal.with(self.call, keep);
                self.shared.journal.lock().kept.push(body);
                Ok(None)
            }
            Style::Half => self.read_chunks(self.shared.dice.between(1, 3)).await,
            Style::Whole => self.collect().await.map(Some),
            _ => self.read_chunks(usize::MAX).await,
        }
    }

    async fn collect(&mut self) -> Result<Digest, BodyError> {
        let body = std::mem::take(&mut self.body);
        let mut collecting = pin!(body.collect());
        let set = |call: &mut Call| call.reader.get_or_insert_default().collects = true;
        self.shared.journal.with(self.call, set);
        let message = noted(&self.shared, self.call, |cx| collecting.as_mut().poll(cx)).await?;
        self.note(message.len());
        Ok(Digest::of(&message))
    }

    async fn read_chunks(&mut self, most: usize) -> Result<Option<Digest>, BodyError> {
        let mut digest = Digest::default();
        for _ in 0..most {
            match self.next().await {
                Some(Ok(chunk)) => {
                    digest.add(&chunk);
                    self.note(digest.len);
                }
                Some(Err(error)) => {
                    if self.style == Style::Stubborn {
                        self.shared.sleep(&[9000, 100_000]).await;
                    }
                    return Err(error);
                }
                None => return Ok(Some(digest)),
            }
        }
        Ok(None)
    }

    /// The next chunk, with what the style does before it or instead of it.
    async fn next(&mut self) -> Option<Result<bytes::Bytes, BodyError>> {
        let shared = self.shared.clone();
        match self.style {
            Style::Paused if shared.dice.chance(30) => shared.sleep(&[1, 500, 8000]).await,
            Style::Chunks if shared.dice.chance(10) => shared.yield_some().await,
            Style::Abandoning => {
                let limit = Duration::from_millis(shared.dice.pick(&[0, 5, 1000]));
                while shared.dice.chance(70) {
                    if let Ok(chunk) = timeout(limit, self.chunk()).await {
                        return chunk;
                    }
                    shared.sleep(&[0, 5, 2000, 150_000]).await;
                }
            }
            _ => {}
        }
        self.chunk().await
    }

    async fn chunk(&mut self) -> Option<Result<bytes::Bytes, BodyError>> {
        let mut chunk = pin!(self.body.chunk());
        noted(&self.shared, self.call, |cx| chunk.as_mut().poll(cx)).await
    }

    fn note(&self, position: usize) {
        self.shared
            .trace
            .count("has_read", self.call as u64, position);
        let set = |call: &mut Call| call.reader.get_or_insert_default().position = position;
        self.shared.journal.with(self.call, set);
    }
}

/// Polls, and notes for the invariants whether the reader of that call waits.
async fn noted<T>(
    shared: &Shared,
    call: usize,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> T {
    let waiting = Waiting { shared, call };
    poll_fn(|cx| {
        let polled = poll(cx);
        waiting.note(polled.is_pending());
        polled
    })
    .await
}

/// A poll that may be given up.
struct Waiting<'a> {
    shared: &'a Shared,
    call: usize,
}

impl Waiting<'_> {
    fn note(&self, waits: bool) {
        let set = |call: &mut Call| call.reader.get_or_insert_default().waits = waits;
        self.shared.journal.with(self.call, set);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.note(false);
    }
}

const FAILED: u16 = 0;
const PANICKED: u16 = 1;
