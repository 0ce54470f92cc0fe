//! Clients that do what they should, a little of it at a time.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpSocket,
    runtime::{self, Runtime},
    time::timeout,
};

use crate::server::Addresses;

/// The number of clients, each of which has an address of its own.
const CLIENTS: u8 = 8;
/// What a client pauses after each message, and after each login.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_AFTER_LOGIN: Duration = Duration::from_millis(100);
const MESSAGES_PER_SESSION: usize = 20;
/// What a client waits for a connection or a reply at most.
const LIMIT: Duration = Duration::from_secs(30);

/// What the honest clients do.
#[derive(Clone, Copy)]
pub(crate) enum Honest {
    /// Messages of one kibibyte, twenty in a session, each command of which waits for its reply.
    Messages,
    /// Sessions with a login, which is measured, and a message.
    Logins,
}

/// What became of the messages or logins.
#[derive(Default)]
pub(crate) struct Outcome {
    /// How long each of them took, in order once all are there.
    latencies: Vec<Duration>,
    /// Sessions in which something was refused, with the last reply.
    failures: usize,
    reply: String,
}

impl Honest {
    /// Lets the clients work for this long.
    pub(crate) fn run(self, addresses: &Addresses, span: Duration) -> Outcome {
        let end = Instant::now() + span;
        let mut outcome = thread::scope(|scope| {
            let clients: Vec<_> = (1..=CLIENTS)
                .map(|number| {
                    let own = Ipv4Addr::new(127, 1, 0, number);
                    scope.spawn(move || self.client(own, addresses.plain, end))
                })
                .collect();
            let each = clients.into_iter().map(|client| client.join().unwrap());
            each.reduce(Outcome::and).unwrap_or_default()
        });
        outcome.latencies.sort_unstable();
        outcome
    }

    fn client(self, own: Ipv4Addr, server: SocketAddr, end: Instant) -> Outcome {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.unwrap();
        let mut outcome = Outcome::default();
        while Instant::now() < end {
            let latencies = &mut outcome.latencies;
            let done = match self {
                Self::Messages => messages(&runtime, own, server, end, latencies),
                Self::Logins => login(&runtime, own, server, latencies),
            };
            if let Err(error) = done {
                outcome.failures += 1;
                outcome.reply = error.to_string();
                thread::sleep(PAUSE);
            }
        }
        outcome
    }
}

/// One session. Its first message includes the connection and the greeting.
fn messages(
    runtime: &Runtime,
    own: Ipv4Addr,
    server: SocketAddr,
    end: Instant,
    latencies: &mut Vec<Duration>,
) -> io::Result<()> {
    let mut begun = Instant::now();
    let mut session = Session::open(runtime, own, server)?;
    session.say("EHLO client.example\r\n", "250")?;
    for _ in 0..MESSAGES_PER_SESSION {
        session.send_message()?;
        latencies.push(begun.elapsed());
        if Instant::now() >= end {
            break;
        }
        thread::sleep(PAUSE);
        begun = Instant::now();
    }
    session.say("QUIT\r\n", "221")
}

/// One session of alice.
fn login(
    runtime: &Runtime,
    own: Ipv4Addr,
    server: SocketAddr,
    latencies: &mut Vec<Duration>,
) -> io::Result<()> {
    let begun = Instant::now();
    let mut session = Session::open(runtime, own, server)?;
    session.say("EHLO client.example\r\n", "250")?;
    session.say("AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n", "235")?;
    latencies.push(begun.elapsed());
    session.send_message()?;
    session.say("QUIT\r\n", "221")?;
    thread::sleep(PAUSE_AFTER_LOGIN);
    Ok(())
}

struct Session(TcpStream);

impl Session {
    /// Connects from this address.
    fn open(runtime: &Runtime, own: Ipv4Addr, server: SocketAddr) -> io::Result<Self> {
        let connect = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((own, 0).into())?;
            socket.connect(server).await?.into_std()
        };
        let stream = runtime.block_on(async { timeout(LIMIT, connect).await })??;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut session = Self(stream);
        session.expect("220")?;
        Ok(session)
    }

    fn send_message(&mut self) -> io::Result<()> {
        let line =
            "The quick brown fox jumps over the lazy dog, and goes on with it for so long.\r\n";
        self.say("MAIL FROM:<sender@example.com>\r\n", "250")?;
        self.say("RCPT TO:<recipient@example.org>\r\n", "250")?;
        self.say("DATA\r\n", "354")?;
        self.say(&(line.repeat(13) + ".\r\n"), "250")
    }

    fn say(&mut self, text: &str, code: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        self.expect(code)
    }

    /// Reads a reply, which arrives in one chunk.
    fn expect(&mut self, code: &str) -> io::Result<()> {
        let mut reply = [0; 2048];
        let read = self.0.read(&mut reply)?;
        let reply = String::from_utf8_lossy(&reply[..read]);
        match reply.starts_with(code) {
            true => Ok(()),
            false => Err(io::Error::other(reply.trim_end().to_owned())),
        }
    }
}

impl Outcome {
    fn and(mut self, other: Self) -> Self {
        self.latencies.extend(other.latencies);
        self.failures += other.failures;
        if self.reply.is_empty() {
            self.reply = other.reply;
        }
        self
    }

    fn percentile(&self, percent: usize) -> Option<Duration> {
        let last = self.latencies.len().checked_sub(1)?;
        Some(self.latencies[last * percent / 100])
    }

    /// Returns what went wrong, if anything did.
    pub(crate) fn failures(&self) -> Option<String> {
        let Self {
            failures, reply, ..
        } = self;
        (*failures > 0).then(|| format!("{failures} honest sessions failed: {reply}"))
    }
}

/// The median and the 99th percentile.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match [50, 99].map(|percent| self.percentile(percent)) {
            [Some(middle), Some(high)] => {
                let [middle, high] = [middle, high].map(|latency| latency.as_secs_f64() * 1e3);
                write!(f, "{middle:.1}/{high:.1} ms")
            }
            _ => f.write_str("none served"),
        }
    }
}
