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
    future::Future,
    io,
    pin::Pin,
    process::{self, Command},
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use smtpd_tower::{Data, Pipeline, Rcpt, Reply, Request, Server, Session, handler_fn};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    task::JoinHandle,
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

/// A client at one end of a pipe, the server at the other.
pub struct Client<IO = DuplexStream> {
    io: IO,
    seen: Vec<u8>,
    pub session: Option<JoinHandle<()>>,
}

impl Client {
    /// Connects to a server over a pipe of 64 KiB.
    pub fn connect(server: &Server) -> Self {
        Self::connect_through(server, 64 << 10)
    }

    /// Connects over a pipe of that size.
    pub fn connect_through(server: &Server, pipe: usize) -> Self {
        watch();
        let (io, far) = tokio::io::duplex(pipe);
        let session =
            tokio::spawn(server.serve_connection(far, Session::local().client_addr().clone()));
        Self {
            io,
            seen: Vec::new(),
            session: Some(session),
        }
    }

    /// Connects and reads the greeting.
    pub async fn greeted(server: &Server) -> Self {
        let mut client = Self::connect(server);
        client.expect("220").await;
        client
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    pub fn over(io: IO) -> Self {
        watch();
        Self {
            io,
            seen: Vec::new(),
            session: None,
        }
    }

    pub fn io(&self) -> &IO {
        &self.io
    }

    pub fn into_io(self) -> IO {
        assert!(
            self.seen.is_empty(),
            "left over: {}",
            self.seen.escape_ascii()
        );
        self.io
    }

    pub async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.io
            .write_all(octets.as_ref())
            .await
            .expect("the server reads");
    }

    pub async fn try_send(&mut self, octets: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.io.write_all(octets.as_ref()).await
    }

    /// Half-closes: no more octets from this side.
    pub async fn finish(&mut self) {
        self.io.shutdown().await.expect("the pipe closes");
    }

    /// One reply, its lines parted by LF, without CRLF. Empty when the connection is closed instead.
    pub async fn reply(&mut self) -> String {
        self.try_reply().await.expect("no reset")
    }

    /// The same; an error where the connection fails instead of being closed, by a reset above all.
    pub async fn try_reply(&mut self) -> io::Result<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.try_line().await? {
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                break;
            }
        }
        Ok(lines.join("\n"))
    }

    /// A line without CRLF; `None` when the connection is closed instead.
    pub async fn line(&mut self) -> Option<String> {
        self.try_line().await.expect("no reset")
    }

    /// The same; an error where the connection fails instead of being closed, by a reset above all.
    pub async fn try_line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.seen.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8(self.seen[..end].to_vec()).expect("replies are ASCII");
                self.seen.drain(..end + 2);
                return Ok(Some(line));
            }
            let mut buffer = [0; 4096];
            let read = self.io.read(&mut buffer).await?;
            if read == 0 {
                assert!(
                    self.seen.is_empty(),
                    "closed within a line: {}",
                    self.seen.escape_ascii()
                );
                return Ok(None);
            }
            self.seen.extend_from_slice(&buffer[..read]);
        }
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
    Fut: Future<Output: smtpd_tower::IntoReply<smtpd_tower::DataReply>> + Send + 'static,
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
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.io).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
