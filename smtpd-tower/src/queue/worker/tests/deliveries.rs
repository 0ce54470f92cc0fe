use std::sync::atomic::{AtomicUsize, Ordering};

use smtpd_core::reply::Code;
use tokio::sync::{Semaphore, oneshot};

use super::*;
use crate::queue::Schedule;

#[tokio::test(start_paused = true)]
async fn recipients_are_delivered_by_destination_and_only_4yz_is_tried_again() {
    let (store, events, clock) = (Memory::default(), Events::default(), clock());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let calls = seen.clone();
    let calls_before = Arc::new(AtomicUsize::new(0));
    let service = replies(move |envelope| {
        let paths = envelope.recipients().iter();
        let paths: Vec<_> = paths.map(|one| one.path().as_str().to_owned()).collect();
        let is_first = calls_before.fetch_add(1, Ordering::Relaxed) < 2;
        calls.lock().unwrap().push(paths.clone());
        DataReply::each(paths.iter().map(|path| match path.as_bytes()[0] {
            b'g' => Reply::OK,
            b'b' => Reply::no_such_user(),
            _ if is_first => Reply::mailbox_full(),
            _ => Reply::OK,
        }))
    });
    let worker = Worker::new(store.clone(), service)
        .clock(clock.clone())
        .on_event(events.hook());
    let running = start(worker);
    let recipients = [
        "good@a.example",
        "later@A.example",
        "bad@b.example",
        "bad2@a.example NOTIFY=NEVER",
    ];
    put(&store, clock(), envelope("s@sender.example", &recipients)).await;
    sleep(250 * SECOND).await;
    let mut first = std::mem::take(&mut *seen.lock().unwrap());
    first.sort();
    // The notification goes to the sender, whose domain replies 4yz here.
    assert_eq!(first[0], ["bad@b.example"]);
    assert_eq!(
        first[1],
        ["good@a.example", "later@A.example", "bad2@a.example"]
    );
    assert_eq!(first[2], ["s@sender.example"]);
    assert_eq!(events.count("queued"), 1);
    assert_eq!(events.count("bounced bad@b.example"), 1);
    assert_eq!(events.count("delivered good@a.example"), 1);
    assert_eq!(events.count("deferred later@A.example"), 1);
    sleep(90 * SECOND).await;
    let again = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(again, [["later@A.example"]]);
    assert_eq!(store.len(), 0);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_never_delivered_is_tried_for_five_days_and_then_returned() {
    let (store, events, clock) = (Memory::default(), Events::default(), clock());
    let service = replies(|envelope| match envelope.sender().is_null() {
        // The notifications stay.
        true => DataReply::from(Reply::busy()),
        false => Reply::mailbox_full().into(),
    });
    let worker = Worker::new(store.clone(), service)
        .clock(clock.clone())
        .on_event(events.hook());
    let running = start(worker);
    put(
        &store,
        clock(),
        envelope("s@sender.example", &["r@r.example"]),
    )
    .await;
    sleep(3 * HOUR).await;
    assert_eq!(events.count("queued"), 0);
    sleep(3 * HOUR).await;
    let delayed = store.notifications().await;
    assert_eq!(delayed.len(), 1);
    assert!(
        delayed[0].contains("\r\nAction: delayed\r\n"),
        "{}",
        delayed[0]
    );
    assert!(delayed[0].contains("\r\nWill-Retry-Until: "));
    sleep(113 * HOUR).await;
    assert_eq!((events.count("queued"), events.count("expired")), (1, 0));
    sleep(2 * HOUR).await;
    assert_eq!((events.count("queued"), events.count("expired")), (2, 1));
    let tries = events.count("to r.example");
    assert!((30..45).contains(&tries), "{tries}");
    let failed = store.notifications().await;
    let failed = failed
        .iter()
        .find(|one| one.contains("\r\nAction: failed\r\n"))
        .unwrap();
    assert!(failed.contains("\r\nStatus: 4.4.7\r\n"), "{failed}");
    assert!(failed.contains("\r\nDiagnostic-Code: smtp; 452 4.2.2 Mailbox full\r\n"));
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_message_from_the_null_sender_is_never_returned() {
    let (store, events, clock) = (Memory::default(), Events::default(), clock());
    let worker = Worker::new(store.clone(), replies(|_| Reply::no_such_user().into()))
        .clock(clock.clone())
        .on_event(events.hook());
    let running = start(worker);
    put(
        &store,
        clock(),
        envelope("", &["r@r.example NOTIFY=FAILURE,DELAY,SUCCESS"]),
    )
    .await;
    sleep(HOUR).await;
    assert_eq!(events.words(), ["to r.example", "bounced r@r.example"]);
    assert_eq!(store.len(), 0);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_sender_is_told_what_it_wants_to_know_of_success() {
    for (disposition, action) in [
        (None, Some("delivered")),
        (Some(super::super::Disposition::Relayed), Some("relayed")),
        (Some(super::super::Disposition::Expanded), Some("expanded")),
        (Some(super::super::Disposition::PassedOn), None),
    ] {
        let (store, clock) = (Memory::default(), clock());
        let service = service_fn(move |request: Request<Data>| async move {
            if let Some(disposition) = disposition {
                request.session().transaction().insert(disposition);
            }
            let hold = request.envelope().sender().is_null();
            let reply = if hold { Reply::busy() } else { Reply::OK };
            Ok::<_, BoxError>(DataReply::from(reply))
        });
        let running = start(Worker::new(store.clone(), service).clock(clock.clone()));
        let recipients = ["a@r.example NOTIFY=SUCCESS", "b@r.example"];
        put(&store, clock(), envelope("s@sender.example", &recipients)).await;
        sleep(60 * SECOND).await;
        let told = store.notifications().await;
        assert_eq!(told.len(), usize::from(action.is_some()));
        if let (Some(action), [told]) = (action, &told[..]) {
            assert!(
                told.contains(&format!("\r\nAction: {action}\r\n")),
                "{told}"
            );
            assert!(!told.contains("b@r.example"));
        }
        running.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_service_does_wrong_is_a_reason_to_try_again() {
    let (store, events, clock) = (Memory::default(), Events::default(), clock());
    let service = service_fn(|request: Request<Data>| async move {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("on purpose");
            }
        }
        let path = request.envelope().recipients()[0]
            .path()
            .as_str()
            .to_owned();
        match &path[..1] {
            "p" => panic!("on purpose"),
            "d" => {
                let _bomb = Bomb;
                std::future::pending().await
            }
            "e" => Err("secret\nof the service".into()),
            "r" => Err(Reply::no_such_user().into()),
            _ => std::future::pending().await,
        }
    });
    let worker = Worker::new(store.clone(), service)
        .clock(clock.clone())
        .delivery_timeout(60 * SECOND)
        .on_event(events.hook());
    let running = start(worker);
    for name in [
        "p@1.example",
        "e@2.example",
        "h@3.example",
        "r@4.example",
        "d@5.example",
    ] {
        put(&store, clock(), envelope("", &[name])).await;
    }
    sleep(100 * SECOND).await;
    for name in ["p@1", "e@2", "h@3", "d@5"] {
        assert_eq!(events.count(&format!("deferred {name}")), 1, "{name}");
    }
    // A reply that is thrown is a decision.
    assert_eq!(events.count("bounced r@4"), 1);
    assert_eq!((store.len(), store.leased()), (4, 0));
    for item in store.state().items.values() {
        let reply = item.job.states[0].last_reply().unwrap();
        assert_eq!(reply.code(), Code::LOCAL_ERROR);
        assert!(!reply.text().contains("secret"));
    }
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_takes_longer_than_its_lease_is_not_made_twice() {
    let (store, events, clock) = (Memory::default(), Events::default(), clock());
    let service = service_fn(|_: Request<Data>| async {
        sleep(100 * SECOND).await;
        Ok::<_, BoxError>(DataReply::from(Reply::OK))
    });
    let worker = Worker::new(store.clone(), service)
        .clock(clock.clone())
        .lease(9 * SECOND)
        .on_event(events.hook());
    let running = start(worker);
    put(&store, clock(), envelope("", &["r@r.example"])).await;
    sleep(50 * SECOND).await;
    assert!(store.state().renewals > 10);
    // The store has forgotten the lease, as after a suspension.
    store.crash();
    sleep(300 * SECOND).await;
    assert_eq!(events.words(), ["to r.example", "delivered r@r.example"]);
    assert_eq!(store.len(), 0);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_to_be_held_is_not_delivered_before() {
    let (store, events, clock) = (Memory::default(), Events::default(), clock());
    let passed_on = Arc::new(Mutex::new(Vec::new()));
    let seen = passed_on.clone();
    let service = replies(move |envelope| {
        seen.lock().unwrap().push(envelope.parameters().clone());
        Reply::OK.into()
    });
    let worker = Worker::new(store.clone(), service)
        .clock(clock.clone())
        .on_event(events.hook());
    let running = start(worker);
    let held = envelope("", &["r@r.example"]);
    let held = held.with_parameters("HOLDFOR=3600 BY=7200;N SIZE=7".parse().unwrap());
    put(&store, clock(), held).await;
    sleep(3599 * SECOND).await;
    assert_eq!(events.words(), Vec::<String>::new());
    sleep(2 * SECOND).await;
    assert_eq!(events.count("delivered"), 1);
    let passed_on = passed_on.lock().unwrap();
    let by = passed_on[0].iter().next().unwrap().1.unwrap();
    assert!(["3600;N", "3599;N"].contains(&by), "{by}");
    assert_eq!(passed_on[0].iter().count(), 2);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_late_is_returned_or_reported_as_its_sender_demands() {
    for (by, action, status, left) in [
        ("BY=600;R", "failed", "5.4.7", false),
        ("BY=600;N", "delayed", "4.4.7", true),
    ] {
        let (store, events, clock) = (Memory::default(), Events::default(), clock());
        let worker = Worker::new(store.clone(), replies(|_| Reply::busy().into()))
            .clock(clock.clone())
            .on_event(events.hook());
        let running = start(worker);
        let late = envelope("s@sender.example", &["r@r.example"]);
        put(&store, clock(), late.with_parameters(by.parse().unwrap())).await;
        sleep(599 * SECOND).await;
        assert_eq!(store.notifications().await.len(), 0);
        sleep(2 * SECOND).await;
        let told = store.notifications().await;
        assert_eq!(told.len(), 1, "{by}");
        assert!(told[0].contains(&format!("\r\nAction: {action}\r\nStatus: {status}\r\n")));
        assert!(told[0].contains("\r\nDeliver-By-Date: "));
        assert_eq!(store.len(), 1 + usize::from(left));
        sleep(20 * HOUR).await;
        // Only once.
        assert_eq!(events.count("queued"), 1);
        running.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_deliveries_end_and_gives_the_rest_back() {
    let (store, clock) = (Memory::default(), clock());
    let permits = Arc::new(Semaphore::new(2));
    let of_service = permits.clone();
    let service = service_fn(move |request: Request<Data>| {
        let permits = of_service.clone();
        async move {
            let _permit = permits.acquire_owned().await?;
            let path = request.envelope().recipients()[0]
                .path()
                .as_str()
                .to_owned();
            sleep(if path.starts_with("slow") {
                HOUR
            } else {
                5 * SECOND
            })
            .await;
            Ok::<_, BoxError>(DataReply::from(Reply::OK))
        }
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = Worker::new(store.clone(), service)
        .clock(clock.clone())
        .concurrency(2)
        .schedule(Schedule::default());
    let running = tokio::spawn(worker.run().with_graceful_shutdown(stopped, 10 * SECOND));
    for name in [
        "slow@1.example",
        "quick@2.example",
        "waits@3.example",
        "waits@4.example",
    ] {
        put(&store, clock(), envelope("", &[name])).await;
    }
    let twofold = envelope("", &["x@5.example", "y@6.example"]);
    put(&store, clock(), twofold).await;
    sleep(SECOND).await;
    assert_eq!(store.leased(), 5);
    drop(stop);
    running.await.unwrap().unwrap();
    let state = store.state();
    let left = state.items.values();
    let left: Vec<_> = left
        .map(|one| (one.lease, one.job.states[0].tries()))
        .collect();
    // The one that was dropped and those that waited: none was tried, as far as anybody knows.
    assert_eq!(left, [(None, 0); 4]);
    assert_eq!(permits.available_permits(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_sender_is_told_is_stored_before_the_message_is_gone() {
    let (store, clock) = (Memory::default(), clock());
    let service = replies(|envelope| match envelope.sender().is_null() {
        true => DataReply::from(Reply::busy()),
        false => Reply::no_such_user().into(),
    });
    store.state().cannot_settle = true;
    let running = start(Worker::new(store.clone(), service).clock(clock.clone()));
    put(
        &store,
        clock(),
        envelope("s@sender.example", &["r@r.example"]),
    )
    .await;
    sleep(HOUR).await;
    assert_eq!(store.len(), 2);
    assert_eq!(store.all_notifications().await.len(), 1);
    store.state().cannot_settle = false;
    sleep(HOUR).await;
    // It was not told again.
    assert_eq!(store.all_notifications().await.len(), 1);
    assert_eq!(store.state().ends.len(), 1);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_message_is_not_gone_while_its_sender_cannot_be_told() {
    let (store, clock) = (Memory::default(), clock());
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let service = replies(move |envelope| match envelope.sender().is_null() {
        true => DataReply::from(Reply::busy()),
        false => {
            count.fetch_add(1, Ordering::Relaxed);
            Reply::no_such_user().into()
        }
    });
    let running = start(Worker::new(store.clone(), service).clock(clock.clone()));
    put(
        &store,
        clock(),
        envelope("s@sender.example", &["r@r.example"]),
    )
    .await;
    // The delivery has begun.
    sleep(Duration::from_millis(5)).await;
    store.state().faults = Some(1);
    sleep(HOUR).await;
    assert_eq!((store.len(), store.all_notifications().await.len()), (1, 0));
    store.state().faults = None;
    sleep(HOUR).await;
    assert_eq!((store.len(), store.all_notifications().await.len()), (1, 1));
    assert_eq!(store.state().ends.len(), 1);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    running.abort();
}
