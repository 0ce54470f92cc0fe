//! What a connection costs that the server refuses, beside one that it serves: the time of a processor, of the server's thread
//! alone, kernel and all.
//!
//! `cargo bench --bench refused [CONNECTIONS]`, 10,000 by default. Linux only. A session that is served reads the greeting and
//! sends QUIT.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use smtpd_tower::{Pipeline, Server, guard::Guard, net::CidrSet};
use tokio::{net::TcpListener, runtime::Builder};

fn main() {
    let number = env::args().find_map(|argument| argument.parse().ok());
    let number = number.unwrap_or(10_000);
    let nobody = || CidrSet::parse::<&str>([]).expect("no networks");
    let server = || Server::new("mx.example.org", Pipeline::new());
    let guarded = |guard: Guard| server().guard(guard.exempt(nobody()).idle_sessions(None));
    for round in 1..=3 {
        println!("round {round}, {number} connections, microseconds of a processor for each:");
        let open = Guard::new().new_sessions(None);
        show("served", guarded(open), number, "220 ");
        show("served, not counted", server(), number, "220 ");
        show(
            "refused by the guard",
            guarded(Guard::new().sessions(0)),
            number,
            "421 ",
        );
        show(
            "refused, too many sessions",
            server().max_sessions(0),
            number,
            "421 ",
        );
    }
}

fn show(name: &str, server: Server, number: u32, start: &str) {
    let handle = server.handle();
    let (bound, is_bound) = mpsc::channel();
    let serving = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            bound
                .send(listener.local_addr().expect("an address"))
                .expect("a client");
            let before = on_processor();
            server.serve(listener).await.expect("it serves");
            on_processor() - before
        })
    });
    let address = is_bound.recv().expect("an address");
    for _ in 0..number {
        connect(address, start);
    }
    drop(handle.shutdown(Duration::ZERO));
    let taken = serving.join().expect("no panic");
    println!("  {name}: {:.1}", taken as f64 / 1e3 / f64::from(number));
}

fn connect(address: SocketAddr, start: &str) {
    let mut client = TcpStream::connect(address).expect("a connection");
    let mut buffer = [0; 512];
    let read = client.read(&mut buffer).expect("a reply");
    assert!(
        buffer[..read].starts_with(start.as_bytes()),
        "another reply"
    );
    if start == "220 " {
        client.write_all(b"QUIT\r\n").expect("it reads");
    }
    while client.read(&mut buffer).expect("no reset") > 0 {}
}

/// Returns how many nanoseconds the current thread has run.
fn on_processor() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .expect("a number")
}
