//! Where a session waits.

use std::task::{Context, Poll};

use smtpd_core::connection::Answering;
use tokio::time::Instant;

use super::{Driver, stream::Io};

/// What a session waits for, and until when.
pub(super) struct Wait {
    pub(super) want: Want,
    pub(super) until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Room for the replies that have to be written. The writer was polled for it.
    Room,
    /// Something from the client.
    Input,
    /// The work in progress.
    Answer,
    /// The same, or the loss of the client, since then nothing waits for the answer.
    AnswerOrLoss,
    /// The end of the connection.
    Close,
}

/// While a service works, the client is watched until this much pipelined input has been read.
const AHEAD: usize = 4 << 10;

impl Want {
    /// A message that has arrived whole is delivered even if nothing waits for the reply (RFC 5321 section 6.1).
    pub(super) fn of(answer: &Answering<'_>) -> Self {
        if answer.outlives_client() {
            Self::Answer
        } else {
            Self::AnswerOrLoss
        }
    }
}

impl Wait {
    pub(super) fn new(want: Want, until: std::time::Instant) -> Self {
        Self {
            want,
            until: Instant::from_std(until),
        }
    }
}

impl<IO: Io> Driver<IO> {
    /// Waits until something has changed. This is the only function in which a session waits, whatever its state, so every wait
    /// has a deadline and ends when the server shuts down.
    pub(super) fn wait(&mut self, cx: &mut Context<'_>, wait: Wait) -> Poll<()> {
        // Input that has arrived is used before anything else is polled for more.
        if wait.want == Want::Input && self.poll_input(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.poll_others(cx).is_ready() {
            self.pace.catch_up(&mut self.connection);
            return Poll::Ready(());
        }
        if self.check_guard().is_ready() {
            return Poll::Ready(());
        }
        let changed = match wait.want {
            Want::AnswerOrLoss => self.poll_loss(cx),
            Want::Close => self.poll_close(cx),
            Want::Room | Want::Input | Want::Answer => Poll::Pending,
        };
        if changed.is_ready() {
            return changed;
        }
        if self.pace.catch_up(&mut self.connection) {
            return Poll::Ready(());
        }
        let due = self.wire.timer.poll_until(cx, self.deadline(wait.until));
        let shutdown = self.shutdown.poll_advanced(cx);
        if due.is_ready() || shutdown.is_ready() {
            self.pace.look();
            return Poll::Ready(());
        }
        self.wire.park();
        self.needs_input = wait.want == Want::Input;
        Poll::Pending
    }

    /// Lets the guard learn what the client has done. Ready when that has ended the session.
    pub(super) fn check_guard(&mut self) -> Poll<()> {
        self.guarding.learn(&self.connection);
        // What was accepted is finished first.
        let is_busy = self.work.is_some() || self.connection.is_receiving();
        if is_busy || self.connection.is_closed() {
            return Poll::Pending;
        }
        let Some(reply) = self.guarding.end_session(&self.engine.listener) else {
            return Poll::Pending;
        };
        self.connection.end(reply);
        Poll::Ready(())
    }

    /// Returns when the wait ends, which the server's shutdown may bring forward.
    fn deadline(&self, until: Instant) -> Instant {
        let until = self.shutdown.deadline(until);
        match &self.closing {
            Some(closing) if self.shutdown.is_ending() && !self.wire.is_dead() => {
                closing.until().min(until)
            }
            _ => until,
        }
    }

    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.wire.poll_read(cx, &mut self.pace) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => self.connection.handle_eof(),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => self.lost(Some(error)),
        }
        Poll::Ready(())
    }

    /// Checks whether the client has disconnected, without reading more than a little ahead. A client does not count as lost
    /// while something is left to answer.
    fn poll_loss(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.wire.is_at_end() && self.wire.input.len() < AHEAD {
            match self.wire.poll_read(cx, &mut self.pace) {
                Poll::Pending => return Poll::Pending,
                // It has not been greeted, and must not send anything yet.
                Poll::Ready(Ok(1..)) if self.work.is_connecting() => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    self.lost(Some(error));
                    return Poll::Ready(());
                }
            }
        }
        if !self.wire.is_at_end() || !self.wire.input.is_empty() {
            return Poll::Pending;
        }
        self.connection.handle_lost();
        Poll::Ready(())
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.closing {
            Some(closing) => closing.poll(cx, &mut self.wire, &mut self.pace, &mut self.connection),
            None => Poll::Ready(()),
        }
    }

    /// Polls the service that the connection waits for. Ready when that has changed the session.
    pub(super) fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.work.is_call() {
            self.poll_call(cx)
        } else if self.transfer.is_asking() {
            self.poll_transfer(cx)
        } else {
            Poll::Pending
        }
    }

    /// Polls everything else. Ready when that has changed the session.
    fn poll_others(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        #[cfg(feature = "tls")]
        if self.poll_handshake(cx).is_ready() {
            return Poll::Ready(());
        }
        #[cfg(feature = "proxy")]
        if self.poll_proxy_header(cx).is_ready() {
            return Poll::Ready(());
        }
        // The service of a command is running, or more of the message is awaited.
        if self.work.is_some() || !self.transfer.is_asking() {
            return self.poll_transfer(cx);
        }
        Poll::Pending
    }

    #[cfg(debug_assertions)]
    pub(super) fn disarm(&mut self) {
        self.wire.timer.disarm();
        self.shutdown.disarm();
    }

    /// Asserts that a waiting session has a deadline and is notified of a shutdown. Otherwise it might wait forever.
    #[cfg(debug_assertions)]
    pub(super) fn assert_armed(&self) {
        if self.pace.is_paused() {
            return;
        }
        assert!(
            self.wire.timer.is_armed(),
            "a session waits without a deadline"
        );
        assert!(
            self.shutdown.is_armed(),
            "a session waits without being notified of a shutdown"
        );
    }
}
