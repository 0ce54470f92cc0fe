//! Greylisting (RFC 6647): the first attempt of an unknown client is deferred, a retry is accepted.

mod future;
mod key;
mod memory;
mod store;

use std::{
    any::type_name,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use smtpd_core::{Code, Reply, Status};
use tokio::time::timeout;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    future::GreylistFuture,
    key::GreylistKey,
    memory::MemoryGreylist,
    store::{GreylistPolicy, GreylistStore, GreylistVerdict},
};
use crate::{
    fault::quietly,
    limiter::ClientKey,
    net::{Cidr, Prefixes},
    phase::{Rcpt, Request},
};

/// Defers recipients with 450 4.7.1 until a client has tried the same message again (RFC 6647).
///
/// A retry is recognized by its [`GreylistKey`]: the network of the client, the sender and the recipient (section 2.4). A
/// [`GreylistPolicy`] says when a retry is accepted, how long that is remembered, and when a whole network is trusted. A
/// [`GreylistStore`] remembers the attempts; by default this is a [`MemoryGreylist`].
///
/// Clients that have authenticated, loopback addresses and clients without an IP address, such as those on a Unix socket, always
/// pass (section 5, item 7), and so do networks given to [`exempt`](Self::exempt) (item 6).
///
/// It fits the RCPT phase only. A `DomainFilterLayer` belongs outside of it, so that nothing is remembered of mail that is
/// refused anyway. All clones of a layer, and all services that they make, share one store.
///
/// # When the store fails
///
/// If the store fails or exceeds the [`timeout`](Self::timeout), the mail passes: greylisting is a convenience that must not stop
/// mail. With [`fail_closed`](Self::fail_closed), it is deferred with 451 4.3.0 instead (section 8.2). The failure is logged as a
/// warning in both cases.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_tower::{Rcpt, Request, Session, handler_fn, layer::GreylistLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new()
///     .layer(GreylistLayer::new())
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let path: smtpd_tower::ForwardPath = "user@example.org".parse()?;
/// let ask = |session| rcpt.clone().oneshot(Request::new(session, Rcpt::new(path.clone())));
/// let stranger = Session::from_peer(([192, 0, 2, 1], 4711));
///
/// assert_eq!(ask(stranger.clone()).await?.to_string(), "450 4.7.1 Greylisted, try again later");
/// tokio::time::advance(Duration::from_secs(60)).await;
/// assert_eq!(ask(stranger).await?.code().as_u16(), 250);
///
/// let user = Session::from_peer(([198, 51, 100, 1], 4711)).with_identity("alice");
/// assert_eq!(ask(user).await?.code().as_u16(), 250);
/// # Ok(()) }
/// ```
pub struct GreylistLayer<G = MemoryGreylist> {
    store: Arc<G>,
    settings: Arc<Settings>,
}

#[derive(Clone, Debug)]
struct Settings {
    policy: GreylistPolicy,
    prefixes: Prefixes,
    exempt: Vec<Cidr>,
    reply: Reply,
    limit: Duration,
    on_failure: OnFailure,
}

/// RFC 6647 section 5, item 5.
const NEIGHBOURS: Prefixes = match Prefixes::new(24, 64) {
    Ok(prefixes) => prefixes,
    Err(_) => panic!("a prefix is longer than the address"),
};

#[derive(Clone, Copy, Debug)]
enum OnFailure {
    Pass,
    Refuse,
}

impl GreylistLayer {
    /// Remembers attempts in memory.
    pub fn new() -> Self {
        Self::with_store(MemoryGreylist::new())
    }
}

impl Default for GreylistLayer {
    /// See [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

impl<G: GreylistStore> GreylistLayer<G> {
    /// Creates a layer that remembers attempts in `store`. All servers of a domain should share one (RFC 6647 section 5, item 4).
    pub fn with_store(store: G) -> Self {
        let reply = Reply::new(
            Code::MAILBOX_BUSY,
            Status::DENIED,
            "Greylisted, try again later",
        );
        let settings = Settings {
            policy: GreylistPolicy::new(),
            prefixes: NEIGHBOURS,
            exempt: Vec::new(),
            reply,
            limit: Duration::from_secs(5),
            on_failure: OnFailure::Pass,
        };
        Self {
            store: Arc::new(store),
            settings: Arc::new(settings),
        }
    }

    /// Sets when a retry is accepted, and how long that is remembered.
    #[must_use]
    pub fn policy(self, policy: GreylistPolicy) -> Self {
        self.set(|settings| settings.policy = policy)
    }

    /// Sets which addresses are the same client: those with the same first bits. Default: 24 bits of IPv4 and 64 bits of IPv6,
    /// because large senders retry from a neighbouring address (RFC 6647 section 5, item 5).
    #[must_use]
    pub fn prefixes(self, prefixes: Prefixes) -> Self {
        self.set(|settings| settings.prefixes = prefixes)
    }

    /// Adds a network whose clients always pass (RFC 6647 section 5, item 6).
    #[must_use]
    pub fn exempt(self, network: Cidr) -> Self {
        self.set(|settings| settings.exempt.push(network))
    }

    /// Sets the reply to a first attempt. Default: 450 4.7.1.
    ///
    /// RFC 6647 section 5 uses 450, and 421, which closes the connection. A 5yz reply would make clients give up.
    #[must_use]
    pub fn reply(self, reply: Reply) -> Self {
        self.set(|settings| settings.reply = reply)
    }

    /// Sets the timeout of the store. Default: 5 seconds.
    #[must_use]
    pub fn timeout(self, limit: Duration) -> Self {
        self.set(|settings| settings.limit = limit)
    }

    /// Defers mail with 451 4.3.0 while the store fails. By default, all mail passes then.
    #[must_use]
    pub fn fail_closed(self) -> Self {
        self.set(|settings| settings.on_failure = OnFailure::Refuse)
    }

    /// Returns the store.
    pub fn store(&self) -> &G {
        &self.store
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }
}

// By hand: a derived Clone would require G: Clone.
impl<G> Clone for GreylistLayer<G> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            settings: self.settings.clone(),
        }
    }
}

// By hand: a function as a store has no Debug.
impl<G> fmt::Debug for GreylistLayer<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GreylistLayer")
            .field("store", &type_name::<G>())
            .field("settings", &self.settings)
            .finish()
    }
}

impl<S, G> Layer<S> for GreylistLayer<G> {
    type Service = Greylist<S, G>;

    fn layer(&self, inner: S) -> Greylist<S, G> {
        Greylist {
            inner,
            greylist: self.clone(),
        }
    }
}

/// The service of [`GreylistLayer`].
#[derive(Debug)]
pub struct Greylist<S, G = MemoryGreylist> {
    inner: S,
    greylist: GreylistLayer<G>,
}

// By hand: a derived Clone would require G: Clone.
impl<S: Clone, G> Clone for Greylist<S, G> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            greylist: self.greylist.clone(),
        }
    }
}

impl<S, G> Service<Request<Rcpt>> for Greylist<S, G>
where
    S: Service<Request<Rcpt>> + Clone,
    S::Response: From<Reply>,
    G: GreylistStore,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = GreylistFuture<G::Check, S, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Rcpt>) -> Self::Future {
        let GreylistLayer { store, settings } = &self.greylist;
        let Some(key) = settings.key(&request) else {
            return GreylistFuture::inner(self.inner.call(request));
        };
        let check = timeout(settings.limit, store.check(key, settings.policy));
        // The instance that was made ready is the one to call; its clone may not be ready.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        GreylistFuture::check(check, ready, request, settings.clone())
    }
}

impl Settings {
    /// Returns the key of the request; `None` if it passes without greylisting.
    fn key(&self, request: &Request<Rcpt>) -> Option<GreylistKey> {
        let session = request.session();
        // RFC 6647 section 5, item 7: authenticated clients and internal addresses.
        if session.identity().is_some() || session.client_addr().is_local() {
            return None;
        }
        let ip = session.client_addr().ip()?;
        if self.exempt.iter().any(|network| network.contains(ip)) {
            return None;
        }
        let client = ClientKey::with_prefixes(ip, self.prefixes);
        let (sender, recipient) = (request.sender(), request.recipient());
        Some(GreylistKey::new(client, sender.clone(), recipient.clone()))
    }

    fn refusal(&self, checked: Result<GreylistVerdict, BoxError>) -> Option<Reply> {
        match (checked, self.on_failure) {
            (Ok(GreylistVerdict::Pass), _) => None,
            (Ok(GreylistVerdict::Wait), _) => Some(self.reply.clone()),
            (Err(error), on_failure) => {
                let error = error.to_string();
                let error = error.escape_debug();
                quietly(|| tracing::warn!(%error, "the greylist store has failed"));
                match on_failure {
                    OnFailure::Pass => None,
                    OnFailure::Refuse => Some(Reply::try_again("Local error in processing")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        net::IpAddr,
    };

    use smtpd_core::Envelope;
    use tokio::time::{Instant, advance};
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
    use tower::ServiceExt;
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{net::PeerAddr, service::handler_fn, session::Session};

    const MINUTE: Duration = Duration::from_secs(60);

    fn request(session: Session, sender: &str, recipient: &str) -> Request<Rcpt> {
        let envelope = Envelope::new(sender.parse().unwrap());
        let rcpt = Rcpt::new(recipient.parse().unwrap()).with_envelope(envelope);
        Request::new(session, rcpt)
    }

    fn stranger(ip: &str) -> Session {
        let ip: IpAddr = ip.parse().unwrap();
        Session::from_peer((ip, 4711))
    }

    async fn code<G: GreylistStore>(layer: &GreylistLayer<G>, session: Session) -> u16 {
        let request = request(session, "a@example.com", "b@example.org");
        let service = layer.layer(handler_fn(async |_: Request<Rcpt>| {}));
        service.oneshot(request).await.unwrap().code().as_u16()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_retry_reaches_the_service() {
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(GreylistLayer::new());
        let attempt = || request(stranger("192.0.2.1"), "a@example.com", "b@example.org");
        assert_ready_ok!(service.poll_ready());
        let first = service.call(attempt()).await.unwrap();
        assert_eq!(first.to_string(), "450 4.7.1 Greylisted, try again later");
        assert_pending!(handle.poll_request());

        advance(MINUTE).await;
        assert_ready_ok!(service.poll_ready());
        let retry = tokio::spawn(service.call(attempt()));
        let (_, respond) = handle.next_request().await.unwrap();
        respond.send_response(Reply::no_such_user());
        assert_eq!(retry.await.unwrap().unwrap(), Reply::no_such_user());
    }

    #[tokio::test(start_paused = true)]
    async fn known_clients_are_never_deferred() {
        let layer = GreylistLayer::new()
            .exempt("203.0.113.0/24".parse().unwrap())
            .exempt("2001:db8:5::/48".parse().unwrap());
        let table = [
            (stranger("192.0.2.1"), 450),
            (stranger("2001:db8:6::1"), 450),
            (stranger("192.0.2.2").with_identity("alice"), 250),
            (stranger("127.0.0.2"), 250),
            (stranger("::1"), 250),
            (Session::from_peer(PeerAddr::Unix(None)), 250),
            (Session::from_peer(PeerAddr::Unknown), 250),
            (stranger("203.0.113.77"), 250),
            (stranger("::ffff:203.0.113.77"), 250),
            (stranger("203.0.114.77"), 450),
            (stranger("2001:db8:5:9::1"), 250),
        ];
        for (session, expected) in table {
            let peer = session.client_addr().clone();
            assert_eq!(code(&layer, session).await, expected, "{peer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_may_come_from_a_neighbour() {
        let table = [
            ("192.0.2.1", "192.0.2.254", 250),
            ("192.0.2.1", "192.0.3.1", 450),
            ("2001:db8::1", "2001:db8::2", 250),
            ("2001:db8::1", "2001:db8:0:1::1", 450),
        ];
        for (first, second, expected) in table {
            let layer = GreylistLayer::new();
            assert_eq!(code(&layer, stranger(first)).await, 450);
            advance(MINUTE).await;
            let retried = code(&layer, stranger(second)).await;
            assert_eq!(retried, expected, "{first}, {second}");
        }
        let layer = GreylistLayer::new().prefixes(Prefixes::new(32, 128).unwrap());
        assert_eq!(code(&layer, stranger("192.0.2.1")).await, 450);
        advance(MINUTE).await;
        assert_eq!(code(&layer, stranger("192.0.2.2")).await, 450);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_stops_mail_only_if_it_fails_closed() {
        let failing = |_, _| ready(Err(BoxError::from("no connection")));
        let layer = GreylistLayer::with_store(failing);
        assert_eq!(code(&layer, stranger("192.0.2.1")).await, 250);
        let layer = layer.fail_closed();
        assert_eq!(code(&layer, stranger("192.0.2.1")).await, 451);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_stops_mail_only_if_it_fails_closed() {
        let layer = GreylistLayer::with_store(|_, _| pending());
        let start = Instant::now();
        assert_eq!(code(&layer, stranger("192.0.2.1")).await, 250);
        assert_eq!(start.elapsed().as_secs(), 5);
        let layer = layer.timeout(MINUTE).fail_closed();
        assert_eq!(code(&layer, stranger("192.0.2.1")).await, 451);
        assert_eq!(start.elapsed().as_secs(), 65);
    }

    #[tokio::test(start_paused = true)]
    async fn the_reply_and_the_policy_can_be_set() {
        let reply = Reply::mailbox_busy("Later");
        let layer = GreylistLayer::new()
            .reply(reply)
            .policy(GreylistPolicy::new().with_delay(MINUTE * 5));
        for minutes in 0..6 {
            let expected = if minutes < 5 { 450 } else { 250 };
            let heard = code(&layer, stranger("192.0.2.1")).await;
            assert_eq!(heard, expected, "{minutes}");
            advance(MINUTE).await;
        }
        assert_eq!(layer.store().tracked(), 2, "the message and its client");
    }

    #[tokio::test(start_paused = true)]
    async fn the_instance_that_was_ready_is_the_one_called() {
        let passing = |_, _| ready(Ok(GreylistVerdict::Pass));
        let (mut service, mut handle) =
            spawn_layer::<_, Reply, _>(GreylistLayer::with_store(passing));
        handle.allow(1);
        assert_ready_ok!(service.poll_ready());
        // A call to an instance that is not ready would panic.
        let call = service.call(request(stranger("192.0.2.1"), "", "b@example.org"));
        let mut asked = task::spawn(call);
        assert_pending!(asked.poll());
        assert!(assert_ready!(handle.poll_request()).is_some());
        assert_pending!(service.poll_ready());
    }
}
