//! Hooks and a subscriber that count, and sometimes panic.

use smtpd_tower::{Server, Session};
use tracing::{
    Event, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

use crate::{services::conn_of, shared::Shared, swarm::HookFault};

pub fn set(server: Server, shared: &Shared) -> Server {
    let swarm = &shared.swarm;
    let close = shared.clone();
    let mut server = server.on_close(move |session, _| {
        close.journal.closed(conn_of(session));
        close.panic_in(HookFault::Close, session);
    });
    if swarm.hooks.contains(&HookFault::Wire) && swarm.hook_rate > 0 {
        let shared = shared.clone();
        server = server.on_wire(move |session, _| shared.panic_in(HookFault::Wire, session));
    }
    if swarm.hooks.contains(&HookFault::Error) {
        let shared = shared.clone();
        server = server.on_error(move |session, _| shared.panic_in(HookFault::Error, session));
    }
    if swarm.hooks.contains(&HookFault::Reset) {
        let shared = shared.clone();
        server = server.on_reset(move |session, _| shared.panic_in(HookFault::Reset, session));
    }
    server
}

impl Shared {
    fn panic_in(&self, hook: HookFault, session: &Session) {
        let swarm = &self.swarm;
        let faulty = swarm.hook_rate > 0 && swarm.hooks.contains(&hook);
        // A second panic would abort the process.
        if faulty && self.dice.chance(swarm.hook_rate) && !std::thread::panicking() {
            self.journal.panicked(conn_of(session), "a hook panics");
            panic!("sim: the hook {hook:?} panics");
        }
    }
}

/// A subscriber that panics once in a while.
pub struct Panicking(pub Shared);

impl Subscriber for Panicking {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("smtpd")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        if self.0.dice.chance(5) && !std::thread::panicking() {
            self.0.journal.panicked(0, "the subscriber panics");
            panic!("sim: the subscriber panics");
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
