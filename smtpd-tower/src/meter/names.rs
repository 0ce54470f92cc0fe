//! The names of the metrics. The page of the guide lists them, and a test compares it with what is registered.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

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
    describe_counter!(MESSAGES, Unit::Count, "Messages that were answered");
    describe_histogram!(MESSAGE_SIZE, Unit::Bytes, "Sizes of messages");
    describe_counter!(RECIPIENTS, Unit::Count, "Recipients that were answered");
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
        "Connections that were refused before a session began"
    );
    describe_gauge!(
        PASSWORDS_WAITING,
        Unit::Count,
        "Comparisons of passwords that wait for a processor"
    );
    describe_gauge!(DISK_WAITING, Unit::Count, "Jobs that wait for a disk");
}
