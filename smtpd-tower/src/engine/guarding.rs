//! What the guard has to do with a session: it learns what the client does, and may refuse it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use smtpd_core::{
    config::Protocol,
    connection::{Ask, AuthRequest, Connection, Deferred, ask_kind as kind},
    reply::Reply,
};
use tokio::time::{Sleep, sleep};

use super::{
    Engine, commands,
    refusal_log::RefusalLog,
    updates,
    work::{After, Asking, Desk, Polled},
};
use crate::{
    guard::{GuardReason, LoginPermit, Visit},
    memory::MemoryBudget,
    net::PeerAddr,
    phase_kind::PhaseKind,
    session::{ListenerFacts, Session},
};

/// How long a client waits at most for the refusal of a login.
const LOGIN_DELAY: Duration = Duration::from_secs(5);

/// Wherever the guard refuses a connection, before its session begins or once a proxy has named the client, it is measured in the
/// same way, and logged and reported by the guard alone.
impl Engine {
    /// Counts a session of the peer that has connected, and its TLS handshake if that comes first. Returns why it is refused, if
    /// it is.
    pub(crate) fn admit(
        &self,
        peer: &PeerAddr,
        begins_tls: bool,
    ) -> Result<Option<Box<Visit>>, GuardReason> {
        if self.is_proxy(peer) {
            return Ok(None);
        }
        let mut visit = self.enter(peer)?;
        if let Some(visit) = visit.as_mut().filter(|_| begins_tls) {
            let begun = visit.begin_handshake();
            begun.inspect_err(|reason| self.connection_refused(*reason))?;
        }
        Ok(visit)
    }

    /// Counts a session. A client of LMTP is a server that delivers for others, so what it does is theirs.
    fn enter(&self, client: &PeerAddr) -> Result<Option<Box<Visit>>, GuardReason> {
        if self.protocol == Protocol::Lmtp {
            return Ok(None);
        }
        let visit = self.guard.enter(client);
        let visit = visit.inspect_err(|reason| self.connection_refused(*reason))?;
        Ok(visit.map(Box::new))
    }

    /// Measures that the guard has refused a connection.
    pub(super) fn connection_refused(&self, reason: GuardReason) {
        self.listener.meters.connection_refused(reason.as_str());
    }
}

/// How the guard counts a session.
#[derive(Default)]
pub(super) struct Guarding {
    /// `None` if there is no client to count: for a proxy, on a Unix socket and in LMTP. Boxed, so that those sessions do not
    /// carry it.
    visit: Option<Box<Visit>>,
}

impl Guarding {
    pub(super) const fn new(visit: Option<Box<Visit>>) -> Self {
        Self { visit }
    }

    /// Counts the session for its client, now that a proxy has named it, unless that may name another one. What the connection has
    /// counted so far was not this client's. Returns the reply if the client is refused.
    pub(super) fn name_client(
        &mut self,
        engine: &Engine,
        session: &Session,
        connection: &Connection,
    ) -> Result<(), Reply> {
        self.end(connection);
        // A proxy that gives no address is the client itself, for example with a health check.
        if engine.is_proxy(session.client_addr()) {
            return Ok(());
        }
        let visit = engine.enter(session.client_addr());
        let visit = visit.map_err(|reason| closing(reason, &engine.listener))?;
        self.visit = visit.map(|mut visit| {
            visit.skip(connection);
            visit
        });
        Ok(())
    }

    /// Returns whether the guard has something to learn or to do.
    pub(super) fn is_behind(&self, connection: &Connection) -> bool {
        let visit = self.visit.as_ref();
        visit.is_some_and(|visit| visit.is_behind(connection))
    }

    /// Learns what the client has done.
    pub(super) fn learn(&mut self, connection: &Connection) {
        if let Some(visit) = &mut self.visit {
            visit.learn(connection);
        }
    }

    /// Returns the reply that ends the session if the client has done too much.
    pub(super) fn end_session(&mut self, listener: &ListenerFacts) -> Option<Reply> {
        let reason = self.visit.as_mut()?.end_session()?;
        Some(closing(reason, listener))
    }

    /// AUTH: calls the service, once the client may try another password. It waits for [`LOGIN_DELAY`], but no longer than half of
    /// the time after which the connection would reply by itself: the client has to learn why it is refused. A shutdown does not
    /// wait for it.
    pub(super) fn auth(
        &mut self,
        cx: &mut Context<'_>,
        engine: &Arc<Engine>,
        session: &Session,
        request: AuthRequest,
        ask: Ask<'_, kind::Auth>,
    ) -> After {
        updates::authenticates(session, &request);
        let permit = match &mut self.visit {
            None => return commands::auth(cx, &engine.pipeline, session, request, ask),
            Some(visit) => {
                // The failure before this one may have been answered just now.
                visit.learn(ask.connection());
                if visit.begin_login().is_ok() {
                    return commands::auth(cx, &engine.pipeline, session, request, ask);
                }
                Box::pin(visit.wait_for_login())
            }
        };
        let limit = ask.connection().config().get_config().get_timeouts().ready;
        let awaited = AwaitedLogin {
            permit,
            deadline: Box::pin(sleep(LOGIN_DELAY.min(limit / 2))),
            waiting: Some((request, ask.queue())),
            engine: engine.clone(),
        };
        After::Work(Box::new(awaited), Polled::No)
    }

    fn login_begins(&mut self, permit: Option<LoginPermit>) {
        if let Some(visit) = &mut self.visit {
            visit.login_begins(permit);
        }
    }

    /// Begins a login that has waited long enough, unless the client still may not try another password. Returns why.
    fn begin_late_login(&mut self) -> Result<(), GuardReason> {
        match &mut self.visit {
            Some(visit) => visit.begin_late_login(),
            None => Ok(()),
        }
    }

    /// XCLIENT: the session begins anew for another client, unless the guard refuses that one.
    pub(super) fn xclient(
        &mut self,
        cx: &mut Context<'_>,
        engine: &Engine,
        session: &mut Session,
        log: &mut RefusalLog,
        ask: Ask<'_, kind::Connect>,
    ) -> After {
        match self.name_client(engine, session, ask.connection()) {
            Ok(()) => commands::greet(cx, &engine.pipeline, session, ask),
            Err(reply) => {
                log.not_admitted();
                commands::refuse(ask, reply)
            }
        }
    }

    /// STARTTLS is offered only with a configuration for it, so only the guard may refuse it.
    pub(super) fn start_tls(&mut self, ask: Ask<'_, kind::StartTls>) -> After {
        match self.begin_handshake() {
            Ok(()) => commands::start_tls(ask),
            Err(reason) => commands::refuse(ask, reason.deferring()),
        }
    }

    /// Begins a TLS handshake, unless the client or all clients have too many in progress.
    pub(super) fn begin_handshake(&mut self) -> Result<(), GuardReason> {
        match &mut self.visit {
            Some(visit) => visit.begin_handshake(),
            None => Ok(()),
        }
    }

    /// Ready when the handshake has to end, because another client needs its permit.
    #[cfg(feature = "tls")]
    pub(super) fn poll_handshake_given_up(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.visit {
            Some(visit) => visit.poll_handshake_given_up(cx),
            None => Poll::Pending,
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn end_handshake(&mut self) {
        if let Some(visit) = &mut self.visit {
            visit.end_handshake();
        }
    }

    /// Returns the budget that the next message counts against: for its client too, if the limits apply to that.
    pub(super) fn next_message<'a>(&'a mut self, session: &'a Session) -> &'a MemoryBudget {
        match &mut self.visit {
            Some(visit) => visit.next_message(session.memory()),
            None => session.memory(),
        }
    }

    /// Stops counting the session.
    pub(super) fn end(&mut self, connection: &Connection) {
        if let Some(mut visit) = self.visit.take() {
            visit.learn(connection);
        }
    }
}

/// Returns the reply that ends a session.
pub(crate) fn closing(reason: GuardReason, listener: &ListenerFacts) -> Reply {
    reason.closing(|text| listener.signed(text))
}

/// A login that waits until the client may try another password.
struct AwaitedLogin {
    permit: Pin<Box<dyn Future<Output = Option<LoginPermit>> + Send>>,
    /// Ready when it has waited long enough.
    deadline: Pin<Box<Sleep>>,
    waiting: Option<(AuthRequest, Deferred<kind::Auth>)>,
    engine: Arc<Engine>,
}

impl Asking for AwaitedLogin {
    fn poll(&mut self, cx: &mut Context<'_>, desk: Desk<'_>) -> Poll<After> {
        let permit = self.permit.as_mut().poll(cx);
        let is_late = self.deadline.as_mut().poll(cx).is_ready();
        if permit.is_pending() && !is_late && !desk.session.is_shutting_down() {
            return Poll::Pending;
        }
        let Some((request, question)) = self.waiting.take() else {
            return Poll::Ready(After::Done);
        };
        // The service's time starts now.
        desk.pace.catch_up(desk.connection);
        desk.connection.begin(&question);
        let Some(ask) = desk.connection.resume(question) else {
            return Poll::Ready(After::Done);
        };
        let begun = match permit {
            Poll::Ready(permit) => {
                desk.guarding.login_begins(permit);
                Ok(())
            }
            Poll::Pending => desk.guarding.begin_late_login(),
        };
        Poll::Ready(match begun {
            Ok(()) => commands::auth(cx, &self.engine.pipeline, desk.session, request, ask),
            Err(reason) => commands::refuse(ask, reason.deferring()),
        })
    }

    fn phase(&self) -> PhaseKind {
        PhaseKind::Auth
    }

    fn is_service(&self) -> bool {
        false
    }
}
