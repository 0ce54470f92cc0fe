//! A worker over the store, a disk that stops at an operation, and a crash.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use smtpd_core::{
    envelope::Envelope,
    reply::{DataReply, Reply},
};
use tokio::time::timeout;
use tower::{BoxError, service_fn};

use super::{
    super::FileStore,
    message,
    world::{Crash, Fault, World},
};
use crate::{
    phase::{Data, Request},
    queue::{Job, Store, Worker},
    session::{QueueId, Session, SessionFacts},
};

const SEGMENT: u64 = 2000;

/// How often each message was delivered, and how many senders were told that theirs was not.
#[derive(Default)]
struct Seen {
    delivered: BTreeMap<QueueId, usize>,
    told: BTreeMap<String, usize>,
}

fn worker(
    store: &FileStore,
    seen: &Arc<Mutex<Seen>>,
) -> impl Future<Output = Result<(), crate::queue::QueueError>> + use<> {
    let seen = seen.clone();
    let service = service_fn(move |request: Request<Data>| {
        let seen = seen.clone();
        async move {
            let id = request.session().transaction().get::<QueueId>().unwrap();
            let envelope = request.envelope().clone();
            let path = envelope.recipients()[0].path().as_str().to_owned();
            if path.starts_with("bad") {
                return Ok(DataReply::from(Reply::no_such_user()));
            }
            let mut seen = seen.lock().unwrap();
            *seen.delivered.entry(id).or_default() += 1;
            if envelope.sender().is_null() {
                *seen.told.entry(path).or_default() += 1;
            }
            Ok::<_, BoxError>(Reply::OK.into())
        }
    });
    Worker::new(store.clone(), service).run()
}

async fn put(store: &FileStore, number: usize) -> Option<(QueueId, bool)> {
    let (sender, is_bad) = (format!("s{number}@example.com"), number.is_multiple_of(2));
    let recipient = if is_bad {
        "bad@example.org"
    } else {
        "good@example.org"
    };
    let envelope = Envelope::new(sender.parse().unwrap());
    let envelope = envelope.with_recipient(recipient.parse().unwrap());
    let job = Job::new(SessionFacts::from(&Session::local()), envelope);
    let put = store.put(job, message("Subject: hi\r\n\r\nHello\r\n").await);
    put.await.ok().map(|id| (id, is_bad))
}

/// Plays with a disk that stops at one operation. Returns whether it has come to that.
async fn play(at: usize, crash: Crash) -> bool {
    let (world, seen) = (World::default(), Arc::new(Mutex::new(Seen::default())));
    let store = FileStore::start(world.disk(), SEGMENT).unwrap();
    world.plan(at, Fault::Stop);
    let running = tokio::spawn(worker(&store, &seen));
    let mut accepted = Vec::new();
    for number in 0..6 {
        let put = put(&store, number).await;
        accepted.extend(put.map(|(id, is_bad)| (number, id, is_bad)));
    }
    // As far as it comes.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    let has_failed = world.has_failed();
    running.abort();
    let _ = running.await;
    world.crash(crash);
    store.close().await;

    let store = FileStore::start(world.disk(), SEGMENT).unwrap();
    let running = tokio::spawn(worker(&store, &seen));
    let done = async {
        while store.stats().messages > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), done)
        .await
        .expect("all have an end");
    running.abort();
    let _ = running.await;
    store.close().await;
    let seen = seen.lock().unwrap();
    for (number, id, is_bad) in accepted {
        let delivered = seen.delivered.get(&id).copied().unwrap_or(0);
        let told = seen.told.get(&format!("s{number}@example.com"));
        match is_bad {
            true => assert!(
                told.is_some(),
                "operation {at}: nobody was told of {number}"
            ),
            false => assert!(
                (1..=2).contains(&delivered),
                "operation {at}: {delivered} of {number}"
            ),
        }
    }
    has_failed
}

#[tokio::test]
async fn a_crash_at_any_operation_of_a_worker_loses_neither_a_message_nor_what_its_sender_is_told()
{
    for crash in [Crash::Nothing, Crash::Everything, Crash::Some(7)] {
        let mut at = 0;
        while play(at, crash).await {
            at += 1;
            assert!(at < 1000);
        }
        assert!(at > 10, "only {at} operations");
    }
}
