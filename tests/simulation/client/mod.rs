//! Clients: machines that play a script, one small act at a time.

mod auth;
mod secure;
mod write;

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::{
    acts::{Cut, Op, Reading},
    model::Model,
    network::Link,
    proxy::Header,
    scram::Opening,
    shared::Shared,
    tls::{Outbox, Passage, Secure},
};

/// One client, at its end of a connection. Unlike the client of the test kit it is a machine of small acts, because the dice
/// decide what happens between any two of them.
pub struct Client {
    shared: Shared,
    link: Link,
    ops: VecDeque<Op>,
    /// What it is about to write.
    out: Outbox,
    /// What the server's protocol has received of what was written.
    pub passage: Passage,
    pub tls: Option<Secure>,
    /// It sends within TLS.
    speaks_tls: bool,
    /// It will not do its part of the handshake to the end.
    gives_up: bool,
    /// With which of its bytes it has done its part of the handshake.
    shaken_at: u64,
    /// The PROXY header, and where it ends.
    pub header: Option<(Header, u64)>,
    /// How it has begun SCRAM.
    opening: Option<Opening>,
    /// It has said within TLS that it sends nothing more.
    pub finished: bool,
    reading: Reading,
    drip: Option<Duration>,
    /// When the present op is over, the next byte is due, or the next read.
    until: Option<Instant>,
    next_write: Option<Instant>,
    next_read: Option<Instant>,
    /// At how many bytes it cuts the connection, and how.
    cut: Option<(u64, Cut)>,
    /// It has closed the connection in both directions.
    closed: bool,
}

/// What a client can do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Read,
    Write,
    Step,
}

impl Client {
    pub fn new(shared: &Shared, link: &Link, ops: VecDeque<Op>) -> Self {
        let dice = &shared.dice;
        let cuts = dice.chance(shared.swarm.cuts);
        Self {
            shared: shared.clone(),
            link: link.clone(),
            ops,
            out: Outbox::default(),
            passage: Passage::default(),
            tls: None,
            speaks_tls: false,
            gives_up: false,
            shaken_at: 0,
            header: None,
            opening: None,
            finished: false,
            reading: Reading::All,
            drip: None,
            until: None,
            next_write: None,
            next_read: None,
            cut: cuts.then(|| {
                (
                    dice.below(shared.swarm.most_cut()) as u64,
                    dice.pick(&Cut::ALL),
                )
            }),
            closed: false,
        }
    }

    /// Whether it will do nothing any more but read.
    pub fn is_passive(&self) -> bool {
        self.closed || (self.ops.is_empty() && !self.has_output())
    }

    /// What it is about to do.
    pub fn show(&self) -> String {
        let left = self.out.next().len();
        let op = format!("{:?}", self.ops.front());
        format!(
            "{left} bytes to write, closed {}, reads {:?}, next {}",
            self.closed,
            self.reading,
            &op[..op.len().min(100)]
        )
    }

    /// Whether it is there to read what the server sends.
    pub fn listens(&self) -> bool {
        !self.closed && self.reading != Reading::Never
    }

    /// Whether it reads everything as soon as it arrives.
    pub fn reads_promptly(&self) -> bool {
        !self.closed && self.reading == Reading::All
    }

    /// When it can do something that it cannot do now.
    pub fn wakes_at(&self) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let now = Instant::now();
        let write = self.next_write.filter(|_| self.has_output());
        let times = [self.until, write, self.next_read];
        times.into_iter().flatten().filter(|at| *at > now).min()
    }

    pub fn acts(&self, model: &Model) -> Vec<Act> {
        if self.closed {
            return Vec::new();
        }
        let now = Instant::now();
        let mut acts = Vec::new();
        if self.can_read(now) {
            acts.push(Act::Read);
        }
        if self.has_output() {
            if self.can_write(now) {
                acts.push(Act::Write);
            }
        } else if self.can_step(now, model) {
            acts.push(Act::Step);
        }
        acts
    }

    fn can_read(&self, now: Instant) -> bool {
        let wires = self.link.lock();
        let something = wires.down.arrived() > 0 || wires.down.is_at_end();
        something && self.reading != Reading::Never && self.next_read.is_none_or(|at| at <= now)
    }

    fn can_write(&self, now: Instant) -> bool {
        let wires = self.link.lock();
        (wires.gone || wires.up.room() > 0) && self.next_write.is_none_or(|at| at <= now)
    }

    fn can_step(&self, now: Instant, model: &Model) -> bool {
        match self.ops.front() {
            None => false,
            Some(Op::Await(_)) => {
                let over = self.until.is_some_and(|until| until <= now);
                self.until.is_none() || over || self.has_all_replies(model)
            }
            Some(Op::Pause(_)) => self.until.is_none_or(|until| until <= now),
            Some(Op::Secured(_)) => self.can_go_on_with_tls(now),
            _ => true,
        }
    }

    fn has_all_replies(&self, model: &Model) -> bool {
        let wires = self.link.lock();
        !model.is_owed(u64::MAX) && wires.down.is_empty() && wires.written.is_empty()
    }

    fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    pub fn act(&mut self, act: Act, model: &mut Model) {
        match act {
            Act::Read => self.read(),
            Act::Write => self.write(model),
            Act::Step => self.step(model),
        }
    }

    fn read(&mut self) {
        let most = match self.reading {
            Reading::Slowly(bytes, pause) => {
                self.next_read = Some(Instant::now() + Duration::from_millis(pause));
                bytes
            }
            _ => self.shared.dice.pick(&[1, 100, 70_000, 70_000]),
        };
        let mut wires = self.link.lock();
        if wires.down.is_at_end() {
            drop(wires);
            self.shared.trace.event("eof", self.link.id, String::new);
            return self.close();
        }
        let (bytes, waker) = wires.down.take(most);
        drop(wires);
        self.shared
            .trace
            .count("client<", self.link.id, bytes.len());
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn step(&mut self, model: &mut Model) {
        let now = Instant::now();
        let Some(op) = self.ops.pop_front() else {
            return;
        };
        match op {
            Op::Say(bytes) => self.say(bytes),
            Op::Repeat(bytes, count) => {
                let now_many = count.min(300);
                self.say(bytes.repeat(now_many));
                if count > now_many {
                    self.ops.push_front(Op::Repeat(bytes, count - now_many));
                }
            }
            Op::Endless(bytes) => self.link.never_pause(bytes),
            Op::Body(bytes) if model.takes_data() => self.say(bytes),
            Op::Body(_) => {}
            Op::Await(limit) | Op::Pause(limit) if self.until.is_none() => {
                self.until = Some(now + Duration::from_millis(limit));
                self.ops.push_front(op);
            }
            Op::Await(_) | Op::Pause(_) => self.until = None,
            Op::Drip(pause) => self.drip = (pause > 0).then(|| Duration::from_millis(pause)),
            Op::Header(header) => self.say_header(header),
            Op::Scram(scram) => self.begin_scram(scram),
            Op::Proof(right) => self.prove(model, right),
            Op::Proved if model.is_proved() => self.say(b"\r\n".to_vec()),
            Op::Proved => {}
            Op::Read(reading) => self.reading = reading,
            Op::Cut(cut) => self.perform_cut(cut),
            Op::Secure(blind, flaw) => self.begin_tls(model, blind, flaw),
            Op::Secured(limit) => self.go_on_with_tls(model, limit),
            Op::Finish => self.finish_tls(),
        }
    }

    fn perform_cut(&mut self, cut: Cut) {
        self.shared
            .trace
            .event("cut", self.link.id, || format!("{cut:?}"));
        self.ops.clear();
        self.gives_tls_up();
        self.finished &= self.out.is_empty();
        self.out.clear();
        match cut {
            Cut::HalfClose => self.link.lock().up.end(),
            Cut::Close => self.close(),
            Cut::Reset => {
                self.link.reset();
                self.closed = true;
            }
            Cut::Silence => {}
            Cut::Deafness => self.reading = Reading::Never,
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.ops.clear();
        self.out.clear();
        self.link.close();
    }
}
