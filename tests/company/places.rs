//! After the last session, every limit has all its places again, also where services keep clones of sessions.

use std::sync::Arc;

use smtpd_tower::{
    Connect, Mail, Reply, Request, Session,
    address::ReversePath,
    handler_fn,
    layer::{ConcurrencyLayer, LimitKey, SessionsPerIpLayer},
};
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt};

use crate::{
    plan::Kind,
    scene::{Outcome, Scene},
    topology::Below,
};

impl Scene {
    /// Checks what must hold when all sessions are over.
    pub fn check_end(&self) {
        let mut state = self.lock();
        let open = state
            .calls
            .iter()
            .filter(|call| call.outcome == Outcome::Open);
        let open: Vec<_> = open.map(|call| call.place).collect();
        if !open.is_empty() {
            state.violate(format!("calls go on after the last session: {open:?}"));
        }
        for wrong in state.faults.check() {
            state.violate(wrong);
        }
    }

    /// The server has read that much of a message.
    pub fn keeps(&self, session: usize, read: u64) {
        let mut state = self.lock();
        let calls = state
            .open
            .iter()
            .filter(|((number, ..), _)| *number == session);
        let leaf = |call: &&usize| {
            let place = state.calls[**call].place;
            matches!(self.node(place).below, Below::Leaf)
        };
        let slowest = calls.map(|(_, call)| call).filter(leaf);
        let slowest = slowest.map(|call| state.calls[*call].read).min();
        let kept = slowest.map_or(0, |taken| read.saturating_sub(taken));
        if kept > MOST_KEPT {
            state.violate(format!(
                "session {session}: {kept} bytes are kept of a message that nobody reads"
            ));
        }
    }
}

/// What the engine reads ahead and what a router does, and a read of either.
const MOST_KEPT: u64 = (256 + 128 + 2 * 64) << 10;

/// Takes all places of each limit.
pub async fn check(scene: &Scene) {
    for ((_, slot), node) in &scene.topology.nodes {
        let Below::Layer(kind) = &node.below else {
            continue;
        };
        if node.is_buffered {
            // The task of a buffer keeps a service that may be ready, with the permit of that.
            continue;
        }
        let free = match *kind {
            Kind::SessionsPerIp(n) => match scene.made::<SessionsPerIpLayer>(*slot) {
                Some(layer) => sessions(&layer, n).await,
                None => continue,
            },
            Kind::ConcurrencyPerIp(n) => match scene.made::<ConcurrencyLayer>(*slot) {
                Some(layer) => requests(&layer, n).await,
                None => continue,
            },
            Kind::ConcurrencyPerIdentity(n) => {
                match scene.made::<ConcurrencyLayer<smtpd_tower::layer::PerIdentity>>(*slot) {
                    Some(layer) => requests(&layer, n).await,
                    None => continue,
                }
            }
            Kind::GlobalLimit(n) => match scene.made::<Arc<Semaphore>>(*slot) {
                Some(permits) => permits.available_permits() == n,
                None => continue,
            },
            _ => continue,
        };
        if !free {
            scene.violate(format!(
                "{kind:?} {slot} has places in use after the last session"
            ));
        }
    }
}

/// The addresses of the clients here.
const CLIENTS: [[u8; 4]; 5] = [
    [192, 0, 2, 1],
    [198, 51, 100, 7],
    [127, 0, 0, 1],
    [203, 0, 113, 9],
    [192, 0, 2, 77],
];

async fn sessions(layer: &SessionsPerIpLayer, n: usize) -> bool {
    let service = layer.layer(handler_fn(async |_: Request<Connect>| {}));
    for client in CLIENTS {
        let mut held = Vec::new();
        for _ in 0..n {
            let session = Session::from_peer((client, 1));
            held.push(session.clone());
            let request = Request::new(session, Connect::new());
            let reply = service.clone().oneshot(request).await.expect("a reply");
            if reply != Reply::OK {
                return false;
            }
        }
    }
    true
}

async fn requests<F>(layer: &ConcurrencyLayer<F>, n: usize) -> bool
where
    F: LimitKey<Mail> + Clone,
{
    let mut service = layer.layer(handler_fn(async |_: Request<Mail>| {}));
    for client in CLIENTS {
        let mut held = Vec::new();
        for _ in 0..n {
            let session = Session::from_peer((client, 1)).with_identity("alice");
            held.push(service.call(Request::new(session, Mail::new(ReversePath::Null))));
        }
        for answer in held {
            if answer.await.expect("a reply") != Reply::OK {
                return false;
            }
        }
    }
    true
}
