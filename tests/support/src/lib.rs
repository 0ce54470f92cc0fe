//! What the tests of whole sessions share, in the root package and in the reference server.
#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::expect_used,
    clippy::new_without_default,
    clippy::unwrap_used,
    reason = "all of it is for tests"
)]

mod pages;
pub mod pki;

use std::{
    any::Any,
    future::{Future, poll_fn},
    io, mem,
    pin::Pin,
    process::{self, Command},
    sync::{
        Arc, LazyLock, Mutex, Once, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use smtpd_tower::{
    Data, Pipeline, Rcpt, Reply, Request, Server, handler_fn,
    net::PeerAddr,
    test::{self, ClientError},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tracing::{
    Dispatch, Subscriber,
    subscriber::{DefaultGuard, NoSubscriber},
};

/// How long all tests of a binary may take together, from the first client or server on: less than .ci/run gives them.
const LIMIT: Duration = Duration::from_secs(14 * 60);

/// The processes that the tests have started and not ended, by their ids.
pub static CHILDREN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Ends a binary whose tests hang. A test that hangs would never fail by itself: many clocks in here are paused.
pub fn watch() {
    static WATCHDOG: Once = Once::new();
    WATCHDOG.call_once(|| {
        thread::spawn(|| {
            thread::sleep(LIMIT);
            eprintln!("a test hangs: they are not over after {LIMIT:?}");
            // Nothing is dropped from here on, which would end them.
            let children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
            kill(&children);
            process::exit(1);
        });
    });
}

pub fn kill(processes: &[u32]) {
    let ids = processes.iter().map(u32::to_string);
    let _ = Command::new("kill").args(["-s", "KILL"]).args(ids).status();
}

/// The client of the test kit, for tests in which every error is a failure: it panics where that one returns an error.
///
/// Like that one, it reads while it cannot write, so that neither end waits for the other. A test of back-pressure needs a client
/// that does not read, and writes to the pipe itself.
pub struct Client<IO = DuplexStream>(test::Client<IO>);

impl Client {
    /// Connects to a server over a pipe of 64 KiB.
    pub fn connect(server: &Server) -> Self {
        watch();
        Self(test::Client::connect(server))
    }

    /// Connects from that address.
    pub fn from_peer(server: &Server, peer: impl Into<PeerAddr>) -> Self {
        watch();
        Self(test::Client::from_peer(server, peer))
    }

    /// Connects and reads the greeting.
    pub async fn greeted(server: &Server) -> Self {
        let mut client = Self::connect(server);
        client.expect("220").await;
        client
    }

    /// The task of the session.
    pub fn take_session(&mut self) -> JoinHandle<()> {
        self.0.take_session().expect("nobody has it yet")
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    pub fn over(io: IO) -> Self {
        watch();
        Self(test::Client::over(io))
    }

    pub fn io(&self) -> &IO {
        self.0.io()
    }

    pub fn into_io(self) -> IO {
        let unread = self.0.unread();
        assert!(unread.is_empty(), "left over: {}", unread.escape_ascii());
        self.0.into_io()
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.raw(bytes).await.expect("the server reads");
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), ClientError> {
        self.0.raw(bytes).await
    }

    /// Half-closes: no more bytes from this side.
    pub async fn finish(&mut self) {
        self.0.finish().await.expect("the pipe closes");
    }

    /// One reply, its lines parted by LF, without CRLF. Empty when the connection is closed instead.
    pub async fn reply(&mut self) -> String {
        self.try_reply().await.expect("no reset")
    }

    /// The same; an error where the connection fails instead of being closed, by a reset above all.
    pub async fn try_reply(&mut self) -> Result<String, ClientError> {
        match self.0.reply().await {
            Ok(reply) => Ok(reply.to_string()),
            Err(ClientError::Closed) => Ok(String::new()),
            Err(error) => Err(error),
        }
    }

    /// A line without CRLF; `None` when the connection is closed instead.
    pub async fn line(&mut self) -> Option<String> {
        self.0.line().await.expect("no reset")
    }

    /// Reads a reply that begins so.
    pub async fn expect(&mut self, start: &str) -> String {
        let reply = self.reply().await;
        assert!(reply.starts_with(start), "expected {start}, got {reply:?}");
        reply
    }

    /// Sends a line and reads a reply that begins so.
    pub async fn cmd(&mut self, line: &str, start: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        let reply = self.reply().await;
        assert!(
            reply.starts_with(start),
            "{line}: expected {start}, got {reply:?}"
        );
        reply
    }

    /// EHLO, MAIL, RCPT, DATA, up to 354.
    pub async fn begin(&mut self) {
        self.cmd("EHLO client.example", "250").await;
        self.envelope().await;
        self.cmd("DATA", "354").await;
    }

    pub async fn envelope(&mut self) {
        self.cmd("MAIL FROM:<sender@example.net>", "250").await;
        self.cmd("RCPT TO:<user@example.org>", "250").await;
    }

    /// Reads to the end, which must come without another reply, and not by a reset.
    pub async fn expect_close(&mut self) {
        assert_eq!(self.line().await, None);
    }

    /// Whatever is still sent, up to the end.
    pub async fn rest(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            lines.push(line);
        }
        lines
    }
}

/// A pipeline that accepts every recipient, and whose data service is this handler.
pub fn pipeline<F, Fut>(data: F) -> Pipeline
where
    F: FnMut(Request<Data>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output: smtpd_tower::reply::IntoReply<smtpd_tower::DataReply>> + Send + 'static,
{
    accept_rcpt().data(handler_fn(data))
}

pub fn accept_rcpt() -> Pipeline {
    Pipeline::new().rcpt(handler_fn(async |_: Request<Rcpt>| {}))
}

/// A server whose data service collects the message and drops it.
pub fn collecting() -> Server {
    server(pipeline(async |req: Request<Data>| {
        req.into_body()
            .collect()
            .await
            .map(|m| Reply::ok(m.len().to_string()))
    }))
}

pub fn server(pipeline: Pipeline) -> Server {
    watch();
    Server::new("mx.test", pipeline)
}

/// A client of LMTP over TCP, that has said LHLO.
pub async fn lmtp(server: &Server) -> Client<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(server.serve(listener).lmtp());
    let mut client = Client::over(TcpStream::connect(addr).await.unwrap());
    client.expect("220").await;
    client.cmd("LHLO client.example", "250").await;
    client
}

/// Is pending once, and has woken its task then. Unlike that of tokio, it needs no runtime.
pub async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        cx.waker().wake_by_ref();
        match mem::replace(&mut yielded, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// The text that a panic was given.
pub fn panic_text(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// Lets every other task run until it waits.
pub async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

pub const SECOND: Duration = Duration::from_secs(1);

/// A stream that counts the writes to it.
pub struct Counting<IO> {
    io: IO,
    pub writes: Arc<AtomicUsize>,
}

impl<IO> Counting<IO> {
    pub fn new(io: IO) -> Self {
        Self {
            io,
            writes: Arc::default(),
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counting<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counting<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Makes a subscriber current on this thread until the guard is dropped.
///
/// While a process has a single subscriber, tracing asks only the thread that reaches an event first whether anybody wants it, and
/// remembers the answer for all threads: a test without a subscriber could silence the events of this one. A second subscriber,
/// which wants nothing, makes tracing ask all of them.
#[must_use]
pub fn log_by(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
    LazyLock::force(&SECOND);
    tracing::subscriber::set_default(subscriber)
}
