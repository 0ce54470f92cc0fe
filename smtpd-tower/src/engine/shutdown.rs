//! How a session follows the shutdown of its server.

use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::lifetime::{SessionPermit, Stage};

/// The session's permit, and how far the session has followed the server's shutdown.
pub(super) struct Shutdown {
    permit: SessionPermit,
    stage: Stage,
    /// Until when a whole message may still be answered, although the server has to end.
    patience: Option<Instant>,
}

/// What the session has to do about the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Nothing new.
    GoOn,
    /// End between two messages.
    Drain,
    /// End soon: the time for draining is over.
    End,
    /// End now.
    EndNow,
}

impl Shutdown {
    pub(super) const fn new(permit: SessionPermit) -> Self {
        Self {
            permit,
            stage: Stage::Running,
            patience: None,
        }
    }

    /// Returns whether the server has advanced to another stage.
    pub(super) fn has_advanced(&self) -> bool {
        self.permit.stage() != self.stage
    }

    /// Follows the server. Returns what to do now.
    pub(super) fn check(&mut self, now: Instant) -> Order {
        let stage = self.permit.stage_at(now);
        if stage == self.stage {
            if self.patience.is_some_and(|until| until <= now) {
                self.patience = None;
                return Order::EndNow;
            }
            return Order::GoOn;
        }
        self.stage = stage;
        match stage {
            Stage::Running => Order::GoOn,
            Stage::Draining => Order::Drain,
            Stage::Ending => Order::End,
        }
    }

    /// Allows a whole message to be answered until then.
    pub(super) const fn wait_until(&mut self, until: Instant) {
        self.patience = Some(until);
    }

    /// Returns whether the time for draining is over.
    pub(super) fn is_ending(&self) -> bool {
        self.stage == Stage::Ending
    }

    /// Returns the end of a wait, which the shutdown may bring forward.
    pub(super) fn deadline(&self, until: Instant) -> Instant {
        let end = match self.stage {
            Stage::Running => return until,
            Stage::Draining => self.permit.grace_end(),
            Stage::Ending => self.patience,
        };
        end.map_or(until, |end| end.min(until))
    }

    /// Ready when the server has advanced to another stage.
    pub(super) fn poll_advanced(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.permit.poll_past(cx, self.stage)
    }

    #[cfg(debug_assertions)]
    pub(super) fn disarm(&mut self) {
        self.permit.disarm();
    }

    #[cfg(debug_assertions)]
    pub(super) const fn is_armed(&self) -> bool {
        self.permit.is_armed()
    }
}
