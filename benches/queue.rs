//! The durable queue: how many messages it accepts and settles in a second, what each costs, and how long it takes to open.
//!
//! `cargo bench --bench queue [DIR [MESSAGES]]` works in a directory within DIR, which is to be on the disk that is meant (the
//! default lies in `target`). Linux only: CPU time is that of all threads of the process.

use std::{
    env, fs,
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use smtpd_tower::{
    Body, Data, Envelope, Reply, Request, Session,
    queue::{Enqueue, FileStore, Outcome, Store},
};
use tokio::{runtime::Runtime, task::JoinSet};
use tower::ServiceExt as _;

const WRITERS: usize = 20;
const BYTES: usize = 4096;
const ROUNDS: usize = 5;
const MANY: usize = 100_000;

/// Set in the process that only opens a queue.
const OPEN: &str = "SMTPD_BENCH_QUEUE";

fn main() {
    if let Ok(path) = env::var(OPEN) {
        return Runtime::new().unwrap().block_on(open(&path));
    }
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let parent = arguments
        .next()
        .unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").to_owned());
    let messages = arguments.next().map_or(20_000, |number| {
        number.parse().expect("MESSAGES is a number")
    });
    let dir = tempfile::tempdir_in(&parent).unwrap();
    let runtime = Runtime::new().unwrap();
    println!("{WRITERS} at once, {BYTES} bytes each, in {parent}");
    runtime.block_on(async {
        let store = FileStore::open(dir.path().join("queue")).await.unwrap();
        for _ in 0..ROUNDS {
            measure("accepted", messages, put(&store, messages)).await;
            measure("settled", messages, settle(&store, messages)).await;
        }
        store.close().await;
        let path = dir.path().join("many");
        let store = FileStore::open(&path).await.unwrap();
        put(&store, MANY).await;
        store.close().await;
        // In a process of its own, whose memory has not held them before.
        let mut open = Command::new(env::current_exe().unwrap());
        assert!(open.env(OPEN, path).status().unwrap().success());
    });
}

async fn open(path: &str) {
    let (before, begun) = (memory(), Instant::now());
    let store = FileStore::open(path).await.unwrap();
    let took = begun.elapsed();
    assert_eq!(store.stats().messages, MANY);
    let each = memory().saturating_sub(before) / MANY as u64;
    println!("{MANY} messages opened in {took:.2?}, {each} bytes of memory each");
}

async fn measure(what: &str, messages: usize, work: impl Future<Output = ()>) {
    let (cpu_before, begun) = (cpu(), Instant::now());
    work.await;
    let rate = messages as f64 / begun.elapsed().as_secs_f64();
    let each = (cpu() - cpu_before) / u32::try_from(messages).unwrap();
    println!("{what:>9} {rate:>8.0} a second, {each:.1?} of CPU each");
}

async fn put(store: &FileStore, messages: usize) {
    let enqueue = Enqueue::new(store.clone());
    let body = Bytes::from(vec![b'x'; BYTES]);
    let envelope = Envelope::new("sender@example.com".parse().unwrap())
        .with_recipient("recipient@example.org".parse().unwrap());
    let envelope = Arc::new(envelope);
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (enqueue, body, envelope) = (enqueue.clone(), body.clone(), envelope.clone());
        writers.spawn(async move {
            for _ in 0..messages / WRITERS {
                let data = Data::new(envelope.clone(), Body::from(body.clone()));
                let request = Request::new(Session::local(), data);
                let reply = enqueue.clone().oneshot(request).await.unwrap();
                assert!(reply.is_positive());
            }
        });
    }
    writers.join_all().await;
}

async fn settle(store: &FileStore, messages: usize) {
    let mut workers = JoinSet::new();
    for _ in 0..WRITERS {
        let store = store.clone();
        workers.spawn(async move {
            let mut left = messages / WRITERS;
            while left > 0 {
                let now = SystemTime::now() + Duration::from_secs(1);
                let until = now + Duration::from_secs(600);
                let leased = store.lease(now, left.min(10), until).await.unwrap();
                left -= leased.len();
                for leased in leased {
                    assert_eq!(leased.message().len(), BYTES as u64);
                    let outcomes = vec![(0, Outcome::Delivered(Reply::OK))];
                    store.settle(leased, outcomes).await.unwrap();
                }
            }
        });
    }
    workers.join_all().await;
}

fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = [11, 12]
        .iter()
        .map(|&n| fields[n].parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// The memory of the process in bytes.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib * 1024
}
