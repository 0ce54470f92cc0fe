//! Segments that are cut or damaged.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use smtpd_core::envelope::Envelope;

use super::{
    super::{FileStore, SEGMENT},
    delivered, job, lease_all, message,
    world::{Crash, World},
};
use crate::{
    queue::{Job, Outcome, QueueError, Store},
    session::{QueueId, Session, SessionFacts},
};

async fn bodies(store: &FileStore) -> Vec<String> {
    let mut bodies = Vec::new();
    for entry in store.list(None, 1000) {
        let (_, message) = store.show(&entry.id).await.unwrap();
        let body = message.body().collect().await.unwrap();
        bodies.push(String::from_utf8(body.to_vec()).unwrap());
    }
    bodies.sort_unstable();
    bodies
}

async fn three(world: &World) -> Vec<u8> {
    let store = FileStore::start(world.disk(), SEGMENT).unwrap();
    for body in ["one", "two", "three"] {
        store.put(job(1), message(body).await).await.unwrap();
    }
    store.close().await;
    let mut segments = world.segments();
    assert_eq!(segments.len(), 1);
    segments.remove(&1).unwrap()
}

#[tokio::test]
async fn a_last_record_that_is_torn_at_any_byte_is_cut() {
    let whole = three(&World::default()).await;
    // All three have about the same size.
    for len in whole.len() * 3 / 4..whole.len() {
        let world = World::default();
        world.set(1, &whole[..len]);
        for _ in 0..2 {
            world.crash(Crash::Everything);
            let store = FileStore::start(world.disk(), SEGMENT).unwrap();
            assert_eq!(bodies(&store).await, ["one", "two"], "{len}");
            assert_eq!(store.stats().damaged, 0);
            store.close().await;
        }
        // What is written afterwards can be read.
        world.crash(Crash::Everything);
        let store = FileStore::start(world.disk(), SEGMENT).unwrap();
        store.put(job(1), message("four").await).await.unwrap();
        store.close().await;
        world.crash(Crash::Everything);
        let store = FileStore::start(world.disk(), SEGMENT).unwrap();
        assert_eq!(bodies(&store).await, ["four", "one", "two"]);
        store.close().await;
        assert_eq!(world.aside(), 0);
    }
}

#[tokio::test]
async fn a_damaged_byte_costs_one_message_at_most_and_is_set_aside() {
    let original = World::default();
    let whole = three(&original).await;
    for at in 0..whole.len() {
        let world = World::default();
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        world.set(1, &bytes);
        let store = FileStore::start(world.disk(), SEGMENT).unwrap();
        let left = bodies(&store).await;
        assert!(
            left.iter()
                .all(|one| ["one", "two", "three"].contains(&&**one))
        );
        match at {
            // Without the header, the segment cannot be understood.
            0..24 => assert_eq!((left.len(), world.aside()), (0, 1), "{at}"),
            _ if left.contains(&"three".to_owned()) => {
                assert_eq!((left.len(), world.aside()), (2, 1), "{at}");
                assert_eq!(store.stats().damaged, 1);
            }
            // It may have been torn.
            _ => assert_eq!(left.len(), 2, "{at}"),
        }
        store.close().await;
    }
}

#[tokio::test]
async fn a_segment_in_a_message_is_not_taken_for_records() {
    let world = World::default();
    let inner = three(&world).await;
    let world = World::default();
    let store = FileStore::start(world.disk(), SEGMENT).unwrap();
    let body = crate::body::Body::from(inner).spool(1 << 20).await.unwrap();
    store.put(job(1), body).await.unwrap();
    store.put(job(1), message("last").await).await.unwrap();
    store.close().await;
    let mut bytes = world.segments().remove(&1).unwrap();
    bytes[24 + 20] ^= 1; // In the header of the first record.
    world.set(1, &bytes);
    world.crash(Crash::Everything);
    let store = FileStore::start(world.disk(), SEGMENT).unwrap();
    assert_eq!(bodies(&store).await, ["last"]);
}

#[tokio::test]
async fn lengths_of_a_hostile_record_allocate_nothing() {
    use super::super::frame::{Header, Kind, start};
    let marker = *b"12345678";
    for (head_len, body_len) in [(u32::MAX, 0), (0, u64::MAX), (u32::MAX, 1 << 62)] {
        let header = Header {
            kind: Kind::Put,
            id_len: 16,
            head_len,
            body_len,
        };
        let world = World::default();
        let bytes = [&start(marker)[..], &header.encode(marker)].concat();
        world.set(1, &bytes);
        world.set(2, &bytes);
        let store = FileStore::start(world.disk(), SEGMENT).unwrap();
        assert_eq!(store.stats().messages, 0);
        assert_eq!(store.stats().damaged, 1, "only the last may be torn");
    }
}

#[tokio::test]
async fn a_lease_ends_at_its_deadline_and_cannot_be_settled_after_the_next() {
    let store = FileStore::start(World::default().disk(), SEGMENT).unwrap();
    store.put(job(1), message("one").await).await.unwrap();
    let now = SystemTime::now() + Duration::from_secs(1);
    let minute = Duration::from_secs(60);
    let first = store.lease(now, 10, now + minute).await.unwrap();
    let again = store.lease(now, 10, now + minute).await.unwrap();
    assert_eq!((first.len(), again.len()), (1, 0));
    store.renew(&first[0], now + 3 * minute).await.unwrap();
    let none = store.lease(now + 2 * minute, 10, now + 5 * minute).await;
    assert!(none.unwrap().is_empty());
    let second = store.lease(now + 4 * minute, 10, now + 5 * minute).await;
    let second = second.unwrap().remove(0);
    let first = first.into_iter().next().unwrap();
    let outcomes = delivered(&first);
    let lost = store.settle(first, outcomes).await.unwrap_err();
    assert!(matches!(lost, QueueError::LeaseLost(_)), "{lost}");
    // Without an outcome, it is due as before.
    store.settle(second, Vec::new()).await.unwrap();
    let third = lease_all(&store).await.remove(0);
    let outcomes = delivered(&third);
    store.settle(third, outcomes).await.unwrap();
    assert_eq!(store.next_due().await.unwrap(), None);
}

#[tokio::test]
async fn two_messages_of_one_id_are_both_there() {
    let store = FileStore::start(World::default().disk(), SEGMENT).unwrap();
    let id = QueueId::unique();
    let (one, two) = (message("one").await, message("two").await);
    let put = |message| store.put(job(1).with_id(id.clone()), message);
    let (one, two) = tokio::join!(put(one), put(two));
    assert_eq!(one.unwrap(), id);
    assert_ne!(two.unwrap(), id);
    assert_eq!(bodies(&store).await, ["one", "two"]);
}

#[tokio::test]
async fn a_message_for_which_nobody_waits_is_not_kept() {
    let world = World::default();
    let store = FileStore::start(world.disk(), SEGMENT).unwrap();
    let mut put = tokio_test::task::spawn(store.put(job(1), message("dropped").await));
    // The writer needs the index, so it has not answered yet.
    let index = store.index();
    let _ = put.poll();
    drop(put);
    drop(index);
    store.put(job(1), message("kept").await).await.unwrap();
    assert_eq!(bodies(&store).await, ["kept"]);
    store.close().await;
    world.crash(Crash::Nothing);
    let store = FileStore::start(world.disk(), SEGMENT).unwrap();
    assert_eq!(bodies(&store).await, ["kept"]);
    let closed = FileStore::start(world.disk(), SEGMENT).unwrap();
    closed.close().await;
    let error = closed.put(job(1), message("late").await).await.unwrap_err();
    assert!(matches!(error, QueueError::Closed));
}

#[tokio::test]
async fn a_message_for_which_nobody_waits_any_more_once_it_is_written_does_not_come_back() {
    let world = World::default();
    let store = FileStore::start(world.disk(), SEGMENT).unwrap();
    store.put(job(1), message("first").await).await.unwrap();
    let put = tokio_test::task::spawn(store.put(job(1), message("dropped").await));
    let slot = Arc::new(Mutex::new(Some(put)));
    let later = slot.clone();
    world.on_sync(move || drop(later.lock().unwrap().take()));
    // The slot is locked until the future has been polled.
    let _ = slot.lock().unwrap().as_mut().unwrap().poll();
    while slot.lock().unwrap().is_some() {
        std::thread::yield_now();
    }
    store.put(job(1), message("kept").await).await.unwrap();
    assert_eq!(bodies(&store).await, ["first", "kept"]);
    store.close().await;
    world.crash(Crash::Everything);
    let store = FileStore::start(world.disk(), SEGMENT).unwrap();
    assert_eq!(bodies(&store).await, ["first", "kept"]);
}

#[tokio::test]
async fn the_most_urgent_of_what_is_due_comes_first_and_what_was_put_off_comes_later() {
    let store = FileStore::start(World::default().disk(), SEGMENT).unwrap();
    let now = SystemTime::now();
    let until = now + Duration::from_secs(600);
    for (body, priority) in [("low", "-4"), ("none", "0"), ("later", "9"), ("high", "4")] {
        let envelope = Envelope::clone(job(1).envelope());
        let parameters = format!("MT-PRIORITY={priority}").parse().unwrap();
        let facts = SessionFacts::from(&Session::local());
        let due = if body == "later" { until } else { now };
        let job = Job::new(facts, envelope.with_parameters(parameters)).with_due(due);
        store.put(job, message(body).await).await.unwrap();
    }
    let lease = async |most| {
        let mut bodies = Vec::new();
        let leased = store.lease(now, most, until).await.unwrap();
        for leased in &leased {
            let body = leased.message().body().collect().await.unwrap();
            bodies.push(String::from_utf8(body.to_vec()).unwrap());
        }
        (leased, bodies)
    };
    let (mut first, bodies) = lease(2).await;
    assert_eq!(bodies, ["high", "none"]);
    let put_off = Outcome::Postponed {
        until: now + Duration::from_secs(60),
        told: false,
    };
    store
        .settle(first.remove(0), vec![(0, put_off)])
        .await
        .unwrap();
    assert_eq!(lease(9).await.1, ["low"]);
    let due = store.next_due().await.unwrap().unwrap();
    let wait = due.duration_since(now).unwrap();
    assert!((59..=60).contains(&wait.as_secs()), "{wait:?}");
}

#[tokio::test]
async fn a_damaged_message_is_not_made_valid_by_being_copied() {
    let world = World::default();
    let store = FileStore::start(world.disk(), 1000).unwrap();
    let id = store.put(job(1), message("damaged").await).await.unwrap();
    let (number, mut bytes) = world.segments().into_iter().next().unwrap();
    let at = memchr::memmem::find(&bytes, b"damaged").unwrap();
    bytes[at] ^= 1;
    world.set(number, &bytes);
    for _ in 0..50 {
        let put = store.put(job(1), message("other").await);
        let other = put.await.unwrap();
        store.delete(&other).await.unwrap();
    }
    assert!(store.show(&id).await.is_err());
    // Its segment is kept, for whoever wants to look at it.
    assert!(world.segments().contains_key(&number));
    store.close().await;
}

#[tokio::test]
async fn who_waits_for_a_change_misses_none() {
    let store = FileStore::start(World::default().disk(), SEGMENT).unwrap();
    let changed = store.changed();
    let id = store.put(job(1), message("one").await).await.unwrap();
    changed.await.unwrap();
    let changed = store.changed();
    store.release(&id).await.unwrap();
    changed.await.unwrap();
    store.close().await;
    let closed = store.lease(SystemTime::now(), 1, SystemTime::now()).await;
    assert!(matches!(closed, Err(QueueError::Closed)));
}

#[tokio::test]
async fn a_directory_is_opened_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue");
    let store = FileStore::open(&path).await.unwrap();
    let error = FileStore::open(&path).await.unwrap_err();
    assert!(matches!(error, QueueError::InUse(_)), "{error}");
    store.close().await;
    let store = FileStore::open(&path).await.unwrap();
    // A large message is not read into memory.
    let large = "x".repeat(3 << 20);
    let body = crate::body::Body::from(large.clone().into_bytes())
        .spool(1000)
        .await;
    let id = store.put(job(1), body.unwrap()).await.unwrap();
    let (_, message) = store.show(&id).await.unwrap();
    assert!(!message.is_in_memory());
    assert_eq!(message.body().collect().await.unwrap(), large);
    store.close().await;
}
