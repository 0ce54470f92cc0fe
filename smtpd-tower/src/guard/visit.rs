use smtpd_core::connection::Connection;

use super::{Guard, GuardReason, settings::Counted, table::Known};
use crate::memory::{ClientMemory, MemoryBudget};

/// A session that is counted, until it is dropped.
pub(crate) struct Visit {
    guard: Guard,
    known: Known,
    seen: Seen,
    /// It has led to a message or a login.
    is_of_use: bool,
    shakes_hands: bool,
    /// What its messages hold, once there was one.
    memory: Option<ClientMemory>,
}

/// What was counted of a session already.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    messages: u32,
    failed_logins: u32,
    rejected_recipients: u32,
    errors: u32,
}

impl Seen {
    const fn of(connection: &Connection) -> Self {
        Self {
            messages: connection.messages(),
            failed_logins: connection.auth_failures(),
            rejected_recipients: connection.rejected_recipients(),
            errors: connection.errors(),
        }
    }
}

impl Visit {
    pub(super) fn new(guard: Guard, known: Known) -> Self {
        Self {
            guard,
            known,
            seen: Seen::default(),
            is_of_use: false,
            shakes_hands: false,
            memory: None,
        }
    }

    /// Begins a message. Returns the budget that it counts against, for its client too.
    pub(crate) fn next_message(&mut self, budget: &MemoryBudget) -> &MemoryBudget {
        let network = self.known.client.network();
        let memory = self
            .memory
            .get_or_insert_with(|| ClientMemory::new(budget, network));
        memory.next_message()
    }

    /// Skips what was counted for another client of the same connection.
    pub(crate) const fn skip(&mut self, connection: &Connection) {
        self.seen = Seen::of(connection);
    }

    /// Counts what the client has done since the last call. Returns why its session has to end, if it has.
    pub(crate) fn learn(&mut self, connection: &Connection) -> Option<GuardReason> {
        let (before, now) = (self.seen, Seen::of(connection));
        self.seen = now;
        let has_delivered = now.messages != before.messages;
        if !self.is_of_use && (has_delivered || connection.identity().is_some()) {
            self.is_of_use = true;
        }
        if has_delivered {
            self.forgive();
        }
        self.count(
            Counted::FailedLogin,
            now.failed_logins.saturating_sub(before.failed_logins),
        );
        let rejected = now
            .rejected_recipients
            .saturating_sub(before.rejected_recipients);
        let over = [
            (
                self.count(Counted::RejectedRecipient, rejected),
                GuardReason::RejectedRecipients,
            ),
            (
                self.count(Counted::Error, now.errors.saturating_sub(before.errors)),
                GuardReason::Errors,
            ),
        ];
        let (_, reason) = over.into_iter().find(|(is_over, _)| *is_over)?;
        Some(self.guard.refused(self.known, reason))
    }

    /// Returns why AUTH is refused, if it is.
    pub(crate) fn refuses_login(&self) -> Option<GuardReason> {
        let is_over = self.guard.settings.with(|settings| {
            let table = &self.guard.shared.table;
            table.count(self.known, Counted::FailedLogin, 0, settings)
        });
        is_over.then(|| self.guard.refused(self.known, GuardReason::FailedLogins))
    }

    /// Begins a TLS handshake.
    pub(crate) fn begin_handshake(&mut self) -> Result<(), GuardReason> {
        if self.shakes_hands {
            return Ok(());
        }
        let table = &self.guard.shared.table;
        let begun = self
            .guard
            .settings
            .with(|settings| table.begin_handshake(self.known, settings));
        begun.map_err(|reason| self.guard.refused(self.known, reason))?;
        self.shakes_hands = true;
        Ok(())
    }

    pub(crate) fn end_handshake(&mut self) {
        if std::mem::take(&mut self.shakes_hands) {
            self.guard.shared.table.end_handshake(self.known);
        }
    }

    /// Counts `n` events, if there are any. Returns whether the client is over its limit thereby.
    fn count(&self, counted: Counted, n: u32) -> bool {
        let table = &self.guard.shared.table;
        n > 0
            && self
                .guard
                .settings
                .with(|settings| table.count(self.known, counted, n, settings))
    }

    fn forgive(&self) {
        let table = &self.guard.shared.table;
        self.guard
            .settings
            .with(|settings| table.forgive(self.known, Counted::IdleSession, settings));
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.end_handshake();
        if !self.is_of_use {
            self.count(Counted::IdleSession, 1);
        }
        self.guard.shared.table.leave(self.known);
    }
}
