//! Logins in progress, which may fail.

use std::pin::pin;

use super::{Guard, GuardReason, table::Known};

/// A login in progress. It counts as if it had failed, until it is dropped.
#[derive(Debug)]
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::{
        guard::{Visit, settings::Counted},
        limiter::{ClientKey, Rate},
    };

    /// A guard of clients that may fail once, and the session of one.
    fn begun() -> (Guard, Known, Option<Visit>) {
        let guard = Guard::new().failed_logins(Rate::per_hour(1).unwrap());
        let ip = IpAddr::from([192, 0, 2, 1]);
        let known = guard.shared.table.find(ClientKey::new(ip));
        let visit = guard.enter(&(ip, 4711).into()).unwrap();
        (guard, known, visit)
    }

    #[tokio::test]
    async fn a_turn_is_lost_with_the_login_that_was_given_it() {
        let (guard, known, visit) = begun();
        let wait = || task::spawn(LoginPermit::wait(guard.clone(), known));
        let first = LoginPermit::begin(&guard, known).ok().unwrap();
        let (mut second, mut third) = (wait(), wait());
        assert_pending!(second.poll());
        assert_pending!(third.poll());
        drop(first);
        assert!(second.is_woken() && !third.is_woken());
        drop(second);
        assert!(third.is_woken());
        let permit = assert_ready!(third.poll());
        assert_eq!(guard.counted_logins(), 1);
        // It was given the permit, and was not polled again.
        drop((permit, third));
        assert_eq!(guard.counted_logins(), 0);
        drop(visit);
        assert_eq!(guard.usage(known.client).sessions(), 0);
    }

    #[tokio::test]
    async fn a_login_that_ends_before_another_waits_is_not_noticed() {
        let (guard, known, _visit) = begun();
        let first = LoginPermit::begin(&guard, known).ok().unwrap();
        let mut second = task::spawn(LoginPermit::wait(guard.clone(), known));
        drop(first);
        drop(assert_ready!(second.poll()));
        assert_eq!(guard.counted_logins(), 0);
    }

    #[tokio::test]
    async fn a_failure_gives_its_turn_to_the_next() {
        let (guard, known, _visit) = begun();
        let first = LoginPermit::begin(&guard, known).ok().unwrap();
        let mut second = task::spawn(LoginPermit::wait(guard.clone(), known));
        assert_pending!(second.poll());
        guard.settings.with(|settings| {
            let table = &guard.shared.table;
            table.count(known, Counted::FailedLogin, 1, settings)
        });
        drop(first);
        assert_pending!(second.poll());
        let again = LoginPermit::begin(&guard, known).err();
        assert_eq!(again, Some(GuardReason::FailedLogins));
    }
}
