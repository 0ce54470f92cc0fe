//! Many idle sessions, which all send NOOP at once: the memory of each, and the time until the last has its reply.
//!
//! `cargo bench --bench idle [SESSIONS]`, 50,000 by default. If a process may not open so many files, several servers are
//! started, each with its own client; the figures are for all of them together.

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod support;

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use support::server;
use tokio::{net::TcpListener, runtime::Runtime};

/// Files of a process that are not sessions.
const OTHER_FILES: usize = 100;
/// Connections to one address, well below the number of ports for them.
const PER_ADDRESS: usize = 10_000;

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments = arguments.iter().filter(|a| !a.starts_with("--"));
    let number = |text: &str| -> usize { text.parse().expect("a number") };
    match *arguments.map(String::as_str).collect::<Vec<_>>() {
        [] => measure(50_000),
        ["server"] => serve(),
        ["client", port, sessions] => hold(number(port) as u16, number(sessions)),
        [sessions, ..] => measure(number(sessions)),
    }
}

fn measure(sessions: usize) {
    let pairs = sessions.div_ceil(max_files() - OTHER_FILES);
    let mut servers: Vec<_> = (0..pairs).map(|_| Process::start(&["server"])).collect();
    let ports: Vec<_> = servers.iter_mut().map(Process::line).collect();
    let without: usize = servers.iter().map(Process::resident).sum();
    let mut clients: Vec<_> = (0..pairs)
        .map(|pair| {
            let share = (sessions * (pair + 1) / pairs) - (sessions * pair / pairs);
            Process::start(&["client", &ports[pair], &share.to_string()])
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.line(), "open");
    }
    let with: usize = servers.iter().map(Process::resident).sum();
    let begun = Instant::now();
    clients.iter_mut().for_each(Process::go_on);
    for client in &mut clients {
        assert_eq!(client.line(), "answered");
    }
    println!(
        "{sessions} idle sessions in {pairs} servers: {} bytes each, all have answered NOOP after {:?}",
        (with - without) / sessions,
        begun.elapsed()
    );
}

/// How many files a process may have open.
fn max_files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(1 << 20)
}

/// This program in another role. It ends with its standard input.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(role: &[&str]) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// The next line that it prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn go_on(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    /// The memory that it occupies, in bytes.
    fn resident(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        let kib = line.split_whitespace().nth(1).unwrap();
        kib.parse::<usize>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server: prints its port, and serves until standard input is closed.
fn serve() {
    let runtime = Runtime::new().unwrap();
    let any = (Ipv4Addr::UNSPECIFIED, 0);
    let listener = runtime.block_on(TcpListener::bind(any)).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(server().max_sessions(usize::MAX).serve(listener));
    println!("{port}");
    wait();
}

/// The client: opens sessions, and on request sends NOOP in all of them.
fn hold(port: u16, sessions: usize) {
    let mut open: Vec<_> = (0..sessions).map(|number| greet(port, number)).collect();
    println!("open");
    wait();
    for session in &mut open {
        session.write_all(b"NOOP\r\n").unwrap();
    }
    for session in &mut open {
        expect(session, "250 ");
    }
    println!("answered");
    wait();
}

fn greet(port: u16, number: usize) -> TcpStream {
    let host = 1 + number / PER_ADDRESS;
    let address = Ipv4Addr::new(127, 0, 0, u8::try_from(host).unwrap());
    let mut session = TcpStream::connect((address, port)).unwrap();
    expect(&mut session, "220 ");
    session.write_all(b"EHLO client.example\r\n").unwrap();
    expect(&mut session, "250 ");
    session
}

/// Reads a reply, whose last line begins so.
fn expect(session: &mut TcpStream, start: &str) {
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n") {
        let mut buffer = [0; 1024];
        let bytes = session.read(&mut buffer).unwrap();
        assert_ne!(bytes, 0, "closed after {}", reply.escape_ascii());
        reply.extend_from_slice(&buffer[..bytes]);
    }
    let text = String::from_utf8(reply).unwrap();
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with(start), "expected {start}, got {text}");
}

fn wait() {
    io::stdin().read_line(&mut String::new()).unwrap();
}
