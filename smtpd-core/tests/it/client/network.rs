//! A client, a server, and two pipes of limited room between them.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use smtpd_core::{
    bytes::{Bytes, BytesMut},
    client::{Client, CloseReason, Outcome, Step, TlsFacts, Transaction},
    sasl::{ChannelBinding, ChannelBindings},
};

use super::{
    Case,
    server::{Delivered, Server},
};

/// Whether something has happened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    Yes,
    No,
}

impl Moved {
    pub(super) fn of(moved: bool) -> Self {
        match moved {
            true => Self::Yes,
            false => Self::No,
        }
    }
}

/// One direction of a connection.
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    cut: usize,
    room: usize,
    /// How many bytes pass before it breaks.
    left: usize,
    is_closed: bool,
}

impl Pipe {
    fn new(case: &Case, left: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            cut: case.cut,
            room: case.room,
            left,
            is_closed: false,
        }
    }

    /// Writes as many bytes as fit. What is written after the pipe broke is lost, which the writer does not notice.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let room = self.room.saturating_sub(self.bytes.len());
        let len = bytes.len().min(self.cut).min(room);
        let passed = len.min(self.left);
        self.bytes.extend(&bytes[..passed]);
        self.left -= passed;
        len
    }

    /// Reads some bytes; `None` at the end.
    pub(super) fn pull(&mut self, input: &mut BytesMut) -> Option<usize> {
        if self.is_over() {
            return None;
        }
        let len = self.bytes.len().min(self.cut);
        input.extend(self.bytes.drain(..len));
        Some(len)
    }

    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    pub(super) fn is_over(&self) -> bool {
        self.bytes.is_empty() && (self.is_closed || self.left == 0)
    }
}

pub(super) fn bindings() -> ChannelBindings {
    ChannelBindings::none().with(ChannelBinding::TlsExporter, [7; 32])
}

/// The report of one message.
pub(super) struct Sent {
    pub(super) outcomes: Vec<Outcome>,
}

pub(super) struct Network {
    case: Case,
    client: Client,
    server: Server,
    input: BytesMut,
    /// The rest of the body under way.
    body: Option<Bytes>,
    upward: Pipe,
    downward: Pipe,
    now: Instant,
    /// How many messages were begun.
    pub(super) begun: usize,
    pub(super) reports: Vec<Sent>,
    reason: Option<CloseReason>,
    /// Whether the client waits for the handshake.
    is_shaking: bool,
    is_encrypting: bool,
}

impl Network {
    pub(super) fn new(case: &Case) -> Self {
        let (up, down) = case.breaks.unwrap_or((usize::MAX, usize::MAX));
        Self {
            client: Client::new(case.client()),
            server: Server::new(case),
            input: BytesMut::new(),
            body: None,
            upward: Pipe::new(case, up),
            downward: Pipe::new(case, down),
            now: Instant::now(),
            begun: 0,
            reports: Vec::new(),
            reason: None,
            is_shaking: false,
            is_encrypting: false,
            case: case.clone(),
        }
    }

    pub(super) fn delivered(&self) -> &[Delivered] {
        &self.server.delivered
    }

    /// Runs until both sides have ended.
    pub(super) fn run(mut self) -> Self {
        let mut idle = 0;
        for _ in 0..3_000_000 {
            let client = self.step();
            let server = self.server.step(
                self.now,
                &mut self.upward,
                &mut self.downward,
                std::mem::take(&mut self.is_encrypting),
            );
            if self.reason.is_some() && self.server.is_closed {
                return self.ended();
            }
            if client == Moved::No && server == Moved::No {
                idle += 1;
                self.now += Duration::from_millis(1);
                assert!(idle < 100, "a deadlock: {:?}", self.client);
            } else {
                idle = 0;
            }
        }
        panic!("it never ends: {:?}", self.case);
    }

    fn ended(self) -> Self {
        let is_clean = matches!(self.reason, Some(CloseReason::Quit));
        let may_end = self.case.breaks.is_some() || self.case.messages.iter().any(|one| one.aborts);
        // A message with a bare newline ends a session in which it cannot be sent.
        let may_end = may_end || !self.case.is_chunked();
        assert!(is_clean || may_end, "{:?}", self.reason);
        self
    }

    fn step(&mut self) -> Moved {
        let now = self.now;
        // A client reads whatever it waits for, except during a handshake.
        let is_lost = match self.is_shaking {
            true => self.downward.is_over(),
            false => self.downward.pull(&mut self.input).is_none(),
        };
        if is_lost {
            self.client.handle_lost();
        }
        match self.client.poll(now, &mut self.input) {
            Step::Write(mut writing) => {
                assert!(writing.until() > now && !writing.bytes().is_empty());
                let len = self.upward.push(writing.bytes());
                writing.wrote(len, now);
                Moved::of(len > 0)
            }
            Step::Read(reading) => {
                assert!(reading.until() > now, "a wait without a deadline");
                Moved::No
            }
            Step::Handshake(wait) => {
                assert!(wait.until() > now);
                self.is_shaking = !self.server.wants_tls;
                if self.is_shaking {
                    return Moved::No;
                }
                let mut facts = TlsFacts::default();
                facts.bindings = bindings();
                facts.verified = true;
                wait.done(&mut self.input, facts);
                self.is_encrypting = true;
                Moved::Yes
            }
            Step::Ready(ready) => {
                assert!(ready.until() > now);
                let Some(message) = self.case.messages.get(self.begun) else {
                    ready.quit();
                    return Moved::Yes;
                };
                let envelope = Arc::new(message.envelope(self.begun));
                let size = message.body.len() as u64;
                ready.send(Transaction::new(envelope).size(size));
                self.body = Some(message.body.clone());
                self.begun += 1;
                Moved::Yes
            }
            Step::Body(mut sending) => {
                assert!(sending.until() > now);
                let body = self.body.as_mut().unwrap();
                let message = &self.case.messages[self.begun - 1];
                if message.aborts && body.len() <= message.body.len() / 2 {
                    sending.abort();
                } else if body.is_empty() {
                    sending.end();
                } else {
                    let len = body.len().min(self.case.cut * 3);
                    sending.send(body.split_to(len));
                }
                Moved::Yes
            }
            Step::Done(report) => {
                self.reports.push(Sent {
                    outcomes: report.outcomes().to_vec(),
                });
                Moved::Yes
            }
            Step::Replied(reply) => panic!("{reply}"),
            Step::Closed(reason) => {
                let is_new = self.reason.replace(reason).is_none();
                self.upward.close();
                Moved::of(is_new)
            }
        }
    }
}
