//! Services that do, at random, everything that a service may do, and some things that it must not.

use std::{
    future::pending,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use smtpd_tower::{
    Auth, BodyError, BoxError, Command, Connect, Helo, Identity, Mail, Phase, Rcpt, Reply, Request,
    Session,
    net::PeerAddr,
    reply::{Code, Status},
};
use support::yield_once;
use tokio::time::Sleep;
use tower::Service;

use crate::{
    executor::BoxFuture,
    journal::{Kind, Outcome},
    scram,
    shared::Shared,
};

/// What a service may do other than reply at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Slow,
    VerySlow,
    Never,
    Yielding,
    Reject,
    Defer,
    Close,
    Error,
    ThrownReply,
    PanicInCall,
    PanicInPoll,
    PanicInDrop,
    Unready,
    NeverReady,
    ReadyError,
    ReadyPanic,
}

impl Fault {
    pub const ALL: [Self; 16] = [
        Self::Slow,
        Self::VerySlow,
        Self::Never,
        Self::Yielding,
        Self::Reject,
        Self::Defer,
        Self::Close,
        Self::Error,
        Self::ThrownReply,
        Self::PanicInCall,
        Self::PanicInPoll,
        Self::PanicInDrop,
        Self::Unready,
        Self::NeverReady,
        Self::ReadyError,
        Self::ReadyPanic,
    ];
}

/// A phase that the simulation has services for.
pub trait SimPhase: Phase {
    const KIND: Kind;

    /// What the request is about, as sent by the client.
    fn subject(request: &Request<Self>) -> String
    where
        Self: Sized;

    /// The reply of a service that accepts.
    fn accept(request: &Request<Self>) -> (u16, Self::Response)
    where
        Self: Sized;
}

/// The service of a phase.
pub struct SimService<P> {
    shared: Shared,
    readiness: Readiness,
    phase: PhantomData<fn(P)>,
}

impl<P> SimService<P> {
    pub fn new(shared: &Shared) -> Self {
        Self {
            shared: shared.clone(),
            readiness: Readiness::default(),
            phase: PhantomData,
        }
    }
}

impl<P> Clone for SimService<P> {
    /// Readiness is that of one instance.
    fn clone(&self) -> Self {
        Self::new(&self.shared)
    }
}

impl<P: SimPhase> Service<Request<P>> for SimService<P> {
    type Response = P::Response;
    type Error = BoxError;
    type Future = Guarded<P::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.readiness.poll(&self.shared, cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let shared = self.shared.clone();
        let subject = P::subject(&request);
        // Text that looks like a command has this sender, and must never become one.
        let evil = subject.starts_with("evil").then_some(Fault::Reject);
        let fault = evil.or(self.readiness.fault_of_call());
        let call = shared
            .journal
            .begin(request.session(), <P as SimPhase>::KIND, subject);
        if fault == Some(Fault::PanicInCall) {
            shared.journal.end(call, Outcome::Panicked);
            panic!("sim: a service panics in call");
        }
        let guard = CallGuard::new(&shared, call);
        Guarded::new(answer(shared, call, fault, request), guard, fault)
    }
}

/// The number of a connection, which is the port of its client, or of the proxy before that.
pub fn conn_of(session: &Session) -> u64 {
    match session.peer_addr() {
        PeerAddr::Inet(address) => u64::from(address.port()),
        _ => 0,
    }
}

/// Whether an instance of a service is ready, and what it does wrong.
#[derive(Default)]
pub struct Readiness {
    /// Decided at the first poll.
    fault: Option<Option<Fault>>,
    delay: Option<Delay>,
}

/// A service that is not ready yet, or never.
struct Delay {
    sleep: Option<Pin<Box<Sleep>>>,
    shared: Shared,
}

impl Readiness {
    pub fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let fault = *self.fault.get_or_insert_with(|| shared.fault());
        let times = match fault {
            Some(Fault::Unready) => Some(shared.dice.pick(&[0, 1, 1000, 20_000])),
            Some(Fault::NeverReady) => None,
            Some(Fault::ReadyError) => {
                return Poll::Ready(Err("sim: a service fails in poll_ready".into()));
            }
            Some(Fault::ReadyPanic) => panic!("sim: a service panics in poll_ready"),
            _ => return Poll::Ready(Ok(())),
        };
        let delay = self.delay.get_or_insert_with(|| Delay::new(shared, times));
        ready!(delay.poll(cx));
        self.delay = None;
        self.fault = Some(None);
        Poll::Ready(Ok(()))
    }

    /// What the call does wrong.
    pub fn fault_of_call(&self) -> Option<Fault> {
        self.fault.flatten()
    }
}

impl Delay {
    fn new(shared: &Shared, time: Option<u64>) -> Self {
        shared.journal.lock().unready += 1;
        let sleep = |time| Box::pin(tokio::time::sleep(Duration::from_millis(time)));
        Self {
            sleep: time.map(sleep),
            shared: shared.clone(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.shared.journal.lock().unready -= 1;
    }
}

/// Records how a call ends, also where its future is dropped.
pub struct CallGuard {
    shared: Shared,
    call: usize,
}

impl CallGuard {
    pub fn new(shared: &Shared, call: usize) -> Self {
        Self {
            shared: shared.clone(),
            call,
        }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let working = |call: &mut crate::journal::Call| call.outcome == Outcome::Working;
        if self.shared.journal.with(self.call, working) {
            self.shared.journal.end(self.call, Outcome::Dropped);
        }
    }
}

/// The future of a call.
pub struct Guarded<T> {
    answer: BoxFuture<Result<T, BoxError>>,
    guard: CallGuard,
    /// Panics when it is dropped.
    fragile: bool,
}

impl<T> Guarded<T> {
    pub fn new(
        answer: impl Future<Output = Result<T, BoxError>> + Send + 'static,
        guard: CallGuard,
        fault: Option<Fault>,
    ) -> Self {
        Self {
            answer: Box::pin(answer),
            guard,
            fragile: fault == Some(Fault::PanicInDrop),
        }
    }
}

impl<T> Future for Guarded<T> {
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(cx)
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        if self.fragile && !std::thread::panicking() {
            let (journal, call) = (&self.guard.shared.journal, self.guard.call);
            let conn = journal.with(call, |call| {
                if let Outcome::Replied(code) = call.outcome {
                    call.outcome = Outcome::Fragile(code);
                }
                call.conn
            });
            journal.panicked(conn, "a service's future panics in drop");
            panic!("sim: a service's future panics in drop");
        }
    }
}

async fn answer<P: SimPhase>(
    shared: Shared,
    call: usize,
    fault: Option<Fault>,
    request: Request<P>,
) -> Result<P::Response, BoxError> {
    shared.delay(fault).await;
    let refused = |code: u16| {
        shared.journal.end(call, Outcome::Replied(code));
        reply(code)
    };
    match fault {
        Some(Fault::Reject) => Ok(refused(550).into()),
        Some(Fault::Defer) => Ok(refused(451).into()),
        Some(Fault::Close) => Ok(refused(421).into()),
        Some(Fault::ThrownReply) => Err(refused(554).into()),
        Some(Fault::Error) => {
            shared.journal.end(call, Outcome::Failed);
            Err("sim: password=secret".into())
        }
        Some(Fault::PanicInPoll) => {
            shared.journal.end(call, Outcome::Panicked);
            panic!("sim: a service panics in poll");
        }
        _ => {
            let (code, response) = P::accept(&request);
            shared.journal.end(call, Outcome::Replied(code));
            Ok(response)
        }
    }
}

impl Shared {
    /// What the next instance of a service does wrong, if anything.
    pub fn fault(&self) -> Option<Fault> {
        let swarm = &self.swarm;
        let faulty = swarm.fault_rate > 0 && self.dice.chance(swarm.fault_rate);
        faulty.then(|| self.dice.pick(&swarm.faults))
    }

    /// Waits for the time that belongs to a fault.
    pub async fn delay(&self, fault: Option<Fault>) {
        match fault {
            Some(Fault::Slow) => self.sleep(&[1, 10, 900, 4000]).await,
            Some(Fault::VerySlow) => self.sleep(&[20_000, 100_000, 300_000]).await,
            Some(Fault::Never) => pending().await,
            Some(Fault::Yielding) => self.yield_some().await,
            Some(Fault::PanicInPoll | Fault::PanicInDrop | Fault::Error)
                if self.dice.chance(50) =>
            {
                self.sleep(&[1, 1000]).await;
            }
            _ => {}
        }
    }

    /// Sleeps for one of these times, in milliseconds.
    pub async fn sleep(&self, times: &[u64]) {
        let time = Duration::from_millis(self.dice.pick(times));
        tokio::time::sleep(time).await;
    }

    pub async fn yield_some(&self) {
        for _ in 0..self.dice.between(1, 4) {
            yield_once().await;
        }
    }
}

/// A reply of that code.
pub fn reply(code: u16) -> Reply {
    match code {
        250 => Reply::OK,
        421 => Reply::closing("sim: closing"),
        451 => Reply::try_again("sim: deferred"),
        550 => Reply::new(Code::MAILBOX_UNAVAILABLE, Status::DENIED, "sim: refused"),
        _ => Reply::rejected("sim: rejected"),
    }
}

/// The code that an error of a body becomes.
pub fn code_of(error: &BodyError) -> u16 {
    error.reply().code().as_u16()
}

macro_rules! phases {
    ($($phase:ident, $request:ident => $subject:expr;)*) => {
        $(
            impl SimPhase for $phase {
                const KIND: Kind = Kind::$phase;

                fn subject($request: &Request<Self>) -> String {
                    $subject
                }

                fn accept(_: &Request<Self>) -> (u16, Reply) {
                    (250, Reply::OK)
                }
            }
        )*
    };
}

phases! {
    Connect, _request => String::new();
    Helo, request => request.name().to_string();
    Mail, request => request.sender().as_str().to_owned();
    Rcpt, request => request.recipient().as_str().to_owned();
}

impl SimPhase for Command {
    const KIND: Kind = Kind::Command;

    fn subject(request: &Request<Self>) -> String {
        let command = request.payload();
        format!("{} {}", command.verb(), command.argument())
    }

    fn accept(request: &Request<Self>) -> (u16, Reply) {
        let reply = match request.verb() {
            "XOK" => Reply::OK,
            _ => request.default_reply().clone(),
        };
        (reply.code().as_u16(), reply)
    }
}

impl SimPhase for Auth {
    const KIND: Kind = Kind::Auth;

    fn subject(request: &Request<Self>) -> String {
        request.credentials().username().to_owned()
    }

    fn accept(request: &Request<Self>) -> (u16, smtpd_tower::phase::AuthOutcome) {
        let credentials = request.credentials();
        match credentials.password() {
            // Whether the proof is right, the session finds out.
            None => (334, scram::secret().into()),
            Some("wrong") => (535, Reply::auth_failed().into()),
            _ => (235, Identity::new(credentials.username()).into()),
        }
    }
}
