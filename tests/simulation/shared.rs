//! What the services, the hooks and the world of a run share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    dice::Dice,
    executor::{Alarm, BoxFuture, Spawner},
    journal::Journal,
    swarm::Swarm,
    trace::Trace,
};

/// Clones share all of it.
#[derive(Clone)]
pub struct Shared {
    pub dice: Dice,
    pub trace: Trace,
    pub journal: Journal,
    pub swarm: Arc<Swarm>,
    pub alarm: Alarm,
    pub spawner: Spawner,
    helpers: Arc<Mutex<BTreeMap<u64, UnboundedSender<BoxFuture>>>>,
}

impl Shared {
    pub fn new(seed: u64, with_text: bool) -> Self {
        let dice = Dice::new(seed);
        let trace = Trace::new(with_text);
        let alarm = Alarm::default();
        Self {
            swarm: Arc::new(Swarm::new(&dice)),
            journal: Journal::new(trace.clone()),
            spawner: Spawner::new(alarm.clone()),
            helpers: Arc::default(),
            dice,
            trace,
            alarm,
        }
    }

    /// Sets where futures go that are to run within the task of that connection's session.
    pub fn set_helper(&self, conn: u64, jobs: UnboundedSender<BoxFuture>) {
        let mut helpers = self.helpers.lock().unwrap_or_else(PoisonError::into_inner);
        helpers.insert(conn, jobs);
    }

    /// Runs a future within the task of that connection's session, or else in a task of its own.
    pub fn help(&self, conn: u64, job: BoxFuture) {
        let helpers = self.helpers.lock().unwrap_or_else(PoisonError::into_inner);
        let left = match helpers.get(&conn) {
            Some(helper) => helper.send(job).map_err(|unsent| unsent.0).err(),
            None => Some(job),
        };
        drop(helpers);
        if let Some(job) = left {
            self.spawner.spawn(job);
        }
    }
}
