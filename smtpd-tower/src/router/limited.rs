use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use smtpd_core::reply::DataReply;
use tokio::time::Instant;
use tower::BoxError;

use super::{
    RouteFuture,
    pace::{Patience, after},
};
use crate::{
    body::Watch,
    phase::{Data, Deadline},
};

/// A message for a single route that has a time limit.
#[derive(Debug)]
pub(super) struct Limited {
    future: RouteFuture<Data>,
    watch: Watch,
    patience: Patience,
    /// Since when the client waits for the route.
    since: Since,
}

/// Since when the client waits for a route. `None` while the route waits for the client.
#[derive(Clone, Debug, Default)]
pub(super) struct Since(Arc<Mutex<Option<Instant>>>);

impl Since {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self, patience: Patience) -> Option<Instant> {
        self.lock().map(|since| after(since, patience.of_client()))
    }

    /// Returns the deadline of the route: that of the message, or when it is given up.
    pub(super) fn deadline(&self, whole: Deadline, patience: Patience) -> Deadline {
        let since = self.clone();
        Deadline::of_part(move || {
            let dues = [whole.instant(), since.due(patience)];
            dues.into_iter().flatten().min()
        })
    }
}

impl Limited {
    pub(super) const fn new(
        future: RouteFuture<Data>,
        watch: Watch,
        patience: Patience,
        since: Since,
    ) -> Self {
        Self {
            future,
            watch,
            patience,
            since,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<DataReply, BoxError>> {
        let answer = Pin::new(&mut self.future).poll(cx);
        if answer.is_pending() {
            self.look();
        }
        answer
    }

    fn look(&mut self) {
        if self.watch.is_waiting() {
            *self.since.lock() = None;
        } else {
            self.since.lock().get_or_insert_with(Instant::now);
        }
    }

    /// Gives the route up if it is too slow. Returns when to check again.
    pub(super) fn check(&mut self, now: Instant) -> Instant {
        self.look();
        let due = self.since.due(self.patience);
        if due.is_some_and(|due| due <= now) {
            self.future.give_up();
            return now;
        }
        // A body that is read in another task is looked at only here.
        let look = after(now, self.patience.of_client() / 8);
        due.map_or(look, |due| due.min(look))
    }
}
