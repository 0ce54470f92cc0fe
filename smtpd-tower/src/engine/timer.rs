//! The timer of a session.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep};

/// The one timer of a session. Deadlines that move later cost nothing: only one that has fired is set again.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// It was polled since the session was woken.
    #[cfg(debug_assertions)]
    armed: bool,
}

impl Timer {
    /// Ready at the deadline.
    pub(super) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        #[cfg(debug_assertions)]
        {
            self.armed = true;
        }
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }

    #[cfg(debug_assertions)]
    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }

    #[cfg(debug_assertions)]
    pub(super) const fn is_armed(&self) -> bool {
        self.armed
    }
}
