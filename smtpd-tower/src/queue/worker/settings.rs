use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use smtpd_core::{address::ForwardPath, envelope::Recipient};

use crate::{
    fault::{caught, quietly},
    limiter::Rate,
    queue::{QueueEvent, Schedule},
};

/// Which destination a recipient belongs to.
type Key = Arc<dyn Fn(&Recipient) -> String + Send + Sync>;

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) schedule: Schedule,
    /// How many deliveries there may be at a time.
    pub(super) concurrency: usize,
    pub(super) limits: Limits,
    pub(super) lease: Duration,
    pub(super) timeout: Duration,
    pub(super) hostname: Option<Arc<str>>,
    pub(super) return_limit: usize,
    pub(super) key: Key,
    pub(super) events: Events,
    #[cfg(feature = "metrics")]
    pub(super) meters: crate::meter::WorkerMeters,
}

/// The limits of each destination.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) concurrency: usize,
    pub(super) rate: Option<Rate>,
    /// How many connection faults in a row there may be.
    pub(super) faults: u32,
    pub(super) backoff: Duration,
    pub(super) longest_backoff: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            schedule: Schedule::default(),
            concurrency: 100,
            limits: Limits {
                concurrency: 5,
                rate: None,
                faults: 3,
                backoff: Duration::from_secs(60),
                longest_backoff: Duration::from_secs(1800),
            },
            lease: Duration::from_secs(600),
            timeout: Duration::from_secs(1800),
            hostname: None,
            return_limit: 64 * 1024,
            key: Arc::new(domain_of),
            events: Events::default(),
            #[cfg(feature = "metrics")]
            meters: crate::meter::WorkerMeters::default(),
        }
    }
}

impl Settings {
    /// How many messages are leased at a time.
    pub(super) const fn window(&self) -> usize {
        self.concurrency.saturating_mul(4)
    }
}

/// The domain of a recipient, in one form for all its spellings.
fn domain_of(recipient: &Recipient) -> String {
    let mailbox = recipient.path().mailbox();
    let domain = mailbox.map(|mailbox| mailbox.domain().canonical().into_owned());
    domain.unwrap_or_default()
}

pub(super) const fn at_least_one(number: usize) -> usize {
    match NonZeroUsize::new(number) {
        Some(number) => number.get(),
        None => 1,
    }
}

/// The functions that are told what happens.
#[derive(Clone, Default)]
pub(super) struct Events(Vec<Function>);

type Function = Arc<dyn Fn(&QueueEvent) + Send + Sync>;

impl Events {
    pub(super) fn add(&mut self, function: impl Fn(&QueueEvent) + Send + Sync + 'static) {
        self.0.push(Arc::new(function));
    }

    /// A panic in one affects nothing else; it is logged.
    pub(super) fn tell(&self, event: &QueueEvent) {
        for function in &self.0 {
            if let Err(panic) = caught(|| function(event)) {
                let (id, panic) = (event.id(), panic.escape_debug());
                quietly(|| tracing::error!(%id, %panic, "on_event panicked"));
            }
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("schedule", &self.schedule)
            .field("concurrency", &self.concurrency)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Returns the recipient at a position, for events.
pub(super) fn path_of(recipients: &[Recipient], number: usize) -> Option<ForwardPath> {
    recipients.get(number).map(|one| one.path().clone())
}
