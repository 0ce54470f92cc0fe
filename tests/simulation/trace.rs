//! What has happened in a run: a hash always, and text where somebody wants to read it.

use std::{
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

/// The record of a run. Clones share it.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Record>>);

struct Record {
    start: Instant,
    /// How many events there were. It orders what is written, called and committed.
    events: u64,
    hash: u64,
    /// `None` where nobody reads the text.
    text: Option<String>,
    violation: Option<String>,
}

impl Trace {
    pub fn new(with_text: bool) -> Self {
        Self(Arc::new(Mutex::new(Record {
            start: Instant::now(),
            events: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            text: with_text.then(String::new),
            violation: None,
        })))
    }

    /// Records an event of connection or task `who`. Returns its place in the order of all events.
    pub fn event(&self, what: &str, who: u64, detail: impl FnOnce() -> String) -> u64 {
        let mut record = self.lock();
        record.events += 1;
        let at = record.start.elapsed().as_millis() as u64;
        for byte in what.bytes() {
            record.mix(u64::from(byte));
        }
        record.mix(who);
        record.mix(at);
        let events = record.events;
        if let Some(text) = &mut record.text {
            let seconds = at as f64 / 1000.0;
            let _ = writeln!(
                text,
                "{events:6} {seconds:10.3}  #{who:<3} {what:<10} {}",
                detail()
            );
        }
        events
    }

    /// Like [`event`](Self::event), with a number that is part of what has to be the same in every replay.
    pub fn count(&self, what: &str, who: u64, number: usize) -> u64 {
        self.lock().mix(number as u64);
        self.event(what, who, || number.to_string())
    }

    /// Records what must not be; the first one counts.
    pub fn violate(&self, violation: impl Into<String>) {
        let violation = violation.into();
        self.event("VIOLATION", 0, || violation.clone());
        self.lock().violation.get_or_insert(violation);
    }

    pub fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    pub fn is_clean(&self) -> bool {
        self.lock().violation.is_none()
    }

    pub fn events(&self) -> u64 {
        self.lock().events
    }

    pub fn hash(&self) -> u64 {
        self.lock().hash
    }

    pub fn take_text(&self) -> String {
        self.lock().text.take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3);
        self.hash ^= self.hash >> 29;
    }
}
