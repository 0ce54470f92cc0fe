//! Layers in company: random stacks of our layers and of tower's around every phase, random sessions through them, and what must
//! hold whatever is around what.
//!
//! A seed determines a case. A failing one is cut down, and printed with its pipeline, its transcript, and the command that runs
//! it again:
//!
//! ```text
//! COMPANY_SEED=1234 cargo test --test company -- --nocapture
//! ```
//!
//! | variable | means |
//! |---|---|
//! | `COMPANY_CASES` | how many cases are run; [`CASES`] by default |
//! | `COMPANY_FIRST` | the seed of the first of them; 1 by default |
//! | `COMPANY_SEED` | only this seed, with its transcript |
//! | `COMPANY_LIST` | set to anything, prints a line for each seed that fails |
//!
//! # How it works
//!
//! A probe stands in front of every layer and every service, and records each request with what became of it. So the answer of
//! a layer can be compared with what it received from within, and a violation names the layer that is to blame.
//!
//! | module | is |
//! |---|---|
//! | `dice` | the only source of chance |
//! | `plan`, `session_plan`, `generate` | a case as data, and how it is made |
//! | `topology` | which layer is within which |
//! | `layers`, `leaf`, `station` | the layers, the services within, the phases |
//! | `probe`, `scene` | what happens |
//! | `rules`, `refusals`, `routes` | what each layer has to do |
//! | `counts`, `places`, `faults` | what limits admit and have left at the end, what `on_error` is called with |
//! | `wire` | what clients receive |
//! | `client`, `tls` | the clients |
//! | `shrink` | a smaller case that fails as well |
//!
//! # Why it is a test binary of its own
//!
//! It sets the panic hook of the process, because services panic on purpose; and 20,000 cases are run with optimization.
#![forbid(unsafe_code)]

mod client;
mod counts;
mod dice;
mod faults;
mod generate;
mod layers;
mod leaf;
mod places;
mod plan;
mod probe;
mod refusals;
mod routes;
mod rules;
mod scene;
mod session_plan;
mod shrink;
mod station;
mod tls;
mod topology;
mod wire;

use std::{
    env,
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use plan::Plan;
use scene::Scene;
use session_plan::number_of;
use smtpd_tower::{
    Server, guard::Guard, net::TrustedPeers, proxy::ProxyProtocol, session::SessionError,
    test::isolated,
};
use support::panic_text;

/// How many cases a plain `cargo test` runs. `.ci/run` runs 20,000.
const CASES: u64 = 400;

/// The result of a case.
struct Report {
    violations: Vec<String>,
    transcript: String,
}

#[test]
fn no_layer_weakens_another_and_every_count_returns_to_zero() {
    silence();
    if let Some(seed) = number("COMPANY_SEED") {
        return show(seed);
    }
    let (first, cases) = (
        number("COMPANY_FIRST").unwrap_or(1),
        number("COMPANY_CASES").unwrap_or(CASES),
    );
    let began = Instant::now();
    let failed = run_all(first, cases);
    println!("{cases} cases in {:?}", began.elapsed());
    if let Some((seed, _)) = failed.first() {
        println!("{} of {cases} cases fail", failed.len());
        show(*seed);
    }
}

#[test]
fn the_same_seed_is_the_same_case() {
    silence();
    for seed in 1..=40 {
        let [one, two] = [(); 2].map(|()| run(generate::plan(seed)).transcript);
        assert_eq!(one, two, "seed {seed}");
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Runs a case; cuts it down and prints it if it fails.
fn show(seed: u64) {
    let plan = generate::plan(seed);
    let Some(kind) = kind_of(&run(plan.clone())) else {
        return println!(
            "{}\n{plan:#?}\nseed {seed} holds",
            run(plan.clone()).transcript
        );
    };
    let small = shrink::shrink(plan, &|plan| {
        kind_of(&run(plan.clone())).as_ref() == Some(&kind)
    });
    let report = run(small.clone());
    println!("{small:#?}\n{}", report.transcript);
    panic!(
        "seed {seed}: {}\nreplay: COMPANY_SEED={seed} cargo test --test company -- --nocapture",
        report.violations.join("\n")
    );
}

/// What is wrong, without what differs between two cases with the same fault.
fn kind_of(report: &Report) -> Option<String> {
    let first = report.violations.first()?;
    Some(
        first
            .chars()
            .filter(|c| c.is_alphabetic())
            .take(60)
            .collect(),
    )
}

/// Runs the cases on all cores. Returns those that failed.
fn run_all(first: u64, cases: u64) -> Vec<(u64, String)> {
    let next = AtomicU64::new(first);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let worker = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + cases {
                return failed;
            }
            if let Some(violation) = run(generate::plan(seed)).violations.first() {
                if env::var("COMPANY_LIST").is_ok() {
                    println!("{seed}: {violation}");
                }
                failed.push((seed, violation.clone()));
            }
        }
    };
    let mut failed = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let joined = workers.into_iter().map(|worker| worker.join().unwrap());
        joined.flatten().collect::<Vec<_>>()
    });
    failed.sort();
    failed
}

fn run(plan: Plan) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let run = AssertUnwindSafe(|| runtime.block_on(play(plan)));
    catch_unwind(run).unwrap_or_else(|_| Report {
        violations: vec!["the test itself panics".to_owned()],
        transcript: String::new(),
    })
}

async fn play(plan: Plan) -> Report {
    let scene = Scene::new(plan);
    let server = server(&scene);
    let sessions: Vec<_> = scene
        .plan
        .sessions
        .iter()
        .map(|plan| tokio::spawn(client::run(scene.clone(), server.clone(), plan.clone())))
        .collect();
    for session in sessions {
        if let Err(panic) = session.await {
            scene.violate(format!("the test itself panics: {panic}"));
        }
    }
    drop(server);
    scene.check_end();
    places::check(&scene).await;
    scene.forget_layers();
    let violations = std::mem::take(&mut scene.lock().violations);
    Report {
        violations,
        transcript: scene.transcript(),
    }
}

fn server(scene: &Scene) -> Server {
    let settings = &scene.plan.settings;
    let (wire, error) = (scene.clone(), scene.clone());
    // The clients share a few addresses, and the rules do not know the guard.
    let mut server = Server::new("mx.test", layers::pipeline(scene))
        .guard(Guard::off())
        .configure(|config| {
            config
                .allow_insecure_auth(true)
                .limits(|limits| {
                    limits.errors = 100;
                    limits.idle_commands = 100;
                })
                .timeouts(|timeouts| {
                    timeouts.call = std::time::Duration::from_secs(settings.call);
                    timeouts.delivery = std::time::Duration::from_secs(settings.delivery);
                })
        })
        .on_wire(move |session, line| {
            let (number, text) = (number_of(session.peer_addr()), &line.text);
            match line.direction {
                smtpd_tower::server::Direction::Received => wire::received(&wire, number, text),
                _ => wire::sent(&wire, number, text),
            }
        })
        .on_error(move |session, fault| {
            let text = match fault {
                SessionError::Service { error, .. } => probe::text_of(error),
                other => other.to_string(),
            };
            let mut state = error.lock();
            state.note(
                number_of(session.peer_addr()),
                format_args!("on_error: {fault}: {text}"),
            );
            state.faults.reported(&text);
        });
    if settings.xclient {
        server = server.xclient_from(everyone());
    }
    if settings.proxy {
        let peers = TrustedPeers::parse(["192.0.2.1"]).unwrap();
        server = server.proxy_protocol(ProxyProtocol::from_trusted(peers));
    }
    if settings.starttls {
        server = server.tls(tls::server());
    }
    isolated(server)
}

fn everyone() -> TrustedPeers {
    TrustedPeers::parse(["0.0.0.0/0", "::/0"])
        .unwrap()
        .with_unix_sockets()
}

/// Keeps the panics that are part of the plan from being printed.
fn silence() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let text = panic_text(info.payload());
            if !text.is_some_and(|text| text.starts_with("sim:")) {
                before(info);
            }
        }));
    });
}
