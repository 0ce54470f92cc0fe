//! What happens in a run: all calls of all layers, and what the clients receive.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smtpd_tower::{Session, phase::PhaseKind};
use tokio::time::Instant;

use crate::{
    counts,
    faults::Faults,
    plan::Plan,
    rules,
    station::{Facts, Said},
    topology::{Below, Node, Place, Topology},
    wire::Wire,
};

/// A run. Clones share it.
#[derive(Clone)]
pub struct Scene {
    pub plan: Arc<Plan>,
    pub topology: Arc<Topology>,
    state: Arc<Mutex<State>>,
    /// Layers with state, by their numbers.
    layers: Arc<Mutex<HashMap<usize, Box<dyn Any + Send>>>>,
}

pub struct State {
    begun: Instant,
    pub calls: Vec<Call>,
    /// Those in progress: session, phase and number of the layer.
    pub open: HashMap<(usize, PhaseKind, usize), usize>,
    pub wires: HashMap<usize, Wire>,
    pub faults: Faults,
    pub violations: Vec<String>,
    /// Sessions that services keep.
    pub kept: Vec<Session>,
    /// How often each service was called, and asked whether it is ready.
    decisions: HashMap<(Place, &'static str), usize>,
    log: Vec<String>,
}

/// A request in front of a layer.
#[derive(Debug)]
pub struct Call {
    pub id: usize,
    pub place: Place,
    pub facts: Facts,
    pub parent: Option<usize>,
    pub children: Vec<usize>,
    pub began: Instant,
    pub ended: Option<Instant>,
    pub outcome: Outcome,
    /// How much of the message was read, if the service is behind this.
    pub read: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Open,
    /// A response, or an error that is a decision.
    Said(Vec<Said>),
    /// An error without a reply.
    Failed(String),
    Panicked(String),
    Dropped,
}

impl Outcome {
    /// What was said to a recipient, or to all.
    pub fn said(&self, recipient: usize) -> Option<&Said> {
        match self {
            Self::Said(all) => all.get(recipient).or(all.last()),
            _ => None,
        }
    }

    /// Whether it is positive, for at least one recipient.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Said(all) if all.iter().any(|said| said.class() < 4))
    }

    /// Whether it is a refusal for good.
    pub fn is_rejected(&self) -> bool {
        matches!(self, Self::Said(all) if all.iter().all(|said| said.class() == 5))
    }
}

impl Call {
    pub const fn session(&self) -> usize {
        self.facts.session
    }
}

impl Scene {
    pub fn new(plan: Plan) -> Self {
        let wires = plan.sessions.iter().map(|session| session.number);
        let wires = wires.map(|number| (number, Wire::default())).collect();
        let state = State {
            begun: Instant::now(),
            calls: Vec::new(),
            open: HashMap::new(),
            wires,
            faults: Faults::default(),
            violations: Vec::new(),
            kept: Vec::new(),
            decisions: HashMap::new(),
            log: Vec::new(),
        };
        Self {
            topology: Arc::new(Topology::of(&plan)),
            plan: Arc::new(plan),
            state: Arc::new(Mutex::new(state)),
            layers: Arc::default(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn node(&self, place: Place) -> &Node {
        &self.topology.nodes[&place]
    }

    /// The layer of that number, made once.
    pub fn layer<T: Clone + Send + 'static>(&self, slot: usize, make: impl FnOnce() -> T) -> T {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let layer = layers.entry(slot).or_insert_with(|| Box::new(make()));
        layer
            .downcast_ref::<T>()
            .expect("one layer for a number")
            .clone()
    }

    /// The layer of that number, if it was made.
    pub fn made<T: Clone + 'static>(&self, slot: usize) -> Option<T> {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.get(&slot)?.downcast_ref::<T>().cloned()
    }

    pub fn forget_layers(&self) {
        self.layers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The number of a decision of a service, for its dice.
    pub fn decision(&self, place: Place, what: &'static str) -> usize {
        let mut state = self.lock();
        let count = state.decisions.entry((place, what)).or_default();
        *count += 1;
        *count
    }

    pub fn violate(&self, what: impl Into<String>) {
        self.lock().violate(what);
    }

    pub fn note(&self, session: usize, what: impl std::fmt::Display) {
        self.lock().note(session, what);
    }

    /// A request reaches a place.
    pub fn begin(&self, place: Place, facts: Facts) -> usize {
        let (phase, slot) = place;
        let session = facts.session;
        let mut state = self.lock();
        let parents = &self.node(place).parents;
        let is_open = |parent: &usize| state.open.get(&(session, phase, *parent)).copied();
        let parent = parents.iter().find_map(is_open);
        state.note(session, format_args!("{phase} > {slot}"));
        if parent.is_none() && !parents.is_empty() {
            state.violate(format!(
                "a request of session {session} is at {phase} {slot}, and has not come through {parents:?}"
            ));
        }
        let id = state.calls.len();
        state.calls.push(Call {
            id,
            place,
            facts,
            parent,
            children: Vec::new(),
            began: Instant::now(),
            ended: None,
            outcome: Outcome::Open,
            read: 0,
        });
        match parent {
            Some(parent) => state.calls[parent].children.push(id),
            None => state.wire(session).called(id),
        }
        if state.open.insert((session, phase, slot), id).is_some() {
            state.violate(format!(
                "{phase} {slot} is called twice at once for session {session}"
            ));
        }
        if let Err(wrong) = counts::admitted(self, &state, id) {
            state.violate(wrong);
        }
        id
    }

    /// A request leaves a place.
    pub fn end(&self, id: usize, outcome: Outcome) {
        let mut state = self.lock();
        let (phase, slot) = state.calls[id].place;
        let session = state.calls[id].session();
        let call = &mut state.calls[id];
        if call.outcome != Outcome::Open {
            return;
        }
        call.outcome = outcome;
        call.ended = Some(Instant::now());
        let shown = format!("{phase} < {slot} {:?}", call.outcome);
        state.open.remove(&(session, phase, slot));
        state.note(session, shown);
        if let Err(wrong) = rules::check(self, &mut state, id) {
            let below = match &self.node((phase, slot)).below {
                Below::Layer(kind) => format!("{kind:?}"),
                core => format!("{core:?}"),
            };
            state.violate(format!("{phase} {slot}, {below}: {wrong}"));
        }
    }

    /// The log of the run.
    pub fn transcript(&self) -> String {
        self.lock().log.join("\n")
    }
}

impl State {
    pub fn violate(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.note(0, format_args!("!!! {what}"));
        self.violations.push(what);
    }

    pub fn note(&mut self, session: usize, what: impl std::fmt::Display) {
        let at = self.begun.elapsed().as_millis();
        self.log.push(format!("{at:>8} {session}: {what}"));
    }

    pub fn wire(&mut self, session: usize) -> &mut Wire {
        self.wires.entry(session).or_default()
    }

    pub fn children(&self, id: usize) -> Vec<&Call> {
        let children = self.calls[id].children.iter();
        children.map(|child| &self.calls[*child]).collect()
    }
}
