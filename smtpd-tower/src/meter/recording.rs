//! Metrics that are recorded. Their handles are registered once, for each listener or layer, where their labels are known then.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use smtpd_core::reply::Reply;
#[cfg(feature = "tls")]
use tokio::time::Instant;

use super::names;
use crate::phase_kind::PhaseKind;

/// What the sessions of a listener record, if it is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meters(Option<Arc<Handles>>);

#[derive(Debug)]
struct Handles {
    active: Gauge,
    received: Counter,
    sent: Counter,
    message_size: Histogram,
    messages: ByOutcome<Counter>,
    recipients: ByOutcome<Counter>,
}

/// The words for what services decide.
const OUTCOMES: [&str; 6] = [
    "accepted",
    "deferred",
    "rejected",
    "undecided",
    "failed",
    "cancelled",
];

/// A handle for each outcome.
#[derive(Debug)]
struct ByOutcome<T>([T; OUTCOMES.len()]);

impl<T> ByOutcome<T> {
    fn new(register: impl FnMut(&'static str) -> T) -> Self {
        Self(OUTCOMES.map(register))
    }

    fn get(&self, outcome: &str) -> Option<&T> {
        let known = OUTCOMES.iter().position(|known| *known == outcome);
        self.0.get(known?)
    }
}

impl Meters {
    /// Registers the metrics of a listener at the recorder that is current.
    pub(crate) fn new(profile: &'static str) -> Self {
        names::describe();
        Self(Some(Arc::new(Handles {
            active: gauge!(names::SESSIONS_ACTIVE, "profile" => profile),
            received: counter!(names::BYTES, "direction" => "received"),
            sent: counter!(names::BYTES, "direction" => "sent"),
            message_size: histogram!(names::MESSAGE_SIZE),
            messages: ByOutcome::new(|outcome| counter!(names::MESSAGES, "outcome" => outcome)),
            recipients: ByOutcome::new(|outcome| counter!(names::RECIPIENTS, "outcome" => outcome)),
        })))
    }

    pub(crate) const fn are_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn session_begins(&self) {
        if let Some(handles) = &self.0 {
            handles.active.increment(1.0);
        }
    }

    pub(crate) fn session_ends(&self, end: &'static str, duration: Duration, bytes: [u64; 2]) {
        if let Some(handles) = &self.0 {
            handles.active.decrement(1.0);
            handles.received.increment(bytes[0]);
            handles.sent.increment(bytes[1]);
            histogram!(names::SESSION_DURATION, "end" => end).record(duration);
        }
    }

    /// A service has answered a message, of which it was sent so many bytes.
    pub(crate) fn message(&self, outcome: &str, size: Option<u64>) {
        let Some(handles) = &self.0 else { return };
        if let Some(counter) = handles.messages.get(outcome) {
            counter.increment(1);
        }
        if let Some(size) = size {
            // Exact up to 2^53.
            handles.message_size.record(size as f64);
        }
    }

    pub(crate) fn recipient(&self, outcome: &str) {
        let counter = self.0.as_ref().and_then(|h| h.recipients.get(outcome));
        if let Some(counter) = counter {
            counter.increment(1);
        }
    }

    /// A client has authenticated or failed, by a mechanism of this server.
    pub(crate) fn login(&self, mechanism: &str, outcome: &'static str) {
        if self.are_on() {
            let mechanism = mechanism.to_owned();
            counter!(names::AUTH, "mechanism" => mechanism, "outcome" => outcome).increment(1);
        }
    }

    pub(crate) fn refused(&self, origin: &'static str, phase: Option<PhaseKind>, reply: &Reply) {
        if self.are_on() {
            let phase = phase.map_or("none", PhaseKind::as_str);
            let status = format!("{}.{}", reply.code().as_u16() / 100, reply.status());
            let counter = counter!(
                names::REFUSALS,
                "origin" => origin,
                "phase" => phase,
                "status" => status
            );
            counter.increment(1);
        }
    }

    pub(crate) fn fault(&self, kind: &'static str) {
        if self.are_on() {
            counter!(names::FAULTS, "kind" => kind).increment(1);
        }
    }

    pub(crate) fn connection_refused(&self, limit: &'static str) {
        if self.are_on() {
            counter!(names::CONNECTIONS_REFUSED, "limit" => limit).increment(1);
        }
    }

    /// Begins to measure a TLS handshake.
    #[cfg(feature = "tls")]
    pub(crate) fn handshake(&self) -> HandshakeMeter {
        HandshakeMeter(self.are_on().then(Instant::now))
    }
}

/// Measures a TLS handshake, which has failed if this is dropped before its end.
#[cfg(feature = "tls")]
pub(crate) struct HandshakeMeter(Option<Instant>);

#[cfg(feature = "tls")]
impl HandshakeMeter {
    /// The handshake has ended, with that version.
    pub(crate) fn done(mut self, version: &'static str) {
        self.record(version, "done");
    }

    fn record(&mut self, version: &'static str, outcome: &'static str) {
        if let Some(start) = self.0.take() {
            let labels = [("version", version), ("outcome", outcome)];
            histogram!(names::HANDSHAKE_DURATION, &labels).record(start.elapsed());
        }
    }
}

#[cfg(feature = "tls")]
impl Drop for HandshakeMeter {
    fn drop(&mut self) {
        self.record("none", "failed");
    }
}

/// What a layer records about requests.
#[derive(Debug)]
pub(crate) struct RequestMeters([ByOutcome<Histogram>; PhaseKind::ALL.len()]);

impl RequestMeters {
    /// Registers the metrics of a layer at the recorder that is current.
    pub(crate) fn new() -> Self {
        names::describe();
        Self(PhaseKind::ALL.map(|phase| {
            ByOutcome::new(|outcome| {
                let labels = [("phase", phase.as_str()), ("outcome", outcome)];
                histogram!(names::REQUEST_DURATION, &labels)
            })
        }))
    }

    pub(crate) fn record(&self, phase: PhaseKind, outcome: &str, duration: Duration) {
        let known = PhaseKind::ALL.iter().position(|known| *known == phase);
        let histograms = known.and_then(|phase| self.0.get(phase));
        if let Some(histogram) = histograms.and_then(|all| all.get(outcome)) {
            histogram.record(duration);
        }
    }
}

/// Counts something that waits, until it is dropped. Nothing is looked up unless it has to wait.
#[derive(Debug)]
pub(crate) struct Waits(&'static str);

impl Waits {
    fn new(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Self(name)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}

/// A comparison of passwords waits for a processor.
pub(crate) fn waits_for_processor() -> Waits {
    Waits::new(names::PASSWORDS_WAITING)
}

/// A job waits for a disk.
pub(crate) fn waits_for_disk() -> Waits {
    Waits::new(names::DISK_WAITING)
}
