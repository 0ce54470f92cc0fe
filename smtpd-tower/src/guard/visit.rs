use smtpd_core::connection::Connection;

use super::{Guard, GuardReason, login::LoginPermit, settings::Counted, table::Known};

/// A session that is counted, until it is dropped.
pub(crate) struct Visit {
    guard: Guard,
    known: Known,
    seen: Seen,
    /// It has led to a message or a login.
    is_of_use: bool,
    shakes_hands: bool,
    /// The login in progress.
    login: Option<LoginPermit>,
    /// Why the session has to end.
    over: Option<GuardReason>,
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
    pub(super) fn new(guard: Guard, known: Known) -> Self {
        Self {
            guard,
            known,
            seen: Seen::default(),
            is_of_use: false,
            shakes_hands: false,
            login: None,
            over: None,
        }
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
        Some(self.guard.refused(self.known, reason))
    }

    /// Begins a login. Returns whether the client may try another password now.
    pub(crate) fn begin_login(&mut self) -> bool {
        match LoginPermit::begin(&self.guard, self.known) {
            Ok(permit) => self.login_begins(permit),
            Err(_) => return false,
        }
        true
    }

    /// Begins a login once the client may try another password.
    pub(crate) fn wait_for_login(&self) -> impl Future<Output = LoginPermit> + Send + use<> {
        LoginPermit::wait(self.guard.clone(), self.known)
    }

    pub(crate) fn login_begins(&mut self, permit: LoginPermit) {
        self.login = Some(permit);
    }

    /// Refuses a login that has waited long enough. Returns why.
    pub(crate) fn refuse_login(&self) -> GuardReason {
        let is_over = self.guard.settings.with(|settings| {
            let table = &self.guard.shared.table;
            table.count(self.known, Counted::FailedLogin, 0, settings)
        });
        self.guard.refused(
            self.known,
            match is_over {
                true => GuardReason::FailedLogins,
                false => GuardReason::Logins,
            },
        )
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
        self.login = None;
        if !self.is_of_use {
            self.count(Counted::IdleSession, 1);
        }
        self.guard.shared.table.leave(self.known);
    }
}
