//! Every operation of the disk fails once, or is the last before a crash, and the store is compared with a model.

use std::{collections::BTreeMap, io::ErrorKind, time::SystemTime};

use smtpd_core::reply::Reply;

use super::{
    super::FileStore,
    delivered, job, message,
    world::{Crash, Fault, World, next},
};
use crate::{
    queue::{Outcome, Store},
    session::QueueId,
};

/// So small that segments are full, removed and copied all the time.
const SEGMENT: u64 = 1500;
const STEPS: usize = 40;

/// Whether a message must be there after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Must,
    /// The store has not said, or what it said need not be durable yet.
    May,
    MustNot,
}

#[derive(Clone, Debug)]
struct Expected {
    id: Option<QueueId>,
    /// In the store that runs.
    is_live: bool,
    /// After a restart.
    presence: Presence,
}

struct Model {
    messages: BTreeMap<String, Expected>,
    seed: u64,
}

impl Model {
    async fn step(&mut self, store: &FileStore) {
        match next(&mut self.seed) % 8 {
            0..4 => self.put(store).await,
            4..6 => self.deliver(store).await,
            6 => self.delete(store).await,
            _ => self.hold(store).await,
        }
        self.check_live(store);
    }

    async fn put(&mut self, store: &FileStore) {
        let size = next(&mut self.seed) % 400;
        let body = format!("{}:{}", self.messages.len(), "x".repeat(size as usize));
        let put = store.put(job(2), message(&body).await).await;
        if put.is_ok() {
            // All that was written before is synced with it.
            for expected in self.messages.values_mut() {
                expected.presence = match expected.is_live {
                    true => Presence::Must,
                    false => Presence::MustNot,
                };
            }
        }
        let expected = Expected {
            is_live: put.is_ok(),
            presence: match put {
                Ok(_) => Presence::Must,
                Err(_) => Presence::May,
            },
            id: put.ok(),
        };
        self.messages.insert(body, expected);
    }

    fn of(&mut self, id: &QueueId) -> &mut Expected {
        let mut all = self.messages.values_mut();
        all.find(|one| one.id.as_ref() == Some(id)).unwrap()
    }

    async fn deliver(&mut self, store: &FileStore) {
        let now = SystemTime::now();
        let Ok(leased) = store.lease(now, 3, now).await else {
            return;
        };
        for leased in leased {
            let id = leased.job().id().clone();
            let body = leased.message().body().collect().await;
            if let Ok(body) = body {
                let expected = &self.messages[std::str::from_utf8(&body).unwrap()];
                assert_eq!(expected.id.as_ref(), Some(&id));
            }
            let again = next(&mut self.seed).is_multiple_of(3);
            let outcomes = match again {
                true => vec![(
                    1,
                    Outcome::Deferred {
                        reply: Reply::busy(),
                        until: now,
                        told: false,
                    },
                )],
                false => delivered(&leased),
            };
            let settled = store.settle(leased, outcomes).await;
            let expected = self.of(&id);
            match (again, settled) {
                (false, Ok(())) => {
                    expected.is_live = false;
                    expected.presence = Presence::May;
                }
                // One that is done is done, whether that can be written or not.
                (false, Err(error)) => panic!("{error}"),
                (true, _) => {}
            }
        }
    }

    async fn delete(&mut self, store: &FileStore) {
        let live = self.messages.values_mut().filter(|one| one.is_live);
        let Some(expected) = live.last() else { return };
        let id = expected.id.clone().unwrap();
        match store.delete(&id).await {
            Ok(()) => expected.presence = Presence::MustNot,
            Err(_) => expected.presence = Presence::May,
        }
        expected.is_live = false;
    }

    async fn hold(&mut self, store: &FileStore) {
        let live = self.messages.values().find(|one| one.is_live);
        let Some(id) = live.and_then(|one| one.id.clone()) else {
            return;
        };
        let is_held = store
            .list(None, 1000)
            .iter()
            .any(|one| one.id == id && one.is_held);
        let done = match is_held {
            true => store.release(&id).await,
            false => store.hold(&id).await,
        };
        if done.is_ok() {
            let now = store.list(None, 1000);
            let entry = now.iter().find(|one| one.id == id).unwrap();
            assert_ne!(entry.is_held, is_held);
        }
    }

    /// Compares a store that runs.
    fn check_live(&self, store: &FileStore) {
        store.index().verify();
        let live = self.messages.values().filter(|one| one.is_live);
        let mut live: Vec<_> = live.filter_map(|one| one.id.clone()).collect();
        live.sort_unstable();
        let listed = store.list(None, 1000).into_iter().map(|one| one.id);
        assert_eq!(listed.collect::<Vec<_>>(), live);
    }

    /// Compares a store that was opened, and notes what it has.
    async fn check_opened(&mut self, store: &FileStore) {
        store.index().verify();
        let mut found = BTreeMap::new();
        for entry in store.list(None, 1000) {
            let (job, message) = store.show(&entry.id).await.unwrap();
            let body = message.body().collect().await.unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(self.messages.contains_key(&body), "never put: {body}");
            assert_eq!(job.recipients().len(), 2);
            let twice = found.insert(body, entry.id);
            assert!(twice.is_none(), "there twice");
        }
        for (body, expected) in &mut self.messages {
            let id = found.get(body).cloned();
            match expected.presence {
                Presence::Must => assert!(id.is_some(), "lost: {body} {expected:?}"),
                Presence::May => {}
                Presence::MustNot => assert!(id.is_none(), "is back: {body} {expected:?}"),
            }
            expected.is_live = id.is_some();
            expected.presence = match id {
                Some(_) => Presence::Must,
                None => Presence::MustNot,
            };
            expected.id = id;
        }
    }
}

/// Opens what a crash has left, compares it, and goes on for a while.
async fn reopen(world: &World, model: &mut Model) {
    let store = FileStore::start(world.disk(), SEGMENT).unwrap();
    model.check_opened(&store).await;
    for _ in 0..5 {
        model.step(&store).await;
    }
    store.close().await;
    world.crash(Crash::Nothing);
    let store = FileStore::start(world.disk(), SEGMENT).unwrap();
    // It was closed, so all is durable.
    for expected in model.messages.values_mut() {
        expected.presence = match expected.is_live {
            true => Presence::Must,
            false => Presence::MustNot,
        };
    }
    model.check_opened(&store).await;
    store.close().await;
}

/// Plays a script with a fault at one operation, and then a crash. Returns whether the fault has occurred.
async fn play(seed: u64, at: usize, fault: Fault, crash: Crash) -> bool {
    println!("seed {seed}, operation {at}, {fault:?}, {crash:?}");
    let world = World::default();
    let mut model = Model {
        messages: BTreeMap::new(),
        seed,
    };
    let Ok(store) = FileStore::start(world.disk(), SEGMENT) else {
        return true;
    };
    world.plan(at, fault);
    for step in 0..STEPS {
        // What it cannot do while the disk has stopped is no matter of the model.
        if fault == Fault::Stop && world.has_failed() {
            break;
        }
        if fault == Fault::Full && step > STEPS * 3 / 4 {
            world.mend();
        }
        model.step(&store).await;
    }
    let has_failed = world.has_failed() || fault == Fault::Full && world.ops() > at;
    world.crash(crash);
    store.close().await;
    reopen(&world, &mut model).await;
    has_failed
}

async fn play_all(fault: Fault, crash: impl Fn(u64) -> Crash) {
    for seed in 0..4 {
        let mut at = 0;
        while play(seed, at, fault, crash(seed ^ at as u64)).await {
            at += 1;
            assert!(at < 10_000);
        }
        assert!(at > 80, "only {at} operations of the disk");
    }
}

#[tokio::test]
async fn an_operation_that_fails_once_costs_no_acknowledged_message() {
    play_all(Fault::Once(ErrorKind::Other), |_| Crash::Everything).await;
    play_all(Fault::Once(ErrorKind::Other), |_| Crash::Nothing).await;
    play_all(Fault::Once(ErrorKind::StorageFull), Crash::Some).await;
}

#[tokio::test]
async fn a_disk_that_is_full_costs_no_acknowledged_message() {
    play_all(Fault::Full, |_| Crash::Everything).await;
    play_all(Fault::Full, |_| Crash::Nothing).await;
}

#[tokio::test]
async fn a_crash_at_any_operation_costs_no_acknowledged_message() {
    play_all(Fault::Stop, |_| Crash::Everything).await;
    play_all(Fault::Stop, |_| Crash::Nothing).await;
    play_all(Fault::Stop, Crash::Some).await;
}
