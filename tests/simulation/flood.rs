//! A server that is full, and clients that do not wait for its reply.

use smtpd_tower::net::PeerAddr;

use crate::{executor::Executor, network::Link, swarm::Tls, world::World};

impl World {
    /// Drops more connections to a full server than may receive a reply at once; the next one has to receive it.
    pub fn flood(&mut self) {
        const AT_ONCE: usize = 50;
        let full = self.built.server.clone().max_sessions(0);
        let shared = self.shared.clone();
        let connect = |executor: &mut Executor, room| {
            let link = Link::new(0, 1, room);
            let end = link.server_end(&shared.dice, &shared.trace, &shared.alarm);
            let session = full.serve_connection(end, PeerAddr::Unknown);
            let task = executor.spawn(Box::pin(session));
            executor.poll(task);
            (link, task)
        };
        for _ in 0..1100 / AT_ONCE {
            let tasks: Vec<usize> = (0..AT_ONCE)
                .map(|_| connect(&mut self.executor, 0).1)
                .collect();
            tasks.into_iter().for_each(|task| self.executor.abort(task));
        }
        let (link, task) = connect(&mut self.executor, 100);
        self.executor.abort(task);
        let speaks = self.shared.swarm.tls != Some(Tls::First);
        if speaks && link.lock().down.is_empty() {
            self.shared
                .trace
                .violate("a client of a full server is not told so");
        }
    }
}
