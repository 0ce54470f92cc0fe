//! The facts of a session.
//!
//! | type | what it is |
//! |---|---|
//! | [`Session`] | all facts of a session, and your own state |
//! | [`SessionFacts`] | what is kept of a session with a stored message |
//! | [`TypedMap`] | where a session keeps your state |
//! | [`Profile`] | what the listener is for |
//! | [`TlsInfo`], [`TlsVersion`] | what TLS has negotiated |
//! | [`QueueId`] | the name of a message on this server |
//! | [`ReverseName`] | the name that the DNS has for the client |
//! | [`Score`] | how suspicious a session and its message are |
//! | [`SessionError`] | what goes wrong in a session |
//! | [`Answered`] | a reply that refuses, and what it answers |
//! | [`Summary`], [`EndReason`] | how a session ended |

mod answered;
mod by_hand;
mod end;
mod error;
mod facts;
mod hook;
mod listener;
mod profile;
mod proxied;
mod queue_id;
mod reverse_name;
mod scope;
mod score;
mod tls_info;
mod typed_map;

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use smtpd_core::{
    address::ClientName,
    config::{Protocol, Timeouts},
    reply::Reply,
    sasl::Identity,
};
use tower::BoxError;

pub use self::{
    answered::Answered,
    end::{EndReason, Summary},
    error::SessionError,
    facts::SessionFacts,
    profile::Profile,
    queue_id::QueueId,
    reverse_name::ReverseName,
    score::Score,
    tls_info::{TlsInfo, TlsVersion},
    typed_map::TypedMap,
};
pub(crate) use self::{
    hook::{ErrorHook, Hook},
    listener::{ListenerFacts, ShuttingDown},
    score::Source,
};
use self::{proxied::Proxied, scope::Scope};
use crate::{
    body::BodyError, memory::MemoryBudget, meter::Meters, net::PeerAddr, permits::Permits,
    phase_kind::PhaseKind,
};
#[doc(inline)]
pub use smtpd_core::connection::{CloseReason, Greeting};

/// The facts of one session: a snapshot that is cheap to clone, and two typed maps for your own state.
///
/// [`insert`](Self::insert) and [`get`](Self::get) keep state for the whole session, visible to every phase and layer; the map of
/// [`transaction`](Self::transaction) ends with the transaction: at the reply to the message, at RSET, EHLO or STARTTLS. Both end
/// when a proxy names another client by XCLIENT.
///
/// [The guide](crate::guide::state) says which map a value belongs in, and what ends when.
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
    state: Arc<Scope>,
    transaction: Arc<Scope>,
    proxied: Option<Box<Proxied>>,
    talked_early: bool,
}

impl Session {
    /// Creates a session that begins.
    pub(crate) fn new(
        peer: PeerAddr,
        local: PeerAddr,
        listener: Arc<ListenerFacts>,
        protocol: Protocol,
    ) -> Self {
        static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(first_id()));
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
            talked_early: false,
        };
        Self {
            facts: Arc::new(facts),
        }
    }

    /// Returns a number that no other session has, also none of an earlier process, unless the clock was set back. It grows by one
    /// for each session, so it is for logs, not for clients. It has at most 53 bits, which every reader of JSON represents exactly.
    pub fn id(&self) -> u64 {
        self.facts.id
    }

    /// Returns the address of the client. All limits, layers and logs use it.
    ///
    /// Behind a trusted proxy, this is the address from a PROXY header or XCLIENT; [`peer_addr`](Self::peer_addr) is the proxy's.
    pub fn client_addr(&self) -> &PeerAddr {
        &self.facts.client
    }

    /// Returns the address that the client has connected to, as far as is known: behind a trusted proxy, it is the proxy's if a
    /// PROXY header or XCLIENT names it. [`listener_addr`](Self::listener_addr) is always this server's own.
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

    /// Returns whether the client sent something before it was greeted, although it must wait for the greeting (RFC 5321 section
    /// 4.3.1). Programs that send spam often do not wait, so this is a good sign for a score.
    ///
    /// It is noticed while a service for connections works, and during
    /// [`Config::greeting_delay`](smtpd_core::Config::greeting_delay), which that service can see. Without either, a client is
    /// greeted at once, and nothing is noticed. [`Config::refuse_early_talkers`](smtpd_core::Config::refuse_early_talkers)
    /// refuses such clients.
    ///
    /// ```
    /// use smtpd_tower::{Mail, Request, handler_fn, session::Score};
    ///
    /// let mail = handler_fn(async |request: Request<Mail>| {
    ///     if request.session().talked_early() {
    ///         Score::add_to_message(request.session(), 3, "early talker");
    ///     }
    /// });
    /// ```
    pub fn talked_early(&self) -> bool {
        self.facts.talked_early
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
        &self.facts.state.values
    }

    /// Returns the state of the transaction.
    pub fn transaction(&self) -> &TypedMap {
        &self.facts.transaction.values
    }

    /// Keeps a value for the rest of the session. Replaces one of the same type.
    pub fn insert<T: Send + Sync + 'static>(&self, value: T) {
        self.state().insert(value);
    }

    /// Returns the value of that type that is kept for the session.
    pub fn get<T: Clone + 'static>(&self) -> Option<T> {
        self.state().get()
    }

    /// Keeps a guard until the session ends, and then drops it: a permit, or anything else whose `Drop` gives back what the
    /// connection takes up. [`SessionsPerIpLayer`](crate::layer::SessionsPerIpLayer) counts in this way.
    ///
    /// A value in [`state`](Self::state) lasts as long as any clone of the session, and a queue or a task may keep one for hours.
    /// A guard does not: it is dropped when the connection is over, just before
    /// [`Server::on_close`](crate::server::Server::on_close), and also when XCLIENT names another client. If that has happened
    /// already, it is dropped at once. A session that does not come from a server ends with its last clone.
    ///
    /// Guards are dropped in reverse order. If one panics, the panic is reported, and the others are dropped all the same.
    /// Guards of a session add up, so do not hold one for each command; see [`hold_for_transaction`](Self::hold_for_transaction).
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use smtpd_tower::{Connect, Reply, Request, handler_fn};
    /// use tokio::sync::Semaphore;
    ///
    /// let backends = Arc::new(Semaphore::new(100));
    /// let connect = handler_fn(move |request: Request<Connect>| {
    ///     let permit = backends.clone().try_acquire_owned();
    ///     async move {
    ///         request.session().hold(permit.map_err(|_| Reply::busy())?);
    ///         Ok::<_, Reply>(())
    ///     }
    /// });
    /// ```
    pub fn hold(&self, guard: impl Send + 'static) {
        self.facts.state.hold(Box::new(guard));
    }

    /// Keeps a guard until the transaction ends, as [`hold`](Self::hold) does for the session: to the reply to the message, RSET,
    /// EHLO or STARTTLS, or to the end of the session. Guards that are held before MAIL last until MAIL.
    pub fn hold_for_transaction(&self, guard: impl Send + 'static) {
        self.facts.transaction.hold(Box::new(guard));
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

    /// Returns the timeouts that the server enforces.
    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.facts.listener.timeouts
    }

    /// Returns whether the server is shutting down: the session ends between two messages, and whoever makes it wait without need
    /// should not.
    ///
    /// A session polls its service again when a shutdown begins.
    pub fn is_shutting_down(&self) -> bool {
        self.facts.listener.shutting_down.has_begun()
    }

    /// Returns the permits for work that keeps a processor busy.
    pub(crate) fn permits(&self) -> &Permits {
        &self.facts.listener.permits
    }

    /// Returns the budget for the messages of the server.
    pub(crate) fn memory(&self) -> &MemoryBudget {
        &self.facts.listener.memory
    }

    pub(crate) fn talked_before_greeting(&mut self) {
        if !self.facts.talked_early {
            self.update(|facts| facts.talked_early = true);
        }
    }

    /// Returns what is measured.
    pub(crate) fn meters(&self) -> &Meters {
        &self.facts.listener.meters
    }

    pub(crate) fn greeted(&mut self, name: ClientName, greeting: Greeting) {
        self.update(|facts| facts.helo = Some((name, greeting)));
    }

    pub(crate) fn authenticated(&mut self, identity: Identity) {
        self.update(|facts| facts.identity = Some(identity));
    }

    fn set_tls(&mut self, tls: TlsInfo) {
        self.update(|facts| facts.tls = Some(tls));
    }

    /// Starts the session anew over TLS (RFC 3207 section 4.2).
    #[cfg(feature = "tls")]
    pub(crate) fn secured(&mut self, tls: TlsInfo) {
        self.set_tls(tls);
        self.update(|facts| {
            facts.helo = None;
            facts.identity = None;
        });
        self.end_transaction();
    }

    /// Ends the transaction, its guards and its map, so that a task that still has this session cannot keep anything for the next
    /// one.
    pub(crate) fn end_transaction(&mut self) {
        let facts = Arc::get_mut(&mut self.facts);
        let scope = facts.and_then(|facts| Arc::get_mut(&mut facts.transaction));
        // If nothing else has the scope, it is cleared in place, without another allocation.
        if !scope.is_some_and(Scope::clear) {
            self.end_scope(&self.facts.transaction);
            self.update(|facts| facts.transaction = Arc::default());
        }
    }

    /// Drops what the session holds, now that its connection is over.
    pub(crate) fn end(&self) {
        self.end_scope(&self.facts.transaction);
        self.end_scope(&self.facts.state);
    }

    fn end_scope(&self, scope: &Scope) {
        scope.end(|message| {
            let phase = None;
            self.report(&SessionError::Panic { phase, message });
        });
    }

    fn update(&mut self, f: impl FnOnce(&mut Facts)) {
        f(Arc::make_mut(&mut self.facts));
    }
}

/// Returns the number of the first session of this process: the time of the start in milliseconds, with space for 4,096 sessions
/// in each. More than that in a row does not let a later process repeat a number.
fn first_id() -> u64 {
    /// The beginning of 2025, in seconds.
    const EPOCH: Duration = Duration::from_secs(1_735_689_600);
    let now = SystemTime::now().duration_since(UNIX_EPOCH + EPOCH);
    let millis = now.map_or(0, |since| since.as_millis() as u64);
    (millis << 12) + 1
}

#[cfg(test)]
mod tests {
    use smtpd_core::proxied::XClient;

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
    fn what_a_session_holds_waits_for_every_clone_of_it() {
        let count = |held: &Arc<()>| Arc::strong_count(held) - 1;
        let (kept, message) = (Arc::new(()), Arc::new(()));
        for xclient in [false, true] {
            let mut session = Session::local();
            session.hold(kept.clone());
            session.hold_for_transaction(message.clone());
            let task = session.clone();
            session.end_transaction();
            assert_eq!((count(&kept), count(&message)), (1, 0));
            task.hold_for_transaction(message.clone());
            assert_eq!(count(&message), 0, "its transaction is over");
            session.hold_for_transaction(message.clone());
            match xclient {
                true => session = session.with_xclient(XClient::default()),
                false => session.end(),
            }
            assert_eq!((count(&kept), count(&message)), (0, 0), "{xclient}");
            task.hold(kept.clone());
            assert_eq!(count(&kept), 0, "its session is over");
            session.hold(kept.clone());
            assert_eq!(count(&kept), usize::from(xclient), "another client's");
            drop(session);
            assert_eq!(count(&kept), 0);
        }
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
