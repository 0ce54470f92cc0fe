//! The names of the metrics. The page of the guide lists them, and a test compares it with what is registered.

use std::fmt;

use metrics::{
    Counter, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
};
#[cfg(feature = "tls")]
use metrics::{Histogram, histogram};
use smtpd_core::reply::{Reply, Status};

pub(super) const SESSIONS_ACTIVE: &str = "smtp.server.sessions.active";
pub(super) const SESSION_DURATION: &str = "smtp.server.session.duration";
pub(super) const BYTES: &str = "smtp.server.bytes";
pub(super) const REQUEST_DURATION: &str = "smtp.server.request.duration";
pub(super) const MESSAGES: &str = "smtp.server.messages";
pub(super) const MESSAGE_SIZE: &str = "smtp.server.message.size";
pub(super) const RECIPIENTS: &str = "smtp.server.recipients";
pub(super) const AUTH: &str = "smtp.server.auth";
pub(super) const HANDSHAKE_DURATION: &str = "smtp.server.tls.handshake.duration";
pub(super) const REFUSALS: &str = "smtp.server.refusals";
pub(super) const FAULTS: &str = "smtp.server.faults";
pub(super) const CONNECTIONS_REFUSED: &str = "smtp.server.connections.refused";
pub(super) const PASSWORDS_WAITING: &str = "smtp.server.passwords.waiting";
pub(super) const DISK_WAITING: &str = "smtp.server.disk.waiting";

/// Refusals of this crate itself that most servers will see: origin, phase and status.
const COMMON_REFUSALS: [[&str; 3]; 9] = [
    ["protocol", "command", "5.5.1"],
    ["protocol", "mail", "5.5.1"],
    ["protocol", "auth", "5.7.8"],
    ["guard", "auth", "4.7.0"],
    ["MemoryBudget", "data", "4.3.1"],
    ["fault", "data", "4.3.0"],
    ["timeout", "none", "4.4.2"],
    ["timeout", "data", "4.3.0"],
    ["shutdown", "none", "4.3.2"],
];

/// The highest detail of each subject that is registered for enhanced status codes (RFC 5248, the registry of IANA).
const REGISTERED_DETAILS: [u16; 8] = [0, 10, 4, 6, 7, 6, 10, 30];

/// Registers what does not belong to a listener, or has labels of which only some values are known before anything happens.
pub(super) fn register() {
    let _ = gauge!(PASSWORDS_WAITING);
    let _ = gauge!(DISK_WAITING);
    for [origin, phase, status] in COMMON_REFUSALS {
        let _ = refusals(origin, phase, status);
    }
    #[cfg(feature = "tls")]
    for (version, outcome) in [("TLSv1.2", "done"), ("TLSv1.3", "done"), ("none", "failed")] {
        let _ = handshakes(version, outcome);
    }
}

pub(super) fn refusals(
    origin: &'static str,
    phase: &'static str,
    status: impl fmt::Display,
) -> Counter {
    counter!(REFUSALS, "origin" => origin, "phase" => phase, "status" => status.to_string())
}

/// The enhanced status code of a reply as a label. A reply may be that of another server, which could make up codes without end, so
/// those that are not registered share one label.
pub(super) struct StatusLabel {
    class: u16,
    status: Option<Status>,
}

impl StatusLabel {
    pub(super) fn of(reply: &Reply) -> Self {
        let is_registered = |status: &Status| {
            let highest = REGISTERED_DETAILS.get(usize::from(status.subject()));
            highest.is_some_and(|highest| status.detail() <= *highest)
        };
        Self {
            class: reply.code().as_u16() / 100,
            status: Some(reply.status()).filter(is_registered),
        }
    }
}

impl fmt::Display for StatusLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{}.{status}", self.class),
            None => f.write_str("other"),
        }
    }
}

#[cfg(feature = "tls")]
pub(super) fn handshakes(version: &'static str, outcome: &'static str) -> Histogram {
    histogram!(HANDSHAKE_DURATION, "version" => version, "outcome" => outcome)
}

/// Describes every metric to the recorder.
pub(super) fn describe() {
    describe_gauge!(SESSIONS_ACTIVE, Unit::Count, "Open sessions");
    describe_histogram!(SESSION_DURATION, Unit::Seconds, "How long sessions last");
    describe_counter!(BYTES, Unit::Bytes, "Bytes of ended sessions");
    describe_histogram!(
        REQUEST_DURATION,
        Unit::Seconds,
        "How long services take to answer"
    );
    describe_counter!(MESSAGES, Unit::Count, "Messages by what became of them");
    describe_histogram!(MESSAGE_SIZE, Unit::Bytes, "Sizes of messages");
    describe_counter!(RECIPIENTS, Unit::Count, "Recipients by what became of them");
    describe_counter!(AUTH, Unit::Count, "Attempts to authenticate");
    describe_histogram!(
        HANDSHAKE_DURATION,
        Unit::Seconds,
        "How long TLS handshakes take"
    );
    describe_counter!(REFUSALS, Unit::Count, "Replies that refuse");
    describe_counter!(
        FAULTS,
        Unit::Count,
        "Faults on this side and broken connections"
    );
    describe_counter!(
        CONNECTIONS_REFUSED,
        Unit::Count,
        "Connections that were refused"
    );
    describe_gauge!(
        PASSWORDS_WAITING,
        Unit::Count,
        "Comparisons of passwords that wait for a processor"
    );
    describe_gauge!(DISK_WAITING, Unit::Count, "Jobs that wait for a disk");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use smtpd_core::reply::Code;

    use super::*;

    #[test]
    fn a_server_that_makes_up_status_codes_adds_series_without_end() {
        let label = |status| {
            let reply = Reply::new(Code::MAILBOX_UNAVAILABLE, status, "Relayed");
            StatusLabel::of(&reply).to_string()
        };
        let made_up = (0..1000).flat_map(|subject| (0..1000).step_by(7).map(move |d| (subject, d)));
        let made_up = made_up.filter_map(|(subject, detail)| Status::new(subject, detail));
        let labels: BTreeSet<_> = made_up.map(label).collect();
        assert!(labels.len() < 100, "{labels:?}");
        assert_eq!(label(Status::new(7, 31).unwrap()), "other");
        assert_eq!(label(Status::new(7, 30).unwrap()), "5.7.30");
        assert_eq!(label(Status::BAD_MAILBOX), "5.1.1");
    }
}
