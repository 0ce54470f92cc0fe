//! Routes that hang, panic, refuse and are slow, in company: random ones, with a stand-in for the engine and a paused clock.

use std::{
    future::{pending, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use smtpd_core::{
    config::{Protocol, Timeouts},
    envelope::Envelope,
    reply::{DataReply, Reply},
};
use tokio::{
    select,
    time::{Instant, sleep, timeout_at},
};
use tower::BoxError;
use tower_service::Service;

use crate::{
    body::{Body, BodyError, Feed, Pieces, Served, incoming},
    fault::{local_error, timed_out},
    net::PeerAddr,
    phase::{Data, Request},
    reply::recover,
    router::{Router, SplitFuture},
    session::{ListenerFacts, Session, SessionError},
};

/// A sequence that looks random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// What a route does in the end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Accept,
    Refuse,
    Fail,
    Hang,
    Panic,
    /// It accepts, and panics when it is dropped.
    PanicInDrop,
    /// It hangs, and panics when it is dropped.
    HangAndPanicInDrop,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Ready,
    Call,
    /// After that many chunks, or at the end of the message if that is earlier.
    After(usize),
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    end: End,
    at: Place,
    /// Before each chunk.
    slow: Duration,
    /// It reads in a task of its own.
    apart: bool,
    /// It looks for a chunk, gives up after a second, and only then goes on.
    looks: bool,
}

impl Plan {
    fn roll(dice: &mut Dice, chunks: usize) -> Self {
        let end = dice.pick(&[
            End::Accept,
            End::Accept,
            End::Accept,
            End::Refuse,
            End::Fail,
            End::Hang,
            End::Hang,
            End::Panic,
            End::PanicInDrop,
            End::HangAndPanicInDrop,
        ]);
        let at = match (end, dice.below(10)) {
            (End::Hang | End::Panic, 0) => Place::Ready,
            (End::Panic, 1) => Place::Call,
            (End::Accept | End::PanicInDrop, 0..8) => Place::After(usize::MAX),
            _ => Place::After(dice.below(chunks + 2)),
        };
        Self {
            end,
            at,
            slow: Duration::from_millis(dice.pick(&[0, 0, 0, 1, 700, 5_000])),
            apart: matches!(at, Place::After(_)) && dice.chance(25),
            looks: dice.chance(20),
        }
    }

    fn reply(self, name: usize) -> Reply {
        match (self.end, self.at) {
            (End::Accept | End::PanicInDrop, _) => Reply::ok(format!("taken by {name}")),
            (End::Refuse, _) => Reply::rejected(format!("refused by {name}")),
            (End::Fail | End::Panic, _) => local_error(),
            (End::Hang, Place::Ready) => Reply::busy(),
            (End::Hang | End::HangAndPanicInDrop, _) => timed_out(),
        }
    }

    /// Whether it waits for nothing that never comes.
    fn ends(self) -> bool {
        !matches!(self.end, End::Hang | End::HangAndPanicInDrop)
    }
}

/// A service that follows a plan.
#[derive(Clone)]
struct Actor {
    name: usize,
    plan: Plan,
    whole: usize,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    /// What was reported to `on_error`.
    errors: Mutex<Vec<String>>,
    /// A body that ended well before its message did.
    cut: AtomicBool,
}

struct Bomb(bool);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.0 || std::thread::panicking(), "in drop");
    }
}

impl Service<Request<Data>> for Actor {
    type Response = Reply;
    type Error = BoxError;
    type Future = Acting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.plan.at != Place::Ready {
            return Poll::Ready(Ok(()));
        }
        assert!(self.plan.end == End::Hang, "in poll_ready");
        Poll::Pending
    }

    fn call(&mut self, request: Request<Data>) -> Self::Future {
        assert!(self.plan.at != Place::Call, "in call");
        let in_drop = [End::PanicInDrop, End::HangAndPanicInDrop];
        let bomb = Bomb(in_drop.contains(&self.plan.end));
        let actor = self.clone();
        let body = request.into_body();
        let future: Pin<Box<dyn Future<Output = _> + Send>> = if self.plan.apart {
            Box::pin(async {
                let reading = tokio::spawn(actor.act(body));
                match reading
                    .await
                    .map_err(tokio::task::JoinError::try_into_panic)
                {
                    Ok(result) => result,
                    Err(Ok(panic)) => std::panic::resume_unwind(panic),
                    Err(Err(error)) => Err(error.into()),
                }
            })
        } else {
            Box::pin(actor.act(body))
        };
        Acting(future, bomb)
    }
}

/// The future of an actor, and what is dropped with it.
struct Acting(
    Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>,
    #[expect(dead_code, reason = "it is dropped")] Bomb,
);

impl Future for Acting {
    type Output = Result<Reply, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl Actor {
    async fn act(self, mut body: Body) -> Result<Reply, BoxError> {
        let Place::After(most) = self.plan.at else {
            unreachable!("not called");
        };
        let mut read = 0;
        for number in 0..most {
            sleep(self.plan.slow).await;
            if self.plan.looks && number == 0 && self.plan.ends() {
                read += look(&mut body).await?;
                sleep(Duration::from_secs(1)).await;
            }
            match body.chunk().await {
                Some(Ok(chunk)) => read += chunk.len(),
                Some(Err(error)) => return Err(error.into()),
                None => {
                    self.log.cut.fetch_or(read != self.whole, Ordering::Relaxed);
                    break;
                }
            }
        }
        match self.plan.end {
            End::Hang | End::HangAndPanicInDrop => pending().await,
            End::Panic => panic!("on purpose"),
            End::Fail => Err("a fault".into()),
            _ => Ok(self.plan.reply(self.name)),
        }
    }
}

/// Takes a chunk if one is there, and does not wait for it.
async fn look(body: &mut Body) -> Result<usize, BodyError> {
    poll_fn(|cx| {
        Poll::Ready(match Pin::new(&mut *body).poll_next(cx) {
            Poll::Ready(Some(chunk)) => chunk.map(|chunk| chunk.len()),
            Poll::Ready(None) | Poll::Pending => Ok(0),
        })
    })
    .await
}

/// A chunk that counts how much memory is in use.
struct Counted {
    text: Vec<u8>,
    live: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.fetch_sub(self.text.len(), Ordering::Relaxed);
    }
}

/// How the message comes.
#[derive(Clone, Debug)]
struct Message {
    chunks: usize,
    size: usize,
    /// How many are handed over at a time.
    batch: usize,
    pause: Duration,
    /// The client disconnects after that many.
    lost: Option<usize>,
}

/// A stand-in for the engine, which asserts that its own timeout for a delivery does not pass.
struct Engine {
    feed: Feed,
    live: Arc<AtomicUsize>,
    most: usize,
    /// There is a single route, which has all the time of the server.
    may_end: bool,
}

impl Engine {
    fn chunk(&self, size: usize) -> Bytes {
        self.live.fetch_add(size, Ordering::Relaxed);
        Bytes::from_owner(Counted {
            text: vec![b'x'; size],
            live: self.live.clone(),
        })
    }

    async fn run(
        &self,
        mut call: Pin<&mut SplitFuture>,
        message: &Message,
    ) -> Result<DataReply, BoxError> {
        let timeouts = Timeouts::default();
        let (mut sent, mut limit) = (0, timeouts.data_start);
        loop {
            let due = Instant::now() + limit;
            let served = poll_fn(|cx| {
                let served = self.feed.poll_service(cx, |cx| call.as_mut().poll(cx));
                assert!(self.live.load(Ordering::Relaxed) <= self.most, "memory");
                served
            });
            match timeout_at(due, served).await {
                Ok(Served::Answered(answer)) => return answer,
                Ok(Served::Wanted) => {}
                // All hang, and none has an answer that would be lost.
                Err(_) if limit == timeouts.data_start || self.may_end => {
                    return Ok(timed_out().into());
                }
                Err(_) => panic!("the server has given up"),
            }
            let answer =
                poll_fn(
                    |cx| match self.feed.poll_service(cx, |cx| call.as_mut().poll(cx)) {
                        Poll::Ready(Served::Answered(answer)) => Poll::Ready(answer),
                        _ => Poll::Pending,
                    },
                );
            select! {
                biased;
                answer = answer => return answer,
                () = sleep(message.pause) => {}
            }
            let mut pieces = Pieces::default();
            for _ in 0..message.batch.min(message.chunks - sent) {
                pieces.push(self.chunk(message.size));
                sent += 1;
            }
            let end = match message.lost {
                Some(lost) if lost <= sent => Some(Err(BodyError::Incomplete)),
                _ => (sent == message.chunks).then_some(Ok(())),
            };
            let mut given = Some((pieces, end));
            poll_fn(|cx| {
                if let Some((pieces, end)) = given.take() {
                    self.feed.hand_over(pieces, end, cx);
                }
                Poll::Ready(())
            })
            .await;
            limit = timeouts.delivery;
        }
    }
}

/// A message for these routes. `recipients` has the number of a route for each.
#[derive(Debug)]
struct Case {
    protocol: Protocol,
    plans: Vec<Plan>,
    recipients: Vec<usize>,
    message: Message,
    ahead: usize,
    /// That of the routes, if it is not the default.
    limit: Option<Duration>,
}

impl Case {
    fn roll(dice: &mut Dice) -> Self {
        let chunks = dice.below(12);
        let plans: Vec<_> = (0..1 + dice.below(4))
            .map(|_| Plan::roll(dice, chunks))
            .collect();
        let recipients = 0..1 + dice.below(6);
        let recipients = recipients.map(|_| dice.below(plans.len())).collect();
        Self {
            protocol: dice.pick(&[Protocol::Smtp, Protocol::Lmtp]),
            recipients,
            message: Message {
                chunks,
                size: 1 + dice.below(2_000),
                batch: 1 + dice.below(4),
                pause: Duration::from_secs(dice.pick(&[0, 0, 1, 60, 250])),
                lost: dice.chance(10).then(|| dice.below(chunks + 1)),
            },
            ahead: dice.pick(&[0, 100, 3_000, 128 << 10]),
            limit: dice
                .pick(&[None, Some(300), Some(500)])
                .map(Duration::from_secs),
            plans,
        }
    }

    fn router(&self, log: &Arc<Log>) -> Router<Data> {
        let plans = self.plans.iter().enumerate();
        let mut router = Router::new().read_ahead(self.ahead);
        if let Some(limit) = self.limit {
            router = router.route_timeout(limit);
        }
        plans.fold(router, |router, (name, plan)| {
            let actor = Actor {
                name,
                plan: *plan,
                whole: self.message.chunks * self.message.size,
                log: log.clone(),
            };
            router.domain(format!("{name}.example").parse().unwrap(), actor)
        })
    }

    fn request(&self, log: &Arc<Log>, body: Body) -> Request<Data> {
        let envelope = self.recipients.iter().enumerate();
        let envelope = envelope.fold(Envelope::default(), |envelope, (at, name)| {
            envelope.with_recipient(format!("{at}@{name}.example").parse().unwrap())
        });
        let log = log.clone();
        let mut listener = ListenerFacts::default();
        listener
            .on_error
            .add(move |_: &Session, error: &SessionError| {
                log.errors.lock().unwrap().push(error.to_string());
            });
        let unknown = PeerAddr::Unknown;
        let session = Session::new(unknown.clone(), unknown, Arc::new(listener), self.protocol);
        Request::new(session, Data::new(envelope, body))
    }

    fn is_for_one(&self) -> bool {
        self.recipients.windows(2).all(|two| two[0] == two[1])
    }

    async fn play(&self, log: &Arc<Log>) -> Result<DataReply, BoxError> {
        let (feed, body) = incoming();
        let engine = Engine {
            feed,
            live: Arc::default(),
            most: self.ahead + self.message.size * (1 + self.message.batch + self.plans.len()),
            may_end: self.limit.is_none() && self.is_for_one(),
        };
        let mut router = self.router(log);
        let mut call = Box::pin(router.call(self.request(log, body)));
        engine.run(call.as_mut(), &self.message).await
    }

    async fn check(&self) {
        let log = Arc::new(Log::default());
        let answer = self.play(&log).await;
        let asked = |name: &usize| self.recipients.contains(name);
        let is_lost = self.message.lost.is_some();
        let answer = match answer {
            Ok(answer) => answer,
            // The error of a single route is that of the router.
            Err(error) => {
                assert!(self.is_for_one());
                recover(&error).into()
            }
        };
        for (number, name) in self.recipients.iter().enumerate() {
            let told = answer.for_recipient(number);
            let expected = self.plans[*name].reply(*name);
            let incomplete = is_lost && *told == BodyError::Incomplete.reply();
            assert!(
                *told == expected || incomplete,
                "{number}: {told} instead of {expected}"
            );
        }
        let count = |text: &str| {
            let errors = log.errors.lock().unwrap();
            errors.iter().filter(|error| error.contains(text)).count()
        };
        if !is_lost {
            assert!(!log.cut.load(Ordering::Relaxed), "a message was cut");
            let bombs = [End::Panic, End::PanicInDrop, End::HangAndPanicInDrop];
            let names = 0..self.plans.len();
            let panics = names
                .filter(asked)
                .filter(|name| bombs.contains(&self.plans[*name].end));
            assert_eq!(count("panicked"), panics.count());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_recipient_has_the_reply_of_its_own_route_whatever_the_others_do() {
    for seed in 0..2_000 {
        let case = Case::roll(&mut Dice(seed));
        let begun = Instant::now();
        let shown = format!("seed {seed}: {case:?}");
        let checked = tokio::spawn(async move { case.check().await }).await;
        assert!(checked.is_ok(), "{shown} after {:?}", begun.elapsed());
    }
}
