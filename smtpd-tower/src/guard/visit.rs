#[cfg(any(test, feature = "tls"))]
use std::task::{Context, Poll};
use std::{net::IpAddr, sync::Arc};

use smtpd_core::connection::Connection;

use super::{
    Guard, GuardReason,
    handshakes::Handshake,
    settings::{Counted, Settings},
    table::{Known, Table},
};

/// A session of a client that has an IP address, until it is dropped.
pub(crate) struct Visit {
    guard: Guard,
    ip: IpAddr,
    known: Known,
    /// It is one of its client's sessions: the client was counted when it began.
    is_counted: bool,
    seen: Seen,
    /// It has led to a message or a login.
    is_of_use: bool,
    handshake: Option<Arc<Handshake>>,
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
    pub(super) fn new(guard: Guard, ip: IpAddr, known: Known, is_counted: bool) -> Self {
        Self {
            guard,
            ip,
            known,
            is_counted,
            seen: Seen::default(),
            is_of_use: false,
            handshake: None,
        }
    }

    #[cfg(test)]
    pub(super) const fn is_counted(&self) -> bool {
        self.is_counted
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
        let is_over = self
            .limits(|table, settings| table.count(self.known, Counted::FailedLogin, 0, settings));
        let is_over = is_over.unwrap_or(false);
        is_over.then(|| self.guard.refused(self.known, GuardReason::FailedLogins))
    }

    /// Begins a TLS handshake, unless it has begun already.
    pub(crate) fn begin_handshake(&mut self) -> Result<(), GuardReason> {
        if self.handshake.is_some() {
            return Ok(());
        }
        let mut given_up = Vec::new();
        let begun = self.limits(|table, settings| {
            table
                .handshakes
                .begin(self.known, settings, table.now(), &mut given_up)
        });
        for other in given_up {
            self.guard.refused(other.known, GuardReason::AllHandshakes);
            other.give_up();
        }
        let begun = begun.transpose();
        self.handshake = begun.map_err(|reason| self.guard.refused(self.known, reason))?;
        Ok(())
    }

    /// Ready when the handshake has to end, because another client needs its permit.
    #[cfg(any(test, feature = "tls"))]
    pub(crate) fn poll_handshake_given_up(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.handshake {
            Some(handshake) => handshake.poll_given_up(cx),
            None => Poll::Pending,
        }
    }

    pub(crate) fn end_handshake(&mut self) {
        if let Some(handshake) = self.handshake.take() {
            self.guard.shared.table.handshakes.end(&handshake);
        }
    }

    /// Counts `n` events, if there are any. Returns whether the client is over its limit thereby.
    fn count(&self, counted: Counted, n: u32) -> bool {
        let count =
            |table: &Table, settings: &Settings| table.count(self.known, counted, n, settings);
        n > 0 && self.limits(count).unwrap_or(false)
    }

    fn forgive(&self) {
        self.limits(|table, settings| table.forgive(self.known, Counted::IdleSession, settings));
    }

    fn limits<R>(&self, f: impl FnOnce(&Table, &Settings) -> R) -> Option<R> {
        self.guard.limits(self.ip, f)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.end_handshake();
        if !self.is_of_use {
            self.count(Counted::IdleSession, 1);
        }
        if self.is_counted {
            self.guard.shared.table.leave(self.known);
        }
    }
}
