use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::limiter::Rate;

fn domain(envelope: &Envelope) -> String {
    let mailbox = envelope.recipients()[0].path().mailbox().unwrap();
    mailbox.domain().as_str().to_owned()
}

/// Counts the deliveries that run, and notes the most of each domain and of all.
#[derive(Clone, Default)]
struct Running(Arc<Mutex<HashMap<String, (usize, usize)>>>);

struct Runs(Running, String);

impl Running {
    fn begin(&self, name: &str) -> Runs {
        for name in [name, "all"] {
            let mut counts = self.0.lock().unwrap();
            let count = counts.entry(name.to_owned()).or_default();
            count.0 += 1;
            count.1 = count.1.max(count.0);
        }
        Runs(self.clone(), name.to_owned())
    }

    fn most(&self, name: &str) -> usize {
        self.0.lock().unwrap().get(name).map_or(0, |count| count.1)
    }

    fn now(&self, name: &str) -> usize {
        self.0.lock().unwrap().get(name).map_or(0, |count| count.0)
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        for name in [&self.1, "all"] {
            self.0.0.lock().unwrap().get_mut(name).unwrap().0 -= 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn limits_hold_and_every_message_passes() {
    let (store, clock, running) = (Memory::default(), clock(), Running::default());
    let count = running.clone();
    let service = service_fn(move |request: Request<Data>| {
        let runs = count.begin(&domain(request.envelope()));
        async move {
            sleep(SECOND).await;
            drop(runs);
            Ok::<_, BoxError>(DataReply::from(Reply::OK))
        }
    });
    let worker = Worker::new(store.clone(), service)
        .clock(clock.clone())
        .concurrency(5)
        .destination_concurrency(3);
    let task = start(worker);
    for number in 0..300 {
        let path = format!("r@{}.example", number % 2);
        put(&store, clock(), envelope("", &[&path])).await;
    }
    sleep(300 * SECOND / 5 + 10 * SECOND).await;
    assert_eq!((store.len(), running.now("all")), (0, 0));
    assert_eq!((running.most("all"), running.most("1.example")), (5, 3));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn one_destination_with_many_messages_is_as_fast_as_its_limit_allows() {
    let (store, clock) = (Memory::default(), clock());
    let service = replies(|_| Reply::OK.into());
    let running = start(
        Worker::new(store.clone(), service)
            .clock(clock.clone())
            .concurrency(10),
    );
    for _ in 0..2000 {
        put(&store, clock(), envelope("", &["r@r.example"])).await;
    }
    // 2000 deliveries of 10 ms, five at a time, take 4 seconds.
    sleep(8 * SECOND).await;
    assert_eq!(store.len(), 0);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_dead_does_not_delay_the_others() {
    for replies_at_once in [true, false] {
        let (store, events, clock) = (Memory::default(), Events::default(), clock());
        let service = service_fn(move |request: Request<Data>| async move {
            match domain(request.envelope()).as_str() {
                "dead.example" if replies_at_once => {
                    Ok::<_, BoxError>(DataReply::from(unreachable()))
                }
                "dead.example" => std::future::pending().await,
                _ => Ok(Reply::OK.into()),
            }
        });
        let worker = Worker::new(store.clone(), service)
            .clock(clock.clone())
            .concurrency(10)
            .delivery_timeout(300 * SECOND)
            .on_event(events.hook());
        let running = start(worker);
        for number in 0..300 {
            let path = format!("r{number}@dead.example");
            put(&store, clock(), envelope("", &[&path])).await;
        }
        sleep(SECOND).await;
        for number in 0..100 {
            let path = format!("r@{number}.example");
            put(&store, clock(), envelope("", &[&path])).await;
        }
        sleep(5 * SECOND).await;
        assert_eq!(events.count("delivered"), 100, "at once: {replies_at_once}");
        // All wait, with a deadline.
        assert_eq!(store.len(), 300);
        sleep(HOUR).await;
        let calls = events.count("to dead.example");
        assert!((4..100).contains(&calls), "{calls} calls");
        running.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_back_is_found_out_by_one_delivery() {
    let (store, events, clock, running) = (
        Memory::default(),
        Events::default(),
        clock(),
        Running::default(),
    );
    let (start_of, count) = (Instant::now(), running.clone());
    let service = service_fn(move |request: Request<Data>| {
        let is_dead = start_of.elapsed() < 60 * 60 * SECOND;
        let name = if is_dead { "dead" } else { "back" };
        let runs = count.begin(name);
        let _ = request;
        async move {
            sleep(SECOND).await;
            drop(runs);
            let reply = if is_dead { unreachable() } else { Reply::OK };
            Ok::<_, BoxError>(DataReply::from(reply))
        }
    });
    let worker = Worker::new(store.clone(), service)
        .clock(clock.clone())
        .on_event(events.hook());
    let task = start(worker);
    for _ in 0..50 {
        put(&store, clock(), envelope("", &["r@r.example"])).await;
    }
    sleep(HOUR).await;
    assert_eq!(events.count("delivered"), 0);
    let calls = events.count("to r.example");
    // Five at once at the beginning; then 1, 2, 4, 8, 16 and 30 minutes apart.
    assert!((8..=14).contains(&calls), "{calls} calls");
    sleep(2 * HOUR).await;
    assert_eq!(events.count("delivered"), 50);
    assert_eq!(running.most("back"), 5);
    assert_eq!(store.len(), 0);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_destination_with_a_rate_is_not_asked_more_often() {
    let (store, events, clock) = (Memory::default(), Events::default(), clock());
    let worker = Worker::new(store.clone(), replies(|_| Reply::OK.into()))
        .clock(clock.clone())
        .destination_rate(Rate::per_minute(60).unwrap().with_burst(5).unwrap())
        .on_event(events.hook());
    let running = start(worker);
    for _ in 0..100 {
        put(&store, clock(), envelope("", &["r@r.example"])).await;
    }
    put(&store, clock(), envelope("", &["r@other.example"])).await;
    sleep(30 * SECOND).await;
    let sent = events.count("to r.example");
    assert!((30..=36).contains(&sent), "{sent}");
    assert_eq!(events.count("to other.example"), 1);
    sleep(90 * SECOND).await;
    assert_eq!(store.len(), 0);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn messages_of_one_smarthost_are_one_destination() {
    let (store, clock, calls) = (Memory::default(), clock(), Arc::new(AtomicUsize::new(0)));
    let count = calls.clone();
    let service = replies(move |envelope| {
        assert_eq!(envelope.recipients().len(), 3);
        count.fetch_add(1, Ordering::Relaxed);
        Reply::OK.into()
    });
    let worker = Worker::new(store.clone(), service)
        .clock(clock.clone())
        .destination(|_| "smarthost".to_owned());
    let running = start(worker);
    let recipients = ["a@1.example", "b@2.example", "Postmaster"];
    put(&store, clock(), envelope("", &recipients)).await;
    sleep(SECOND).await;
    assert_eq!((store.len(), calls.load(Ordering::Relaxed)), (0, 1));
    running.abort();
}
