//! What each layer has to do with a request and with its answer: the contract of every layer, from its documentation. Most of it
//! is that a layer that neither refuses nor changes anything says what the service within it has said.

use std::time::Duration;

use smtpd_tower::{Reply, phase::PhaseKind};

use crate::{
    counts,
    plan::{Condition, Function, Kind},
    scene::{Call, Outcome, Scene, State},
    session_plan::Message,
    station::{Said, default_of},
    topology::{Below, Node},
};

pub type Checked = Result<(), String>;

/// Checks a call that has ended.
pub fn check(scene: &Scene, state: &mut State, id: usize) -> Checked {
    let place = state.calls[id].place;
    let node = scene.node(place);
    let call = &state.calls[id];
    if node.parents.is_empty()
        && let Outcome::Failed(text) | Outcome::Panicked(text) = &call.outcome
    {
        let text = text.clone();
        state.faults.surfaced(&text);
    }
    let case = Case {
        scene,
        state,
        id,
        call: &state.calls[id],
        node,
        children: state.children(id),
    };
    let reported = case.reported();
    let (session, elapsed) = (case.call.session(), case.has_elapsed());
    let checked = match &node.below {
        Below::Leaf => Ok(()),
        Below::Router { routes, otherwise } => case.routed(routes, *otherwise),
        Below::Layer(kind) => case.layer(kind),
    };
    for text in reported {
        state.faults.surfaced(&text);
    }
    state.wire(session).elapsed |= elapsed;
    checked
}

/// A call that has ended, and what it is checked against.
pub struct Case<'a> {
    pub scene: &'a Scene,
    pub state: &'a State,
    pub id: usize,
    pub call: &'a Call,
    pub node: &'a Node,
    pub children: Vec<&'a Call>,
}

impl Case<'_> {
    /// Whether tower's timeout has given up what is within it, which may have stored the message.
    fn has_elapsed(&self) -> bool {
        let is_timeout = matches!(self.node.below, Below::Layer(Kind::Timeout(_)));
        is_timeout
            && self
                .children
                .iter()
                .any(|child| child.outcome == Outcome::Open)
    }

    /// The faults that the layer does not pass on, and has to report itself.
    fn reported(&self) -> Vec<String> {
        let catches = match &self.node.below {
            Below::Router { .. } => self.children.len() > 1,
            Below::Layer(kind) => matches!(kind, Kind::CatchPanic),
            Below::Leaf => false,
        };
        if !catches || !matches!(self.call.outcome, Outcome::Said(_)) {
            return Vec::new();
        }
        let texts = self
            .children
            .iter()
            .filter_map(|child| match &child.outcome {
                Outcome::Panicked(text) => Some(text.clone()),
                Outcome::Failed(text) if matches!(self.node.below, Below::Router { .. }) => {
                    Some(text.clone())
                }
                _ => None,
            });
        texts.collect()
    }

    fn layer(&self, kind: &Kind) -> Checked {
        if self.call.outcome == Outcome::Dropped {
            return self.kept_rejection(kind);
        }
        if let Some(refusal) = self.must_refuse(kind) {
            return self.refused_with(&refusal);
        }
        match *kind {
            Kind::RatePerIp(_) | Kind::RatePerIdentity(_) if self.says("Too many requests, ") => {
                self.limited(kind)
            }
            Kind::ConcurrencyPerIp(_) | Kind::ConcurrencyPerIdentity(_)
                if self.says("Too many requests at once") =>
            {
                self.limited(kind)
            }
            Kind::SessionsPerIp(_) if self.says("Too many connections") => self.limited(kind),
            Kind::ScoreGate(_) if self.says("Message refused by policy") => self.gives_up(),
            Kind::Greylist | Kind::GreylistData if self.says("Greylisted") => self.greylisted(),
            Kind::CatchPanic => self.catches(),
            Kind::Tarpit(seconds) => self.transparent().and_then(|()| self.delayed(seconds)),
            Kind::MapReply => self.marks(),
            Kind::SizeLimit(_) if self.says(&text(&Reply::too_large())) => {
                self.transparent().or_else(|_| self.limits_message())
            }
            Kind::HopLimit(_) if self.says("Too many hops") => {
                self.transparent().or_else(|_| self.limits_message())
            }
            Kind::Spool(_) if self.children.is_empty() => Ok(()),
            Kind::Timeout(seconds) => self.times_out(seconds),
            Kind::LoadShed if self.children.is_empty() && self.says(&text(&Reply::busy())) => {
                Ok(())
            }
            Kind::MapErr => self.maps_errors(),
            Kind::Retry(times) => self.retries(times),
            Kind::DistinctRecipients => self.distinct(),
            Kind::Chaos if self.children.is_empty() && self.says("Chaos") => Ok(()),
            Kind::FromFn(function) | Kind::FromFnWith(function) => self.function(function),
            Kind::Cond(condition, _) => self.branch(condition).and_then(|()| self.transparent()),
            _ => self.transparent(),
        }
    }

    /// A layer that holds a rejection back does so for no longer than the engine waits, which would defer the request.
    fn kept_rejection(&self, kind: &Kind) -> Checked {
        let wire = &self.state.wires[&self.call.session()];
        let is_rejected = self
            .children
            .iter()
            .any(|child| child.outcome.is_rejected());
        let holds = matches!(kind, Kind::Tarpit(_)) && is_rejected && !wire.gone;
        match holds && !self.is_within_timeout() {
            true => Err("the rejection is held back for too long".to_owned()),
            false => Ok(()),
        }
    }

    /// Whether a layer outside may have dropped the call.
    fn is_within_timeout(&self) -> bool {
        let mut call = self.call;
        while let Some(parent) = call.parent {
            call = &self.state.calls[parent];
            if matches!(
                self.scene.node(call.place).below,
                Below::Layer(Kind::Timeout(_))
            ) {
                return true;
            }
        }
        false
    }

    fn says(&self, start: &str) -> bool {
        self.call
            .outcome
            .said(0)
            .is_some_and(|said| said.text.starts_with(start))
    }

    fn refused_with(&self, refusal: &Said) -> Checked {
        let unasked = self.children.is_empty();
        let same = self.call.outcome == Outcome::Said(vec![refusal.clone()]);
        // It was refused before that: the service was not ready, or has failed at that.
        let earlier =
            unasked && matches!(self.call.outcome, Outcome::Failed(_) | Outcome::Panicked(_));
        (unasked && (same || earlier)).then_some(()).ok_or_else(|| {
            format!(
                "{:?} instead of {refusal:?}; asked: {}",
                self.call.outcome, !unasked
            )
        })
    }

    fn limited(&self, kind: &Kind) -> Checked {
        if !self.children.is_empty() {
            // A layer of the same kind within.
            return self.transparent();
        }
        counts::may_refuse(self.scene, self.state, self.id, kind)
    }

    /// It has called the service for the points of layers within, and does not let it run.
    fn gives_up(&self) -> Checked {
        let unread = |child: &&Call| child.outcome == Outcome::Dropped && child.read == 0;
        match self.children.iter().all(unread) {
            true => Ok(()),
            false => self.transparent(),
        }
    }

    fn greylisted(&self) -> Checked {
        if !self.children.is_empty() {
            return self.transparent();
        }
        let facts = &self.call.facts;
        let passes = facts.is_local || facts.identity.is_some();
        (!passes)
            .then_some(())
            .ok_or_else(|| "greylists who is exempt".to_owned())
    }

    /// What the layer has from within: the outcome of its only call, or the default of a phase without a service.
    fn inner(&self) -> Result<Option<Outcome>, String> {
        match self.children[..] {
            [] if self.node.children.is_empty() => {
                Ok(Some(Outcome::Said(vec![default_of(self.call.place.0)])))
            }
            [] => Ok(None),
            [child] => Ok(Some(child.outcome.clone())),
            _ => Err(format!("asks {} times", self.children.len())),
        }
    }

    /// It passes the request, and then what was said to it.
    fn transparent(&self) -> Checked {
        let (outer, inner) = (&self.call.outcome, self.inner()?);
        match inner {
            // Not ready for good, or an error or a panic of that.
            None => match outer {
                Outcome::Failed(_) | Outcome::Panicked(_) => Ok(()),
                Outcome::Said(said) if said.iter().all(|said| said.class() == 4) => Ok(()),
                _ => Err(format!("says {outer:?} without asking")),
            },
            Some(inner) if self.equal(outer, &inner) => Ok(()),
            Some(inner) => Err(format!("says {outer:?}, was told {inner:?}")),
        }
    }

    /// Replies of a message that say the same, whether once for all recipients or to each.
    fn equal(&self, one: &Outcome, other: &Outcome) -> bool {
        let recipients = self.call.facts.recipients.len().max(1);
        match (one, other) {
            (Outcome::Said(_), Outcome::Said(_)) => {
                (0..recipients).all(|n| one.said(n) == other.said(n))
            }
            _ => one == other,
        }
    }

    fn catches(&self) -> Checked {
        let local = Outcome::Said(vec![Said::of(&Reply::try_again(
            "Local error in processing",
        ))]);
        match self.inner()? {
            Some(Outcome::Panicked(_)) | None if self.call.outcome == local => Ok(()),
            _ if matches!(self.call.outcome, Outcome::Panicked(_)) => {
                Err("a panic passes".to_owned())
            }
            _ => self.transparent(),
        }
    }

    /// Only what is refused for good waits.
    fn delayed(&self, seconds: u64) -> Checked {
        let [child] = self.children[..] else {
            return Ok(());
        };
        let (Some(from), Some(to)) = (child.ended, self.call.ended) else {
            return Ok(());
        };
        let (waited, rejected) = (to - from, child.outcome.is_rejected());
        let local = self.call.facts.is_local;
        if !rejected && !waited.is_zero() {
            return Err(format!("{:?} waits for {waited:?}", child.outcome));
        }
        if rejected && local && !waited.is_zero() {
            return Err(format!("a client of this machine waits for {waited:?}"));
        }
        if rejected && !local && waited < Duration::from_secs(seconds).min(Duration::from_secs(1)) {
            return Err(format!(
                "{:?} waits for no more than {waited:?}",
                child.outcome
            ));
        }
        Ok(())
    }

    fn marks(&self) -> Checked {
        let Some(inner) = self.inner()? else {
            return self.transparent();
        };
        let outer = &self.call.outcome;
        let (Outcome::Said(said), Outcome::Said(_)) = (outer, &inner) else {
            return self.transparent();
        };
        let recipients = said.len();
        let same = (0..recipients).all(|n| {
            let pair = outer.said(n).zip(inner.said(n));
            // A decision that was thrown passes as it is, as a positive reply to AUTH does.
            pair.is_some_and(|(outer, inner)| {
                let marked =
                    outer.text.starts_with(first_line(&inner.text)) || outer.text == inner.text;
                (outer.code, &outer.status, marked) == (inner.code, &inner.status, true)
            })
        });
        same.then_some(())
            .ok_or_else(|| format!("makes {outer:?} of {inner:?}"))
    }

    /// A message that is larger, or has come further, than it may.
    fn limits_message(&self) -> Checked {
        let sent = self.state.wires[&self.call.session()].sending();
        let size = sent.map_or(0, |sent| sent.text().len() as u64);
        let exceeds = match self.node.below {
            // Header fields that layers outside have put in front count.
            Below::Layer(Kind::SizeLimit(limit)) => size + 2000 > limit,
            Below::Layer(Kind::HopLimit(hops)) => sent == Some(Message::Looping) || hops < 10,
            _ => true,
        };
        exceeds
            .then_some(())
            .ok_or_else(|| format!("refuses {sent:?} of {size} bytes"))
    }

    fn times_out(&self, seconds: u64) -> Checked {
        let late = self
            .children
            .iter()
            .any(|child| child.outcome == Outcome::Open);
        if !late {
            return self.transparent();
        }
        let waited = self.call.began.elapsed();
        match self.call.outcome.said(0) {
            Some(said) if said.code == 451 && waited >= Duration::from_secs(seconds) => Ok(()),
            _ => Err(format!("says {:?} after {waited:?}", self.call.outcome)),
        }
    }

    fn maps_errors(&self) -> Checked {
        let full = Outcome::Said(vec![Said::of(&Reply::mailbox_full())]);
        match self.inner()? {
            Some(Outcome::Failed(_)) | None if self.call.outcome == full => Ok(()),
            _ => self.transparent(),
        }
    }

    fn retries(&self, times: usize) -> Checked {
        let asked = self.children.len();
        if matches!(self.call.outcome, Outcome::Failed(_) | Outcome::Panicked(_)) && asked <= times
        {
            // The service is not ready for another time.
            return Ok(());
        }
        match self.children.last() {
            Some(last) if asked <= times + 1 && self.equal(&self.call.outcome, &last.outcome) => {
                Ok(())
            }
            None => self.transparent(),
            Some(last) => Err(format!(
                "asks {asked} times, says {:?}, was told {:?}",
                self.call.outcome, last.outcome
            )),
        }
    }

    /// A recipient that is named twice has the reply of the first of both.
    fn distinct(&self) -> Checked {
        let (outer, inner) = (&self.call.outcome, self.inner()?);
        let Some(inner @ Outcome::Said(_)) = inner else {
            return self.transparent();
        };
        let mut distinct: Vec<&String> = Vec::new();
        for (number, recipient) in self.call.facts.recipients.iter().enumerate() {
            let before = distinct.iter().position(|other| *other == recipient);
            let at = before.unwrap_or(distinct.len());
            if before.is_none() {
                distinct.push(recipient);
            }
            if outer.said(number) != inner.said(at) {
                return Err(format!("says {outer:?}, was told {inner:?}"));
            }
        }
        Ok(())
    }

    fn function(&self, function: Function) -> Checked {
        let own = match function {
            Function::Defer | Function::ThrowDefer => Said::of(&Reply::auth_unavailable()),
            Function::Reject | Function::ThrowReject => Said::of(&Reply::rejected("By a function")),
            Function::Fail | Function::Panic => {
                let fault = matches!(self.call.outcome, Outcome::Failed(_) | Outcome::Panicked(_));
                return (fault && self.children.is_empty())
                    .then_some(())
                    .ok_or_else(|| format!("says {:?}", self.call.outcome));
            }
            // It throws one reply for all recipients.
            Function::Throws if self.call.place.0 == PhaseKind::Data => return Ok(()),
            _ => return self.transparent(),
        };
        self.refused_with(&own)
    }

    fn branch(&self, condition: Condition) -> Checked {
        let facts = &self.call.facts;
        let holds = match condition {
            Condition::Always => true,
            Condition::Never => false,
            Condition::Stranger => facts.identity.is_none(),
            Condition::InTheClear => !facts.tls,
            Condition::FromLoopback => facts.is_local,
        };
        let expected = match holds {
            true => self.node.children.first(),
            false => self.node.children.get(1),
        };
        let right = self
            .children
            .iter()
            .all(|child| Some(&child.place.1) == expected);
        right
            .then_some(())
            .ok_or_else(|| "takes the other branch".to_owned())
    }
}

fn text(reply: &Reply) -> String {
    reply.text().to_owned()
}

fn first_line(text: &str) -> &str {
    text.split('\n').next().unwrap_or_default()
}
