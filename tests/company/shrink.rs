//! Cuts a failing case down: fewer sessions, fewer acts, fewer layers, as long as it fails in the same way.

use crate::plan::{Core, Kind, Plan, Spec, Stack, Step};

/// Returns a smaller case for which `fails` still holds.
pub fn shrink(mut plan: Plan, fails: &dyn Fn(&Plan) -> bool) -> Plan {
    loop {
        let smaller = candidates(&plan).into_iter().find(|plan| fails(plan));
        match smaller {
            Some(smaller) => plan = smaller,
            None => return plan,
        }
    }
}

/// All cases with one thing less.
fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut all = Vec::new();
    let mut without = |change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        all.push(smaller);
    };
    for at in 0..plan.sessions.len() {
        without(&|plan| drop(plan.sessions.remove(at)));
    }
    for at in 0..plan.steps.len() {
        without(&|plan| drop(plan.steps.remove(at)));
    }
    for (at, session) in plan.sessions.iter().enumerate() {
        // The beginning of a session is one too.
        for length in [session.acts.len() / 2, session.acts.len().saturating_sub(1)] {
            if length < session.acts.len() {
                without(&|plan| plan.sessions[at].acts.truncate(length));
            }
        }
        for act in 0..session.acts.len() {
            without(&|plan| drop(plan.sessions[at].acts.remove(act)));
        }
    }
    for (at, step) in plan.steps.iter().enumerate() {
        if let Step::Set(_, stack) = step {
            for smaller in smaller_stacks(stack) {
                without(&|plan| {
                    if let Step::Set(_, stack) = &mut plan.steps[at] {
                        *stack = smaller.clone();
                    }
                });
            }
        }
    }
    all
}

fn smaller_stacks(stack: &Stack) -> Vec<Stack> {
    let mut all: Vec<_> = smaller_layers(&stack.layers)
        .into_iter()
        .map(|layers| Stack {
            layers,
            ..stack.clone()
        })
        .collect();
    let Core::Router { routes, otherwise } = &stack.core else {
        return all;
    };
    let mut with = |core| {
        all.push(Stack {
            core,
            ..stack.clone()
        });
    };
    with(Core::Leaf);
    for at in 0..routes.len() {
        let mut fewer = routes.clone();
        fewer.remove(at);
        with(Core::Router {
            routes: fewer,
            otherwise: otherwise.clone(),
        });
        for smaller in smaller_stacks(&routes[at].1) {
            let mut routes = routes.clone();
            routes[at].1 = smaller;
            with(Core::Router {
                routes,
                otherwise: otherwise.clone(),
            });
        }
    }
    if otherwise.is_some() {
        with(Core::Router {
            routes: routes.clone(),
            otherwise: None,
        });
    }
    all
}

fn smaller_layers(layers: &[Spec]) -> Vec<Vec<Spec>> {
    let mut all = Vec::new();
    for at in 0..layers.len() {
        let mut fewer = layers.to_vec();
        fewer.remove(at);
        all.push(fewer);
        if let Kind::Cond(condition, inner) = &layers[at].kind {
            for smaller in smaller_layers(inner) {
                let mut layers = layers.to_vec();
                layers[at].kind = Kind::Cond(*condition, smaller);
                all.push(layers);
            }
        }
    }
    all
}
