use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use smtpd_core::reply::Reply;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// How many deliveries are under way at a time, and how long others wait.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    wait: Duration,
}

/// The place of a delivery, until it is dropped.
pub(super) type Place = OwnedSemaphorePermit;

impl Gate {
    /// How long a delivery waits unless something else is set. A client waits for 354 for two minutes (RFC 5321 section
    /// 4.5.3.2.4).
    pub(super) const WAIT: Duration = Duration::from_secs(30);

    pub(super) fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            wait: Self::WAIT,
        }
    }

    pub(super) fn set_places(&mut self, places: NonZeroUsize) {
        let places = places.get().min(Semaphore::MAX_PERMITS);
        self.places = Arc::new(Semaphore::new(places));
    }

    pub(super) const fn set_wait(&mut self, wait: Duration) {
        self.wait = wait;
    }

    /// Waits for a place. Returns the reply to a message for which there was none in time.
    pub(super) async fn enter(&self) -> Result<Place, Reply> {
        let place = timeout(self.wait, self.places.clone().acquire_owned()).await;
        place.ok().and_then(Result::ok).ok_or_else(Reply::busy)
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.places.available_permits()
    }
}
