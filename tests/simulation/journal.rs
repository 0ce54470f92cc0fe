//! What services, tasks and hooks have done: the other half of what the invariants compare.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smtpd_tower::{Body, Session};
use tokio::time::Instant;

use crate::{facts::Facts, services::conn_of, trace::Trace};

/// Which service was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Connect,
    Helo,
    Auth,
    Mail,
    Rcpt,
    Data,
    Command,
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Working,
    /// The service has replied, or has returned a reply as its error.
    Replied(u16),
    /// It has replied, and panics when its future is dropped.
    Fragile(u16),
    Failed,
    Panicked,
    /// Its future was dropped before it replied.
    Dropped,
}

/// One call of a service.
#[derive(Clone, Debug)]
pub struct Call {
    pub conn: u64,
    pub kind: Kind,
    /// What the service could see of the session.
    pub facts: Facts,
    /// What the call is about, as sent by the client.
    pub subject: String,
    /// The route of a message, if there are several.
    pub route: usize,
    /// The recipients of a message.
    pub recipients: Vec<String>,
    pub outcome: Outcome,
    pub ended: u64,
    pub ended_at: Option<Instant>,
    /// The service accepts the message without reading it.
    pub discards: bool,
    /// The body outlives the reply, and is not read.
    pub keeps: bool,
    pub reader: Option<Reader>,
}

/// The reader of a message, and its position.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader {
    pub position: usize,
    /// It has found nothing and waits for more.
    pub waits: bool,
    /// It reads all at once, and the position is not known before the end.
    pub collects: bool,
}

/// A summary of a message: its length and a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    pub len: usize,
    hash: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self {
            len: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        let mut digest = Self::default();
        digest.add(bytes);
        digest
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// A message that a service has stored.
#[derive(Clone, Debug)]
pub struct Commit {
    pub call: usize,
    pub digest: Digest,
    pub event: u64,
}

/// The journal of a world. Clones share it.
#[derive(Clone)]
pub struct Journal {
    pages: Arc<Mutex<Pages>>,
    trace: Trace,
}

#[derive(Default)]
pub struct Pages {
    pub calls: Vec<Call>,
    /// The numbers of the calls of each connection.
    pub by_conn: BTreeMap<u64, Vec<usize>>,
    pub commits: Vec<Commit>,
    /// How often `on_close` was called for each connection.
    pub closes: BTreeMap<u64, usize>,
    /// How often a hook or a subscriber has panicked in a session.
    pub panics: BTreeMap<u64, usize>,
    /// Services that have returned that they are not ready, and were neither polled again nor dropped since.
    pub unready: usize,
    /// Bodies that services have kept beyond their reply.
    pub kept: Vec<Body>,
}

impl Journal {
    pub fn new(trace: Trace) -> Self {
        Self {
            pages: Arc::default(),
            trace,
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a call has begun. Returns its number.
    pub fn begin(&self, session: &Session, kind: Kind, subject: String) -> usize {
        let conn = conn_of(session);
        self.trace
            .event("call", conn, || format!("{kind:?} {subject}"));
        let mut pages = self.lock();
        let number = pages.calls.len();
        pages.calls.push(Call {
            conn,
            kind,
            facts: Facts::of(session),
            subject,
            route: 0,
            recipients: Vec::new(),
            outcome: Outcome::Working,
            ended: 0,
            ended_at: None,
            discards: false,
            keeps: false,
            reader: None,
        });
        pages.by_conn.entry(conn).or_default().push(number);
        number
    }

    pub fn end(&self, call: usize, outcome: Outcome) {
        let (conn, kind) = self.with(call, |call| (call.conn, call.kind));
        let ended = self
            .trace
            .event("answer", conn, || format!("{kind:?} {outcome:?}"));
        self.with(call, |call| {
            (call.outcome, call.ended) = (outcome, ended);
            call.ended_at = Some(Instant::now());
        });
    }

    /// Records that a service has stored a message.
    pub fn commit(&self, call: usize, digest: Digest) {
        let conn = self.with(call, |call| call.conn);
        let event = self
            .trace
            .event("COMMIT", conn, || format!("{} bytes", digest.len));
        let commit = Commit {
            call,
            digest,
            event,
        };
        self.lock().commits.push(commit);
    }

    pub fn closed(&self, conn: u64) {
        self.trace.event("on_close", conn, String::new);
        *self.lock().closes.entry(conn).or_default() += 1;
    }

    pub fn panicked(&self, conn: u64, what: &str) {
        self.trace.event("panic", conn, || what.to_owned());
        *self.lock().panics.entry(conn).or_default() += 1;
    }

    pub fn with<T>(&self, call: usize, change: impl FnOnce(&mut Call) -> T) -> T {
        change(&mut self.lock().calls[call])
    }
}

impl Pages {
    /// The calls of a connection, in their order.
    pub fn calls_of(&self, conn: u64) -> impl DoubleEndedIterator<Item = &Call> {
        let numbers = self.by_conn.get(&conn).map_or(&[][..], Vec::as_slice);
        numbers.iter().map(|number| &self.calls[*number])
    }

    /// Whether a data service of that connection is at work.
    pub fn is_delivering(&self, conn: u64) -> bool {
        let mut calls = self.calls_of(conn);
        calls.any(|call| call.kind == Kind::Data && call.outcome == Outcome::Working)
    }

    /// Since when no data service of that connection is at work. `None` while one is.
    pub fn idle_since(&self, conn: u64, began: Instant) -> Option<Instant> {
        let data = self.calls_of(conn).filter(|call| call.kind == Kind::Data);
        data.map(|call| call.ended_at)
            .try_fold(began, |last, ended| Some(last.max(ended?)))
    }

    /// Whether a service works on a command of that connection, and not the server.
    pub fn is_busy(&self, conn: u64) -> bool {
        let mut calls = self.calls_of(conn);
        calls.any(|call| {
            let waits = call.reader.is_some_and(|reader| reader.waits);
            call.keeps || (call.outcome == Outcome::Working && !waits)
        })
    }
}
