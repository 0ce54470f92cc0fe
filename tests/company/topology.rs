//! What is behind each layer of a case, and what is in front of it.

use std::collections::HashMap;

use smtpd_tower::phase::PhaseKind;

use crate::plan::{Core, Kind, Plan, Spec, Stack, Step};

/// A place in the pipeline: in front of a layer, or of what the layers are around. A layer of the whole pipeline has one in each
/// phase.
pub type Place = (PhaseKind, usize);

#[derive(Clone, Debug)]
pub struct Node {
    pub below: Below,
    /// Where the requests come from: the first of these that has one in progress.
    pub parents: Vec<usize>,
    /// Where they may go to.
    pub children: Vec<usize>,
    /// Within a `buffer`, whose task a panic or an error of readiness ends for good.
    pub is_buffered: bool,
}

#[derive(Clone, Debug)]
pub enum Below {
    Layer(Kind),
    Leaf,
    Router {
        routes: Vec<(&'static str, usize)>,
        otherwise: Option<usize>,
    },
}

#[derive(Debug, Default)]
pub struct Topology {
    pub nodes: HashMap<Place, Node>,
}

pub const PHASES: [PhaseKind; 7] = [
    PhaseKind::Connect,
    PhaseKind::Helo,
    PhaseKind::Auth,
    PhaseKind::Mail,
    PhaseKind::Rcpt,
    PhaseKind::Data,
    PhaseKind::Command,
];

fn has_buffer(spec: &Spec) -> bool {
    match &spec.kind {
        Kind::Buffer(_) => true,
        Kind::Cond(_, inner) => inner.iter().any(has_buffer),
        _ => false,
    }
}

impl Topology {
    pub fn of(plan: &Plan) -> Self {
        let mut topology = Self::default();
        for phase in PHASES {
            topology.phase(phase, plan);
        }
        topology
    }

    /// The layers of the pipeline are around all phases, whatever the order of the calls. The last one is the outermost.
    fn phase(&mut self, phase: PhaseKind, plan: &Plan) {
        let stack = plan.steps.iter().find_map(|step| match step {
            Step::Set(kind, stack) if *kind == phase => Some(stack),
            _ => None,
        });
        if stack.is_none() && matches!(phase, PhaseKind::Auth | PhaseKind::Command) {
            return;
        }
        let bottom = stack.map(|stack| self.stack(phase, stack, false));
        let layers = plan.steps.iter().rev();
        let layers = layers.filter_map(|step| step.layer_on(phase));
        self.chain(phase, layers.collect(), bottom, false);
    }

    fn stack(&mut self, phase: PhaseKind, stack: &Stack, buffered: bool) -> usize {
        let inner = buffered || stack.layers.iter().any(has_buffer);
        let below = match &stack.core {
            Core::Leaf => Below::Leaf,
            Core::Router { routes, otherwise } => Below::Router {
                routes: routes
                    .iter()
                    .map(|(domain, stack)| (*domain, self.stack(phase, stack, inner)))
                    .collect(),
                otherwise: otherwise
                    .as_ref()
                    .map(|stack| self.stack(phase, stack, inner)),
            },
        };
        let mut children = Vec::new();
        if let Below::Router { routes, otherwise } = &below {
            children.extend(routes.iter().map(|(_, slot)| *slot).chain(*otherwise));
        }
        self.add(phase, stack.slot, below, children, inner);
        let layers = stack.layers.iter().collect();
        self.chain(phase, layers, Some(stack.slot), buffered)
            .unwrap_or(stack.slot)
    }

    /// Puts layers, the outermost first, around what there is. Returns the outermost place.
    fn chain(
        &mut self,
        phase: PhaseKind,
        layers: Vec<&Spec>,
        bottom: Option<usize>,
        buffered: bool,
    ) -> Option<usize> {
        let mut below = bottom;
        for (at, spec) in layers.iter().enumerate().rev() {
            let outside = &layers[..at];
            let buffered = buffered || outside.iter().any(|spec| has_buffer(spec));
            let mut children = Vec::new();
            if let Kind::Cond(_, inner) = &spec.kind {
                children.extend(self.chain(phase, inner.iter().collect(), below, buffered));
            }
            children.extend(below);
            let kind = Below::Layer(spec.kind.clone());
            self.add(phase, spec.slot, kind, children, buffered);
            below = Some(spec.slot);
        }
        below
    }

    fn add(
        &mut self,
        phase: PhaseKind,
        slot: usize,
        below: Below,
        children: Vec<usize>,
        is_buffered: bool,
    ) {
        for child in &children {
            let node = self.nodes.get_mut(&(phase, *child));
            node.expect("inner places come first").parents.push(slot);
        }
        let node = Node {
            below,
            parents: Vec::new(),
            children,
            is_buffered,
        };
        let before = self.nodes.insert((phase, slot), node);
        assert!(before.is_none(), "two layers {slot} at {phase}");
    }
}
