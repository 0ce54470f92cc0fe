//! The bytes of a session: the input that is not used up, and the output.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use smtpd_core::connection::Writing;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;
use zeroize::Zeroize;

use super::{pace::Pace, stream::Stream, timer::Timer};

/// The number of bytes of a large message read at once.
const READ: usize = 64 << 10;
/// The number of bytes read at once otherwise. What of it is not used up is kept while a service works, or while the client does
/// not read its replies.
const COMMANDS: usize = 16 << 10;
/// A chunk of a message of up to this size is copied out of its input buffer.
const SMALL: usize = 8 << 10;

thread_local! {
    /// Reads go into a buffer of the thread. A session keeps only what is left when it has to wait.
    static SCRATCH: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// The bytes of a session: the input that is not used up, and the output.
pub(super) struct Wire<IO> {
    stream: Stream<IO>,
    pub(super) input: BytesMut,
    /// `input` is the thread's buffer, to be returned before waiting.
    lent: bool,
    /// A large message is arriving: `input` stays this session's own.
    large: bool,
    /// The input may contain passwords, so it is wiped from every buffer that it leaves. The connection wipes what it has taken.
    secret: bool,
    last_read: usize,
    eof: bool,
    /// The stream has accepted this much of the output, but may have buffered it.
    unflushed: usize,
    /// Nothing more can be read or written.
    dead: bool,
    pub(super) timer: Timer,
    received: u64,
    sent: u64,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    /// `secret` means that clients can authenticate.
    pub(super) fn new(stream: Stream<IO>, secret: bool) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            lent: false,
            large: false,
            secret,
            last_read: 0,
            eof: false,
            unflushed: 0,
            dead: false,
            timer: Timer::default(),
            received: 0,
            sent: 0,
        }
    }

    /// Reads from the client. A client that sends faster than it is served would be read from forever in one poll, so other tasks
    /// run now and then, and time advances.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        pace: &mut Pace,
    ) -> Poll<io::Result<usize>> {
        if pace.has_read_enough() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = ready!(self.poll_input(cx));
        pace.read(*read.as_ref().unwrap_or(&0));
        Poll::Ready(read)
    }

    /// Reads from the client, and drops what was read. An error is the end: it does not matter how the client has left.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, pace: &mut Pace) -> Poll<()> {
        let read = self.poll_read(cx, pace);
        self.drop_input();
        self.eof |= matches!(read, Poll::Ready(Err(_)));
        read.map(|_| ())
    }

    /// Appends available input to the rest of the input. 0 is the end.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        self.make_room();
        let read = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input);
        match &read {
            Poll::Pending => self.park(),
            Poll::Ready(Ok(0)) => self.eof = true,
            Poll::Ready(Ok(read)) => {
                self.last_read = *read;
                self.received += *read as u64;
            }
            Poll::Ready(Err(_)) => {}
        }
        read
    }

    /// Closes the write side.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.stream).poll_shutdown(cx).map(|_| ())
    }

    /// Writes the connection's output. Ready when some of it is on its way. What the stream has only buffered is not, so the last
    /// of it counts as written when the stream is flushed.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        writing: &mut Writing<'_>,
        now: Instant,
    ) -> Poll<io::Result<()>> {
        let bytes = writing.bytes();
        if let Some(rest) = bytes.get(self.unflushed..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written as u64;
            self.unflushed += written;
        }
        if self.unflushed >= bytes.len() {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        }
        writing.wrote(std::mem::take(&mut self.unflushed), now);
        Poll::Ready(Ok(()))
    }

    /// Returns a chunk of a message to hand on: a small one must not keep a whole buffer.
    pub(super) fn piece(&self, bytes: Bytes) -> Bytes {
        if self.large || bytes.len() > SMALL {
            bytes
        } else {
            Bytes::copy_from_slice(&bytes)
        }
    }

    /// Reads into a buffer of the session's own from now on, if a message arrives in large reads, until
    /// [`end_large`](Self::end_large).
    pub(super) fn begin_large(&mut self) {
        if !self.large && self.last_read > SMALL {
            self.park();
            self.large = true;
        }
    }

    pub(super) fn end_large(&mut self) {
        if std::mem::take(&mut self.large) {
            let left = BytesMut::from(&self.input[..]);
            self.replace_input(left);
        }
    }

    /// Returns the buffer to the thread. Call this before the session waits for anything.
    pub(super) fn park(&mut self) {
        if std::mem::take(&mut self.lent) {
            let left = BytesMut::from(&self.input[..]);
            give_back(self.replace_input(left));
        } else if self.input.is_empty() && !self.large {
            self.input = BytesMut::new();
        }
    }

    fn make_room(&mut self) {
        if !self.lent && !self.large {
            let mut scratch = SCRATCH.take();
            self.lent = true;
            scratch.reserve(COMMANDS);
            scratch.extend_from_slice(&self.input);
            self.replace_input(scratch);
        }
        let most = if self.large { READ } else { COMMANDS };
        if self.input.capacity() - self.input.len() < most / 4 {
            // No more than it takes, so that a buffer with a few bytes left in it need not be replaced by a larger one.
            self.grow(most.saturating_sub(self.input.len()).max(most / 4));
        }
    }

    fn grow(&mut self, by: usize) {
        if self.large || !self.secret {
            return self.input.reserve(by);
        }
        // `reserve` would leave the old bytes in place.
        let mut grown = BytesMut::with_capacity(self.input.len() + by);
        grown.extend_from_slice(&self.input);
        self.replace_input(grown);
    }
}

impl<IO> Wire<IO> {
    /// Returns whether the client has closed its side, or is gone.
    pub(super) const fn is_at_end(&self) -> bool {
        self.eof
    }

    /// Abandons the stream: nothing more can be read or written.
    pub(super) const fn kill(&mut self) {
        self.dead = true;
    }

    pub(super) const fn is_dead(&self) -> bool {
        self.dead
    }

    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Takes the stream out until another replaces it.
    #[cfg(any(feature = "tls", feature = "proxy"))]
    pub(super) fn take_stream(&mut self) -> Stream<IO> {
        self.stream.take()
    }

    #[cfg(any(feature = "tls", feature = "proxy"))]
    pub(super) fn set_stream(&mut self, stream: Stream<IO>) {
        self.stream = stream;
    }

    /// Drops the input.
    fn drop_input(&mut self) {
        if self.secret {
            self.input.zeroize();
        }
        self.input.clear();
    }

    /// Replaces the input buffer. Returns the old one, empty.
    fn replace_input(&mut self, input: BytesMut) -> BytesMut {
        self.drop_input();
        std::mem::replace(&mut self.input, input)
    }
}

impl<IO> Drop for Wire<IO> {
    fn drop(&mut self) {
        self.drop_input();
        if self.lent {
            give_back(std::mem::take(&mut self.input));
        }
    }
}

/// Returns the thread's buffer, unless it has grown: it would allow longer reads.
fn give_back(mut scratch: BytesMut) {
    if !scratch.try_reclaim(COMMANDS + 1) {
        SCRATCH.set(scratch);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    async fn after_a_read_of(bytes: usize) -> (DuplexStream, Wire<DuplexStream>) {
        let (mut client, io) = duplex(READ);
        let mut wire = Wire::new(Stream::Plain(io), false);
        client.write_all(&vec![b'x'; bytes]).await.unwrap();
        poll_fn(|cx| wire.poll_input(cx)).await.unwrap();
        wire.begin_large();
        // The message has used up the input, and the session waits for more of it.
        let read = wire.input.split().freeze();
        assert_eq!(wire.piece(read).len(), bytes);
        wire.park();
        (client, wire)
    }

    /// Many clients send messages in small chunks: each would hold 64 KiB.
    #[tokio::test]
    async fn a_message_that_comes_slowly_holds_no_buffer_while_it_waits() {
        for bytes in [1, 1400, SMALL] {
            let (_client, wire) = after_a_read_of(bytes).await;
            assert!(!wire.large, "{bytes}");
            assert_eq!(wire.input.capacity(), 0, "{bytes}");
        }
        let (_client, wire) = after_a_read_of(SMALL + 1).await;
        assert!(wire.large);
    }

    /// A chunk of one byte would otherwise keep its whole input buffer.
    #[tokio::test]
    async fn a_small_chunk_is_a_copy() {
        let (_client, wire) = after_a_read_of(1).await;
        let buffer = Bytes::from(vec![b'x'; READ]);
        let piece = wire.piece(buffer.slice(..SMALL));
        assert_ne!(piece.as_ptr(), buffer.as_ptr());
        let piece = wire.piece(buffer.slice(..SMALL + 1));
        assert_eq!(piece.as_ptr(), buffer.as_ptr());
    }
}
