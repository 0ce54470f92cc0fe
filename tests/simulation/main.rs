//! A simulation of the whole server: random clients, services, networks and administrators, and what must hold whatever
//! they do.
//!
//! One seed determines everything. A failing seed is printed with its trace and the command that runs it again:
//!
//! ```text
//! SIM_SEED=1234 cargo test --test simulation -- --nocapture
//! ```
//!
//! | variable | means |
//! |---|---|
//! | `SIM_SEEDS` | how many seeds are run; 1,000 by default |
//! | `SIM_FIRST` | the first of them; 1 by default |
//! | `SIM_SEED` | only this seed, with its trace |
//! | `SIM_LIST` | set to anything, prints a line for each seed that fails |
//!
//! # How it works
//!
//! The server is used through its public API only: `Server`, `Pipeline`, `Listener`, `Handle`, hooks and layers. Each run has
//! its own thread and current-thread runtime, so that nothing that a thread keeps is left over from another seed. The clock of
//! the runtime is paused.
//!
//! | module | is |
//! |---|---|
//! | `dice` | the only source of chance |
//! | `swarm` | which features and faults a run has |
//! | `script`, `script_auth`, `script_tls`, `acts`, `soup`, `content`, `client` | what clients say, and the machines that say it |
//! | `network` | bounded buffers between them and the server |
//! | `scram`, `proxy` | SCRAM as both ends have it, and PROXY headers |
//! | `tls` | what both ends need for TLS, with nothing in it that differs between two runs of a seed |
//! | `services`, `delivery`, `hooks` | what a user of the framework may write, at its worst |
//! | `executor`, `world` | what happens next |
//! | `journal`, `facts`, `trace` | what has happened, and what services have seen |
//! | `model` | the server as RFC 5321 has it: which reply has to be next |
//! | `invariants`, `oracle`, `bounds` | what must hold: after each step, whenever nothing moves, and at the end |
//!
//! # Why not turmoil
//!
//! turmoil simulates hosts whose tasks its own runtime schedules in turn: it decides when segments arrive, but not which task
//! is polled next, how many bytes a read returns, or that a task is polled without a reason or dropped halfway. The faults that
//! this test looks for depend on exactly that. So the sessions are tasks of a small executor, polled one at a time in an order
//! chosen by the dice, over streams whose bytes arrive when the dice choose. tokio provides the paused clock: time passes only
//! when nothing else can happen, so "nothing moves" is a state that can be examined, and a session that waits without a timer
//! is found because time then jumps past every limit at once.
//!
//! What the server itself spawns on tokio (the sessions of a listener) is scheduled by tokio, in a fixed order.
//!
//! # Why it is a test binary of its own
//!
//! A panic anywhere is a failure, so it sets the panic hook of the process; and 10,000 seeds are run with optimization.
#![forbid(unsafe_code)]

mod acts;
mod bounds;
mod client;
mod content;
mod delivery;
mod dice;
mod executor;
mod facts;
mod flood;
mod hooks;
mod invariants;
mod journal;
mod model;
mod network;
mod oracle;
mod panics;
mod proxy;
mod scram;
mod script;
mod script_auth;
mod script_tls;
mod server;
mod services;
mod shared;
mod site;
mod soup;
mod swarm;
mod tls;
mod trace;
mod world;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use shared::Shared;
use world::World;

/// The result of a run.
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
    let (failed, digest) = run_all(first, seeds);
    println!(
        "{seeds} seeds in {:?}; all traces together: {digest:016x}",
        began.elapsed()
    );
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

/// Runs the seeds on all cores. Returns those that failed, and a hash of all traces.
fn run_all(first: u64, seeds: u64) -> (Vec<Report>, u64) {
    let (next, digest) = (AtomicU64::new(first), AtomicU64::new(0));
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let worker = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return failed;
            }
            let report = run(seed, false);
            digest.fetch_xor(report.hash.wrapping_mul(seed | 1), Ordering::Relaxed);
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
    (failed, digest.into_inner())
}

/// Runs a seed on a separate thread, so that nothing that a thread keeps is left over from another seed.
fn run(seed: u64, with_text: bool) -> Report {
    let simulate = move || {
        panics::watch();
        tls::begin(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            // Timers are checked after each task, even while others are always ready.
            .event_interval(1)
            .start_paused(true)
            .build()
            .unwrap();
        let run = AssertUnwindSafe(|| runtime.block_on(simulate(seed, with_text)));
        catch_unwind(run).unwrap_or_else(|_| Report::of_panic(seed))
    };
    thread::spawn(simulate).join().unwrap()
}

impl Report {
    /// A panic that no task of the server has caught, so most likely a bug in the simulation itself.
    fn of_panic(seed: u64) -> Self {
        let last = panics::take().pop().unwrap_or_default();
        Self {
            seed,
            hash: 0,
            events: 0,
            steps: 0,
            violation: Some(format!("panic: {last}")),
            text: String::new(),
        }
    }
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
