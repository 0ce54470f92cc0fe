//! One session: drives a [`Connection`] over a stream, and calls the services.
//!
//! A session is one hand-written future, [`Driver`]. It requests the connection's next step and takes it. When there is nothing
//! to do but wait, [`wait`] waits: that one function waits for everything.

mod accepted;
mod ask;
mod close;
mod commands;
mod data_call;
mod derive;
mod guarding;
mod hooks;
mod pace;
#[cfg(feature = "proxy")]
mod proxied;
mod refusal_log;
#[cfg(feature = "tls")]
mod secure;
mod shutdown;
mod step;
mod stream;
mod timer;
mod transfer;
mod updates;
mod wait;
mod wire;
mod work;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use smtpd_core::{
    config::{DriverConfig, Protocol},
    connection::Connection,
};
use tokio::time::Instant;

#[cfg(feature = "proxy")]
use self::proxied::ProxyHeader;
pub(crate) use self::{accepted::Accepted, guarding::closing, hooks::Hooks};
use self::{
    close::Closing,
    guarding::Guarding,
    pace::Pace,
    refusal_log::RefusalLog,
    shutdown::{Order, Shutdown},
    step::Next,
    stream::{Io, Stream},
    transfer::Transfer,
    wire::Wire,
    work::{Task, Work},
};
use crate::{
    fault::{self, caught, quietly},
    guard::Guard,
    lifetime::{SessionPermit, later},
    meter::CANCELLED,
    net::{PeerAddr, TrustedPeers},
    phase_kind::PhaseKind,
    service::Pipeline,
    session::{EndReason, ListenerFacts, Session, SessionError, Summary},
};

/// What the sessions of a listener share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) pipeline: Pipeline,
    pub(crate) config: Arc<DriverConfig>,
    pub(crate) listener: Arc<ListenerFacts>,
    pub(crate) protocol: Protocol,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::TlsConfig>,
    #[cfg(feature = "proxy")]
    pub(crate) proxy: Option<crate::proxy::ProxyProtocol>,
    pub(crate) xclient_from: Option<TrustedPeers>,
    pub(crate) xforward_from: Option<TrustedPeers>,
    pub(crate) hooks: Hooks,
    pub(crate) guard: Guard,
}

/// One session, as a future that ends with it. However it ends, even if it is dropped, its permit and what it holds are released,
/// and its end is reported once.
///
/// It is a conductor: each part keeps its own state and returns what the others have to do.
struct Driver<IO: Io> {
    engine: Arc<Engine>,
    connection: Connection,
    wire: Wire<IO>,
    session: Session,
    pace: Pace,
    shutdown: Shutdown,
    guarding: Guarding,
    work: Work<IO>,
    transfer: Transfer,
    refusal_log: RefusalLog,
    /// The state of closing the connection, once the protocol is over.
    closing: Option<Closing>,
    started: Instant,
    /// The session waits for its client, and for nothing else.
    needs_input: bool,
    /// A panic has ended the protocol.
    broken: bool,
    ended: bool,
}

impl Engine {
    /// Serves one connection to its end. `implicit_tls` means that TLS starts before the greeting, unless the connection came
    /// within TLS.
    pub(crate) fn serve<IO>(
        self: Arc<Self>,
        accepted: Accepted<IO>,
        implicit_tls: bool,
        permit: SessionPermit,
    ) -> impl Future<Output = ()> + Send + use<IO>
    where
        IO: Io,
    {
        #[cfg(feature = "proxy")]
        let accepted = match self.expects_header(&accepted.peer) {
            true => accepted.without_certificate(),
            false => accepted,
        };
        let connection = accepted.connection(self.config.clone(), implicit_tls);
        let mut driver = Driver::new(self, accepted, connection, permit);
        driver.begin();
        driver
    }

    /// Returns whether this peer is a proxy, which has to begin with a header.
    #[cfg(feature = "proxy")]
    fn expects_header(&self, peer: &PeerAddr) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.trusts(peer))
    }

    /// Returns whether this peer may name its client later. It is a proxy, and the guard counts its client only.
    fn is_proxy(&self, peer: &PeerAddr) -> bool {
        #[cfg(feature = "proxy")]
        if self.expects_header(peer) {
            return true;
        }
        Self::trusts(&self.xclient_from, peer)
    }

    /// Returns whether the session's peer is one of these.
    fn trusts(peers: &Option<TrustedPeers>, peer: &PeerAddr) -> bool {
        peers.as_ref().is_some_and(|peers| peers.contains(peer))
    }
}

impl<IO: Io> Future for Driver<IO> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        driver.pace.wake();
        driver.work.wake();
        driver.transfer.wake();
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
    fn new(
        engine: Arc<Engine>,
        accepted: Accepted<IO>,
        connection: Connection,
        permit: SessionPermit,
    ) -> Self {
        let Accepted {
            io,
            peer,
            local,
            tls,
            visit,
        } = accepted;
        let mut session = Session::new(peer, local, engine.listener.clone(), engine.protocol);
        if let Some(tls) = tls {
            session = session.with_tls(tls);
        }
        session.meters().session_begins();
        let mechanisms = engine.config.get_config().get_mechanisms();
        let may_authenticate = mechanisms.is_some_and(|all| !all.is_empty());
        Self {
            connection,
            wire: Wire::new(Stream::Plain(io), may_authenticate),
            session,
            engine,
            pace: Pace::new(),
            shutdown: Shutdown::new(permit),
            guarding: Guarding::new(visit),
            work: Work::new(),
            transfer: Transfer::default(),
            refusal_log: RefusalLog::default(),
            closing: None,
            started: Instant::now(),
            needs_input: false,
            broken: false,
            ended: false,
        }
    }

    fn begin(&mut self) {
        #[cfg(feature = "proxy")]
        if let Some(proxy) = &self.engine.proxy
            && self.engine.expects_header(self.session.client_addr())
        {
            let header = ProxyHeader::read(proxy.clone(), self.wire.take_stream());
            return self.work.proxy_header(header);
        }
        self.allow_claims();
    }

    /// Allows a trusted peer to name its client.
    fn allow_claims(&mut self) {
        let peer = self.session.client_addr();
        if Engine::trusts(&self.engine.xclient_from, peer) {
            self.connection.allow_xclient();
        }
        if Engine::trusts(&self.engine.xforward_from, peer) {
            self.connection.allow_xforward();
        }
    }

    /// Runs until there is nothing to do but wait.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<EndReason> {
        if std::mem::take(&mut self.needs_input) {
            // Usually what it was woken for: the connection need not be asked again what it waits for.
            let _ = self.poll_input(cx);
        }
        loop {
            self.check_shutdown();
            match self.advance(cx) {
                Next::Again => {}
                Next::Pause => break,
                Next::Wait(wait) => {
                    ready!(self.wait(cx, wait));
                    if self.pace.step() && self.pace.has_done_enough() {
                        break;
                    }
                }
                Next::End(reason) => return Poll::Ready(reason),
            }
        }
        // Other tasks run first.
        self.wire.park();
        self.pace.pause(cx);
        Poll::Pending
    }

    /// Takes steps until something has to be waited for, other tasks have to run, or the server advances to another stage.
    fn advance(&mut self, cx: &mut Context<'_>) -> Next {
        loop {
            match self.step(cx) {
                // What follows may be here already, so the session need not wait before the guard ends it.
                Next::Again if self.guarding.is_behind(&self.connection) => {
                    let _ = self.check_guard();
                }
                Next::Again => {}
                next => return next,
            }
            if self.shutdown.has_advanced() {
                return Next::Again;
            }
            if self.pace.step() {
                self.pace.catch_up(&mut self.connection);
                if self.pace.has_done_enough() {
                    return Next::Pause;
                }
            }
        }
    }

    /// Ends the session between two messages while the server drains, and at any point once the time for that is over.
    fn check_shutdown(&mut self) {
        match self.shutdown.check(self.pace.now()) {
            Order::GoOn if self.closing.is_none() => {}
            Order::GoOn => self.enforce_end(),
            Order::EndNow => {
                self.shut_down();
                self.enforce_end();
            }
            Order::Drain => self.drain(),
            Order::End => self.end_soon(),
        }
    }

    fn drain(&mut self) {
        #[cfg(feature = "proxy")]
        if self.work.awaited_header().is_some() {
            // There is no session yet.
            return self.shut_down();
        }
        self.connection.drain();
    }

    /// Ends the session now, unless a whole message has arrived: if its delivery finishes within a moment, the client receives
    /// the reply. Otherwise it would resend a message that was delivered.
    fn end_soon(&mut self) {
        if !self.transfer.is_whole() {
            return self.shut_down();
        }
        self.connection.drain();
        self.hurry();
        let limit = self.engine.config.get_config().get_timeouts().linger;
        self.shutdown.wait_until(later(Instant::now(), limit / 2));
    }

    fn shut_down(&mut self) {
        self.give_up_work();
        self.connection.shut_down();
        if self.wire.is_dead() {
            // The stream was part of the work.
            self.connection.handle_lost();
        }
        self.hurry();
    }

    /// Ends whatever has not ended by itself, once the server has to end.
    fn enforce_end(&mut self) {
        let now = self.pace.now();
        let is_over = |closing: &Closing| closing.until() <= now;
        if self.closing.as_ref().is_some_and(is_over)
            && self.shutdown.is_ending()
            && !self.wire.is_dead()
        {
            self.give_up_work();
            self.lost(None);
        }
    }

    /// Starts the time that closing the connection may take. After a forced shutdown it includes the time for the last reply.
    fn hurry(&mut self) -> &mut Closing {
        let limit = self.engine.config.get_config().get_timeouts().linger;
        let received = self.wire.received();
        self.closing
            .get_or_insert_with(|| Closing::new(limit, received))
    }

    /// Ends the session because the connection has failed.
    fn lost(&mut self, error: Option<std::io::Error>) {
        if let Some(error) = error {
            self.report(SessionError::Io(error));
        }
        self.wire.kill();
        self.connection.handle_lost();
    }

    /// Drops the work in progress, since nothing waits for it any more. Reports a panic in its `Drop`.
    fn give_up_work(&mut self) {
        self.give_up_task();
        self.give_up_transfer();
    }

    fn give_up_task(&mut self) {
        if let Some(task) = self.work.take() {
            if task.has_stream() {
                self.wire.kill();
            }
            self.drop_task(task);
        }
    }

    /// Drops work that has not ended.
    fn drop_task(&mut self, task: Task<IO>) {
        if task.phase() == Some(PhaseKind::Rcpt) {
            self.session.meters().recipient(CANCELLED);
        }
        self.drop_caught(task.phase(), task);
    }

    fn give_up_transfer(&mut self) {
        if let Some(call) = self.transfer.take() {
            self.wire.end_large();
            let size = Some(call.received());
            self.session.meters().message(CANCELLED, size);
            self.drop_caught(Some(PhaseKind::Data), call);
        }
    }

    /// Drops part of a service. A panic in its `Drop` ends the session, but not before the reply is sent.
    fn drop_caught<T>(&mut self, phase: Option<PhaseKind>, dropped: T) {
        if let Err(message) = caught(|| drop(dropped)) {
            self.report(SessionError::Panic { phase, message });
            self.connection.end(fault::internal_error());
        }
    }

    /// Ends the session after a panic that nothing else has caught. Replies that were promised to the client are still sent.
    fn panicked(&mut self, phase: Option<PhaseKind>, message: String) {
        self.report(SessionError::Panic { phase, message });
        self.give_up_work();
        self.connection.end(fault::internal_error());
    }

    /// Drops what the session holds, and reports its end.
    fn end(&mut self, reason: EndReason) {
        self.ended = true;
        updates::heard(&mut self.session, &self.connection);
        self.guarding.end(&self.connection);
        self.session.end();
        let summary = Summary {
            reason,
            messages: self.connection.messages(),
            refused: self.connection.refusals(),
            received: self.wire.received(),
            sent: self.wire.sent(),
            duration: self.started.elapsed(),
        };
        let bytes = [summary.received, summary.sent];
        let meters = self.session.meters();
        meters.session_ends(reason.as_str(), summary.duration, bytes);
        self.refusal_log.end(&self.session);
        quietly(|| {
            tracing::debug!(session = self.session.id(), peer = %self.session.client_addr(), %reason, summary.messages, "session closed");
        });
        self.engine.hooks.on_close(&self.session, &summary);
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

    /// Returns the size of the future that a function of the engine's form returns.
    fn size_of_result<T, A, B, C, D>(_: fn(A, B, C, D) -> T) -> usize {
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
