//! The end of a connection.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use smtpd_core::connection::Connection;
use tokio::time::Instant;

use super::{pace::Pace, stream::Io, wire::Wire};
use crate::lifetime::later;

/// How much is drained from a connection that the server closes before the client does.
const LINGER_BYTES: u64 = 1 << 20;

/// A connection that is being closed, or has to be soon.
pub(super) struct Closing {
    until: Instant,
    /// How much may have been received before the connection is reset.
    most: u64,
    /// What the client still sends is drained.
    lingers: bool,
    /// The write side is closed.
    down: bool,
    done: bool,
}

impl Closing {
    /// Starts the time that closing may take, after `received` bytes.
    pub(super) fn new(limit: Duration, received: u64) -> Self {
        Self {
            until: later(Instant::now(), limit),
            most: received.saturating_add(LINGER_BYTES),
            lingers: true,
            down: false,
            done: false,
        }
    }

    pub(super) const fn until(&self) -> Instant {
        self.until
    }

    /// Sets whether the client may still send something that has to be drained.
    pub(super) const fn set_lingers(&mut self, lingers: bool) {
        self.lingers = lingers;
    }

    /// Returns whether the connection is closed, or the time for that is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.done || self.until <= now
    }

    /// Closes the write side, then drains input for a moment: closing with unread input would reset the connection, and the
    /// client might never see the last reply.
    pub(super) fn poll<IO: Io>(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut Wire<IO>,
        pace: &mut Pace,
        connection: &mut Connection,
    ) -> Poll<()> {
        if !self.down {
            self.down = wire.poll_shutdown(cx).is_ready();
        }
        if self.lingers && !wire.is_at_end() && wire.received() <= self.most {
            let read = wire.poll_drain(cx, pace);
            pace.catch_up(connection);
            return read;
        }
        if !self.down && !wire.is_at_end() && wire.received() <= self.most {
            return Poll::Pending;
        }
        self.done = true;
        Poll::Ready(())
    }
}
