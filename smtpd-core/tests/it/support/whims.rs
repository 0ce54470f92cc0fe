//! A driver's choices, taken from random bytes: it defers, queues or drops questions, puts messages on hold, writes in pieces,
//! polls without need, and lets time pass.

use std::time::{Duration, Instant};

use smtpd_core::{Ask, Connection, connection::Deferred};

/// The choices of a driver. After they are used up, and by default, it is prompt.
#[derive(Debug, Default)]
pub(crate) struct Whims {
    bytes: Vec<u8>,
    at: usize,
    /// Whether it also does what changes the outcome: drops questions, comes too late, and ends sessions.
    wild: bool,
}

/// A deferred question.
pub(crate) trait Open {
    fn begin(&self, connection: &mut Connection);

    /// Answers it. Returns whether it was still open.
    fn answer(self: Box<Self>, connection: &mut Connection) -> bool;
}

/// What the driver does with a question.
pub(crate) enum Treated {
    Answered,
    Open(Box<dyn Open>),
    /// Nothing holds it any more, and it was not answered.
    Leaked,
}

/// An outside event of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    Drain,
    ShutDown,
    Eof,
    Lost,
}

impl Whims {
    /// Returns choices that make no difference: the outcome is that of a prompt driver.
    pub(crate) fn harmless(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            at: 0,
            wild: false,
        }
    }

    pub(crate) fn wild(bytes: &[u8]) -> Self {
        Self {
            wild: true,
            ..Self::harmless(bytes)
        }
    }

    /// Returns how many choices are left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Returns a number below `choices`. 0 is the prompt choice.
    pub(crate) fn pick(&mut self, choices: u8) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at = self.bytes.len().min(self.at + 1);
        byte % choices
    }

    /// Returns how many of these bytes are written at once; never 0.
    pub(crate) fn written(&mut self, of: usize) -> usize {
        match self.pick(4) {
            1 => 1,
            2 => of.div_ceil(2),
            _ => of,
        }
    }

    /// Returns the time after a wait until then.
    pub(crate) fn later(&mut self, now: Instant, until: Instant) -> Instant {
        if !self.wild {
            return now + Duration::from_micros(self.pick(8).into());
        }
        let nearly = until - Duration::from_nanos(1);
        match self.pick(12) {
            1 => now + Duration::from_secs(1),
            2 => now + Duration::from_secs(100),
            3 => until,
            4 => nearly.max(now),
            5 => until + Duration::from_secs(3600),
            6 => now - Duration::from_millis(1),
            _ => now,
        }
    }

    pub(crate) fn happening(&mut self) -> Option<Happening> {
        let picked = self.wild.then(|| self.pick(64))?;
        Some(match picked {
            1 => Happening::Drain,
            2 => Happening::ShutDown,
            3 => Happening::Eof,
            4 => Happening::Lost,
            _ => return None,
        })
    }

    pub(crate) fn treat<K: 'static>(
        &mut self,
        ask: Ask<'_, K>,
        answer: impl FnOnce(Ask<'_, K>) + 'static,
    ) -> Treated {
        match self.pick(8) {
            1 | 2 => Treated::open(ask.defer(), answer),
            3 => Treated::open(ask.queue(), answer),
            4 if self.wild => {
                drop(ask);
                Treated::Answered
            }
            5 if self.wild => {
                std::mem::forget(ask);
                Treated::Leaked
            }
            _ => {
                answer(ask);
                Treated::Answered
            }
        }
    }
}

impl Treated {
    pub(crate) fn open<K: 'static>(
        deferred: Deferred<K>,
        answer: impl FnOnce(Ask<'_, K>) + 'static,
    ) -> Self {
        Self::Open(Box::new(PutAside { deferred, answer }))
    }
}

struct PutAside<K, F> {
    deferred: Deferred<K>,
    answer: F,
}

impl<K, F: FnOnce(Ask<'_, K>)> Open for PutAside<K, F> {
    fn begin(&self, connection: &mut Connection) {
        connection.begin(&self.deferred);
    }

    fn answer(self: Box<Self>, connection: &mut Connection) -> bool {
        let ask = connection.resume(self.deferred);
        ask.map(self.answer).is_some()
    }
}
