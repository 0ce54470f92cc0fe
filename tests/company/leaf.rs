//! Services that do what services do: accept, refuse, fail, hang, panic.

use std::{
    future::pending,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use smtpd_tower::{BoxError, Data, DataReply, Phase, Reply, Request, phase::PhaseKind};
use support::yield_once;
use tokio::time::{Sleep, sleep};
use tower::Service;

use crate::{
    dice::Dice,
    scene::Scene,
    session_plan::Message,
    station::{Facts, Station, facts_of},
    topology::Place,
};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Accept,
    Slow(u64),
    Defer,
    Reject,
    ThrowDefer,
    ThrowReject,
    ThrowDeep,
    Fail,
    Hang,
    PanicInCall,
    PanicInPoll,
}

/// What an instance does when it is asked whether it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Ready,
    Late(u64),
    Never,
    Fails,
    Panics,
}

/// How much of a message is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    All,
    Some,
    Nothing,
    /// Reads a part, and then neither more nor answers.
    Sticks,
}

/// The service of a phase.
pub struct Leaf<P> {
    scene: Scene,
    place: Place,
    readiness: Option<Readiness>,
    late: Option<Pin<Box<Sleep>>>,
    phase: PhantomData<fn() -> P>,
}

impl<P: Phase> Leaf<P> {
    pub fn new(scene: &Scene, slot: usize) -> Self {
        Self {
            scene: scene.clone(),
            place: (P::KIND, slot),
            readiness: None,
            late: None,
            phase: PhantomData,
        }
    }
}

impl<P: Phase> Clone for Leaf<P> {
    fn clone(&self) -> Self {
        Self::new(&self.scene, self.place.1)
    }
}

type Answer<P> = Pin<Box<dyn Future<Output = Result<<P as Phase>::Response, BoxError>> + Send>>;

impl<P: Station + Reading> Service<Request<P>> for Leaf<P> {
    type Response = P::Response;
    type Error = BoxError;
    type Future = Answer<P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let (scene, place) = (&self.scene, self.place);
        match *self
            .readiness
            .get_or_insert_with(|| readiness(scene, place))
        {
            Readiness::Ready => {}
            Readiness::Late(time) => {
                let sleep = || Box::pin(sleep(Duration::from_millis(time)));
                ready!(self.late.get_or_insert_with(sleep).as_mut().poll(cx));
            }
            Readiness::Never => return Poll::Pending,
            Readiness::Fails => return Poll::Ready(Err(scene.lock().faults.make().into())),
            Readiness::Panics => panic!("{}", scene.fault()),
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<P>) -> Answer<P> {
        let (scene, place) = (self.scene.clone(), self.place);
        let mut dice = dice(&scene, place, "call");
        let act = act(&scene, place, &mut dice);
        scene.note(
            facts_of(&request).session,
            format_args!("   {} {}: {act:?}", place.0, place.1),
        );
        if scene.plan.settings.keeps_sessions {
            scene.lock().kept.push(request.session().clone());
        }
        if act == Act::PanicInCall {
            panic!("{}", scene.fault());
        }
        Box::pin(answer(scene, place, act, dice, request))
    }
}

impl Scene {
    /// How many of 100 calls go wrong.
    fn faults(&self, phase: PhaseKind) -> usize {
        let settings = &self.plan.settings;
        match settings.focus {
            Some(focus) if focus != phase => 0,
            _ => settings.faults,
        }
    }

    /// The text of another fault.
    pub fn fault(&self) -> String {
        self.lock().faults.make()
    }
}

fn dice(scene: &Scene, place: Place, what: &'static str) -> Dice {
    let number = scene.decision(place, what);
    Dice::of(
        scene.plan.seed,
        &[place.1, place.0 as usize, what.len(), number],
    )
}

fn readiness(scene: &Scene, place: Place) -> Readiness {
    let mut dice = dice(scene, place, "readiness");
    if scene.node(place).is_buffered || !dice.chance(scene.faults(place.0) / 3) {
        return Readiness::Ready;
    }
    dice.pick(&[
        Readiness::Late(10),
        Readiness::Late(2000),
        Readiness::Never,
        Readiness::Fails,
        Readiness::Panics,
    ])
}

fn act(scene: &Scene, place: Place, dice: &mut Dice) -> Act {
    if !dice.chance(scene.faults(place.0)) {
        return dice.pick(&[Act::Accept, Act::Accept, Act::Slow(20), Act::Slow(3000)]);
    }
    let act = dice.pick(&[
        Act::Defer,
        Act::Reject,
        Act::Reject,
        Act::ThrowDefer,
        Act::ThrowReject,
        Act::ThrowDeep,
        Act::Fail,
        Act::Hang,
        Act::PanicInCall,
        Act::PanicInPoll,
    ]);
    match act {
        // It would end the task of the buffer.
        Act::PanicInCall if scene.node(place).is_buffered => Act::PanicInPoll,
        act => act,
    }
}

fn deferred(phase: PhaseKind, text: &str) -> Reply {
    match phase {
        PhaseKind::Auth => Reply::auth_unavailable(),
        _ => Reply::mailbox_busy(format!("Later: {text}")),
    }
}

async fn answer<P: Station + Reading>(
    scene: Scene,
    place: Place,
    act: Act,
    dice: Dice,
    request: Request<P>,
) -> Result<P::Response, BoxError> {
    let text = format!("{} {}", place.0, place.1);
    match act {
        Act::Slow(time) => sleep(Duration::from_millis(time)).await,
        Act::Hang => pending().await,
        Act::PanicInPoll => {
            yield_once().await;
            panic!("{}", scene.fault());
        }
        _ => {}
    }
    match act {
        Act::Defer => Ok(deferred(place.0, &text).into()),
        Act::Reject => Ok(Reply::rejected(format!("No: {text}")).into()),
        Act::ThrowDefer => Err(deferred(place.0, &text).into()),
        Act::ThrowReject => Err(Reply::rejected(format!("No: {text}")).into()),
        Act::ThrowDeep => Err(std::io::Error::other(Reply::rejected(format!("No: {text}"))).into()),
        Act::Fail => Err(scene.fault().into()),
        _ => P::work(scene, place, dice, request).await,
    }
}

/// What a service does that accepts.
pub trait Reading: Station {
    fn work(
        _: Scene,
        _: Place,
        _: Dice,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Self::Response, BoxError>> + Send
    where
        Self: Sized,
    {
        std::future::ready(Ok(Self::accept(&request)))
    }
}

macro_rules! nothing_to_read {
    ($($phase:ident)*) => {
        $(impl Reading for smtpd_tower::$phase {})*
    };
}

nothing_to_read!(Connect Helo Auth Mail Rcpt Command);

impl Reading for Data {
    async fn work(
        scene: Scene,
        place: Place,
        mut dice: Dice,
        request: Request<Self>,
    ) -> Result<DataReply, BoxError> {
        let facts = facts_of(&request);
        let reads = match dice.below(20) {
            0 if scene.faults(place.0) > 0 => Reads::Sticks,
            1 => Reads::Some,
            2 => Reads::Nothing,
            _ => Reads::All,
        };
        let mut message = Vec::new();
        let mut body = request.into_body();
        if reads == Reads::Nothing {
            return Ok(Reply::OK.into());
        }
        while let Some(chunk) = body.chunk().await {
            let chunk = chunk?;
            message.extend_from_slice(&chunk);
            scene.read(place, facts.session, message.len());
            match reads {
                Reads::Some => break,
                Reads::Sticks => pending().await,
                _ => {}
            }
        }
        if reads != Reads::All {
            // Nothing is stored.
            return Ok(Reply::OK.into());
        }
        Ok(deliver(&scene, &mut dice, &facts, &message))
    }
}

/// Stores a message for some of its recipients.
fn deliver(scene: &Scene, dice: &mut Dice, facts: &Facts, message: &[u8]) -> DataReply {
    let each = scene.faults(PhaseKind::Data) > 0 && dice.chance(40);
    let mut replies: Vec<Reply> = Vec::new();
    for (number, recipient) in facts.recipients.iter().enumerate() {
        // A recipient that is named twice gets one message.
        if let Some(before) = facts.recipients[..number]
            .iter()
            .position(|other| other == recipient)
        {
            replies.push(replies[before].clone());
            continue;
        }
        let reply = match dice.below(3) {
            0 if each => Reply::mailbox_busy(format!("Full: {recipient}")),
            1 if each => Reply::rejected(format!("Gone: {recipient}")),
            _ => Reply::ok(format!("Stored for {recipient}")),
        };
        if reply.is_positive() {
            stored(scene, facts, number, message);
        }
        replies.push(reply);
    }
    DataReply::each(replies)
}

fn stored(scene: &Scene, facts: &Facts, number: usize, message: &[u8]) {
    let recipient = &facts.recipients[number];
    let mut state = scene.lock();
    let delivered = state.wire(facts.session).deliver(recipient);
    if let Err(wrong) = delivered.and_then(|sent| check_text(message, sent)) {
        state.violate(format!("session {}: {wrong}", facts.session));
    }
}

/// A message arrives as it was sent, but for fields in front of it.
fn check_text(message: &[u8], sent: Message) -> Result<(), String> {
    if !message.ends_with(&sent.text()) {
        return Err(format!(
            "{sent:?} arrives otherwise: {}",
            message.escape_ascii()
        ));
    }
    let text = String::from_utf8_lossy(message);
    let header = text.split("\r\n\r\n").next().unwrap_or_default();
    let dates = header.lines().filter(|line| line.starts_with("Date:"));
    if dates.count() > 1 {
        return Err(format!("{sent:?} has two dates"));
    }
    Ok(())
}

impl Scene {
    /// A service has read that much of a message.
    fn read(&self, (phase, slot): Place, session: usize, bytes: usize) {
        let mut state = self.lock();
        if let Some(call) = state.open.get(&(session, phase, slot)).copied() {
            state.calls[call].read = bytes as u64;
        }
    }
}
