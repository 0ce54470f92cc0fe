//! Metrics of a queue, of the facade `metrics`. Nothing in here panics if a recorder does.

use std::{sync::Arc, time::Duration};

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use crate::fault::{caught, quietly};

const MESSAGES: &str = "smtp.queue.messages";
const COMMIT_DURATION: &str = "smtp.queue.commit.duration";
const ATTEMPTS: &str = "smtp.queue.attempts";
const ATTEMPT_DURATION: &str = "smtp.queue.attempt.duration";
const RECIPIENTS: &str = "smtp.queue.recipients";
const AGE: &str = "smtp.queue.age";

/// What becomes of an attempt.
const ATTEMPT_OUTCOMES: [&str; 4] = ["accepted", "deferred", "rejected", "unreachable"];
/// What becomes of a recipient.
const RECIPIENT_OUTCOMES: [&str; 4] = ["delivered", "deferred", "bounced", "expired"];

/// What a store records, if it is wanted.
#[derive(Debug)]
pub(crate) struct StoreMeters {
    messages: Gauge,
    commits: Histogram,
}

impl StoreMeters {
    /// Registers the metrics at the recorder that is current. If that panics, nothing is recorded.
    pub(crate) fn new() -> Option<Self> {
        let register = || {
            describe_gauge!(MESSAGES, Unit::Count, "Messages in the queue");
            describe_histogram!(
                COMMIT_DURATION,
                Unit::Seconds,
                "How long the store takes to write a group of operations"
            );
            Self {
                messages: gauge!(MESSAGES),
                commits: histogram!(COMMIT_DURATION),
            }
        };
        caught(register).ok()
    }

    /// A group of operations was written.
    pub(crate) fn committed(&self, took: Duration) {
        quietly(|| self.commits.record(took));
    }

    /// There are so many messages.
    pub(crate) fn messages(&self, number: usize) {
        // Exact up to 2^53.
        quietly(|| self.messages.set(number as f64));
    }
}

/// What a worker records, if it is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerMeters(Option<Arc<Handles>>);

#[derive(Debug)]
struct Handles {
    attempts: [Counter; 4],
    durations: Histogram,
    recipients: [Counter; 4],
    ages: Histogram,
}

impl WorkerMeters {
    /// Registers the metrics at the recorder that is current. If that panics, nothing is recorded.
    pub(crate) fn new() -> Self {
        Self(caught(|| Arc::new(Handles::new())).ok())
    }

    /// An attempt has this outcome.
    pub(crate) fn attempt(&self, outcome: &str, took: Duration) {
        self.record(|handles| {
            handles.durations.record(took);
            let known = ATTEMPT_OUTCOMES.iter().zip(&handles.attempts);
            let found = known.into_iter().find(|(known, _)| **known == outcome);
            found.into_iter().for_each(|(_, count)| count.increment(1));
        });
    }

    /// A recipient has this outcome; if it is the last, the message has been in the queue for so long.
    pub(crate) fn recipient(&self, outcome: &str, age: Option<Duration>) {
        self.record(|handles| {
            age.into_iter().for_each(|age| handles.ages.record(age));
            let known = RECIPIENT_OUTCOMES.iter().zip(&handles.recipients);
            let found = known.into_iter().find(|(known, _)| **known == outcome);
            found.into_iter().for_each(|(_, count)| count.increment(1));
        });
    }

    fn record(&self, record: impl FnOnce(&Handles)) {
        if let Some(handles) = &self.0 {
            quietly(|| record(handles));
        }
    }
}

impl Handles {
    fn new() -> Self {
        describe_counter!(ATTEMPTS, Unit::Count, "Attempts to deliver a message");
        describe_histogram!(ATTEMPT_DURATION, Unit::Seconds, "How long attempts take");
        describe_counter!(RECIPIENTS, Unit::Count, "Recipients by what became of them");
        describe_histogram!(
            AGE,
            Unit::Seconds,
            "How long messages were in the queue for a recipient"
        );
        Self {
            attempts: ATTEMPT_OUTCOMES.map(|outcome| counter!(ATTEMPTS, "outcome" => outcome)),
            durations: histogram!(ATTEMPT_DURATION),
            recipients: RECIPIENT_OUTCOMES
                .map(|outcome| counter!(RECIPIENTS, "outcome" => outcome)),
            ages: histogram!(AGE),
        }
    }
}
