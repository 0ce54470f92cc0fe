//! Simulation of the whole server.
#![forbid(unsafe_code)]

mod client;
mod delivery;
mod dice;
mod executor;
mod hooks;
mod invariants;
mod journal;
mod model;
mod network;
mod panics;
mod script;
mod server;
mod services;
mod shared;
mod swarm;
mod tls;
mod trace;
mod world;

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use shared::Shared;
use world::World;

/// How a run went.
struct Report {
    seed: u64,
    hash: u64,
    events: u64,
    steps: usize,
    violation: Option<String>,
    text: String,
}

#[test]
fn nothing_hangs_nothing_grows_and_no_reply_is_lost() {
    if let Some(seed) = number("SIM_SEED") {
        let report = run(seed, true);
        println!("{}", report.text);
        assert_eq!(report.violation, None);
        return;
    }
    let (first, seeds) = (
        number("SIM_FIRST").unwrap_or(1),
        number("SIM_SEEDS").unwrap_or(1000),
    );
    let began = Instant::now();
    let failed = run_all(first, seeds);
    println!("{seeds} seeds in {:?}", began.elapsed());
    if let Some(first) = failed.first() {
        let again = run(first.seed, true);
        println!("{}", again.text);
        panic!(
            "{} of {seeds} seeds failed; seed {}: {}\nreplay: SIM_SEED={} cargo test --test simulation -- --nocapture",
            failed.len(),
            first.seed,
            first.violation.as_deref().unwrap_or_default(),
            first.seed
        );
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=60 {
        let (one, two) = (run(seed, false), run(seed, true));
        assert_eq!(
            (one.hash, one.events, one.steps),
            (two.hash, two.events, two.steps),
            "seed {seed}"
        );
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Runs the seeds on all cores. Returns those that failed.
fn run_all(first: u64, seeds: u64) -> Vec<Report> {
    let next = AtomicU64::new(first);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let worker = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return failed;
            }
            let report = run(seed, false);
            if let Some(violation) = &report.violation {
                if env::var("SIM_LIST").is_ok() {
                    println!("{seed}: {violation}");
                }
                failed.push(report);
            }
        }
    };
    let mut failed = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let joined = workers.into_iter().map(|worker| worker.join().unwrap());
        joined.flatten().collect::<Vec<_>>()
    });
    failed.sort_by_key(|report| report.seed);
    failed
}

/// Runs a seed on a thread of its own, so that nothing that a thread keeps is left over from another seed.
fn run(seed: u64, with_text: bool) -> Report {
    let simulate = move || {
        panics::watch();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(simulate(seed, with_text))
    };
    thread::spawn(simulate).join().unwrap()
}

async fn simulate(seed: u64, with_text: bool) -> Report {
    let shared = Shared::new(seed, with_text);
    let trace = shared.trace.clone();
    let features = format!("{:#?}", shared.swarm);
    let _subscriber = shared
        .swarm
        .subscriber
        .then(|| tracing::subscriber::set_default(hooks::Panicking(shared.clone())));
    let steps = World::new(shared).run().await;
    Report {
        seed,
        hash: trace.hash(),
        events: trace.events(),
        steps,
        violation: trace.violation(),
        text: if with_text {
            features + "\n" + &trace.take_text()
        } else {
            String::new()
        },
    }
}
