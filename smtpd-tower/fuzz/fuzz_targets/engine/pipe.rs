//! A connection in memory, whose bytes arrive when the client of the target says so.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both directions of a connection. Clones are the same connection.
#[derive(Clone, Default)]
pub struct Pipe(Arc<Mutex<Wires>>);

#[derive(Default)]
pub struct Wires {
    up: VecDeque<u8>,
    up_ended: bool,
    reset: bool,
    /// How many bytes the server reads at once.
    piece: usize,
    /// How many bytes the server has written and the client has not read.
    unread: usize,
    capacity: usize,
    /// The client reads everything at once.
    pub reads_promptly: bool,
    /// The client has stopped to read promptly at some time.
    pub was_slow: bool,
    /// Everything that the client has sent.
    pub sent: Vec<u8>,
    /// Everything that the server has written.
    pub written: Vec<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    pub fn new(piece: usize, capacity: usize) -> Self {
        let wires = Wires {
            piece,
            capacity,
            reads_promptly: true,
            ..Wires::default()
        };
        Self(Arc::new(Mutex::new(wires)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Wires> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client sends these bytes, unless it has ended.
    pub fn send(&self, bytes: &[u8]) {
        self.change(|wires| {
            if !wires.up_ended && !wires.reset {
                wires.up.extend(bytes);
                wires.sent.extend_from_slice(bytes);
            }
        });
    }

    /// The client reads up to so many bytes of the replies.
    pub fn read(&self, most: usize) {
        self.change(|wires| wires.unread = wires.unread.saturating_sub(most));
    }

    pub fn read_promptly(&self, promptly: bool) {
        self.change(|wires| {
            wires.reads_promptly = promptly;
            wires.was_slow |= !promptly;
            if promptly {
                wires.unread = 0;
            }
        });
    }

    /// The client sends nothing any more.
    pub fn half_close(&self) {
        self.change(|wires| wires.up_ended = true);
    }

    pub fn reset(&self) {
        self.change(|wires| wires.reset = true);
    }

    /// Changes something and wakes the server, but not under the lock.
    fn change(&self, change: impl FnOnce(&mut Wires)) {
        let mut wires = self.lock();
        change(&mut wires);
        let wakers = [wires.reader.take(), wires.writer.take()];
        drop(wires);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Wires {
    pub const fn was_reset(&self) -> bool {
        self.reset
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wires = self.lock();
        if wires.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let len = wires.piece.min(wires.up.len()).min(buffer.remaining());
        if len == 0 && !wires.up_ended && buffer.remaining() > 0 {
            wires.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes: Vec<u8> = wires.up.drain(..len).collect();
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wires = self.lock();
        if wires.reset {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let len = (wires.capacity - wires.unread).min(bytes.len());
        if len == 0 && !bytes.is_empty() {
            wires.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        wires.written.extend_from_slice(&bytes[..len]);
        if !wires.reads_promptly {
            wires.unread += len;
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
