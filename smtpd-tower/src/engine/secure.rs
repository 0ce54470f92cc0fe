//! TLS: the handshake, in the session's own task.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use smtpd_core::{Step, TlsFacts};
use tokio::time::Instant;

use super::{
    Driver, Io, Work,
    step::Next,
    stream::Stream,
    wait::{Wait, Want},
};
use crate::{session::SessionError, tls::Secured};

/// A handshake that is going on.
pub(super) type Handshake<IO> = Pin<Box<dyn Future<Output = io::Result<Secured<IO>>> + Send>>;

impl<IO: Io> Driver<IO> {
    /// The client is to begin a handshake: after STARTTLS, or at once.
    pub(super) fn handshake(&mut self, until: Instant) -> Next {
        if self.work.is_none() {
            match self.start_handshake() {
                Ok(handshake) => self.work = Some(Work::Handshake(handshake)),
                Err(error) => {
                    self.handshake_failed(error);
                    return Next::Again;
                }
            }
        }
        Next::Wait(Wait {
            want: Want::Answer,
            until,
        })
    }

    fn start_handshake(&mut self) -> io::Result<Handshake<IO>> {
        let tls = self.engine.tls.clone();
        let tls = tls.ok_or_else(|| io::Error::other("no TLS configuration"))?;
        let Stream::Plain(io) = self.wire.stream.take() else {
            return Err(io::ErrorKind::AlreadyExists.into());
        };
        Ok(Box::pin(async move { tls.accept(io).await }))
    }

    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(Work::Handshake(handshake)) = &mut self.work else {
            return Poll::Pending;
        };
        let result = ready!(handshake.as_mut().poll(cx));
        self.work = None;
        match result {
            Ok(secured) => self.secured(secured),
            Err(error) => self.handshake_failed(error),
        }
        Poll::Ready(())
    }

    /// Everything begins anew, over TLS (RFC 3207 section 4.2).
    fn secured(&mut self, secured: Secured<IO>) {
        let mut facts = TlsFacts::default();
        facts.bindings = secured.bindings;
        facts.client_certificate = !secured.info.peer_certificates().is_empty();
        self.wire.stream = Stream::Tls(secured.stream);
        self.session.secured(secured.info);
        self.end_transaction();
        let now = self.pace.now().into_std();
        if let Step::Handshake(handshake) = self.connection.poll(now, &mut self.wire.input) {
            handshake.done(&mut self.wire.input, facts);
        }
    }

    /// A handshake that fails ends the session: it never goes on in plaintext.
    fn handshake_failed(&mut self, error: io::Error) {
        self.report(SessionError::Tls(error));
        self.wire.dead = true;
        let now = self.pace.now().into_std();
        if let Step::Handshake(handshake) = self.connection.poll(now, &mut self.wire.input) {
            handshake.failed();
        }
    }
}
