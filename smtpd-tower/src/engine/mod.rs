//! One session: drives a [`Connection`] over a stream, and calls the services.
//!
//! A session is one hand-written future, [`Driver`]. It asks the connection for its next step, takes it, and where there is
//! nothing to do but to wait, [`wait`] waits: in that one function, for whatever the session waits for.

mod ask;
mod close;
mod commands;
mod derive;
mod hooks;
mod pace;
mod proxied;
#[cfg(feature = "tls")]
mod secure;
mod step;
mod stream;
mod timer;
mod transfer;
mod wait;
mod wire;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use smtpd_core::{Config, Connection, Protocol};
use tokio::time::Instant;

pub(crate) use self::hooks::Hooks;
pub(crate) use self::stream::Io;
use self::{
    close::Closing, commands::Asking, pace::Pace, stream::Stream, transfer::Transfer, wire::Wire,
};
use crate::{
    fault::{self, caught, quietly},
    lifetime::{SessionPermit, Stage},
    net::{PeerAddr, TrustedPeers},
    phase_kind::PhaseKind,
    service::Pipeline,
    session::{self, EndReason, ListenerFacts, Session, SessionError, Summary},
};

/// What the sessions of a listener share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) pipeline: Pipeline,
    pub(crate) config: Arc<Config>,
    pub(crate) listener: Arc<ListenerFacts>,
    pub(crate) protocol: Protocol,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::TlsConfig>,
    #[cfg(feature = "proxy")]
    pub(crate) proxy: Option<crate::proxy::ProxyProtocol>,
    pub(crate) xclient_from: Option<TrustedPeers>,
    pub(crate) xforward_from: Option<TrustedPeers>,
    pub(crate) hooks: Hooks,
}

/// One session, as a future that ends with it. However it ends, also by being dropped, the session's permit is released and
/// its end is reported once.
struct Driver<IO: Io> {
    engine: Arc<Engine>,
    connection: Connection,
    wire: Wire<IO>,
    session: Session,
    permit: SessionPermit,
    started: Instant,
    pace: Pace,
    /// What is at work for the session, besides the data service.
    work: Option<Work<IO>>,
    transfer: Option<Box<Transfer>>,
    /// What was polled since the session was woken.
    polled: Polled,
    /// The session waits for its client, and for nothing else.
    starved: bool,
    /// How far the session has followed the server's shutdown.
    stage: Stage,
    /// Until when a whole message may still be answered, although the server has to end.
    patience: Option<Instant>,
    /// How the connection is closed, once the protocol is over.
    closing: Option<Closing>,
    /// The transaction's message was answered, whatever the client says of it from now on.
    answered: bool,
    /// A panic has ended the protocol.
    broken: bool,
    ended: bool,
}

#[derive(Default)]
struct Polled {
    work: bool,
    /// The data service was polled, and was given nothing since.
    transfer: bool,
}

/// What a session may wait for, besides its client. Boxed, so that an idle session carries no room for it.
enum Work<IO: Io> {
    /// The service of a command, which has not answered at once. The command may stand between the chunks of a message.
    Call(Box<dyn Asking<IO>>),
    #[cfg(feature = "tls")]
    Handshake(secure::Handshake<IO>),
    #[cfg(feature = "proxy")]
    ProxyHeader(Box<proxied::ProxyHeader<IO>>),
}

impl Engine {
    /// Serves one connection to its end. `implicit_tls` tells that TLS comes before the greeting.
    pub(crate) fn serve<IO>(
        self: Arc<Self>,
        io: IO,
        peer: PeerAddr,
        local: PeerAddr,
        implicit_tls: bool,
        permit: SessionPermit,
    ) -> impl Future<Output = ()> + Send + use<IO>
    where
        IO: Io,
    {
        let connection = if implicit_tls {
            Connection::with_tls(self.config.clone())
        } else {
            Connection::new(self.config.clone())
        };
        let may_authenticate = !self.config.mechanisms_ref().is_empty();
        let mut driver = Driver {
            connection,
            wire: Wire::new(Stream::Plain(io), may_authenticate),
            session: Session::new(peer, local, self.listener.clone(), self.protocol),
            engine: self,
            permit,
            started: Instant::now(),
            pace: Pace::new(),
            work: None,
            transfer: None,
            polled: Polled::default(),
            starved: false,
            stage: Stage::Running,
            patience: None,
            closing: None,
            answered: false,
            broken: false,
            ended: false,
        };
        driver.begin();
        driver
    }
}

impl<IO: Io> Future for Driver<IO> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        driver.pace.wake();
        driver.polled = Polled::default();
        loop {
            #[cfg(debug_assertions)]
            driver.disarm();
            match caught(|| driver.drive(cx)) {
                Ok(Poll::Ready(reason)) => {
                    driver.end(reason);
                    return Poll::Ready(());
                }
                Ok(Poll::Pending) => {
                    #[cfg(debug_assertions)]
                    driver.assert_armed();
                    return Poll::Pending;
                }
                Err(_) if std::mem::replace(&mut driver.broken, true) => {
                    driver.end(EndReason::Panicked);
                    return Poll::Ready(());
                }
                Err(panic) => driver.panicked(None, panic),
            }
        }
    }
}

impl<IO: Io> Driver<IO> {
    fn begin(&mut self) {
        #[cfg(feature = "proxy")]
        if self.expects_proxy() {
            return self.read_proxy_header();
        }
        self.allow_claims();
    }

    /// Goes on until there is nothing to do but to wait.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<EndReason> {
        if std::mem::take(&mut self.starved) {
            // Mostly what it was woken for: the connection need not be asked again what it waits for.
            let _ = self.poll_input(cx);
        }
        loop {
            self.follow_shutdown();
            match self.advance(cx) {
                step::Next::Again => {}
                step::Next::Pause => return self.pause(cx),
                step::Next::Wait(wait) => {
                    ready!(self.wait(cx, wait));
                    if self.pace.step() && self.pace.has_done_enough() {
                        return self.pause(cx);
                    }
                }
                step::Next::End(reason) => return Poll::Ready(reason),
            }
        }
    }

    /// Takes steps, until something has to be waited for, other tasks have to get their turn, or the server goes on to another
    /// stage.
    fn advance(&mut self, cx: &mut Context<'_>) -> step::Next {
        loop {
            match self.step(cx) {
                step::Next::Again => {}
                next => return next,
            }
            if self.permit.stage() != self.stage {
                return step::Next::Again;
            }
            if self.pace.step() {
                self.catch_up();
                if self.pace.has_done_enough() {
                    return step::Next::Pause;
                }
            }
        }
    }

    /// Ends the session between two messages while the server drains, and anywhere once the time for that is over.
    fn follow_shutdown(&mut self) {
        let stage = self.permit.stage();
        if stage == self.stage {
            return self.enforce_end();
        }
        self.stage = stage;
        match stage {
            Stage::Running => {}
            Stage::Draining => self.drain(),
            Stage::Ending => self.end_soon(),
        }
    }

    /// Ends the session now, but for a message that has come whole: if its delivery ends in a moment, the client is told so.
    /// Otherwise it would send again what was delivered.
    fn end_soon(&mut self) {
        if !self
            .transfer
            .as_ref()
            .is_some_and(|transfer| transfer.is_whole())
        {
            return self.shut_down();
        }
        self.connection.drain();
        self.hurry();
        let limit = self.engine.config.timeouts_ref().linger;
        self.patience = Some(close::later(Instant::now(), limit / 2));
    }

    /// Ends what has not ended by itself, once the server has to end.
    fn enforce_end(&mut self) {
        if self.patience.is_some_and(|until| until <= self.pace.now()) {
            self.patience = None;
            self.shut_down();
        }
        let over = self
            .closing
            .as_ref()
            .is_some_and(|closing| closing.until() <= self.pace.now());
        if over && self.stage == Stage::Ending && !self.wire.dead {
            self.give_up_work();
            self.lost(None);
        }
    }

    fn drain(&mut self) {
        #[cfg(feature = "proxy")]
        if matches!(self.work, Some(Work::ProxyHeader(_))) {
            // There is no session yet.
            return self.shut_down();
        }
        self.connection.drain();
    }

    fn shut_down(&mut self) {
        self.give_up_work();
        self.connection.shut_down();
        if self.wire.dead {
            // The stream went with the work.
            self.connection.handle_lost();
        }
        self.hurry();
    }

    /// Ends the session after a panic that nothing else has caught. What the client was promised stands.
    fn panicked(&mut self, phase: Option<PhaseKind>, message: String) {
        self.report(SessionError::Panic { phase, message });
        self.give_up_work();
        self.connection.end(fault::internal_error());
    }

    /// Reports the end of the session.
    fn end(&mut self, reason: EndReason) {
        self.ended = true;
        let summary = Summary {
            reason,
            messages: self.connection.messages(),
            received: self.wire.received,
            sent: self.wire.sent,
            duration: self.started.elapsed(),
        };
        quietly(|| {
            tracing::debug!(session = self.session.id(), peer = %self.session.peer(), %reason, summary.messages, "session closed");
        });
        if let Some(hook) = &self.engine.hooks.close {
            session::call(&self.session, "on_close", || hook(&self.session, &summary));
        }
    }

    fn report(&self, error: SessionError) {
        self.session.report(&error);
    }
}

impl<IO: Io> Drop for Driver<IO> {
    fn drop(&mut self) {
        if !self.ended {
            self.give_up_work();
            self.end(EndReason::Aborted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function of the engine's form returns.
    fn size_of_result<T, A, B, C, D, E, F>(_: fn(A, B, C, D, E, F) -> T) -> usize {
        size_of::<T>()
    }

    #[test]
    fn an_idle_session_carries_no_room_for_what_is_rare() {
        let session = size_of_result(Engine::serve::<tokio::net::TcpStream>);
        assert!(
            session <= 768,
            "the future of a session has {session} bytes"
        );
    }
}
