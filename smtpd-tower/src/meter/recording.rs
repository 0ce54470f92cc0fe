//! Metrics that are recorded. Their handles are registered once, for each listener or layer, with all values of labels that are
//! known then: a metric that appears only with its first event cannot be told from one that does not exist.
//!
//! Nothing in here panics if a recorder does. Much of it is called when something is dropped, also while a panic unwinds.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use smtpd_core::reply::Reply;
#[cfg(feature = "tls")]
use tokio::time::Instant;

use super::{
    CANCELLED, FAILED, Labels,
    names::{self, StatusLabel},
};
use crate::{
    fault::{caught, quietly},
    phase_kind::PhaseKind,
};

/// What the sessions of a listener record, if it is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meters(Option<Arc<Handles>>);

#[derive(Debug)]
struct Handles {
    active: Gauge,
    durations: ByLabel<Histogram>,
    received: Counter,
    sent: Counter,
    message_size: Histogram,
    messages: ByLabel<Counter>,
    recipients: ByLabel<Counter>,
    logins: ByLabel<[Counter; 2]>,
    faults: ByLabel<Counter>,
    connections: ByLabel<Counter>,
}

/// The words for what becomes of a request.
const OUTCOMES: [&str; 5] = ["accepted", "deferred", "rejected", FAILED, CANCELLED];

/// The word for an AUTH whose secret the session has yet to compare.
const UNDECIDED: &str = "undecided";

/// The outcomes of a login.
const LOGINS: [&str; 2] = ["accepted", "failed"];

/// A handle for each known value of a label.
#[derive(Debug)]
struct ByLabel<T>(Vec<(&'static str, T)>);

impl<T> ByLabel<T> {
    fn new(
        values: impl IntoIterator<Item = &'static str>,
        mut register: impl FnMut(&'static str) -> T,
    ) -> Self {
        let values = values.into_iter();
        Self(values.map(|value| (value, register(value))).collect())
    }

    fn get(&self, value: &str) -> Option<&T> {
        let mut all = self.0.iter();
        all.find(|(known, _)| *known == value)
            .map(|(_, handle)| handle)
    }
}

impl Handles {
    fn new(labels: &Labels) -> Self {
        names::describe();
        names::register();
        Self {
            active: gauge!(names::SESSIONS_ACTIVE, "profile" => labels.profile),
            durations: ByLabel::new(labels.ends.iter().copied(), session_duration),
            received: counter!(names::BYTES, "direction" => "received"),
            sent: counter!(names::BYTES, "direction" => "sent"),
            message_size: histogram!(names::MESSAGE_SIZE),
            messages: ByLabel::new(
                OUTCOMES,
                |outcome| counter!(names::MESSAGES, "outcome" => outcome),
            ),
            recipients: ByLabel::new(
                OUTCOMES,
                |outcome| counter!(names::RECIPIENTS, "outcome" => outcome),
            ),
            logins: ByLabel::new(labels.mechanisms.iter().copied(), |mechanism| {
                LOGINS.map(
                    |outcome| counter!(names::AUTH, "mechanism" => mechanism, "outcome" => outcome),
                )
            }),
            faults: ByLabel::new(labels.faults.iter().copied(), fault),
            connections: ByLabel::new(labels.limits.iter().copied(), connection_refused),
        }
    }
}

fn session_duration(end: &'static str) -> Histogram {
    histogram!(names::SESSION_DURATION, "end" => end)
}

fn fault(kind: &'static str) -> Counter {
    counter!(names::FAULTS, "kind" => kind)
}

fn connection_refused(limit: &'static str) -> Counter {
    counter!(names::CONNECTIONS_REFUSED, "limit" => limit)
}

impl Meters {
    /// Registers the metrics of a listener at the recorder that is current. If that panics, nothing is recorded.
    pub(crate) fn new(labels: &Labels) -> Self {
        Self(caught(|| Arc::new(Handles::new(labels))).ok())
    }

    pub(crate) const fn are_on(&self) -> bool {
        self.0.is_some()
    }

    fn record(&self, record: impl FnOnce(&Handles)) {
        if let Some(handles) = &self.0 {
            quietly(|| record(handles));
        }
    }

    pub(crate) fn session_begins(&self) {
        self.record(|handles| handles.active.increment(1.0));
    }

    pub(crate) fn session_ends(&self, end: &'static str, duration: Duration, bytes: [u64; 2]) {
        self.record(|handles| {
            handles.active.decrement(1.0);
            handles.received.increment(bytes[0]);
            handles.sent.increment(bytes[1]);
            match handles.durations.get(end) {
                Some(histogram) => histogram.record(duration),
                None => session_duration(end).record(duration),
            }
        });
    }

    /// A message has this outcome, of which so many bytes were sent if its service wanted it.
    pub(crate) fn message(&self, outcome: &str, size: Option<u64>) {
        self.record(|handles| {
            if let Some(counter) = handles.messages.get(outcome) {
                counter.increment(1);
            }
            if let Some(size) = size {
                // Exact up to 2^53.
                handles.message_size.record(size as f64);
            }
        });
    }

    pub(crate) fn recipient(&self, outcome: &str) {
        self.record(|handles| {
            if let Some(counter) = handles.recipients.get(outcome) {
                counter.increment(1);
            }
        });
    }

    /// A client has authenticated, or failed. It writes the name of the mechanism in any case, which must not become a label.
    pub(crate) fn login(&self, mechanism: &str, is_accepted: bool) {
        self.record(|handles| {
            let mut all = handles.logins.0.iter();
            let known = all.find(|(known, _)| known.eq_ignore_ascii_case(mechanism));
            if let Some((_, counters)) = known {
                counters[usize::from(!is_accepted)].increment(1);
            }
        });
    }

    pub(crate) fn refused(&self, origin: &'static str, phase: Option<PhaseKind>, reply: &Reply) {
        self.record(|_| {
            let phase = phase.map_or("none", PhaseKind::as_str);
            names::refusals(origin, phase, StatusLabel::of(reply)).increment(1);
        });
    }

    pub(crate) fn fault(&self, kind: &'static str) {
        self.record(|handles| match handles.faults.get(kind) {
            Some(counter) => counter.increment(1),
            None => fault(kind).increment(1),
        });
    }

    pub(crate) fn connection_refused(&self, limit: &'static str) {
        self.record(|handles| match handles.connections.get(limit) {
            Some(counter) => counter.increment(1),
            None => connection_refused(limit).increment(1),
        });
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
            quietly(|| names::handshakes(version, outcome).record(start.elapsed()));
        }
    }
}

#[cfg(feature = "tls")]
impl Drop for HandshakeMeter {
    fn drop(&mut self) {
        self.record("none", FAILED);
    }
}

/// What a layer records about requests.
#[derive(Debug)]
pub(crate) struct RequestMeters([ByLabel<Histogram>; PhaseKind::ALL.len()]);

impl RequestMeters {
    /// Registers the metrics of a layer at the recorder that is current.
    pub(crate) fn new() -> Self {
        names::describe();
        Self(PhaseKind::ALL.map(|phase| {
            let undecided = (phase == PhaseKind::Auth).then_some(UNDECIDED);
            ByLabel::new(OUTCOMES.into_iter().chain(undecided), |outcome| {
                let labels = [("phase", phase.as_str()), ("outcome", outcome)];
                histogram!(names::REQUEST_DURATION, &labels)
            })
        }))
    }

    pub(crate) fn record(&self, phase: PhaseKind, outcome: &str, duration: Duration) {
        let known = PhaseKind::ALL.iter().position(|known| *known == phase);
        let histograms = known.and_then(|phase| self.0.get(phase));
        if let Some(histogram) = histograms.and_then(|all| all.get(outcome)) {
            quietly(|| histogram.record(duration));
        }
    }
}

/// Counts something that waits, until it is dropped. Nothing is looked up unless it has to wait.
#[derive(Debug)]
pub(crate) struct Waits(&'static str);

impl Waits {
    fn new(name: &'static str) -> Self {
        quietly(|| gauge!(name).increment(1.0));
        Self(name)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        quietly(|| gauge!(self.0).decrement(1.0));
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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use metrics::{
        CounterFn, GaugeFn, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
        with_local_recorder,
    };

    use super::*;

    /// Panics whenever something is recorded and, if that is set, registered.
    struct Panicking {
        at_registration: bool,
    }

    impl Panicking {
        fn register(&self) -> Arc<Self> {
            assert!(!self.at_registration, "on purpose");
            Arc::new(Self {
                at_registration: false,
            })
        }
    }

    impl CounterFn for Panicking {
        fn increment(&self, _: u64) {
            panic!("on purpose");
        }
        fn absolute(&self, _: u64) {
            panic!("on purpose");
        }
    }

    impl GaugeFn for Panicking {
        fn increment(&self, _: f64) {
            panic!("on purpose");
        }
        fn decrement(&self, _: f64) {
            panic!("on purpose");
        }
        fn set(&self, _: f64) {
            panic!("on purpose");
        }
    }

    impl HistogramFn for Panicking {
        fn record(&self, _: f64) {
            panic!("on purpose");
        }
    }

    impl Recorder for Panicking {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.register())
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.register())
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.register())
        }
    }

    fn labels() -> Labels {
        Labels {
            profile: "none",
            mechanisms: vec!["PLAIN"],
            ends: vec!["quit"],
            faults: &["io"],
            limits: vec!["max_sessions"],
        }
    }

    fn record_all(meters: &Meters) {
        for known in ["quit", "io", "max_sessions", "other"] {
            meters.session_begins();
            meters.session_ends(known, Duration::ZERO, [1, 1]);
            meters.fault(known);
            meters.connection_refused(known);
        }
        meters.message("accepted", Some(1));
        meters.recipient("accepted");
        meters.login("plain", true);
        meters.refused("protocol", None, &Reply::OK);
        #[cfg(feature = "tls")]
        {
            meters.handshake().done("TLSv1.3");
            drop(meters.handshake());
        }
    }

    #[test]
    fn a_recorder_that_panics_ends_a_session() {
        for at_registration in [false, true] {
            with_local_recorder(&Panicking { at_registration }, || {
                let meters = Meters::new(&labels());
                assert_eq!(meters.are_on(), !at_registration);
                record_all(&meters);
                drop(waits_for_disk());
                drop(waits_for_processor());
            });
        }
        let recorder = Panicking {
            at_registration: false,
        };
        with_local_recorder(&recorder, || {
            let requests = RequestMeters::new();
            requests.record(PhaseKind::Rcpt, "accepted", Duration::ZERO);
        });
    }

    /// A panic in a destructor during another panic aborts the process, and this test with it.
    #[test]
    fn a_recorder_that_panics_while_a_panic_unwinds_aborts_the_process() {
        let recorder = Panicking {
            at_registration: false,
        };
        with_local_recorder(&recorder, || {
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let _disk = waits_for_disk();
                let _processor = waits_for_processor();
                #[cfg(feature = "tls")]
                let _handshake = Meters::new(&labels()).handshake();
                panic!("on purpose");
            }));
            assert!(unwound.is_err());
        });
    }
}
