use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// What a [`ChaosStream`] does to a connection.
///
/// Bytes are counted as the server's end sees them on the wire: with TLS, in its records.
///
/// ```
/// use smtpd_tower::{Server, test::{Client, ClientError, Recorder, StreamChaos}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ClientError> {
/// let recorder = Recorder::new();
/// let server = Server::new("mx.example.org", recorder.pipeline());
/// let mut client =
///     Client::options().chaos(StreamChaos::new().cut_in_data(5)).connect(&server);
/// let lost =
///     client.send("a@example.com", ["b@example.org"], "Hello, world\r\n").await;
/// assert!(matches!(lost, Err(ClientError::Closed)));
/// assert!(recorder.requests().iter().all(|asked| asked.message().is_none()));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamChaos {
    read: Option<u64>,
    written: Option<u64>,
    in_data: Option<u64>,
    delay: Duration,
}

impl StreamChaos {
    /// Creates a description without faults.
    pub const fn new() -> Self {
        Self {
            read: None,
            written: None,
            in_data: None,
            delay: Duration::ZERO,
        }
    }

    /// Sets after how many bytes read by the server the connection is cut. Default: never.
    #[must_use]
    pub const fn cut_after_read(mut self, bytes: u64) -> Self {
        self.read = Some(bytes);
        self
    }

    /// Sets after how many bytes written by the server the connection is cut. Default: never.
    #[must_use]
    pub const fn cut_after_written(mut self, bytes: u64) -> Self {
        self.written = Some(bytes);
        self
    }

    /// Sets after how many bytes following a 354 reply the connection is cut: in the middle of DATA. Default: never. It needs a
    /// connection without TLS, because it has to see the reply.
    #[must_use]
    pub const fn cut_in_data(mut self, bytes: u64) -> Self {
        self.in_data = Some(bytes);
        self
    }

    /// Sets how long input for the server is delayed. Default: not at all.
    #[must_use]
    pub const fn delay_reads(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// A connection that breaks or is slow, as a [`StreamChaos`] says. Wrap the server's end with it.
///
/// A cut drops the underlying connection: both directions are closed at once, and with TCP the client may see a reset.
///
/// ```
/// use smtpd_tower::{
///     Pipeline, Server,
///     net::PeerAddr,
///     test::{ChaosStream, Client, ClientError, StreamChaos},
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (near, far) = tokio::io::duplex(1024);
/// let far = ChaosStream::new(far, StreamChaos::new().cut_after_written(10));
/// tokio::spawn(
///     Server::new("mx.example.org", Pipeline::new())
///         .serve_connection(far, PeerAddr::Unknown),
/// );
/// let error = Client::over(near).greeting().await.unwrap_err();
/// assert_eq!(error.to_string(), "not an SMTP reply: 220 mx.exa");
/// # }
/// ```
#[derive(Debug)]
pub struct ChaosStream<IO> {
    /// `None` once it is cut.
    io: Option<IO>,
    chaos: StreamChaos,
    /// How much may still be read and written. `data` counts within a message only.
    read: Option<u64>,
    data: Option<u64>,
    written: Option<u64>,
    /// The first bytes of the line that is being written.
    head: Vec<u8>,
    /// Input that is not due yet.
    held: BytesMut,
    due: Option<Pin<Box<Sleep>>>,
}

impl<IO> ChaosStream<IO> {
    /// Adds these faults to a connection.
    pub fn new(io: IO, chaos: StreamChaos) -> Self {
        Self {
            io: Some(io),
            read: chaos.read,
            data: None,
            written: chaos.written,
            head: Vec::new(),
            held: BytesMut::new(),
            due: None,
            chaos,
        }
    }

    /// Returns the underlying connection, or `None` once it is cut.
    pub const fn inner(&self) -> Option<&IO> {
        self.io.as_ref()
    }

    /// Returns the underlying connection, unless no more bytes may pass.
    fn open(&mut self, left: Option<u64>, error: io::ErrorKind) -> io::Result<&mut IO> {
        if left == Some(0) {
            self.io = None;
        }
        self.io.as_mut().ok_or_else(|| error.into())
    }

    /// Cuts as soon as the last byte has passed, so that nothing more does in either direction.
    fn passed(&mut self) {
        if [self.read, self.data, self.written].contains(&Some(0)) {
            self.io = None;
        }
    }

    /// A 354 reply begins a message, any other ends it (RFC 5321 section 4.1.1.4).
    fn scan(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.head.clear();
            } else if self.head.len() < 3 {
                self.head.push(byte);
                if self.head.len() == 3 {
                    self.data = self.chaos.in_data.filter(|_| self.head == b"354");
                }
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> ChaosStream<IO> {
    fn poll_take(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = self.read.into_iter().chain(self.data).min();
        let room = at_most(buf.remaining(), left);
        let io = self.open(left, io::ErrorKind::ConnectionReset)?;
        let mut chunk = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(io).poll_read(cx, &mut chunk))?;
        let read = chunk.filled().len();
        buf.advance(read);
        for left in [&mut self.read, &mut self.data].into_iter().flatten() {
            *left = left.saturating_sub(read as u64);
        }
        self.passed();
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ChaosStream<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.chaos.delay.is_zero() {
            return this.poll_take(cx, buf);
        }
        loop {
            if let Some(due) = &mut this.due {
                ready!(due.as_mut().poll(cx));
                this.due = None;
            }
            if !this.held.is_empty() {
                let now = this.held.len().min(buf.remaining());
                buf.put_slice(this.held.get(..now).unwrap_or_default());
                this.held.advance(now);
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; 4 << 10];
            let mut chunk = ReadBuf::new(&mut bytes);
            ready!(this.poll_take(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.held.extend_from_slice(chunk.filled());
            this.due = Some(Box::pin(sleep(this.chaos.delay)));
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ChaosStream<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let left = this.written;
        let mut room = at_most(usize::MAX, left);
        let mut now = Vec::with_capacity(buffers.len());
        for buffer in buffers {
            let part = buffer.get(..room).unwrap_or(buffer);
            room -= part.len();
            now.push(IoSlice::new(part));
        }
        let io = this.open(left, io::ErrorKind::BrokenPipe)?;
        let written = ready!(Pin::new(io).poll_write_vectored(cx, &now))?;
        let mut rest = written;
        for part in &now {
            let part = part.get(..rest).unwrap_or(part);
            rest -= part.len();
            this.scan(part);
        }
        this.written = left.map(|left| left.saturating_sub(written as u64));
        this.passed();
        Poll::Ready(Ok(written))
    }

    /// TLS writes several records at once to a socket, so that an alert is not lost behind them.
    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(IO::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

fn at_most(bytes: usize, left: Option<u64>) -> usize {
    left.and_then(|left| usize::try_from(left).ok())
        .map_or(bytes, |left| bytes.min(left))
}

#[cfg(test)]
mod tests {
    use smtpd_core::connection::CloseReason;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::mpsc,
        time::Instant,
    };

    use super::*;
    use crate::{
        server::Server,
        session::EndReason,
        test::{Client, ClientError, Recorder},
    };

    async fn cut(chaos: StreamChaos, input: &str) -> (String, io::ErrorKind) {
        let (mut near, far) = tokio::io::duplex(1024);
        let mut far = ChaosStream::new(far, chaos);
        near.write_all(input.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        let error = loop {
            let mut chunk = [0; 3];
            match far.read(&mut chunk).await {
                Ok(0) => panic!("a clean end"),
                Ok(read) => seen.extend_from_slice(&chunk[..read]),
                Err(error) => break error.kind(),
            }
        };
        assert!(far.inner().is_none());
        assert_eq!(
            near.read(&mut [0; 9]).await.unwrap(),
            0,
            "the client sees the end"
        );
        assert!(far.write_all(b"x").await.is_err());
        (String::from_utf8(seen).unwrap(), error)
    }

    #[tokio::test]
    async fn no_more_bytes_are_read() {
        for (bytes, expected) in [(0, ""), (1, "a"), (3, "abc"), (5, "abcde")] {
            let found = cut(StreamChaos::new().cut_after_read(bytes), "abcdefghi").await;
            assert_eq!(found, (expected.to_owned(), io::ErrorKind::ConnectionReset));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_loses_nothing_before_a_cut() {
        let chaos = StreamChaos::new()
            .cut_after_read(5)
            .delay_reads(Duration::from_secs(1));
        assert_eq!(cut(chaos, "abcdefghi").await.0, "abcde");
    }

    #[tokio::test]
    async fn no_more_bytes_are_written() {
        for bytes in [0, 4, 10] {
            let (mut near, far) = tokio::io::duplex(1024);
            let mut far = ChaosStream::new(far, StreamChaos::new().cut_after_written(bytes));
            let error = far.write_all(b"220 mx.test\r\n").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            let mut seen = Vec::new();
            near.read_to_end(&mut seen).await.unwrap();
            assert_eq!(seen, &b"220 mx.test\r\n"[..bytes as usize]);
        }
    }

    #[tokio::test]
    async fn only_a_message_that_is_long_enough_is_cut() -> Result<(), ClientError> {
        let recorder = Recorder::new();
        let (ended, mut ends) = mpsc::unbounded_channel();
        let server = Server::new("mx.test", recorder.pipeline()).on_close(move |_, summary| {
            let _ = ended.send(summary.reason);
        });
        let chaos = StreamChaos::new().cut_in_data(12);
        let mut client = Client::options().chaos(chaos).connect(&server);
        // CRLF and a dot with CRLF follow each: 10, 5 and 12 bytes.
        for message in ["short", "\r\n"] {
            client
                .send("a@b.c", ["d@e.f"], message)
                .await?
                .expect_code(250)?;
            for _ in 0..5 {
                client.noop().await?.expect_code(250)?;
            }
        }
        let lost = client.send("a@b.c", ["d@e.f"], "354 abc").await;
        assert!(matches!(lost, Err(ClientError::Closed)), "{lost:?}");
        client.ended().await?;
        assert_eq!(ends.recv().await, Some(EndReason::Lost));

        let mut client = Client::connect(&server);
        client
            .send("a@b.c", ["d@e.f"], "354 abc")
            .await?
            .expect_code(250)?;
        client.quit().await?;
        client.ended().await?;
        assert_eq!(
            ends.recv().await,
            Some(EndReason::Closed(CloseReason::Quit))
        );
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_late() -> Result<(), ClientError> {
        let delay = Duration::from_secs(7);
        let chaos = StreamChaos::new().delay_reads(delay);
        let server = Server::new("mx.test", Recorder::new().pipeline());
        let mut client = Client::options().chaos(chaos).connect(&server);
        let start = Instant::now();
        client.greeting().await?.expect_code(220)?;
        assert!(start.elapsed().is_zero());
        for step in 1..4 {
            client.noop().await?.expect_code(250)?;
            assert_eq!(start.elapsed(), delay * step);
        }
        Ok(())
    }
}
