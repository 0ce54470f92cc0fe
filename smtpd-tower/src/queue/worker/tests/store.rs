use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

use tokio::sync::watch;

use crate::{
    body::Spooled,
    queue::{Durability, Job, Leased, Outcome, QueueError, RecipientStatus, Store, StoreFuture},
    session::QueueId,
};

/// A store in memory that yields in the middle of each operation, and fails now and then if it is told to.
#[derive(Clone, Default)]
pub(super) struct Memory {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) items: BTreeMap<QueueId, Item>,
    tokens: u64,
    /// One of so many operations fails.
    pub(super) faults: Option<u64>,
    pub(super) cannot_settle: bool,
    seed: u64,
    /// What has become of recipients of messages that are gone, or of this recipient.
    pub(super) ends: BTreeMap<(QueueId, usize), RecipientStatus>,
    pub(super) renewals: usize,
    /// All notifications that there ever were.
    notifications: Vec<Spooled>,
}

pub(super) struct Item {
    pub(super) job: Job,
    pub(super) message: Spooled,
    pub(super) lease: Option<(u64, SystemTime)>,
    not_before: Option<SystemTime>,
}

impl Item {
    fn due(&self) -> Option<SystemTime> {
        if let Some((_, until)) = self.lease {
            return Some(until);
        }
        let due = self.job.pending().map(|(.., state)| state.due()).min()?;
        Some(self.not_before.map_or(due, |at| at.max(due)))
    }
}

impl State {
    fn fault(&mut self) -> Result<(), QueueError> {
        let Some(one_of) = self.faults else {
            return Ok(());
        };
        let random = crate::queue::worker::tests::world::next(&mut self.seed);
        match random.is_multiple_of(one_of) {
            true => Err(QueueError::io("write", io::ErrorKind::StorageFull.into())),
            false => Ok(()),
        }
    }

    fn check(&mut self, leased: &Leased) -> Result<&mut Item, QueueError> {
        let id = leased.job().id();
        let item = self.items.get_mut(id);
        let lost = || QueueError::LeaseLost(id.clone());
        item.filter(|item| item.lease.is_some_and(|(token, _)| token == leased.token()))
            .ok_or_else(lost)
    }
}

impl Memory {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn len(&self) -> usize {
        self.state().items.len()
    }

    pub(super) fn leased(&self) -> usize {
        let state = self.state();
        state
            .items
            .values()
            .filter(|one| one.lease.is_some())
            .count()
    }

    /// The process has ended: leases and what is not durable are forgotten.
    pub(super) fn crash(&self) {
        for item in self.state().items.values_mut() {
            (item.lease, item.not_before) = (None, None);
        }
    }

    /// Returns the notifications that are in the store, as text.
    pub(super) async fn notifications(&self) -> Vec<String> {
        let messages: Vec<_> = {
            let state = self.state();
            let items = state.items.values();
            let own = items.filter(|one| one.job.envelope().sender().is_null());
            own.map(|one| one.message.clone()).collect()
        };
        texts(messages).await
    }

    /// Returns all notifications that ever were in the store.
    pub(super) async fn all_notifications(&self) -> Vec<String> {
        let messages = self.state().notifications.clone();
        texts(messages).await
    }
}

async fn texts(messages: Vec<Spooled>) -> Vec<String> {
    let mut texts = Vec::new();
    for message in messages {
        let bytes = message.body().collect().await.unwrap();
        texts.push(String::from_utf8(bytes.to_vec()).unwrap());
    }
    texts
}

impl Store for Memory {
    fn durability(&self) -> Durability {
        Durability::Process
    }

    fn put(&self, job: Job, message: Spooled) -> StoreFuture<QueueId> {
        let store = self.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            let id = job.id().clone();
            {
                let mut state = store.state();
                state.fault()?;
                let item = Item {
                    job,
                    message,
                    lease: None,
                    not_before: None,
                };
                if item.job.envelope().sender().is_null() {
                    let message = item.message.clone();
                    state.notifications.push(message);
                }
                assert!(state.items.insert(id.clone(), item).is_none());
            }
            store.changed.send_replace(());
            tokio::task::yield_now().await;
            Ok(id)
        })
    }

    fn lease(&self, now: SystemTime, most: usize, until: SystemTime) -> StoreFuture<Vec<Leased>> {
        let store = self.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut state = store.state();
            state.fault()?;
            let mut due: Vec<_> = state.items.iter().collect();
            due.retain(|(_, item)| item.due().is_some_and(|due| due <= now));
            due.sort_by_key(|(_, item)| (-item.job.priority(), item.due()));
            let due: Vec<_> = due
                .into_iter()
                .take(most)
                .map(|(id, _)| id.clone())
                .collect();
            let leased = due.into_iter().map(|id| {
                state.tokens += 1;
                let token = state.tokens;
                let item = state.items.get_mut(&id).unwrap();
                item.lease = Some((token, until));
                Leased::new(item.job.clone(), item.message.clone(), token)
            });
            Ok(leased.collect())
        })
    }

    fn renew(&self, leased: &Leased, until: SystemTime) -> StoreFuture<()> {
        let mut state = self.state();
        let renewed = state
            .check(leased)
            .map(|item| item.lease = Some((leased.token(), until)));
        state.renewals += 1;
        Box::pin(async move { renewed })
    }

    fn settle(&self, leased: Leased, outcomes: Vec<(usize, Outcome)>) -> StoreFuture<()> {
        let store = self.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            {
                let mut state = store.state();
                state.fault()?;
                if state.cannot_settle {
                    return Err(QueueError::io("write", io::ErrorKind::StorageFull.into()));
                }
                let item = state.check(&leased)?;
                item.lease = None;
                let put_off = outcomes
                    .iter()
                    .all(|(_, outcome)| matches!(outcome, Outcome::Postponed { told: false, .. }));
                let states = item.job.after(&outcomes);
                if put_off {
                    let due = Job::due(&states).map(crate::queue::job::time);
                    item.not_before = due;
                    return Ok(());
                }
                item.not_before = None;
                item.job.states = states;
                let (job, id) = (item.job.clone(), leased.job().id().clone());
                for (number, (_, one)) in job.recipients().enumerate() {
                    if one.status() != RecipientStatus::Pending {
                        state.ends.insert((id.clone(), number), one.status());
                    }
                }
                if job.pending().next().is_none() {
                    state.items.remove(&id);
                }
            }
            tokio::task::yield_now().await;
            Ok(())
        })
    }

    fn next_due(&self) -> StoreFuture<Option<SystemTime>> {
        let due = self.state().items.values().filter_map(Item::due).min();
        Box::pin(async move { Ok(due) })
    }

    fn changed(&self) -> StoreFuture<()> {
        let mut changed = self.changed.subscribe();
        Box::pin(async move { changed.changed().await.map_err(|_| QueueError::Closed) })
    }
}
