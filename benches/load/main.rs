//! Honest clients next to hostile ones: how long an honest message takes alone, and during an attack, and how much memory the
//! attack costs the server.
//!
//! `cargo bench --bench load [-- [PROGRAM] [ATTACK] ...]` starts the reference server as a process of its own, built by this
//! unless PROGRAM names another. Without an ATTACK, all of them follow each other:
//!
//! - `slow`: 10,000 slow clients, a quarter each in a command, in a message, in a TLS handshake, and not reading replies;
//! - `connections`: one address that connects as often as it can;
//! - `garbage`: sixteen connections at a time that send random bytes;
//! - `handshakes`: 2,000 addresses that begin a TLS handshake and do not go on;
//! - `recipients`: one address that guesses recipients;
//! - `logins`: 200 clients that guess passwords, next to users with a password who log in; both cost an Argon2 hash.
//!
//! Each client has an address of its own in 127.0.0.0/8, so this runs on Linux only. Everything shares the cores of this machine,
//! the clients too: an attack that keeps a core busy takes it from the server, and so the figures are upper bounds.

mod attack;
mod honest;
mod server;

use std::{env, path::PathBuf, time::Duration};

use attack::{Attack, Attackers};
use honest::Honest;
use server::Server;

/// How long the honest clients are measured, alone and during an attack.
const SPAN: Duration = Duration::from_secs(10);

fn main() {
    let mut program = None;
    let mut attacks = Vec::new();
    for argument in env::args().skip(1).filter(|a| !a.starts_with("--")) {
        match Attack::named(&argument) {
            Some(attack) => attacks.push(attack),
            None => program = Some(PathBuf::from(argument)),
        }
    }
    if attacks.is_empty() {
        attacks.extend(Attack::ALL);
    }
    let program = program.unwrap_or_else(server::build);
    println!(
        "{:<12} {:>15} {:>15} {:>15} {:>12} {:>12}",
        "attack", "alone p50/p99", "during p50/p99", "resident", "CPU", "attackers"
    );
    for attack in attacks {
        measure(&program, attack);
    }
}

/// Measures one attack, and prints a line about it.
fn measure(program: &std::path::Path, attack: Attack) {
    let server = Server::start(program, attack);
    let honest = match attack {
        Attack::Logins => Honest::Logins,
        _ => Honest::Messages,
    };
    let alone = honest.run(&server.addresses, SPAN);
    let before = server.resident();
    let attackers = Attackers::start(attack, server.addresses.clone());
    attackers.wait_until_ready();
    let spent = server.cpu();
    let during = honest.run(&server.addresses, SPAN);
    let cpu = server.cpu() - spent;
    let after = server.resident();
    println!(
        "{:<12} {:>15} {:>15} {:>11} MiB {:>10.0} % {:>12}",
        attack.name(),
        alone.to_string(),
        during.to_string(),
        format!("{:.1} -> {:.1}", mebibytes(before), mebibytes(after)),
        100.0 * cpu.as_secs_f64() / SPAN.as_secs_f64(),
        attackers.tally(),
    );
    for failures in [alone.failures(), during.failures()].into_iter().flatten() {
        println!("{:<12} {failures}", "");
    }
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
