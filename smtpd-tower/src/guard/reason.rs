use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use smtpd_core::reply::{Code, Origin, Reply, Status};

/// Why the guard refuses a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GuardReason {
    /// It has as many sessions as it may have at a time.
    Sessions,
    /// It has begun too many sessions.
    NewSessions,
    /// It has as many TLS handshakes in progress as it may have at a time.
    Handshakes,
    /// All clients together have.
    AllHandshakes,
    /// It has failed to authenticate too often.
    FailedLogins,
    /// It has as many logins in progress as may still fail.
    Logins,
    /// Too many of its recipients were rejected.
    RejectedRecipients,
    /// It has made too many errors.
    Errors,
    /// Too many of its sessions have led to no message.
    IdleSessions,
}

impl GuardReason {
    /// All reasons, for metrics.
    pub const ALL: [Self; 9] = [
        Self::Sessions,
        Self::NewSessions,
        Self::Handshakes,
        Self::AllHandshakes,
        Self::FailedLogins,
        Self::Logins,
        Self::RejectedRecipients,
        Self::Errors,
        Self::IdleSessions,
    ];

    /// Returns a word for logs and labels of metrics, such as `failed_logins`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::NewSessions => "new_sessions",
            Self::Handshakes => "handshakes",
            Self::AllHandshakes => "all_handshakes",
            Self::FailedLogins => "failed_logins",
            Self::Logins => "logins",
            Self::RejectedRecipients => "rejected_recipients",
            Self::Errors => "errors",
            Self::IdleSessions => "idle_sessions",
        }
    }

    /// Returns whether a connection may be refused for it, and not only a command.
    #[cfg(feature = "metrics")]
    pub(crate) const fn refuses_connections(self) -> bool {
        !matches!(self, Self::FailedLogins | Self::Logins)
    }

    /// Returns the reply that ends the session: 421 4.7.0 with the names of the host and the program, which `signed` adds.
    pub(crate) fn closing(self, signed: impl FnOnce(&str) -> String) -> Reply {
        let text = match self {
            Self::Sessions => "too many connections from your address",
            Self::NewSessions => "too many connections from your address, try again later",
            Self::RejectedRecipients => "too many rejected recipients, try again later",
            Self::Errors => "too many errors, try again later",
            Self::IdleSessions => "too many connections without mail, try again later",
            Self::Handshakes | Self::AllHandshakes | Self::FailedLogins | Self::Logins => {
                "try again later"
            }
        };
        Reply::new(Code::SERVICE_UNAVAILABLE, Status::POLICY, signed(text))
            .with_origin(Origin::Guard)
    }

    /// Returns the reply to a command that cannot be served now: 454 4.7.0, to AUTH (RFC 4954 section 6) and to STARTTLS (RFC
    /// 3207 section 4).
    pub(crate) fn deferring(self) -> Reply {
        let text = match self {
            Self::FailedLogins => "Too many failed authentications, try again later",
            Self::Logins => "Too many authentications at a time, try again later",
            _ => "TLS is not available now, try again later",
        };
        Reply::new(Code::TLS_UNAVAILABLE, Status::POLICY, text).with_origin(Origin::Guard)
    }
}

impl fmt::Display for GuardReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often a [`Guard`](super::Guard) has refused something, by reason, since it was created. The numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardStats {
    refused: [u64; GuardReason::ALL.len()],
    lost_events: u64,
}

impl GuardStats {
    /// Returns how often something was refused for that reason.
    pub const fn refused(&self, reason: GuardReason) -> u64 {
        // In range: there is an element for each reason.
        self.refused[reason as usize]
    }

    /// Returns how often something was refused for any reason.
    pub fn total(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// Returns how many events [`on_event`](super::Guard::on_event) was not called for, because it was too slow for them.
    pub const fn lost_events(&self) -> u64 {
        self.lost_events
    }
}

/// The counters behind [`GuardStats`].
#[derive(Debug, Default)]
pub(super) struct Counters([AtomicU64; GuardReason::ALL.len()]);

impl Counters {
    pub(super) fn count(&self, reason: GuardReason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self, lost_events: u64) -> GuardStats {
        GuardStats {
            lost_events,
            refused: std::array::from_fn(|n| self.0[n].load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_list_at_its_own_number() {
        for (number, reason) in GuardReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number, "{reason}");
        }
    }

    #[test]
    fn each_refusal_counts_for_its_reason() {
        let counters = Counters::default();
        counters.count(GuardReason::Errors);
        counters.count(GuardReason::Errors);
        let stats = counters.stats(3);
        assert_eq!(stats.refused(GuardReason::Errors), 2);
        assert_eq!(stats.refused(GuardReason::Sessions), 0);
        assert_eq!((stats.total(), stats.lost_events()), (2, 3));
    }
}
