//! What stands in front of every layer and every service, and records what passes.

use std::{
    any::Any,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use smtpd_tower::{BoxError, Request, recover, reply::Verdict, service::BoxPhaseService};
use support::panic_text;
use tower::Service;

use crate::{
    scene::{Outcome, Scene},
    station::{Said, Station, facts_of},
    topology::Place,
};

pub struct Probe<P: Station> {
    inner: BoxPhaseService<P>,
    scene: Scene,
    place: Place,
}

impl<P: Station> Probe<P> {
    pub fn put(scene: &Scene, slot: usize, inner: BoxPhaseService<P>) -> BoxPhaseService<P> {
        BoxPhaseService::new(Self {
            inner,
            scene: scene.clone(),
            place: (P::KIND, slot),
        })
    }
}

impl<P: Station> Clone for Probe<P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            scene: self.scene.clone(),
            place: self.place,
        }
    }
}

impl<P: Station> Service<Request<P>> for Probe<P> {
    type Response = P::Response;
    type Error = BoxError;
    type Future = Passing<P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.inner.poll_ready(cx)));
        let wrong = match &polled {
            Ok(Poll::Ready(Err(error))) => Some(text_of(error)),
            Err(panic) => Some(message_of(&**panic)),
            _ => None,
        };
        if let Some(wrong) = wrong
            && self.scene.node(self.place).parents.is_empty()
        {
            self.scene.lock().faults.surfaced(&wrong);
        }
        polled.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn call(&mut self, request: Request<P>) -> Passing<P> {
        let call = self.scene.begin(self.place, facts_of(&request));
        let scene = self.scene.clone();
        let answer = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        let answer = answer.unwrap_or_else(|panic| {
            scene.end(call, Outcome::Panicked(message_of(&*panic)));
            resume_unwind(panic)
        });
        Passing {
            answer,
            call,
            scene,
            phase: PhantomData,
        }
    }
}

/// The future of a call.
pub struct Passing<P: Station> {
    answer: <BoxPhaseService<P> as Service<Request<P>>>::Future,
    call: usize,
    scene: Scene,
    phase: PhantomData<fn() -> P>,
}

impl<P: Station> Future for Passing<P> {
    type Output = Result<P::Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.answer.as_mut().poll(cx)));
        let outcome = match &polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => outcome_of::<P>(result),
            Err(panic) => Outcome::Panicked(message_of(&**panic)),
        };
        self.scene.end(self.call, outcome);
        polled.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl<P: Station> Drop for Passing<P> {
    fn drop(&mut self) {
        self.scene.end(self.call, Outcome::Dropped);
    }
}

fn outcome_of<P: Station>(result: &Result<P::Response, BoxError>) -> Outcome {
    match result {
        Ok(response) => Outcome::Said(P::said(response)),
        Err(error) if Verdict::of(result) == Verdict::Failed => Outcome::Failed(text_of(error)),
        Err(error) => Outcome::Said(vec![Said::of(&recover(error))]),
    }
}

/// What an error and its sources say.
pub fn text_of(error: &BoxError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    panic_text(panic).unwrap_or("no text").to_owned()
}
