//! The end of a connection.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use smtpd_core::CloseReason;
use tokio::{io::AsyncWrite, time::Instant};

use super::{
    Driver, Io, Work,
    step::Next,
    wait::{Wait, Want},
};
use crate::session::EndReason;
#[cfg(feature = "tls")]
use crate::session::SessionError;

/// How much is read off a connection that is closed against the client's will.
const LINGER_BYTES: u64 = 1 << 20;

/// A connection that is being closed, or has to be soon.
pub(super) struct Closing {
    until: Instant,
    /// What may have been received until the client is reset.
    most: u64,
    /// What the client still sends is read off.
    lingers: bool,
    /// The way out is closed.
    down: bool,
    done: bool,
}

impl Closing {
    pub(super) const fn until(&self) -> Instant {
        self.until
    }
}

impl<IO: Io> Driver<IO> {
    /// The protocol is over, and everything is written.
    pub(super) fn closed(&mut self, reason: CloseReason) -> Next {
        #[cfg(feature = "tls")]
        self.report_late_handshake(reason);
        if self.abandon_work() {
            // The service learns of it before anything is waited for.
            return Next::Again;
        }
        if self.closing.is_none() {
            self.hurry();
        }
        let Some(closing) = &mut self.closing else {
            return Next::End(end_reason(reason));
        };
        closing.lingers = !matches!(reason, CloseReason::Quit | CloseReason::Lost);
        if closing.done || self.wire.dead || closing.until <= self.pace.now() {
            return Next::End(end_reason(reason));
        }
        Next::Wait(Wait {
            want: Want::Close,
            until: closing.until,
        })
    }

    /// Begins the time that closing the connection may take. After a forced shutdown it includes that for the last reply.
    pub(super) fn hurry(&mut self) {
        let limit = self.engine.config.timeouts_ref().linger;
        let received = self.wire.received;
        self.closing.get_or_insert_with(|| Closing {
            until: later(Instant::now(), limit),
            most: received.saturating_add(LINGER_BYTES),
            lingers: true,
            down: false,
            done: false,
        });
    }

    #[cfg(feature = "tls")]
    fn report_late_handshake(&self, reason: CloseReason) {
        if reason == CloseReason::TlsFailed && matches!(self.work, Some(Work::Handshake(_))) {
            self.report(SessionError::Tls(std::io::ErrorKind::TimedOut.into()));
        }
    }

    /// Gives up what is at work when the session is over. Returns whether there is a service that reads a message: it may go on
    /// for a moment, to clean up.
    fn abandon_work(&mut self) -> bool {
        if let Some(work) = self.work.take() {
            self.wire.dead |= !matches!(work, Work::Call(_));
            let phase = work.phase();
            self.drop_caught(phase, work);
        }
        match &mut self.transfer {
            Some(transfer) => {
                transfer.abandon();
                true
            }
            None => false,
        }
    }

    /// A data service whose message was given up cleans up before the session goes on.
    pub(super) fn awaits_clean_up(&mut self) -> Option<Next> {
        let until = self.transfer.as_ref()?.abandoned()?;
        if until <= self.pace.now() {
            self.give_up_transfer();
            return None;
        }
        Some(Next::Wait(Wait {
            want: Want::Answer,
            until,
        }))
    }

    /// Closes the way out, then reads on for a moment: closing with unread input would reset the connection, and the client
    /// might never see the last reply.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(closing) = &mut self.closing else {
            return Poll::Ready(());
        };
        let wire = &mut self.wire;
        if !closing.down {
            closing.down = Pin::new(&mut wire.stream).poll_shutdown(cx).is_ready();
        }
        if closing.lingers && !wire.eof && wire.received <= closing.most {
            let read = self.poll_read(cx);
            self.catch_up();
            self.wire.drop_input();
            // The client is gone, and nobody is interested in how.
            self.wire.eof |= matches!(read, Poll::Ready(Err(_)));
            return read.map(|_| ());
        }
        if !closing.down && !wire.eof && wire.received <= closing.most {
            return Poll::Pending;
        }
        closing.done = true;
        Poll::Ready(())
    }
}

/// That time after `start`, or long after it, so that no deadline is beyond what an `Instant` can be.
pub(super) fn later(start: Instant, limit: std::time::Duration) -> Instant {
    const FOREVER: std::time::Duration = std::time::Duration::from_secs(30 * 365 * 24 * 3600);
    start + limit.min(FOREVER)
}

const fn end_reason(reason: CloseReason) -> EndReason {
    match reason {
        CloseReason::Lost => EndReason::Lost,
        CloseReason::TlsFailed => EndReason::TlsFailed,
        reason => EndReason::Closed(reason),
    }
}
