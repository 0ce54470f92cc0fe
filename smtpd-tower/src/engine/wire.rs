//! The bytes of a session: what has come and is not used up, and the way out.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use smtpd_core::Writing;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::{stream::Stream, timer::Timer};

/// How much is read at once.
const READ: usize = 64 << 10;
/// A piece of a message of up to this size is copied out of the buffer it came in.
const SMALL: usize = 8 << 10;

thread_local! {
    /// Reads go into a buffer of the thread. Only what is left when a session has to wait is kept by the session.
    static SCRATCH: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// The octets of a session: what has come and is not used up, and the way out.
pub(super) struct Wire<IO> {
    pub(super) stream: Stream<IO>,
    pub(super) input: BytesMut,
    /// `input` is the thread's buffer, to be given back before waiting.
    lent: bool,
    /// A large message is coming: `input` stays this session's own.
    large: bool,
    last_read: usize,
    pub(super) eof: bool,
    /// The stream has taken that much of the output, but may have buffered it.
    unflushed: usize,
    /// Nothing more can be read or written.
    pub(super) dead: bool,
    pub(super) timer: Timer,
    pub(super) received: u64,
    pub(super) sent: u64,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    pub(super) fn new(stream: Stream<IO>) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            lent: false,
            large: false,
            last_read: 0,
            eof: false,
            unflushed: 0,
            dead: false,
            timer: Timer::default(),
            received: 0,
            sent: 0,
        }
    }

    /// Reads what is there behind what is left of the input. 0 is the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        self.make_room();
        let read = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input);
        match &read {
            Poll::Pending => self.park(),
            Poll::Ready(Ok(0)) => self.eof = true,
            Poll::Ready(Ok(octets)) => {
                self.last_read = *octets;
                self.received += *octets as u64;
            }
            Poll::Ready(Err(_)) => {}
        }
        read
    }

    /// Writes what the connection has to say. Ready when some of it is on its way; what the stream has only buffered is not,
    /// so the last of it counts as written when the stream is flushed.
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

    /// A piece of a message as it is handed on: a small one must not hold a whole buffer.
    pub(super) fn piece(&self, octets: Bytes) -> Bytes {
        if self.large || octets.len() > SMALL {
            octets
        } else {
            Bytes::copy_from_slice(&octets)
        }
    }

    /// Where a message comes in large reads, they go into a buffer of the session's own from now on, until
    /// [`end_large`](Self::end_large).
    pub(super) fn begin_large(&mut self) {
        if !self.large && self.last_read > SMALL {
            self.park();
            self.large = true;
        }
    }

    pub(super) fn end_large(&mut self) {
        if std::mem::take(&mut self.large) {
            self.input = BytesMut::from(&self.input[..]);
        }
    }

    /// Gives the thread its buffer back. To be called before the session waits for anything.
    pub(super) fn park(&mut self) {
        if std::mem::take(&mut self.lent) {
            let left = BytesMut::from(&self.input[..]);
            let mut scratch = std::mem::replace(&mut self.input, left);
            scratch.clear();
            SCRATCH.set(scratch);
        } else if self.input.is_empty() && !self.large {
            self.input = BytesMut::new();
        }
    }

    fn make_room(&mut self) {
        if !self.lent && !self.large {
            let left = std::mem::replace(&mut self.input, SCRATCH.take());
            self.lent = true;
            self.input.reserve(READ);
            self.input.extend_from_slice(&left);
        }
        if self.input.capacity() - self.input.len() < READ / 4 {
            self.input.reserve(READ);
        }
    }
}

impl<IO> Drop for Wire<IO> {
    fn drop(&mut self) {
        if self.lent {
            let mut scratch = std::mem::take(&mut self.input);
            scratch.clear();
            SCRATCH.set(scratch);
        }
    }
}
