//! Services that do what the input says.

use std::{
    future::{pending, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use smtpd_tower::{
    Auth, Body, BoxError, Command, Connect, Data, Helo, Identity, Mail, Phase, Rcpt, Reply,
    Request, phase::AuthOutcome, session::Summary,
};
use tokio::time::{Sleep, sleep};
use tower::Service;

use crate::{delivery, tasks::BoxFuture};

/// What the services and hooks of a session have in common. Clones are the same.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Journal>>);

/// What the services are to do, and what they have done.
#[derive(Default)]
pub struct Journal {
    /// What the services of commands do, one after the other and over and over.
    pub commands: Vec<u8>,
    /// What the data service does, likewise.
    pub data: Vec<u8>,
    commands_asked: usize,
    data_asked: usize,
    /// Calls whose futures exist.
    pub alive: usize,
    /// A service waits for the next piece of its message, and for nothing else.
    pub waits: bool,
    pub deliveries: Vec<Delivery>,
    /// Bodies that have outlived their calls.
    pub kept: Vec<Body>,
    /// Tasks that read a body beside the session.
    pub spawned: Vec<BoxFuture>,
    pub ends: Vec<Summary>,
}

/// A call of the data service.
#[derive(Debug, Default)]
pub struct Delivery {
    pub body: Vec<u8>,
    /// The body was read to its end, and the message is complete.
    pub complete: bool,
    /// A positive reply was returned.
    pub taken: bool,
}

impl Shared {
    pub fn new(commands: &[u8], data: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(Journal {
            commands: commands.to_vec(),
            data: data.to_vec(),
            ..Journal::default()
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal {
    fn plan(&mut self, is_data: bool) -> Plan {
        let (plans, asked) = match is_data {
            true => (&self.data, &mut self.data_asked),
            false => (&self.commands, &mut self.commands_asked),
        };
        *asked += 1;
        Plan(match plans.len() {
            0 => 0,
            len => plans[(*asked - 1) % len],
        })
    }
}

/// What one call does.
#[derive(Clone, Copy, Debug)]
pub struct Plan(u8);

impl Plan {
    pub const fn style(self) -> u8 {
        self.0 & 15
    }

    pub const fn argument(self) -> u8 {
        self.0 >> 4
    }

    pub fn time(self) -> Duration {
        const TIMES: [u64; 16] = [
            0, 1, 2, 10, 100, 500, 999, 1000, 1001, 2000, 5000, 9999, 30_000, 99_000, 150_000,
            600_000,
        ];
        Duration::from_millis(TIMES[usize::from(self.argument())])
    }

    const NOT_READY: u8 = 15;
}

/// A phase that the target has a service for.
pub trait Scripted: Phase + Sized {
    const IS_DATA: bool = false;

    fn accept(request: &Request<Self>) -> Self::Response;

    /// Answers one request.
    fn answer(
        shared: Shared,
        plan: Plan,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Self::Response, BoxError>> + Send
    where
        Self::Response: From<Reply>,
        Request<Self>: Send,
    {
        drop(shared);
        answer(plan, request)
    }
}

macro_rules! accept {
    ($($phase:ident, $request:ident => $response:expr;)*) => {
        $(impl Scripted for $phase {
            fn accept($request: &Request<Self>) -> Self::Response {
                $response
            }
        })*
    };
}

accept! {
    Connect, _request => Reply::OK;
    Helo, _request => Reply::OK;
    Mail, _request => Reply::OK;
    Rcpt, _request => Reply::OK;
    Command, request => request.default_reply().clone();
    Auth, request => AuthOutcome::from(Identity::new(request.credentials().username()));
}

impl Scripted for Data {
    const IS_DATA: bool = true;

    fn accept(_: &Request<Self>) -> Self::Response {
        Reply::OK.into()
    }

    fn answer(
        shared: Shared,
        plan: Plan,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Self::Response, BoxError>> + Send {
        delivery::deliver(shared, plan, request)
    }
}

async fn answer<P: Scripted>(plan: Plan, request: Request<P>) -> Result<P::Response, BoxError>
where
    P::Response: From<Reply>,
    Request<P>: Send,
{
    match plan.style() {
        1 => yield_once().await,
        2 | 3 => sleep(plan.time()).await,
        4 => pending().await,
        5 => return Ok(Reply::no_such_user().into()),
        6 => return Ok(Reply::busy().into()),
        7 => return Ok(Reply::closing("Scripted").into()),
        8 => return Err("scripted".into()),
        9 => return Err(Reply::rejected("Scripted").into()),
        10 => panic!("fuzz: in poll"),
        11 => {
            sleep(plan.time()).await;
            panic!("fuzz: in a later poll");
        }
        _ => {}
    }
    Ok(P::accept(&request))
}

/// Lets others go first.
pub async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        cx.waker().wake_by_ref();
        match std::mem::replace(&mut yielded, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// The service of every phase.
pub struct Actor {
    shared: Shared,
    plan: Option<Plan>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Actor {
    pub fn new(shared: &Shared) -> Self {
        Self {
            shared: shared.clone(),
            plan: None,
            sleep: None,
        }
    }
}

impl Clone for Actor {
    /// Readiness is that of one instance.
    fn clone(&self) -> Self {
        Self::new(&self.shared)
    }
}

impl<P: Scripted> Service<Request<P>> for Actor
where
    P::Response: From<Reply>,
    Request<P>: Send + 'static,
{
    type Response = P::Response;
    type Error = BoxError;
    type Future = Call<P::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let shared = &self.shared;
        let plan = *self
            .plan
            .get_or_insert_with(|| shared.lock().plan(P::IS_DATA));
        if plan.style() != Plan::NOT_READY {
            return Poll::Ready(Ok(()));
        }
        match plan.argument() {
            0 => Poll::Ready(Err("scripted: not ready".into())),
            1 => panic!("fuzz: in poll_ready"),
            15 => Poll::Pending,
            _ => {
                let asleep = self
                    .sleep
                    .get_or_insert_with(|| Box::pin(sleep(plan.time())));
                asleep.as_mut().poll(cx).map(Ok)
            }
        }
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let plan = self.plan.take().unwrap_or(Plan(0));
        assert!(plan.style() != 12 || plan.argument() != 1, "fuzz: in call");
        self.shared.lock().alive += 1;
        Call {
            shared: self.shared.clone(),
            fragile: plan.style() == 12 && plan.argument() == 2,
            answer: Box::pin(P::answer(self.shared.clone(), plan, request)),
        }
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// The future of a call.
pub struct Call<T> {
    shared: Shared,
    answer: Answer<T>,
    /// Panics when it is dropped.
    fragile: bool,
}

impl<T> Future for Call<T> {
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(cx)
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        self.shared.lock().alive -= 1;
        assert!(
            !self.fragile || std::thread::panicking(),
            "fuzz: in drop of a call"
        );
    }
}
