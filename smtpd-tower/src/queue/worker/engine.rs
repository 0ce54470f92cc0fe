//! The loop of a worker: it leases what is due, starts what may run, and waits for what comes next.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use smtpd_core::reply::DataReply;
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tower::{BoxError, Service};

use super::{
    attempt::{Attempt, Delivery},
    conclude::Verdict,
    settings::Settings,
    settle::{Lease, settle},
    site::{Admission, Sites, Unit},
};
use crate::{
    fault::{local_error, quietly},
    phase::{Data, Request},
    queue::{Job, Leased, QueueError, QueueEvent, Store, terms::Terms},
    session::QueueId,
};

/// How many messages are leased at once.
const AT_ONCE: usize = 64;
/// How long the clock of the system is not looked at, at most: it may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// How long to wait after the store has failed.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the store may take when all is given back.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a task was about.
enum Task {
    Delivery(Unit, AbortHandle),
    Settling(QueueId),
}

/// What a task returns.
enum Done {
    Delivered(Box<Attempt>),
    Settled,
}

/// A message that is leased.
struct Held {
    lease: Lease,
    job: Arc<Job>,
    /// How many of its units are not done.
    open: usize,
    verdicts: Vec<(usize, Verdict)>,
}

pub(super) struct Engine<T, S> {
    store: T,
    service: S,
    settings: Settings,
    clock: Clock,
    sites: Sites,
    held: HashMap<QueueId, Held>,
    tasks: JoinSet<Done>,
    about: HashMap<Id, Task>,
    deliveries: usize,
    renew_at: Instant,
    /// The store has failed: it is not asked before.
    not_before: Option<Instant>,
}

/// Returns the time of the system.
pub(super) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

pub(super) struct GracefulShutdown {
    pub(super) signal: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub(super) grace: Duration,
}

impl<T, S> Engine<T, S>
where
    T: Store + Clone,
    S: Service<Request<Data>> + Clone + Send + 'static,
    S::Response: Into<DataReply> + Send,
    S::Error: Into<BoxError> + Send,
    S::Future: Send,
{
    pub(super) fn new(store: T, service: S, settings: Settings, clock: Clock) -> Self {
        Self {
            sites: Sites::new(settings.limits.clone()),
            renew_at: Instant::now() + settings.lease / 3,
            store,
            service,
            settings,
            clock,
            held: HashMap::new(),
            tasks: JoinSet::new(),
            about: HashMap::new(),
            deliveries: 0,
            not_before: None,
        }
    }

    pub(super) async fn run(
        mut self,
        shutdown: Option<GracefulShutdown>,
    ) -> Result<(), QueueError> {
        let (mut signal, grace) = match shutdown {
            Some(shutdown) => (shutdown.signal, shutdown.grace),
            None => (
                Box::pin(std::future::pending()) as Pin<Box<_>>,
                Duration::ZERO,
            ),
        };
        let result = loop {
            // Before the store is asked, so that nothing is missed.
            let changed = self.store.changed();
            let wake = match self.fill().await {
                Ok(wake) => wake,
                Err(QueueError::Closed) => break Err(QueueError::Closed),
                Err(error) => self.pause(&error),
            };
            let can_lease = self.room() > 0 && self.not_before.is_none();
            tokio::select! {
                () = &mut signal => break Ok(()),
                Some(done) = self.tasks.join_next_with_id() => self.done(done),
                changed = changed, if can_lease => match changed {
                    Ok(()) => {}
                    Err(QueueError::Closed) => break Err(QueueError::Closed),
                    Err(error) => {
                        self.pause(&error);
                    }
                },
                () = sleep_until(wake) => {}
            }
            self.renew().await;
        };
        self.end(grace).await;
        result
    }

    fn room(&self) -> usize {
        self.settings.window().saturating_sub(self.held.len())
    }

    fn pause(&mut self, error: &QueueError) -> Instant {
        quietly(|| tracing::error!(%error, "the store of the queue fails"));
        let wake = Instant::now() + PAUSE;
        self.not_before = Some(wake);
        wake.min(self.renew_at)
    }

    /// Leases and starts what can be. Returns when to look again, at the latest.
    async fn fill(&mut self) -> Result<Instant, QueueError> {
        let now = Instant::now();
        if self.not_before.is_some_and(|at| at <= now) {
            self.not_before = None;
        }
        let mut wake = (now + LONGEST_SLEEP).min(self.renew_at);
        while self.not_before.is_none() && self.room() > 0 {
            self.start();
            let most = self.room().min(AT_ONCE);
            let now = (self.clock)();
            let leased = self.store.lease(now, most, self.until(now)).await?;
            let is_last = leased.len() < most;
            leased
                .into_iter()
                .for_each(|leased| self.accept(leased, now));
            if is_last {
                let due = self.store.next_due().await?;
                let wait = due.map(|due| due.duration_since(now).unwrap_or_default());
                // What is due already cannot be leased, or belongs to others.
                let wait = wait.map(|wait| wait.max(Duration::from_millis(1)));
                wake = wait.map_or(wake, |wait| {
                    wake.min(Instant::now() + wait.min(LONGEST_SLEEP))
                });
                break;
            }
        }
        self.start();
        let limited = self.sites.wakes().filter(|_| self.has_permit());
        Ok(limited
            .map_or(wake, |at| wake.min(at))
            .min(self.not_before.unwrap_or(wake)))
    }

    fn until(&self, now: SystemTime) -> SystemTime {
        super::conclude::after(now, self.settings.lease)
    }

    const fn has_permit(&self) -> bool {
        self.deliveries < self.settings.concurrency
    }

    /// Splits a message by destination.
    fn accept(&mut self, leased: Leased, now: SystemTime) {
        let id = leased.job().id().clone();
        if let Some(held) = self.held.get(&id) {
            // Its lease has ended while it is being delivered. It is not delivered again, and the new lease is settled.
            *held.lease.lock().unwrap_or_else(PoisonError::into_inner) = leased;
            return;
        }
        let job = Arc::new(leased.job().clone());
        let mut held = Held {
            lease: Arc::new(Mutex::new(leased)),
            job: job.clone(),
            open: 0,
            verdicts: Vec::new(),
        };
        let due = job.pending().filter(|(.., state)| state.due() <= now);
        if Terms::of(&job).is_too_late(now) {
            let numbers = job.pending().map(|(number, ..)| number);
            held.verdicts = numbers.map(|number| (number, Verdict::TooLate)).collect();
        } else {
            let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
            let mut places = HashMap::new();
            for (number, recipient, _) in due {
                let site = (self.settings.key)(recipient);
                let place = *places.entry(site.clone()).or_insert_with(|| {
                    groups.push((site, Vec::new()));
                    groups.len() - 1
                });
                groups[place].1.push(number);
            }
            for (site, recipients) in groups {
                self.admit(&id, site, recipients, &mut held);
            }
        }
        let is_done = held.open == 0;
        self.held.insert(id.clone(), held);
        if is_done {
            self.settle(&id);
        }
    }

    fn admit(&mut self, id: &QueueId, site: String, recipients: Vec<usize>, held: &mut Held) {
        let unit = Unit {
            id: id.clone(),
            site,
            recipients: recipients.clone(),
        };
        let (wait, reply) = match self
            .sites
            .admit(unit, self.settings.window(), Instant::now())
        {
            Ok(()) => {
                held.open += 1;
                return;
            }
            Err(Admission::Busy(wait)) => (wait, None),
            Err(Admission::Blocked(wait, reply)) => (wait, Some(reply)),
        };
        let until = super::conclude::after((self.clock)(), wait);
        let verdict = Verdict::NotTried(until, reply);
        let verdicts = recipients.into_iter();
        held.verdicts
            .extend(verdicts.map(|number| (number, verdict.clone())));
    }

    /// Starts the deliveries that may begin.
    fn start(&mut self) {
        while self.has_permit()
            && let Some(unit) = self.sites.next(Instant::now())
        {
            let Some(held) = self.held.get(&unit.id) else {
                self.sites.give_up(&unit.site);
                continue;
            };
            let lease = held.lease.lock().unwrap_or_else(PoisonError::into_inner);
            let message = lease.message().clone();
            drop(lease);
            let delivery = Delivery {
                job: held.job.clone(),
                message,
                recipients: unit.recipients.clone(),
                timeout: self.settings.timeout,
                now: (self.clock)(),
            };
            let service = self.service.clone();
            let task = self.tasks.spawn(async move {
                let attempt = delivery.run(service).await;
                Done::Delivered(Box::new(attempt))
            });
            let id = task.id();
            self.about.insert(id, Task::Delivery(unit, task));
            self.deliveries += 1;
        }
    }

    fn done(&mut self, done: Result<(Id, Done), JoinError>) {
        let task = match &done {
            Ok((task, _)) => *task,
            Err(error) => error.id(),
        };
        match (self.about.remove(&task), done) {
            (Some(Task::Delivery(unit, _)), Ok((_, Done::Delivered(attempt)))) => {
                self.delivered(unit, *attempt);
            }
            (Some(Task::Delivery(unit, _)), Err(error)) if error.is_cancelled() => {
                self.deliveries -= 1;
                self.sites.give_up(&unit.site);
                self.unit_done(&unit.id, Vec::new());
            }
            (Some(Task::Delivery(unit, _)), _) => {
                // It has panicked where nobody can catch that, such as in a destructor.
                let reply = local_error();
                let attempt = Attempt {
                    fault: Some(reply.clone()),
                    reply: reply.into(),
                    disposition: Default::default(),
                    took: Duration::ZERO,
                };
                self.delivered(unit, attempt);
            }
            (Some(Task::Settling(id)), _) => {
                self.held.remove(&id);
            }
            (None, _) => {}
        }
    }

    fn delivered(&mut self, unit: Unit, attempt: Attempt) {
        self.deliveries -= 1;
        let Attempt {
            reply,
            disposition,
            took,
            fault,
        } = attempt;
        #[cfg(feature = "metrics")]
        self.settings
            .meters
            .attempt(outcome_of(&reply, fault.is_some()), took);
        self.settings.events.tell(&QueueEvent::Attempted {
            id: unit.id.clone(),
            destination: unit.site.clone(),
            recipients: unit.recipients.len(),
            took,
        });
        let waiting = self
            .sites
            .done(&unit.site, took, fault.clone(), Instant::now());
        let verdicts = unit.recipients.iter().enumerate();
        let verdicts = verdicts.map(|(index, number)| {
            let reply = reply.for_recipient(index).clone();
            (*number, Verdict::Replied(reply, disposition))
        });
        self.unit_done(&unit.id, verdicts.collect());
        // What waits for a destination that cannot be reached makes room for others.
        let until = super::conclude::after((self.clock)(), self.settings.limits.backoff);
        for unit in waiting {
            let verdict = Verdict::NotTried(until, fault.clone());
            let numbers = unit.recipients.iter();
            let verdicts = numbers.map(|number| (*number, verdict.clone()));
            self.unit_done(&unit.id, verdicts.collect());
        }
    }

    fn unit_done(&mut self, id: &QueueId, verdicts: Vec<(usize, Verdict)>) {
        let Some(held) = self.held.get_mut(id) else {
            return;
        };
        held.verdicts.extend(verdicts);
        held.open -= 1;
        if held.open == 0 {
            self.settle(id);
        }
    }

    fn settle(&mut self, id: &QueueId) {
        let Some(held) = self.held.get_mut(id) else {
            return;
        };
        let verdicts = std::mem::take(&mut held.verdicts);
        let (store, settings, lease) = (
            self.store.clone(),
            self.settings.clone(),
            held.lease.clone(),
        );
        let now = (self.clock)();
        let task = self.tasks.spawn(async move {
            settle(store, settings, lease, verdicts, now).await;
            Done::Settled
        });
        self.about.insert(task.id(), Task::Settling(id.clone()));
    }

    /// Moves the deadlines of all leases.
    async fn renew(&mut self) {
        let now = Instant::now();
        if now < self.renew_at {
            return;
        }
        self.renew_at = now + self.settings.lease / 3;
        let until = self.until((self.clock)());
        for held in self.held.values() {
            let leased = held.lease.lock();
            let renewed = self
                .store
                .renew(&leased.unwrap_or_else(PoisonError::into_inner), until);
            // One that is lost is noticed when it is settled.
            let _ = renewed.await;
        }
    }

    /// Lets the deliveries end that have begun, and gives back what is left.
    async fn end(mut self, grace: Duration) {
        let units = self.sites.drain();
        for unit in units {
            self.unit_done(&unit.id, Vec::new());
        }
        if !self.settle_all(Instant::now() + grace).await {
            for task in self.about.values() {
                if let Task::Delivery(_, task) = task {
                    task.abort();
                }
            }
            // What has an end is recorded, and what has none is given back.
            self.settle_all(Instant::now() + LAST_WORDS).await;
        }
        self.tasks.shutdown().await;
    }

    /// Waits until nothing is leased. Returns whether that is so before the deadline.
    async fn settle_all(&mut self, deadline: Instant) -> bool {
        loop {
            tokio::select! {
                biased;
                done = self.tasks.join_next_with_id() => match done {
                    Some(done) => self.done(done),
                    None => return true,
                },
                () = sleep_until(deadline.min(self.renew_at)) => {
                    if Instant::now() >= deadline {
                        return false;
                    }
                    self.renew().await;
                }
            }
        }
    }
}

/// The word for an attempt in metrics.
#[cfg(feature = "metrics")]
fn outcome_of(reply: &DataReply, is_fault: bool) -> &'static str {
    match reply.code() {
        _ if is_fault => "unreachable",
        code if code.is_positive() => "accepted",
        code if code.is_permanent() => "rejected",
        _ => "deferred",
    }
}
