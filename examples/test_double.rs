//! A server that misbehaves on purpose, for programs that send mail: does each message arrive, and does none arrive twice?
//!
//! `cargo run --example test_double -- 127.0.0.1:2525`, and point your program at it. In a test of your own, the same server runs
//! in the process of the test, on a free port, with `test::Running`; the test of this example does so with lettre as the program.

use std::time::Duration;

use smtpd_tower::{
    Pipeline, Rcpt, Request, Server, deliver::Inbox, handler_fn, phase::PhaseKind, test::ChaosLayer,
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:2525".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    let inbox = Inbox::new();
    let server = server(inbox.clone()).on_wire(|session, line| println!("{} {line}", session.id()));
    tokio::spawn(server.serve(listener));
    loop {
        let delivered = inbox.next().await;
        println!("accepted: {} bytes", delivered.message().len());
    }
}

/// The faults are the same in every run: they depend on the seed.
pub fn server(inbox: Inbox) -> Server {
    let refuses = ChaosLayer::new()
        .on([PhaseKind::Mail, PhaseKind::Rcpt, PhaseKind::Data])
        .fail_randomly(0.25, 42) // 451, for now
        .delay(Duration::from_millis(5));
    let leaves = ChaosLayer::new().close_after(10); // 421 in the middle of a long session
    let pipeline = Pipeline::new()
        .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
        .data(inbox)
        .layer(refuses)
        .layer(leaves);
    Server::new("double.example", pipeline)
}
