//! Fixed dialogs over a stream in memory, without a kernel or a clock between: the same instructions each time.
//!
//! `dialog SCENARIO MESSAGES` runs one; `.ci/instructions` counts what it executes. `dialog SCENARIO MESSAGES metrics` runs it with
//! the metrics of the server, and `layer` instead of `metrics` with those of the layer as well; `.ci/instructions --metrics`
//! compares the three. Without arguments it runs each once, so that `cargo bench` shows that they work.

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use smtpd_tower::net::PeerAddr;
use smtpd_tower::{Server, layer::MetricsLayer};
use support::{Client, commands, dotted, recorder, server, stuffed, text};

const SCENARIOS: [&str; 7] = ["msgk", "pipe", "pipex", "rcpt50", "rcpt50p", "bdatk", "big"];

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(scenario), Some(messages), option) => {
            let messages = messages.parse().expect("MESSAGES is a number");
            let measured = option.as_deref().unwrap_or_default();
            runtime.block_on(run(&scenario, messages, measured));
        }
        _ => {
            for scenario in SCENARIOS {
                for measured in ["", "metrics", "layer"] {
                    runtime.block_on(run(scenario, 2, measured));
                }
            }
        }
    }
}

/// Runs one session, and checks that every message was accepted.
async fn run(scenario: &str, messages: u32, measured: &str) {
    let server = match measured {
        "" => server(),
        "metrics" => measured_server(),
        "layer" => with_layer(measured_server()),
        other => panic!("{other:?} is neither metrics nor layer"),
    };
    let message = message(scenario);
    let client = Client::new((0..messages).flat_map(|_| message.clone()));
    let taken = Arc::new(AtomicU32::new(0));
    let seen = taken.clone();
    server
        .on_close(move |_, summary| seen.store(summary.messages, Ordering::Relaxed))
        .serve_connection(client, PeerAddr::from(([192, 0, 2, 1], 4000)))
        .await;
    assert_eq!(taken.load(Ordering::Relaxed), messages, "{scenario}");
}

/// The same server, which measures its sessions.
fn measured_server() -> Server {
    recorder::install();
    server().metrics()
}

/// The same server, which measures each request, too.
fn with_layer(server: Server) -> Server {
    let pipeline = server.get_pipeline().clone().layer(MetricsLayer::new());
    server.pipeline(pipeline)
}

/// What is sent for one message, a group for each wait for replies.
fn message(scenario: &str) -> Vec<Bytes> {
    let pipelined = |recipients| Bytes::from(commands(recipients).concat());
    match scenario {
        "msgk" => [commands(1), vec![dotted(1024)]].concat(),
        "pipe" => vec![pipelined(1), dotted(1024)],
        "pipex" => vec![[pipelined(1), dotted(1024)].concat().into()],
        "rcpt50" => [commands(50), vec![dotted(1024)]].concat(),
        "rcpt50p" => vec![pipelined(50), dotted(1024)],
        "bdatk" => {
            let text = text(1024);
            let mut group = commands(1);
            group.pop();
            group.push(format!("BDAT {} LAST\r\n{text}", text.len()).into());
            vec![group.concat().into()]
        }
        "big" => vec![pipelined(1), stuffed(1 << 20)],
        other => panic!("no scenario {other:?}: one of {SCENARIOS:?}"),
    }
}
