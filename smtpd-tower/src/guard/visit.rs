#[cfg(any(test, feature = "tls"))]
use std::task::{Context, Poll};
use std::{net::IpAddr, sync::Arc};

use smtpd_core::connection::Connection;

use super::{
    Guard, GuardReason,
    handshakes::Handshake,
    login::LoginPermit,
    settings::{Counted, Settings},
    table::{Known, Table},
};
use crate::memory::{ClientMemory, MemoryBudget};

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
    /// The server had no permit left for its handshake, so it could not lead to anything.
    is_excused: bool,
    handshake: Option<Arc<Handshake>>,
    /// The login in progress, if it is counted.
    login: Option<LoginPermit>,
    /// Why the session has to end.
    over: Option<GuardReason>,
    /// What its messages hold, once there was one that is counted.
    memory: Option<ClientMemory>,
}

/// What was counted of a session already.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    messages: u32,
    failed_logins: u32,
    rejected_recipients: u32,
    errors: u32,
    refusals: u32,
}

impl Seen {
    const fn of(connection: &Connection) -> Self {
        Self {
            messages: connection.messages(),
            failed_logins: connection.auth_failures(),
            rejected_recipients: connection.rejected_recipients(),
            errors: connection.errors(),
            refusals: connection.refusals(),
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
            is_excused: false,
            handshake: None,
            login: None,
            over: None,
            memory: None,
        }
    }

    #[cfg(test)]
    pub(super) const fn is_counted(&self) -> bool {
        self.is_counted
    }

    /// Begins a message. Returns the budget that it counts against: for its client too, if the limits apply to that.
    pub(crate) fn next_message<'a>(&'a mut self, budget: &'a MemoryBudget) -> &'a MemoryBudget {
        if !self.is_limited() {
            self.memory = None;
            return budget;
        }
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

    /// Returns whether the session has to end, or something has happened since the last call of [`learn`](Self::learn): a refusal
    /// or a login.
    pub(crate) const fn is_behind(&self, connection: &Connection) -> bool {
        self.seen.refusals != connection.refusals()
            || self.over.is_some()
            || (self.login.is_some() && connection.identity().is_some())
    }

    /// Counts what the client has done since the last call.
    pub(crate) fn learn(&mut self, connection: &Connection) {
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
        if self.count(Counted::RejectedRecipient, rejected) {
            self.over = Some(GuardReason::RejectedRecipients);
        }
        if self.count(Counted::Error, now.errors.saturating_sub(before.errors)) {
            self.over = Some(GuardReason::Errors);
        }
        // A failure was counted before, so there is no moment in which the login counts as neither.
        if now.refusals != before.refusals || connection.identity().is_some() {
            self.login = None;
        }
    }

    /// Returns why the session ends, if it has to. Only what the client receives counts as refused.
    pub(crate) fn end_session(&mut self) -> Option<GuardReason> {
        let reason = self.over.take()?;
        // The limits may have changed in the meantime.
        let ends = self.is_limited();
        ends.then(|| self.guard.refused(self.known, reason))
    }

    /// Begins a login, unless the client may not try another password now. Returns why.
    pub(crate) fn begin_login(&mut self) -> Result<(), GuardReason> {
        self.login = LoginPermit::begin(&self.guard, self.ip, self.known)?;
        Ok(())
    }

    /// Returns what is ready once the client may try another password: the permit for [`login_begins`](Self::login_begins).
    pub(crate) fn wait_for_login(
        &self,
    ) -> impl Future<Output = Option<LoginPermit>> + Send + use<> {
        LoginPermit::wait(self.guard.clone(), self.ip, self.known)
    }

    /// Begins a login that has waited.
    pub(crate) fn login_begins(&mut self, permit: Option<LoginPermit>) {
        self.login = permit;
    }

    /// Begins a login that has waited long enough: the limits may have changed, or an event was given back. Returns why it is
    /// refused, if it is.
    pub(crate) fn begin_late_login(&mut self) -> Result<(), GuardReason> {
        let begun = self.begin_login();
        begun.map_err(|reason| self.guard.refused(self.known, reason))
    }

    /// Begins a TLS handshake, unless it has begun already.
    pub(crate) fn begin_handshake(&mut self) -> Result<(), GuardReason> {
        if self.handshake.is_some() {
            return Ok(());
        }
        let begun = self.limits(|table, settings| {
            let handshakes = &table.handshakes;
            handshakes.begin(self.known, settings, table.now())
        });
        let (handshake, given_up) = match begun {
            None => return Ok(()),
            Some(Ok(begun)) => begun,
            Some(Err(reason)) => {
                self.is_excused |= reason == GuardReason::AllHandshakes;
                return Err(self.guard.refused(self.known, reason));
            }
        };
        self.handshake = Some(handshake);
        if let Some(other) = given_up {
            self.guard.refused(other.known, GuardReason::AllHandshakes);
            other.give_up();
        }
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
            self.is_excused |= handshake.is_given_up();
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

    fn is_limited(&self) -> bool {
        self.limits(|_, _| ()).is_some()
    }

    fn limits<R>(&self, f: impl FnOnce(&Table, &Settings) -> R) -> Option<R> {
        self.guard.limits(self.ip, f)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.end_handshake();
        self.login = None;
        if !self.is_of_use && !self.is_excused {
            self.count(Counted::IdleSession, 1);
        }
        if self.is_counted {
            self.guard.shared.table.leave(self.known);
        }
    }
}
