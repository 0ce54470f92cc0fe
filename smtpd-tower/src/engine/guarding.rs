//! What the guard has to do with a session: it learns what the client does, and may refuse it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use smtpd_core::{
    config::Protocol,
    connection::{Ask, AuthOutcome, Connection, Deferred, ask_kind as kind},
    reply::Reply,
};
use tokio::time::{Sleep, sleep};

use super::{
    Engine,
    work::{After, Asking, Desk, Polled},
};
use crate::{
    fault::quietly,
    guard::{GuardReason, Visit},
    net::PeerAddr,
    phase_kind::PhaseKind,
    session::{ListenerFacts, Session},
};

/// How long a client waits for the refusal of a login.
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
        quietly(|| self.listener.meters.connection_refused(reason.as_str()));
    }
}

/// How the guard counts a session.
#[derive(Default)]
pub(super) struct Guarding {
    /// `None` if nothing is counted. Boxed, so that those sessions do not carry it.
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

    /// Learns what the client has done. Returns the reply that ends the session if the client is refused from now on.
    pub(super) fn learn(
        &mut self,
        connection: &Connection,
        listener: &ListenerFacts,
    ) -> Option<Reply> {
        let reason = self.visit.as_mut()?.learn(connection)?;
        Some(closing(reason, listener))
    }

    /// Returns why the client may not authenticate now, if it may not.
    pub(super) fn refuses_login(&mut self, connection: &Connection) -> Option<GuardReason> {
        let visit = self.visit.as_mut()?;
        // The failure before this one may have been answered just now.
        visit.learn(connection);
        visit.refuses_login()
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

/// Refuses a login after a moment, without calling the service. A shutdown does not wait for it.
pub(super) fn refuse_login(ask: Ask<'_, kind::Auth>, reason: GuardReason) -> After {
    let refusal = RefusedLogin {
        later: Box::pin(sleep(LOGIN_DELAY)),
        question: Some(ask.defer()),
        reason,
    };
    After::Work(Box::new(refusal), Polled::No)
}

struct RefusedLogin {
    later: Pin<Box<Sleep>>,
    question: Option<Deferred<kind::Auth>>,
    reason: GuardReason,
}

impl Asking for RefusedLogin {
    fn poll(&mut self, cx: &mut Context<'_>, desk: Desk<'_>) -> Poll<After> {
        if self.later.as_mut().poll(cx).is_pending() && !desk.session.is_shutting_down() {
            return Poll::Pending;
        }
        let question = self.question.take();
        if let Some(ask) = question.and_then(|question| desk.connection.resume(question)) {
            ask.answer(AuthOutcome::Refuse(self.reason.deferring()));
        }
        Poll::Ready(After::Done)
    }

    fn phase(&self) -> PhaseKind {
        PhaseKind::Auth
    }

    fn is_service(&self) -> bool {
        false
    }
}
