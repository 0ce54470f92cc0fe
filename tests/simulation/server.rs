//! The server under test, set up as the swarm chooses.

use std::{sync::Arc, time::Duration};

use smtpd_tower::{
    Data, Pipeline, Profile, Server,
    config::Timeouts,
    guard::Guard,
    layer::SessionsPerIpLayer,
    memory::MemoryBudget,
    net::TrustedPeers,
    proxy::ProxyProtocol,
    router::Router,
    sasl::{Mechanisms, Scram},
    service::BoxPhaseService,
    test::isolated,
};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceBuilder, limit::GlobalConcurrencyLimitLayer};

use crate::{
    delivery::Delivery,
    hooks,
    journal::Kind,
    services::SimService,
    shared::Shared,
    swarm::{Limits, Swarm, Times, Tls},
};

/// A server, and what the end of a run checks.
pub struct Built {
    pub server: Server,
    pub per_ip: Option<SessionsPerIpLayer>,
    /// It counts, but refuses nobody: the model does not know it.
    pub guard: Guard,
    pub permits: Option<(Arc<Semaphore>, usize)>,
    pub memory: MemoryBudget,
}

pub fn build(shared: &Shared) -> Built {
    let swarm = &shared.swarm;
    let per_ip = swarm.per_ip.map(SessionsPerIpLayer::new);
    let permits = swarm
        .permits
        .map(|permits| (Arc::new(Semaphore::new(permits)), permits));
    let pipeline = pipeline(shared, per_ip.as_ref(), permits.as_ref());
    let guard = lenient();
    let memory = MemoryBudget::new(1 << 30);
    let server = isolated(Server::new("mx.example", pipeline))
        .guard(guard.clone())
        .memory_budget(memory.clone())
        .max_sessions(swarm.max_sessions)
        .configure(|config| {
            config
                .timeouts(|own| *own = timeouts(&swarm.times))
                .limits(|own| *own = limits(&swarm.limits))
                .entropy(no_entropy)
                .mechanisms(mechanisms())
        });
    Built {
        server: hooks::set(with_peers(with_profile(server, shared), swarm), shared),
        per_ip,
        guard,
        permits,
        memory,
    }
}

fn with_profile(mut server: Server, shared: &Shared) -> Server {
    if shared.swarm.lmtp {
        server = server.profile(Profile::Lmtp);
    }
    if shared.swarm.tls == Some(Tls::First) {
        server = server.profile(Profile::Submissions);
    }
    if let Some(certificates) = shared.certificates() {
        server = server.tls(certificates.config.clone());
    }
    // This does not test what a profile requires.
    server.configure(|config| {
        let config = config.require_tls(false).require_auth(false);
        config.allow_insecure_auth(true)
    })
}

fn with_peers(mut server: Server, swarm: &Swarm) -> Server {
    if let Some(limit) = swarm.proxy {
        let proxy = ProxyProtocol::from_trusted(peers("192.0.2.0/24"));
        server = server.proxy_protocol(proxy.timeout(limit));
    }
    if let Some(trusts) = swarm.trusts {
        let peers = peers(if trusts { "192.0.2.0/24" } else { "10.0.0.0/8" });
        server = server.xclient_from(peers.clone()).xforward_from(peers);
    }
    server
}

fn peers(network: &str) -> TrustedPeers {
    TrustedPeers::parse([network]).unwrap()
}

fn mechanisms() -> Mechanisms {
    Mechanisms::default()
        .with(Scram::sha256().plus())
        .with(Scram::sha256())
}

fn pipeline(
    shared: &Shared,
    per_ip: Option<&SessionsPerIpLayer>,
    permits: Option<&(Arc<Semaphore>, usize)>,
) -> Pipeline {
    let mut pipeline = Pipeline::new()
        .auth(SimService::new(shared))
        .rcpt(SimService::new(shared));
    if shared.swarm.has(Kind::Connect) {
        let connect = SimService::new(shared);
        pipeline = match per_ip {
            Some(layer) => pipeline.connect(layer.layer(connect)),
            None => pipeline.connect(connect),
        };
    }
    if shared.swarm.has(Kind::Helo) {
        pipeline = pipeline.helo(SimService::new(shared));
    }
    if shared.swarm.has(Kind::Mail) {
        pipeline = pipeline.mail(SimService::new(shared));
    }
    if shared.swarm.has(Kind::Command) {
        pipeline = pipeline.command(SimService::new(shared));
    }
    let data = match shared.swarm.router {
        Some(ahead) => router(shared, ahead),
        None => BoxPhaseService::<Data>::new(Delivery::new(shared, 0)),
    };
    match permits {
        Some((permits, _)) => {
            let limit = GlobalConcurrencyLimitLayer::with_semaphore(permits.clone());
            pipeline.data(ServiceBuilder::new().layer(limit).service(data))
        }
        None => pipeline.data(data),
    }
}

fn router(shared: &Shared, ahead: usize) -> BoxPhaseService<Data> {
    let router = Router::<Data>::new()
        .domain("a.example".parse().unwrap(), Delivery::new(shared, 0))
        .domain("b.example".parse().unwrap(), Delivery::new(shared, 1))
        .read_ahead(ahead);
    BoxPhaseService::new(router)
}

fn timeouts(times: &Times) -> Timeouts {
    let time = |time: Option<u64>| time.map_or(Duration::MAX, Duration::from_millis);
    let mut timeouts = Timeouts::default();
    timeouts.command = time(times.command);
    timeouts.line = time(times.line);
    timeouts.data = time(times.data);
    timeouts.transfer = time(times.transfer);
    timeouts.write = time(times.write);
    timeouts.session = time(times.session);
    timeouts.ready = time(times.ready);
    timeouts.call = time(times.call);
    timeouts.data_start = time(times.data_start);
    timeouts.handshake = time(times.handshake);
    timeouts.delivery = time(times.delivery);
    timeouts
}

fn limits(own: &Limits) -> smtpd_tower::config::Limits {
    let mut limits = smtpd_tower::config::Limits::default();
    limits.message_size = own.message_size;
    limits.recipients = own.recipients;
    limits.errors = own.errors;
    limits.idle_commands = own.idle_commands;
    limits.drain = own.drain;
    // The model expects a reply as soon as there can be one.
    limits.prompt_refusals = u32::MAX;
    (limits.rejected_recipients, limits.deferred_recipients) = (u32::MAX, u32::MAX);
    limits
}

/// A guard without limits.
fn lenient() -> Guard {
    Guard::new()
        .sessions(u32::MAX)
        .new_sessions(None)
        .handshakes(u32::MAX)
        .all_handshakes(u32::MAX)
        .failed_logins(None)
        .rejected_recipients(None)
        .errors(None)
        .idle_sessions(None)
}

/// Chance would make two runs of a seed differ.
fn no_entropy(bytes: &mut [u8]) -> bool {
    bytes.fill(7);
    true
}
