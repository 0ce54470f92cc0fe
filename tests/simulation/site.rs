//! A connection, with its client and what is known of it.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    client::Client, model::Model, network::Link, script::Author, shared::Shared, tls::Records,
};

/// A connection with both its ends.
pub struct Site {
    pub link: Link,
    pub client: Client,
    pub model: Model,
    pub opens_at: Instant,
    pub stage: Stage,
    /// The session's task, where it is one of the simulation.
    pub task: Option<usize>,
    pub aborted: bool,
    /// Since when the client does nothing but read.
    pub passive_since: Option<(Instant, u32)>,
    /// How many bytes of the server the oracle has seen.
    pub written: u64,
    /// What the server says within TLS to a client that has none.
    pub alerts: Records,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Waiting,
    Open,
    /// The server has closed its end, which was looked at.
    Over,
}

impl Site {
    pub fn new(shared: &Shared, conn: u64) -> Self {
        let (dice, swarm) = (&shared.dice, &shared.swarm);
        let link = Link::new(conn, swarm.capacity.0, swarm.capacity.1);
        let kind = swarm.clients[conn as usize - 1];
        let ops = Author::new(dice, swarm, conn).write(kind);
        let wait = if conn == 1 {
            0
        } else {
            dice.pick(&[0, 0, 10, 3000, 40_000])
        };
        Self {
            client: Client::new(shared, &link, ops),
            model: Model::new(shared, conn),
            opens_at: Instant::now() + Duration::from_millis(wait),
            stage: Stage::Waiting,
            task: None,
            aborted: false,
            passive_since: None,
            written: 0,
            alerts: Records::default(),
            link,
        }
    }

    pub fn in_flight(&self, now: Instant) -> (bool, bool) {
        let wires = self.link.lock();
        if wires.stalled.is_some_and(|until| until > now) {
            return (false, false);
        }
        (wires.up.is_in_flight(), wires.down.is_in_flight())
    }

    pub fn is_stalled(&self) -> bool {
        let stalled = self.link.lock().stalled;
        stalled.is_some_and(|until| until > Instant::now())
    }

    pub fn wakes_at(&self) -> Option<Instant> {
        if self.stage == Stage::Waiting {
            return Some(self.opens_at);
        }
        let now = Instant::now();
        let stalled = self.link.lock().stalled.filter(|until| *until > now);
        let client = self.client.wakes_at();
        stalled.into_iter().chain(client).min()
    }

    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    pub fn is_passive(&self) -> bool {
        self.stage != Stage::Waiting && self.client.is_passive()
    }
}
