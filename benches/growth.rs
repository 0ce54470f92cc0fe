//! How the cost grows as the work grows: prints the time for each size, and the exponent (1.0 is linear, 2.0 quadratic).
//! `cargo bench --bench growth`; see benches/README.md.

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use smtpd_tower::net::PeerAddr;
use support::{Client, commands, dotted, server, text};
use tokio::{runtime::Runtime, task::JoinSet};

const MIB: usize = 1 << 20;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let bench = Bench { runtime };
    transactions(&bench);
    long(&bench);
    small_packets(&bench);
}

/// More sessions, messages, recipients and parameters.
fn transactions(bench: &Bench) {
    let message = [commands(1), vec![dotted(1024)]].concat();
    bench.show(
        "messages in a session",
        [100, 1_000, 10_000, 100_000],
        |n| vec![Client::new((0..n).flat_map(|_| message.clone()))],
    );
    bench.show("sessions at once", [10, 100, 1_000, 10_000], |n| {
        let client = || Client::new([message.clone(), message.clone()].concat()).yielding();
        (0..n).map(|_| client()).collect()
    });
    bench.show("recipients", [10, 100, 1_000, 10_000], |n| {
        vec![Client::new([commands(n), vec![dotted(1024)]].concat())]
    });
    bench.show("parameters of a MAIL", [1, 2, 3, 5], |n| {
        const ALL: [&str; 5] = ["SIZE=9", "BODY=7BIT", "SMTPUTF8", "RET=HDRS", "ENVID=a"];
        let parameters = ALL[..n].join(" ");
        let group = Bytes::from(format!(
            "MAIL FROM:<a@example.com> {parameters}\r\nRSET\r\n"
        ));
        vec![Client::new(std::iter::repeat_n(group, 900))]
    });
}

/// Messages and lines that go on.
fn long(bench: &Bench) {
    let mebibyte = Bytes::from(text(MIB));
    bench.show("MiB of a message", [1, 4, 16, 128], |n| {
        let body = std::iter::repeat_n(mebibyte.clone(), n);
        let end = Bytes::from_static(b".\r\n");
        vec![Client::new(
            commands(1).into_iter().chain(body).chain([end]),
        )]
    });
    let noise = Bytes::from(vec![b'x'; MIB]);
    bench.show("MiB of a line without end", [1, 4, 16, 128], |n| {
        vec![Client::new(std::iter::repeat_n(noise.clone(), n))]
    });
}

/// The same bytes in many packets.
fn small_packets(bench: &Bench) {
    bench.show(
        "bytes of a line, each a packet",
        [100, 500, 1_000, 2_000],
        |n| {
            let line = Bytes::from(format!("NOOP {}\r\n", "x".repeat(n)));
            vec![Client::new((0..100).map(|_| line.clone())).in_steps(1)]
        },
    );
    bench.show(
        "KiB of a message, each byte a packet",
        [1, 16, 128, 1024],
        |n| vec![Client::new([commands(1), vec![dotted(n << 10)]].concat()).in_steps(1)],
    );
}

struct Bench {
    runtime: Runtime,
}

impl Bench {
    fn show(&self, what: &str, sizes: [usize; 4], clients: impl Fn(usize) -> Vec<Client>) {
        println!("{what}");
        let times = sizes.map(|size| {
            // The least of five is the one that was disturbed least.
            let times = (0..5).map(|_| self.time(clients(size)));
            let time = times.min().unwrap_or_default();
            let (all, each) = (
                time.as_secs_f64() * 1e3,
                time.as_secs_f64() * 1e6 / size as f64,
            );
            println!("  {size:>8}  {all:>10.3} ms  {each:>10.3} us each");
            time.as_secs_f64()
        });
        let exponent = (times[3] / times[1]).ln() / (sizes[3] as f64 / sizes[1] as f64).ln();
        println!(
            "  exponent from {} to {}: {exponent:.2}\n",
            sizes[1], sizes[3]
        );
    }

    /// How long it takes to serve all of them at once.
    fn time(&self, clients: Vec<Client>) -> Duration {
        let server = server();
        self.runtime.block_on(async move {
            let mut sessions = JoinSet::new();
            for client in clients {
                let peer = PeerAddr::from(([192, 0, 2, 1], 4000));
                sessions.spawn(server.serve_connection(client, peer));
            }
            let started = Instant::now();
            while sessions.join_next().await.is_some() {}
            started.elapsed()
        })
    }
}
