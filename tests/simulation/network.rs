//! Connections without a network: bounded buffers in both directions, whose bytes arrive when the world chooses.

use std::{
    collections::VecDeque,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use smtpd_tower::{net::PeerAddr, server::Listener};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, advance},
};

use crate::{dice::Dice, executor::Alarm, trace::Trace};

/// The time that a client that never pauses needs for a line.
const MOMENT: Duration = Duration::from_millis(20);

/// How long such a client can keep one poll of its session busy, which reads at most this often.
pub const LONGEST_POLL: Duration = MOMENT.saturating_mul(32);

/// A connection, as the client and the world see it. Clones are the same connection.
#[derive(Clone)]
pub struct Link {
    pub id: u64,
    wires: Arc<Mutex<Wires>>,
}

/// Both directions of a connection.
pub struct Wires {
    /// From the client to the server.
    pub up: Pipe,
    /// From the server to the client.
    pub down: Pipe,
    /// The client has reset the connection.
    pub reset: bool,
    /// The client has closed its end, and reads nothing any more.
    pub closed: bool,
    /// The server has dropped its end.
    pub gone: bool,
    /// Nothing arrives, in either direction, until then.
    pub stalled: Option<Instant>,
    /// What the client sends again and again, whenever the server reads; each time takes a moment.
    endless: Option<Vec<u8>>,
    /// What it has sent in this way, not yet checked.
    pub said: Vec<u8>,
    /// What the server has written, not yet checked, with the event of the write.
    pub written: Vec<(u64, Vec<u8>)>,
    /// Since when the server has had something that it could not write at once, and what it had written before.
    pub unwritten: Option<(Instant, u64)>,
    /// When the server has ended what it writes, and what it had read before.
    pub shut: Option<(Instant, u64)>,
}

/// One direction: what was sent, and how much of it has arrived.
pub struct Pipe {
    bytes: VecDeque<u8>,
    arrived: usize,
    capacity: usize,
    /// The total number of bytes read at the far end.
    pub read: u64,
    /// The total number of bytes written.
    pub sent: u64,
    ended: bool,
    end_arrived: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Link {
    pub fn new(id: u64, up: usize, down: usize) -> Self {
        let wires = Wires {
            up: Pipe::new(up),
            down: Pipe::new(down),
            reset: false,
            closed: false,
            gone: false,
            stalled: None,
            endless: None,
            said: Vec::new(),
            written: Vec::new(),
            unwritten: None,
            shut: None,
        };
        Self {
            id,
            wires: Arc::new(Mutex::new(wires)),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn server_end(&self, dice: &Dice, trace: &Trace, alarm: &Alarm) -> ServerEnd {
        ServerEnd {
            link: self.clone(),
            dice: dice.clone(),
            trace: trace.clone(),
            alarm: alarm.clone(),
        }
    }

    /// Lets the client send that without a pause.
    pub fn never_pause(&self, bytes: Vec<u8>) {
        let mut wires = self.lock();
        wires.endless = Some(bytes);
        let waker = wires.up.reader.take();
        drop(wires);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Closes the connection from the client's side, in both directions.
    pub fn close(&self) {
        let mut wires = self.lock();
        wires.closed = true;
        wires.up.end();
        let waker = wires.down.writer.take();
        drop(wires);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Resets the connection from the client's side.
    pub fn reset(&self) {
        let mut wires = self.lock();
        wires.reset = true;
        let wakers = [wires.up.reader.take(), wires.down.writer.take()];
        drop(wires);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Wires {
    /// Lets a client that never pauses send something, which takes a moment.
    fn go_on(&mut self) {
        let Some(line) = self.endless.clone().filter(|_| self.up.is_empty()) else {
            return;
        };
        let count = self.up.put(&line);
        self.said.extend_from_slice(&line[..count]);
        self.up.arrive(count);
        // The time passes at once; what is left of the future would only let other tasks run.
        let mut passing = pin!(advance(MOMENT));
        let _ = passing
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
    }
}

impl Pipe {
    fn new(capacity: usize) -> Self {
        Self {
            bytes: VecDeque::with_capacity(capacity.min(1 << 12)),
            arrived: 0,
            capacity,
            read: 0,
            sent: 0,
            ended: false,
            end_arrived: false,
            reader: None,
            writer: None,
        }
    }

    pub fn room(&self) -> usize {
        self.capacity - self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes can be read now.
    pub fn arrived(&self) -> usize {
        self.arrived
    }

    /// Whether something is under way: bytes, or the end.
    pub fn is_in_flight(&self) -> bool {
        self.bytes.len() > self.arrived || (self.ended && !self.end_arrived)
    }

    /// Whether everything was read, the end too.
    pub fn is_at_end(&self) -> bool {
        self.end_arrived && self.bytes.is_empty()
    }

    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Writes as many bytes as there is room for, and returns how many.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let taken = self.room().min(bytes.len());
        self.bytes.extend(&bytes[..taken]);
        self.sent += taken as u64;
        taken
    }

    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Lets up to `most` bytes arrive, and the end if there is nothing before it. Returns the task to wake.
    pub fn arrive(&mut self, most: usize) -> Option<Waker> {
        self.arrived = self.bytes.len().min(self.arrived + most);
        if self.arrived == self.bytes.len() {
            self.end_arrived = self.ended;
        }
        self.reader.take()
    }

    /// Reads up to `most` bytes that have arrived, and returns the task to wake.
    pub fn take(&mut self, most: usize) -> (Vec<u8>, Option<Waker>) {
        let count = most.min(self.arrived);
        self.arrived -= count;
        self.read += count as u64;
        (self.bytes.drain(..count).collect(), self.writer.take())
    }
}

/// The server's end of a connection.
pub struct ServerEnd {
    link: Link,
    dice: Dice,
    trace: Trace,
    alarm: Alarm,
}

impl ServerEnd {
    /// How much is read or written at once: usually everything, sometimes less.
    fn part(&self, all: usize) -> usize {
        match self.dice.below(8) {
            0 => self.dice.between(1, all),
            1 => 1,
            _ => all,
        }
    }
}

impl AsyncRead for ServerEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wires = self.link.lock();
        if wires.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        wires.go_on();
        let most = wires.up.arrived.min(buffer.remaining());
        if most > 0 {
            let (bytes, _) = wires.up.take(self.part(most));
            drop(wires);
            buffer.put_slice(&bytes);
            self.trace.count("reads", self.link.id, bytes.len());
            self.alarm.ring();
            return Poll::Ready(Ok(()));
        }
        if wires.up.end_arrived {
            return Poll::Ready(Ok(()));
        }
        wires.up.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for ServerEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wires = self.link.lock();
        if wires.reset || wires.closed || wires.down.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = wires.down.room().min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            let sent = wires.down.sent;
            wires
                .unwritten
                .get_or_insert_with(|| (Instant::now(), sent));
            wires.down.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let part = if room == 0 { 0 } else { self.part(room) };
        let count = wires.down.put(&bytes[..part]);
        if count == bytes.len() {
            wires.unwritten = None;
        }
        let event = self.trace.count("writes", self.link.id, count);
        wires.written.push((event, bytes[..count].to_vec()));
        drop(wires);
        self.alarm.ring();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.trace.event("shuts", self.link.id, String::new);
        let mut wires = self.link.lock();
        wires.down.end();
        let read = wires.up.read;
        wires.shut.get_or_insert_with(|| (Instant::now(), read));
        drop(wires);
        self.alarm.ring();
        Poll::Ready(Ok(()))
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.trace.event("closes", self.link.id, String::new);
        let mut wires = self.link.lock();
        wires.gone = true;
        wires.down.end();
        drop(wires);
        self.alarm.ring();
    }
}

/// A listener that accepts the connections of the world.
pub struct Port {
    shared: Arc<Mutex<Queue>>,
}

/// The other end of a [`Port`].
#[derive(Clone)]
pub struct Backlog(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<io::Result<(ServerEnd, PeerAddr)>>,
    waker: Option<Waker>,
    closed: bool,
}

pub fn port() -> (Backlog, Port) {
    let shared = Arc::<Mutex<Queue>>::default();
    (Backlog(shared.clone()), Port { shared })
}

impl Backlog {
    /// Returns whether the port is still open.
    pub fn push(&self, accepted: io::Result<(ServerEnd, PeerAddr)>) -> bool {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = !queue.closed;
        if open {
            queue.waiting.push_back(accepted);
        }
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
        open
    }
}

impl Listener for Port {
    type Io = ServerEnd;

    async fn accept(&mut self) -> io::Result<(ServerEnd, PeerAddr)> {
        std::future::poll_fn(|cx| {
            let mut queue = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            match queue.waiting.pop_front() {
                Some(accepted) => Poll::Ready(accepted),
                None => {
                    queue.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn local_addr(&self) -> PeerAddr {
        PeerAddr::Unknown
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut queue = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        queue.closed = true;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(waiting);
    }
}
