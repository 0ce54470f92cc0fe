//! What the services, the hooks and the world of a run share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc::UnboundedSender;
use tokio_rustls::rustls::ClientConfig;

use crate::{
    dice::Dice,
    executor::{Alarm, BoxFuture, Spawner},
    journal::Journal,
    swarm::Swarm,
    tls::{self, Certificates},
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
    pub certificates: Option<Arc<Mutex<Certificates>>>,
    /// How the clients do TLS.
    pub clients: Option<Arc<ClientConfig>>,
    helpers: Arc<Mutex<BTreeMap<u64, UnboundedSender<BoxFuture>>>>,
}

impl Shared {
    pub fn new(seed: u64, with_text: bool) -> Self {
        let dice = Dice::new(seed);
        let trace = Trace::new(with_text);
        let alarm = Alarm::default();
        let swarm = Swarm::new(&dice);
        let certificates = || Arc::new(Mutex::new(Certificates::new()));
        Self {
            certificates: swarm.tls.map(|_| certificates()),
            clients: swarm.tls.map(|_| tls::clients(&dice)),
            swarm: Arc::new(swarm),
            journal: Journal::new(trace.clone()),
            spawner: Spawner::new(alarm.clone()),
            helpers: Arc::default(),
            dice,
            trace,
            alarm,
        }
    }

    pub fn certificates(&self) -> Option<MutexGuard<'_, Certificates>> {
        let certificates = self.certificates.as_ref()?;
        Some(certificates.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The number of the server's present certificate.
    pub fn generation(&self) -> usize {
        self.certificates()
            .map_or(0, |certificates| certificates.generation())
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
