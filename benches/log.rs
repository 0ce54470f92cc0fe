//! What the log costs the reference server: CPU time a message with the log to a file and to a pipe, against `--quiet`.
//!
//! `cargo bench --bench log [-- [PROGRAM] [MESSAGES]]` starts the server as a process of its own, built by this unless
//! PROGRAM names another, and sends it messages from a few clients, each command of which waits for its reply. The ways
//! take turns, so that a machine that drifts hits all alike. Linux only: CPU time is read from `/proc`.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

const ROUNDS: usize = 7;
const CLIENTS: usize = 8;
const WARM_UP: usize = 400;

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Log {
    Quiet,
    File,
    Pipe,
}

const LOGS: [Log; 3] = [Log::Quiet, Log::File, Log::Pipe];

fn main() {
    let mut program = None;
    let mut messages = 16_000;
    for argument in env::args().skip(1).filter(|a| !a.starts_with("--")) {
        match argument.parse() {
            Ok(number) => messages = number,
            Err(_) => program = Some(PathBuf::from(argument)),
        }
    }
    let program = program.unwrap_or_else(build);
    for each in [1, 100] {
        measure(&program, messages, each);
    }
}

/// Builds the reference server, which lies in the directory above the benchmarks.
fn build() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "-p", "smtpd-server"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success());
    let own = env::current_exe().unwrap();
    let profile = own.parent().and_then(Path::parent).unwrap();
    profile.join("smtpd")
}

/// Measures sessions with `each` messages, and prints a line for each way.
fn measure(program: &Path, messages: usize, each: usize) {
    let mut costs = [(); 3].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        for (log, costs) in LOGS.into_iter().zip(&mut costs) {
            costs.push(cost(program, log, messages, each));
        }
    }
    println!("{messages} messages, {each} a session, {CLIENTS} clients");
    let quiet = costs[0].clone();
    for (log, mut costs) in LOGS.into_iter().zip(costs) {
        let mut more: Vec<_> = costs.iter().zip(&quiet).map(|(a, b)| a / b).collect();
        let more = (median(&mut more) - 1.0) * 100.0;
        let cost = median(&mut costs);
        let (least, most) = (costs[0], costs[ROUNDS - 1]);
        println!(
            "{:>8} {cost:>7.1} us of CPU a message ({least:.1} to {most:.1}), {more:+.1} % against quiet in the same round",
            format!("{log:?}").to_lowercase()
        );
    }
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// The CPU time of a message, in microseconds.
fn cost(program: &Path, log: Log, messages: usize, each: usize) -> f64 {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = Server::start(program, log, dir.path());
    server.send(WARM_UP, each);
    let before = server.cpu();
    server.send(messages, each);
    let cost = server.cpu() - before;
    drop(server);
    let lines = fs::read_to_string(dir.path().join("log")).unwrap();
    let expected = if log == Log::Quiet { 0 } else { messages };
    let found = lines.lines().filter(|l| l.contains(" message ")).count();
    assert!(found >= expected, "{found} lines for {expected} messages");
    cost.as_secs_f64() * 1e6 / messages as f64
}

struct Server {
    process: Child,
    address: String,
    /// Copies a pipe into a file.
    reader: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(program: &Path, log: Log, dir: &Path) -> Self {
        let file = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(program);
        command
            .args(["--discard", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped());
        match log {
            Log::Quiet => command.arg("--quiet").stderr(file.try_clone().unwrap()),
            Log::File => command.stderr(file.try_clone().unwrap()),
            Log::Pipe => command.stderr(Stdio::piped()),
        };
        let mut process = command.spawn().expect("the server starts");
        let reader = process.stderr.take().map(|mut pipe| {
            let mut file = file;
            thread::spawn(move || drop(io::copy(&mut pipe, &mut file)))
        });
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let address = line.trim_end().rsplit(' ').next().unwrap().to_owned();
        Self {
            process,
            address,
            reader,
        }
    }

    /// Sends so many messages, and waits until the log may be written.
    fn send(&self, messages: usize, each: usize) {
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let sessions = (messages / CLIENTS).div_ceil(each);
                    (0..sessions).for_each(|_| session(&self.address, each));
                });
            }
        });
        thread::sleep(Duration::from_millis(100));
    }

    /// The time that its threads have run.
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let ran = tasks.map(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            stat.split(' ').next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(ran.sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.process.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// One session with so many messages of one kilobyte.
fn session(address: &str, messages: usize) {
    let line = "The quick brown fox jumps over the lazy dog, and goes on with it for so long.\r\n";
    let message = line.repeat(13) + ".\r\n";
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    expect(&mut stream, "220");
    let mut say = |text: &str, code| {
        stream.write_all(text.as_bytes()).unwrap();
        expect(&mut stream, code);
    };
    say("EHLO client.example\r\n", "250");
    for _ in 0..messages {
        say("MAIL FROM:<sender@example.com>\r\n", "250");
        say("RCPT TO:<recipient@example.org>\r\n", "250");
        say("DATA\r\n", "354");
        say(&message, "250");
    }
    say("QUIT\r\n", "221");
}

/// Reads a reply, which arrives in one chunk.
fn expect(stream: &mut TcpStream, code: &str) {
    let mut reply = [0; 1024];
    let read = stream.read(&mut reply).unwrap();
    let reply = String::from_utf8_lossy(&reply[..read]);
    assert!(reply.starts_with(code), "expected {code}, got {reply}");
}
