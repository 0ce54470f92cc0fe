//! Clients that do what they should not.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    runtime,
    sync::oneshot,
    task::{JoinSet, LocalSet},
    time::{sleep, timeout},
};

use crate::server::Addresses;

const SLOW_CLIENTS: usize = 10_000;
const HALF_HANDSHAKES: usize = 2_000;
const GUESSERS: usize = 200;
/// What a slow client pauses between two bytes.
const DRIP: Duration = Duration::from_secs(2);
/// The beginning of a ClientHello, which announces 512 bytes.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    Slow,
    Connections,
    Garbage,
    Handshakes,
    Recipients,
    Logins,
}

/// Attackers at work, in a thread of their own, until they are dropped.
pub(crate) struct Attackers {
    count: Arc<Count>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    expected: usize,
}

/// What the attackers have achieved.
#[derive(Default)]
struct Count {
    /// Those that have taken their positions, or been refused for good.
    ready: AtomicUsize,
    /// Connections that are open and were not refused.
    open: AtomicUsize,
    /// Connections, commands or guesses that were made.
    made: AtomicUsize,
}

impl Attack {
    pub(crate) const ALL: [Self; 6] = [
        Self::Slow,
        Self::Connections,
        Self::Garbage,
        Self::Handshakes,
        Self::Recipients,
        Self::Logins,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Connections => "connections",
            Self::Garbage => "garbage",
            Self::Handshakes => "handshakes",
            Self::Recipients => "recipients",
            Self::Logins => "logins",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attack| attack.name() == name)
    }

    const fn attackers(self) -> usize {
        match self {
            Self::Slow => SLOW_CLIENTS,
            Self::Handshakes => HALF_HANDSHAKES,
            Self::Logins => GUESSERS,
            Self::Garbage => 16,
            Self::Connections | Self::Recipients => 4,
        }
    }

    /// The address of an attacker: one for all of a flood, else one for each.
    fn address(self, number: usize) -> Ipv4Addr {
        let number = match self {
            Self::Connections | Self::Garbage | Self::Recipients => 1,
            Self::Slow | Self::Handshakes | Self::Logins => number,
        };
        Ipv4Addr::from_bits(Ipv4Addr::new(127, 2, 0, 1).to_bits() + number as u32)
    }
}

impl Attackers {
    pub(crate) fn start(attack: Attack, addresses: Addresses) -> Self {
        let count = Arc::new(Count::default());
        let (stop, stopped) = oneshot::channel();
        let counted = count.clone();
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            LocalSet::new().block_on(&runtime, async {
                let mut all = JoinSet::new();
                for number in 0..attack.attackers() {
                    all.spawn_local(run(attack, number, addresses.clone(), counted.clone()));
                    // Connections arrive faster than any server accepts them.
                    if number % 100 == 99 {
                        sleep(Duration::from_millis(5)).await;
                    }
                }
                let _ = stopped.await;
            });
        });
        Self {
            count,
            stop: Some(stop),
            thread: Some(thread),
            expected: attack.attackers(),
        }
    }

    /// Waits until each attacker has taken its position, or a minute.
    pub(crate) fn wait_until_ready(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.count.ready.load(Relaxed) < self.expected && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn tally(&self) -> String {
        self.count.to_string()
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} open, {} made",
            self.open.load(Relaxed),
            self.made.load(Relaxed)
        )
    }
}

/// One attacker. It ends when its part is over; those that flood never do.
async fn run(attack: Attack, number: usize, addresses: Addresses, count: Arc<Count>) {
    let own = attack.address(number);
    match attack {
        Attack::Slow => {
            let _ = slow(number, own, &addresses, &count).await;
        }
        Attack::Handshakes => {
            let _ = half_handshake(own, addresses.tls, &count).await;
        }
        Attack::Connections => flood(&count, async || knock(own, addresses.plain).await).await,
        Attack::Garbage => flood(&count, async || garbage(own, addresses.plain).await).await,
        Attack::Recipients => {
            flood(&count, async || {
                recipients(own, addresses.plain, &count).await
            })
            .await;
        }
        Attack::Logins => flood(&count, async || guess(own, addresses.plain, &count).await).await,
    }
}

/// Does the same again and again.
async fn flood(count: &Count, once: impl AsyncFn() -> io::Result<()>) {
    count.ready.fetch_add(1, Relaxed);
    loop {
        match once().await {
            Ok(()) => drop(count.made.fetch_add(1, Relaxed)),
            // Refused, or without a free port.
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Counts a connection while it is open.
struct Open<'a>(&'a Count);

impl<'a> Open<'a> {
    fn new(count: &'a Count) -> Self {
        count.open.fetch_add(1, Relaxed);
        count.ready.fetch_add(1, Relaxed);
        count.made.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

async fn connect(own: Ipv4Addr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((own, 0).into())?;
    // As little as the kernel allows, so that replies which are not read fill the server's buffers.
    socket.set_recv_buffer_size(1)?;
    socket.connect(server).await
}

/// Takes its position in one of four kinds, and stays there until the server ends it.
async fn slow(
    number: usize,
    own: Ipv4Addr,
    addresses: &Addresses,
    count: &Count,
) -> io::Result<()> {
    let server = if number % 4 == 2 {
        addresses.tls
    } else {
        addresses.plain
    };
    let mut stream = connect(own, server).await?;
    match number % 4 {
        0 => {
            expect(&mut stream, "220").await?;
            let _open = Open::new(count);
            drip(&mut stream, b"EHLO client.example and then some more of it").await
        }
        1 => {
            expect(&mut stream, "220").await?;
            for (line, code) in [
                ("EHLO client.example\r\n", "250"),
                ("MAIL FROM:<sender@example.com>\r\n", "250"),
                ("RCPT TO:<recipient@example.org>\r\n", "250"),
                ("DATA\r\n", "354"),
            ] {
                stream.write_all(line.as_bytes()).await?;
                expect(&mut stream, code).await?;
            }
            let _open = Open::new(count);
            drip(&mut stream, &[b'x'; 500]).await
        }
        2 => {
            let _open = Open::new(count);
            drip(&mut stream, CLIENT_HELLO).await?;
            read_to_end(&mut stream).await
        }
        _ => {
            let _open = Open::new(count);
            unread(&mut stream).await
        }
    }
}

/// Sends one byte at a time.
async fn drip(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        sleep(DRIP).await;
    }
    Ok(())
}

/// Sends commands with long replies as long as the server takes them, and reads nothing. EHLO ends what MAIL has begun, and so
/// neither counts as a command without a message.
async fn unread(stream: &mut TcpStream) -> io::Result<()> {
    let commands = b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\n".repeat(100);
    loop {
        match timeout(DRIP, stream.write_all(&commands)).await {
            Ok(written) => written?,
            Err(_) => sleep(DRIP).await,
        }
    }
}

async fn half_handshake(own: Ipv4Addr, server: SocketAddr, count: &Count) -> io::Result<()> {
    let mut stream = connect(own, server).await?;
    stream.write_all(CLIENT_HELLO).await?;
    let _open = Open::new(count);
    read_to_end(&mut stream).await
}

/// Connects, reads the greeting, and leaves.
async fn knock(own: Ipv4Addr, server: SocketAddr) -> io::Result<()> {
    let mut stream = connect(own, server).await?;
    stream.read(&mut [0; 512]).await.map(drop)
}

async fn garbage(own: Ipv4Addr, server: SocketAddr) -> io::Result<()> {
    let mut stream = connect(own, server).await?;
    // The low bits of squares look random enough.
    let seed = stream.local_addr()?.port() as usize;
    let bytes: Vec<_> = (seed..seed + 3000).map(|n| ((n * n) >> 4) as u8).collect();
    stream.write_all(&bytes).await?;
    stream.shutdown().await?;
    read_to_end(&mut stream).await
}

/// Guesses recipients in groups, as fast as replies come, until the session ends.
async fn recipients(own: Ipv4Addr, server: SocketAddr, count: &Count) -> io::Result<()> {
    let mut stream = connect(own, server).await?;
    stream
        .write_all(b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\n")
        .await?;
    let guesses: String = (0..20)
        .map(|n| format!("RCPT TO:<{n}@elsewhere.example>\r\n"))
        .collect();
    loop {
        stream.write_all(guesses.as_bytes()).await?;
        if stream.read(&mut [0; 8192]).await? == 0 {
            return Ok(());
        }
        count.made.fetch_add(20, Relaxed);
    }
}

/// Guesses the password until the session ends.
async fn guess(own: Ipv4Addr, server: SocketAddr, count: &Count) -> io::Result<()> {
    let mut stream = connect(own, server).await?;
    expect(&mut stream, "220").await?;
    stream.write_all(b"EHLO client.example\r\n").await?;
    expect(&mut stream, "250").await?;
    loop {
        stream.write_all(b"AUTH PLAIN AGFsaWNlAHdyb25n\r\n").await?;
        if stream.read(&mut [0; 512]).await? == 0 {
            return Ok(());
        }
        count.made.fetch_add(1, Relaxed);
    }
}

async fn read_to_end(stream: &mut TcpStream) -> io::Result<()> {
    while stream.read(&mut [0; 512]).await? > 0 {}
    Ok(())
}

async fn expect(stream: &mut TcpStream, code: &str) -> io::Result<()> {
    let mut reply = [0; 2048];
    let read = stream.read(&mut reply).await?;
    if reply[..read].starts_with(code.as_bytes()) {
        return Ok(());
    }
    Err(io::Error::other("refused"))
}
