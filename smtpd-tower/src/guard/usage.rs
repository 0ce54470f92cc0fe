use super::{settings::Counted, table::Facts};
use crate::limiter::ClientKey;

/// What one client has used of the limits of a [`Guard`](super::Guard).
///
/// What is counted over time is given back evenly, so these are the events that are still held against the client.
#[derive(Clone, Debug)]
pub struct GuardUsage {
    facts: Facts,
}

impl GuardUsage {
    pub(super) const fn new(facts: Facts) -> Self {
        Self { facts }
    }

    /// Returns the client.
    pub const fn client(&self) -> ClientKey {
        self.facts.client
    }

    /// Returns how many sessions it has now.
    pub const fn sessions(&self) -> u32 {
        self.facts.live.sessions
    }

    /// Returns how many TLS handshakes it has in progress now.
    pub const fn handshakes(&self) -> u32 {
        self.facts.handshakes
    }

    /// Returns how many logins it has in progress now.
    pub const fn logins(&self) -> u32 {
        self.facts.live.logins
    }

    /// Returns how many sessions it has begun.
    pub const fn new_sessions(&self) -> u64 {
        self.count(Counted::NewSession)
    }

    /// Returns how often it has failed to authenticate.
    pub const fn failed_logins(&self) -> u64 {
        self.count(Counted::FailedLogin)
    }

    /// Returns how many of its recipients were rejected.
    pub const fn rejected_recipients(&self) -> u64 {
        self.count(Counted::RejectedRecipient)
    }

    /// Returns how many errors it has made.
    pub const fn errors(&self) -> u64 {
        self.count(Counted::Error)
    }

    /// Returns how many of its sessions have led to no message and no login.
    pub const fn idle_sessions(&self) -> u64 {
        self.count(Counted::IdleSession)
    }

    /// Returns how often something was refused to it, since it is remembered.
    pub const fn refused(&self) -> u64 {
        self.facts.refused
    }

    const fn count(&self, counted: Counted) -> u64 {
        // In range: there is an element for each.
        self.facts.counts[counted as usize]
    }
}
