//! Logins in progress, which may fail.

use std::pin::pin;

use super::{Guard, GuardReason, table::Known};

/// A login in progress. It counts as if it had failed, until it is dropped.
pub(crate) struct LoginPermit {
    guard: Guard,
    known: Known,
}

impl LoginPermit {
    /// Begins a login, unless the client would be over its limit if this one and all that are in progress failed.
    pub(super) fn begin(guard: &Guard, known: Known) -> Result<Self, GuardReason> {
        let table = &guard.shared.table;
        let begun = guard
            .settings
            .with(|settings| table.begin_login(known, settings));
        begun.map(|()| Self {
            guard: guard.clone(),
            known,
        })
    }

    /// Begins a login as soon as others of the client have ended without a failure. They proceed in the order in which they
    /// began to wait.
    pub(super) async fn wait(guard: Guard, known: Known) -> Self {
        let ended = guard.shared.table.logins_ended(known);
        loop {
            // A login that ends from here on is noticed.
            let mut ends = pin!(ended.notified());
            ends.as_mut().enable();
            if let Ok(permit) = Self::begin(&guard, known) {
                return permit;
            }
            ends.await;
        }
    }
}

impl Drop for LoginPermit {
    fn drop(&mut self) {
        self.guard.shared.table.end_login(self.known);
    }
}
