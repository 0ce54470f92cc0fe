//! Logins in progress, which may fail.

use std::{net::IpAddr, pin::pin, sync::Arc};

use tokio::sync::Notify;

use super::{Guard, GuardReason, table::Known};

/// A login in progress. It counts as if it had failed, until it is dropped.
#[derive(Debug)]
pub(crate) struct LoginPermit {
    guard: Guard,
    known: Known,
}

impl LoginPermit {
    /// Begins a login, unless the client would be over its limit if this one and all that are in progress failed. Returns `None`
    /// if the login is not counted, because the limits do not apply to the client now.
    pub(super) fn begin(
        guard: &Guard,
        ip: IpAddr,
        known: Known,
    ) -> Result<Option<Self>, GuardReason> {
        let begun = guard.limits(ip, |table, settings| table.begin_login(known, settings));
        Ok(begun.transpose()?.map(|()| Self {
            guard: guard.clone(),
            known,
        }))
    }

    /// Begins a login as soon as others of the client have ended without a failure. Those that wait are woken in the order in which
    /// they began to; one that begins in that moment may come before them.
    pub(super) async fn wait(guard: Guard, ip: IpAddr, known: Known) -> Option<Self> {
        let queued = Queued::new(&guard, known);
        loop {
            // A login that ends from here on is noticed.
            let mut ends = pin!(queued.ended.notified());
            ends.as_mut().enable();
            if let Ok(permit) = Self::begin(&guard, ip, known) {
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

/// A login that waits for others to end.
struct Queued<'a> {
    guard: &'a Guard,
    known: Known,
    ended: Arc<Notify>,
}

impl<'a> Queued<'a> {
    fn new(guard: &'a Guard, known: Known) -> Self {
        Self {
            guard,
            known,
            ended: guard.shared.table.join_queue(known),
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.guard.shared.table.leave_queue(self.known);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::{
        guard::{Visit, settings::Counted},
        limiter::{ClientKey, Rate},
        net::CidrSet,
    };

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    /// A guard of clients that may fail once.
    fn strict() -> Guard {
        Guard::new().failed_logins(Rate::per_hour(1).unwrap())
    }

    /// A guard, and the session of a client.
    fn begun() -> (Guard, Known, Option<Visit>) {
        let guard = strict();
        let known = guard.shared.table.find(ClientKey::new(IP));
        let visit = guard.enter(&(IP, 4711).into()).unwrap();
        (guard, known, visit)
    }

    fn begin(guard: &Guard, known: Known) -> Result<Option<LoginPermit>, GuardReason> {
        LoginPermit::begin(guard, IP, known)
    }

    fn wait(
        guard: &Guard,
        known: Known,
    ) -> task::Spawn<impl Future<Output = Option<LoginPermit>> + use<>> {
        task::spawn(LoginPermit::wait(guard.clone(), IP, known))
    }

    #[tokio::test]
    async fn a_turn_is_lost_with_the_login_that_was_given_it() {
        let (guard, known, visit) = begun();
        let first = begin(&guard, known).unwrap();
        let (mut second, mut third) = (wait(&guard, known), wait(&guard, known));
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
        assert_eq!(guard.shared.table.queues(), 0);
    }

    #[tokio::test]
    async fn a_login_that_ends_before_another_waits_is_not_noticed() {
        let (guard, known, _visit) = begun();
        let first = begin(&guard, known).unwrap();
        let mut second = wait(&guard, known);
        drop(first);
        drop(assert_ready!(second.poll()));
        assert_eq!(guard.counted_logins(), 0);
    }

    #[tokio::test]
    async fn a_failure_gives_its_turn_to_the_next() {
        let (guard, known, _visit) = begun();
        let first = begin(&guard, known).unwrap();
        let mut second = wait(&guard, known);
        assert_pending!(second.poll());
        guard.settings.with(|settings| {
            let table = &guard.shared.table;
            table.count(known, Counted::FailedLogin, 1, settings)
        });
        drop(first);
        assert_pending!(second.poll());
        let again = begin(&guard, known).err();
        assert_eq!(again, Some(GuardReason::FailedLogins));
    }

    #[tokio::test]
    async fn a_login_waits_for_limits_that_do_not_apply_any_more() {
        let exempt = || Guard::new().exempt(CidrSet::parse(["192.0.2.0/24"]).unwrap());
        for lenient in [Guard::off(), exempt(), Guard::new().failed_logins(None)] {
            let (guard, known, _visit) = begun();
            let first = begin(&guard, known).unwrap();
            let mut second = wait(&guard, known);
            assert_pending!(second.poll());
            guard.reload(&lenient);
            assert!(begin(&guard, known).is_ok());
            drop(first);
            assert_eq!(guard.counted_logins(), 0);
            assert!(second.is_woken());
            drop(assert_ready!(second.poll()));
            guard.reload(&strict());
            assert!(begin(&guard, known).is_ok());
        }
    }

    #[tokio::test]
    async fn a_login_waits_in_vain_when_the_sessions_that_are_counted_have_ended() {
        let (guard, known, visit) = begun();
        let first = begin(&guard, known).unwrap();
        // Its session has begun while nothing was counted.
        let mut second = wait(&guard, known);
        assert_pending!(second.poll());
        drop((first, visit));
        assert_eq!(guard.shared.table.live().sessions, 0);
        assert!(second.is_woken());
        let third = begin(&guard, known).unwrap();
        assert_pending!(second.poll());
        drop(third);
        assert!(second.is_woken());
        assert!(assert_ready!(second.poll()).is_some());
        drop(second);
        assert_eq!(guard.shared.table.queues(), 0);
    }
}
