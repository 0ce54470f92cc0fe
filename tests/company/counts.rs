//! Limits: what is admitted, and when a refusal is justified.

use std::time::Duration;

use smtpd_tower::phase::PhaseKind;
use tokio::time::Instant;

use crate::{
    plan::{Kind, Spec},
    scene::{Call, Scene, State},
    topology::Below,
};

/// What limits count together.
pub fn key_of(kind: &Kind, call: &Call) -> Option<String> {
    let facts = &call.facts;
    if facts.is_local && Spec::exempts_local(call.place.1) && kind.counts_clients() {
        return None;
    }
    match kind {
        Kind::ConcurrencyPerIp(_) | Kind::RatePerIp(_) | Kind::SessionsPerIp(_) => {
            let ip = facts.ip?;
            // A /64 of IPv6 is one client: all of them here are in the same.
            Some(if ip.is_ipv6() {
                "v6".to_owned()
            } else {
                ip.to_string()
            })
        }
        Kind::ConcurrencyPerIdentity(_) | Kind::RatePerIdentity(_) => facts.identity.clone(),
        _ => Some(String::new()),
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// Whether a layer could let this request pass to what is behind it.
pub fn admitted(scene: &Scene, state: &State, id: usize) -> Result<(), String> {
    let call = &state.calls[id];
    let Some(parent) = call.parent.map(|parent| &state.calls[parent]) else {
        return Ok(());
    };
    let Below::Layer(kind) = &scene.node(parent.place).below else {
        return Ok(());
    };
    let Some(key) = key_of(kind, parent) else {
        return Ok(());
    };
    let limit = match *kind {
        Kind::ConcurrencyPerIp(n) | Kind::ConcurrencyPerIdentity(n) | Kind::GlobalLimit(n) => {
            let (all, n) = (in_progress(scene, state, parent, &key), n);
            return (all <= n)
                .then_some(())
                .ok_or_else(|| format!("{kind:?} lets {all} pass at once"));
        }
        Kind::ConcurrencyLimit(n) => {
            let all = in_progress(scene, state, parent, &key);
            return (all <= n)
                .then_some(())
                .ok_or_else(|| format!("{kind:?} lets {all} pass at once"));
        }
        Kind::SessionsPerIp(n) => {
            let all = sessions(scene, state, parent, &key);
            return (all <= n)
                .then_some(())
                .ok_or_else(|| format!("{kind:?} lets {all} sessions in"));
        }
        Kind::RatePerIp(n) | Kind::RatePerIdentity(n) => n as usize,
        _ => return Ok(()),
    };
    // What was not accepted may have been given back.
    let counted = |child: &&Call| child.ended.is_none() || child.outcome.is_accepted();
    let passed: Vec<_> = children_of(scene, state, parent, &key)
        .filter(counted)
        .collect();
    let first = passed
        .iter()
        .map(|child| child.began)
        .min()
        .unwrap_or_else(Instant::now);
    let earned = first.elapsed().as_secs_f64() * limit as f64 / MINUTE.as_secs_f64();
    let most = limit + earned as usize + 1;
    match passed.len() <= most {
        true => Ok(()),
        false => Err(format!("{kind:?} lets {} pass, of {most}", passed.len())),
    }
}

/// Whether a layer has reason to refuse this request.
pub fn may_refuse(scene: &Scene, state: &State, id: usize, kind: &Kind) -> Result<(), String> {
    let call = &state.calls[id];
    let key = key_of(kind, call).ok_or_else(|| format!("{kind:?} refuses who is not limited"))?;
    let places = scene.topology.nodes.iter();
    let mut places = places.filter(|((_, slot), _)| *slot == call.place.1);
    if places.any(|(_, node)| node.children.is_empty()) {
        // Around a phase without a service, it is not seen what passes.
        return Ok(());
    }
    let (used, limit) = match *kind {
        Kind::ConcurrencyPerIp(n) | Kind::ConcurrencyPerIdentity(n) => {
            (in_progress(scene, state, call, &key), n)
        }
        Kind::SessionsPerIp(n) => (sessions(scene, state, call, &key), n),
        Kind::RatePerIp(n) | Kind::RatePerIdentity(n) => {
            // A user does not pay for what was not accepted.
            let refunds = matches!(kind, Kind::RatePerIdentity(_));
            let counts = |child: &&Call| {
                let is_recent = child.began.elapsed() <= MINUTE;
                is_recent && (!refunds || child.ended.is_none() || child.outcome.is_accepted())
            };
            let passed = children_of(scene, state, call, &key).filter(counts);
            (passed.count(), n as usize)
        }
        _ => return Ok(()),
    };
    match used >= limit {
        true => Ok(()),
        false => Err(format!("{kind:?} refuses with {used} in use")),
    }
}

/// All requests that were let pass by the layer in front of which `at` is, with that key.
fn children_of<'a>(
    scene: &'a Scene,
    state: &'a State,
    at: &'a Call,
    key: &'a str,
) -> impl Iterator<Item = &'a Call> {
    let (phase, slot) = at.place;
    let Below::Layer(kind) = &scene.node(at.place).below else {
        panic!("no layer at {:?}", at.place);
    };
    // tower's layer counts each service by itself, ours all of them together.
    let by_phase = matches!(kind, Kind::ConcurrencyLimit(_));
    state.calls.iter().filter(move |child| {
        child.parent.is_some_and(|parent| {
            let parent = &state.calls[parent];
            parent.place.1 == slot
                && (!by_phase || parent.place.0 == phase)
                && key_of(kind, parent).as_deref() == Some(key)
        })
    })
}

fn in_progress(scene: &Scene, state: &State, at: &Call, key: &str) -> usize {
    let open = |child: &&Call| child.ended.is_none();
    children_of(scene, state, at, key).filter(open).count()
}

/// How many sessions have a place.
fn sessions(scene: &Scene, state: &State, at: &Call, key: &str) -> usize {
    let lives = |child: &&Call| {
        let wire = &state.wires[&child.session()];
        child.place.0 == PhaseKind::Connect && !wire.ended && child.id >= wire.anew
    };
    children_of(scene, state, at, key).filter(lives).count()
}
