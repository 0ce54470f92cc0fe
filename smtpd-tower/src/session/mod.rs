//! The facts of a session.
//!
//! | type | what it is |
//! |---|---|
//! | [`Session`] | all facts of a session, and your own state |
//! | [`TypedMap`] | where a session keeps your state |
//! | [`Profile`] | what the listener is for |
//! | [`TlsInfo`], [`TlsVersion`] | what TLS has negotiated |
//! | [`QueueId`] | the name of a message on this server |
//! | [`ReverseName`] | the name that the DNS has for the client |
//! | [`Score`] | how suspicious a session and its message are |
//! | [`SessionError`] | what goes wrong in a session |
//! | [`Summary`], [`EndReason`] | how a session ended |

mod end;
mod error;
mod hook;
mod listener;
mod profile;
mod proxied;
mod queue_id;
mod reverse_name;
mod score;
mod state;
mod tls_info;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use smtpd_core::{ClientName, Greeting, Protocol, Reply, sasl::Identity};
use tower::BoxError;

use self::proxied::Proxied;
pub use self::{
    end::{EndReason, Summary},
    error::SessionError,
    profile::Profile,
    queue_id::QueueId,
    reverse_name::ReverseName,
    score::Score,
    state::TypedMap,
    tls_info::{TlsInfo, TlsVersion},
};
pub(crate) use self::{
    hook::{ErrorHook, Hook, call},
    listener::ListenerFacts,
    score::Source,
};
use crate::{body::BodyError, net::PeerAddr, phase_kind::PhaseKind};

/// The facts of one session: a snapshot that is cheap to clone, and two typed maps for your own state.
///
/// [`insert`](Self::insert) and [`get`](Self::get) keep state for the whole session, visible to every phase and layer; the map of
/// [`transaction`](Self::transaction) ends with the transaction: at the reply to the message, at RSET, EHLO or STARTTLS. Both end
/// when a proxy names another client by XCLIENT.
///
/// ```
/// use smtpd_tower::Session;
///
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// struct Score(u32);
///
/// let session = Session::local();
/// session.insert(Score(7));
/// assert_eq!(session.clone().get::<Score>(), Some(Score(7)));
/// assert_eq!(session.transaction().get::<Score>(), None);
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    facts: Arc<Facts>,
}

#[derive(Clone, Debug)]
struct Facts {
    id: u64,
    client: PeerAddr,
    local: PeerAddr,
    listener: Arc<ListenerFacts>,
    protocol: Protocol,
    helo: Option<(ClientName, Greeting)>,
    tls: Option<TlsInfo>,
    identity: Option<Identity>,
    state: Arc<TypedMap>,
    transaction: Arc<TypedMap>,
    proxied: Option<Box<Proxied>>,
}

impl Session {
    /// Creates a session that begins.
    pub(crate) fn new(
        peer: PeerAddr,
        local: PeerAddr,
        listener: Arc<ListenerFacts>,
        protocol: Protocol,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let facts = Facts {
            id,
            client: peer,
            local,
            listener,
            protocol,
            helo: None,
            tls: None,
            identity: None,
            state: Arc::default(),
            transaction: Arc::default(),
            proxied: None,
        };
        Self {
            facts: Arc::new(facts),
        }
    }

    /// Returns a number that no other session of this process has.
    pub fn id(&self) -> u64 {
        self.facts.id
    }

    /// Returns the address of the client. All limits, layers and logs use it.
    ///
    /// Behind a trusted proxy, this is the address from a PROXY header or XCLIENT; [`peer_addr`](Self::peer_addr) is the proxy's.
    pub fn client_addr(&self) -> &PeerAddr {
        &self.facts.client
    }

    /// Returns the address that the client has connected to, which may be a proxy's.
    pub fn local_addr(&self) -> &PeerAddr {
        &self.facts.local
    }

    /// Returns the name of the server, as in its greeting.
    pub fn hostname(&self) -> &str {
        &self.facts.listener.hostname
    }

    /// Returns the name of the program, as in its greeting.
    pub fn app_name(&self) -> &str {
        &self.facts.listener.app_name
    }

    /// Returns whether the session speaks SMTP or LMTP.
    pub fn protocol(&self) -> Protocol {
        self.facts.protocol
    }

    /// Returns what the listener is for, if [`Server::profile`](crate::server::Server::profile) sets it.
    pub fn profile(&self) -> Option<Profile> {
        self.facts.listener.profile
    }

    /// Returns the name that the client gave in HELO, EHLO or LHLO. It is not verified.
    pub fn helo(&self) -> Option<&ClientName> {
        self.facts.helo.as_ref().map(|(name, _)| name)
    }

    /// Returns the command by which it did so.
    pub fn greeting(&self) -> Option<Greeting> {
        self.facts.helo.as_ref().map(|&(_, greeting)| greeting)
    }

    /// Returns what was negotiated, if the session uses TLS.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.facts.tls.as_ref()
    }

    /// Returns the client's identity, if it has authenticated.
    pub fn identity(&self) -> Option<&Identity> {
        self.facts.identity.as_ref()
    }

    /// Returns the state of the session.
    pub fn state(&self) -> &TypedMap {
        &self.facts.state
    }

    /// Returns the state of the transaction.
    pub fn transaction(&self) -> &TypedMap {
        &self.facts.transaction
    }

    /// Keeps a value for the rest of the session. Replaces one of the same type.
    pub fn insert<T: Send + Sync + 'static>(&self, value: T) {
        self.facts.state.insert(value);
    }

    /// Returns the value of that type that is kept for the session.
    pub fn get<T: Clone + 'static>(&self) -> Option<T> {
        self.facts.state.get()
    }

    /// Reports a fault on this side to the log and [`Server::on_error`](crate::server::Server::on_error), for a service that
    /// accepts nevertheless. A service that fails does not need it, nor does one that returns a [`BodyError`].
    ///
    /// ```
    /// use smtpd_tower::{Rcpt, Request, handler_fn, phase::PhaseKind};
    ///
    /// # async fn count(request: &Request<Rcpt>) -> std::io::Result<()> { Ok(()) }
    /// let rcpt = handler_fn(async |request: Request<Rcpt>| {
    ///     if let Err(error) = count(&request).await {
    ///         // The recipient is accepted uncounted.
    ///         request.session().report_fault(PhaseKind::Rcpt, error);
    ///     }
    /// });
    /// ```
    pub fn report_fault(&self, phase: PhaseKind, error: impl Into<BoxError>) {
        self.report(&SessionError::Service {
            phase,
            error: error.into(),
        });
    }

    /// Returns the reply to an error of a body, and reports the error if it is a fault on this side. For services whose reply
    /// does not show it.
    pub(crate) fn reply_to(&self, error: BodyError) -> Reply {
        let reply = error.reply();
        if error.is_fault() {
            self.report_fault(PhaseKind::Data, error);
        }
        reply
    }

    /// Reports an error to the log and [`Server::on_error`](crate::server::Server::on_error). A panic in either does not cost the
    /// session its reply.
    pub(crate) fn report(&self, error: &SessionError) {
        error.report(self, &self.facts.listener.on_error);
    }

    pub(crate) fn greeted(&mut self, name: ClientName, greeting: Greeting) {
        self.update(|facts| facts.helo = Some((name, greeting)));
    }

    pub(crate) fn authenticated(&mut self, identity: Identity) {
        self.update(|facts| facts.identity = Some(identity));
    }

    /// Starts the session anew over TLS (RFC 3207 section 4.2).
    #[cfg(feature = "tls")]
    pub(crate) fn secured(&mut self, tls: TlsInfo) {
        self.update(|facts| {
            facts.tls = Some(tls);
            facts.helo = None;
            facts.identity = None;
        });
        self.end_transaction();
    }

    /// Ends the transaction and its map, so that a task that still has this session cannot keep anything for the next one.
    pub(crate) fn end_transaction(&mut self) {
        match Arc::get_mut(&mut self.facts).map(|facts| Arc::get_mut(&mut facts.transaction)) {
            // Nothing else has the map: it is cleared in place, without another allocation.
            Some(Some(map)) => *map = TypedMap::default(),
            _ => self.update(|facts| facts.transaction = Arc::default()),
        }
    }

    fn update(&mut self, f: impl FnOnce(&mut Facts)) {
        f(Arc::make_mut(&mut self.facts));
    }
}

/// # For tests
///
/// Sessions created by hand, for requests that do not come from a server.
impl Session {
    /// Creates a session for tests: from 127.0.0.1, with nothing negotiated.
    pub fn local() -> Self {
        Self::from_peer(([127, 0, 0, 1], 0))
    }

    /// Creates a session for tests, from that address.
    pub fn from_peer(peer: impl Into<PeerAddr>) -> Self {
        let listener = ListenerFacts {
            hostname: "localhost".to_owned(),
            app_name: "smtpd".to_owned(),
            ..Default::default()
        };
        Self::new(
            peer.into(),
            ([127, 0, 0, 1], 25).into(),
            Arc::new(listener),
            Protocol::Smtp,
        )
    }

    /// Sets the HELO name, for tests.
    #[must_use]
    pub fn with_helo(mut self, name: ClientName, greeting: Greeting) -> Self {
        self.greeted(name, greeting);
        self
    }

    /// Sets the TLS facts, for tests.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsInfo) -> Self {
        self.update(|facts| facts.tls = Some(tls));
        self
    }

    /// Sets the profile of the listener, for tests.
    #[must_use]
    pub fn with_profile(mut self, profile: Profile) -> Self {
        self.update(|facts| Arc::make_mut(&mut facts.listener).profile = Some(profile));
        self
    }

    /// Sets the identity of an authenticated client, for tests.
    #[must_use]
    pub fn with_identity(mut self, identity: impl Into<Identity>) -> Self {
        self.authenticated(identity.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::XClient;

    use super::*;

    #[test]
    fn what_a_task_keeps_after_the_end_of_its_message_is_not_seen_in_the_next() {
        for kept_before in [false, true] {
            let mut session = Session::local();
            if kept_before {
                session.transaction().insert(1_u8);
            }
            let task = session.clone();
            session.end_transaction();
            task.transaction().insert(2_u8);
            assert_eq!(session.transaction().get::<u8>(), None);
            assert_eq!(session.id(), task.id());
        }
    }

    #[test]
    fn what_a_task_keeps_for_the_client_before_xclient_is_not_seen_by_the_next() {
        let session = Session::local();
        let task = session.clone();
        let session = session.with_xclient(XClient::default());
        task.insert(1_u8);
        task.transaction().insert(1_u8);
        assert_eq!(session.get::<u8>(), None);
        assert_eq!(session.transaction().get::<u8>(), None);
    }

    #[test]
    fn a_map_that_nobody_else_has_ends_without_an_allocation() {
        let mut session = Session::local();
        let before = Arc::as_ptr(&session.facts.transaction);
        session.transaction().insert(1_u8);
        session.end_transaction();
        assert!(session.transaction().is_empty());
        assert_eq!(Arc::as_ptr(&session.facts.transaction), before);
    }
}
