//! Greylisting (RFC 6647): the first attempt of an unknown client is deferred, a retry is accepted.

mod at_data;
mod client;
mod file;
mod future;
mod key;
mod memory;
mod policy;
mod save;
mod sender;
mod settings;
mod siphash;
mod store;
mod table;

use std::{
    any::type_name,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use smtpd_core::{address::AddressRules, reply::Reply};
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use self::settings::{NullSender, OnFailure, Settings};
pub use self::{
    at_data::{GreylistData, GreylistDataLayer},
    client::GreylistClient,
    file::{GreylistFileError, GreylistFileErrorKind},
    future::GreylistFuture,
    key::GreylistKey,
    memory::MemoryGreylist,
    policy::GreylistPolicy,
    store::{GreylistStore, GreylistVerdict},
};
use crate::{
    addresses::Addresses,
    domains::Domains,
    fault::quietly,
    layer::Exempt,
    net::Prefixes,
    phase::{Rcpt, Request},
    reload::Reloadable,
    session::Session,
};

/// Defers recipients with 450 4.7.1 until a client has tried the same message again (RFC 6647).
///
/// A retry is recognized by its [`GreylistKey`]: the client, the sender and the recipient (section 2.4). A [`GreylistPolicy`]
/// says when a retry is accepted, how long that is remembered, and when a client is trusted. A [`GreylistStore`] remembers the
/// attempts; by default this is a [`MemoryGreylist`], which can be kept in a file.
///
/// It fits RCPT; [`into_rcpt_and_data`](Self::into_rcpt_and_data) adds a layer for DATA. A `DomainFilterLayer` belongs outside of
/// it, so that nothing is remembered of mail that is refused anyway. All clones of a layer, and all services that they make, share
/// one store.
///
/// # What is one client, one sender
///
/// A client is the organization of its confirmed host name, if a [`ReverseDnsLayer`](crate::layer::ReverseDnsLayer) has found
/// one, otherwise its network (section 5, item 5). So a message of a large provider passes although each retry comes from another
/// network. [`client_by`](Self::client_by) sets something else, such as the domain for which SPF has passed.
///
/// Senders that change with each message, as those of mailing lists do, are
/// [one sender](GreylistKey::with_normalized_sender). Recipients are compared by [`address_rules`](Self::address_rules).
///
/// Whoever has retried is [trusted](GreylistPolicy::with_trust_after): the hosts of the client in that network.
///
/// # Who passes
///
/// - clients that have authenticated, and those of this machine (section 5, item 7), or what [`exempt`](Self::exempt) says
///   instead, such as networks (item 6);
/// - hosts of some domains, senders and recipients, by [`exempt_hosts`](Self::exempt_hosts),
///   [`exempt_senders`](Self::exempt_senders) and [`exempt_recipients`](Self::exempt_recipients); these lists can be
///   [replaced](Reloadable) while the server runs;
/// - mail to postmaster and abuse, unless [`greylist_roles`](Self::greylist_roles) says otherwise: who writes there has trouble
///   with mail.
///
/// The null sender is greylisted: to let it pass would let everybody pass who uses it. But servers that verify a sender by a
/// callout (MAIL from `<>`, RCPT, no message) expect a reply about the recipient. With
/// [`into_rcpt_and_data`](Self::into_rcpt_and_data), they get it, and messages from the null sender are greylisted at DATA
/// (section 2.5).
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
/// let path: smtpd_tower::address::ForwardPath = "user@example.org".parse()?;
/// let ask = |session| {
///     rcpt.clone().oneshot(Request::new(session, Rcpt::new(path.clone())))
/// };
/// let stranger = Session::from_peer(([192, 0, 2, 1], 4711));
///
/// assert_eq!(
///     ask(stranger.clone()).await?.to_string(),
///     "450 4.7.1 Greylisted, try again later"
/// );
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
        Self {
            store: Arc::new(store),
            settings: Arc::default(),
        }
    }

    /// Sets when a retry is accepted, and how long that is remembered.
    #[must_use]
    pub fn policy(self, policy: GreylistPolicy) -> Self {
        self.set(|settings| settings.policy = policy)
    }

    /// Sets which addresses are the same client, unless [`client_by`](Self::client_by) finds another: those with the same first
    /// bits. Default: 24 bits of IPv4 and 64 bits of IPv6, because large senders retry from a neighboring address (RFC 6647
    /// section 5, item 5).
    #[must_use]
    pub fn prefixes(self, prefixes: Prefixes) -> Self {
        self.set(|settings| settings.prefixes = prefixes)
    }

    /// Sets a function that returns what a session is a client of. Where it returns `None`, this is the network of its address.
    /// Default: [`GreylistClient::organization`].
    ///
    /// Do not return a domain that the client has only claimed, such as that of its sender without SPF.
    ///
    /// ```
    /// use smtpd_tower::{
    ///     Session,
    ///     address::Domain,
    ///     layer::{GreylistClient, GreylistLayer},
    /// };
    ///
    /// /// A service at MAIL adds this to the transaction if SPF passes.
    /// #[derive(Clone)]
    /// struct SpfPass(Domain);
    ///
    /// let by_spf = GreylistLayer::new().client_by(|session: &Session| {
    ///     match session.transaction().get::<SpfPass>() {
    ///         Some(SpfPass(domain)) => Some(GreylistClient::domain(&domain)),
    ///         None => GreylistClient::organization(session),
    ///     }
    /// });
    /// let by_network_only = GreylistLayer::new().client_by(|_| None);
    /// ```
    #[must_use]
    pub fn client_by(
        self,
        client: impl Fn(&Session) -> Option<GreylistClient> + Send + Sync + 'static,
    ) -> Self {
        self.set(|settings| settings.client = Arc::new(client))
    }

    /// Sets whether senders that change with each message are [one sender](GreylistKey::with_normalized_sender). Default: true.
    #[must_use]
    pub fn normalize_senders(self, normalize: bool) -> Self {
        self.set(|settings| settings.normalizes_senders = normalize)
    }

    /// Sets when two recipients are the same: whether case matters, and whether there are details as in `alice+news`. Default:
    /// the rules of RFC 5321.
    ///
    /// With the rules by which your mailboxes are found, a message to `alice+news` is known if one to `alice` is. The lists of
    /// [`exempt_senders`](Self::exempt_senders) and [`exempt_recipients`](Self::exempt_recipients) have their own rules.
    #[must_use]
    pub fn address_rules(self, rules: AddressRules) -> Self {
        self.set(|settings| settings.rules = rules)
    }

    /// Sets which clients pass. Default: those of this machine, and those that have authenticated (RFC 6647 section 5, item 7).
    ///
    /// ```
    /// use smtpd_tower::layer::{Exempt, GreylistLayer};
    ///
    /// let own = Exempt::local().authenticated().parse_networks(["192.0.2.0/24"])?;
    /// let layer = GreylistLayer::new().exempt(own);
    /// # Ok::<(), smtpd_tower::net::CidrError>(())
    /// ```
    #[must_use]
    pub fn exempt(self, exempt: impl Into<Reloadable<Exempt>>) -> Self {
        self.set(|settings| settings.exempt = exempt.into())
    }

    /// Sets domains whose hosts pass, and those of their subdomains: providers that do not retry well, for example. Default:
    /// none.
    ///
    /// Only confirmed names count ([`ReverseName::is_confirmed`](crate::session::ReverseName::is_confirmed)).
    #[must_use]
    pub fn exempt_hosts(self, domains: impl Into<Reloadable<Domains>>) -> Self {
        self.set(|settings| settings.exempt_hosts = domains.into())
    }

    /// Sets senders whose mail passes. Default: none.
    ///
    /// Anybody may use the sender of another, so exempt the [hosts](Self::exempt_hosts) or [networks](Self::exempt) of a partner
    /// rather than its addresses.
    #[must_use]
    pub fn exempt_senders(self, senders: impl Into<Reloadable<Addresses>>) -> Self {
        self.set(|settings| settings.exempt_senders = senders.into())
    }

    /// Sets recipients whose mail passes: those who do not want to wait. Default: none, but see
    /// [`greylist_roles`](Self::greylist_roles).
    ///
    /// ```
    /// use smtpd_tower::{
    ///     address::AddressRules, addresses::Addresses, layer::GreylistLayer,
    ///     reload::Reloadable,
    /// };
    ///
    /// let rules =
    ///     AddressRules::new().ignore_case(true).recipient_delimiter('+');
    /// let impatient =
    ///     Addresses::parse_by(rules, ["sales@example.org", "*@example.net"])?;
    /// let impatient = Reloadable::new(impatient); // `set` replaces the list
    /// let layer = GreylistLayer::new().exempt_recipients(impatient.clone());
    /// # Ok::<(), smtpd_tower::addresses::AddressesError>(())
    /// ```
    #[must_use]
    pub fn exempt_recipients(self, recipients: impl Into<Reloadable<Addresses>>) -> Self {
        self.set(|settings| settings.exempt_recipients = recipients.into())
    }

    /// Greylists mail to postmaster and abuse too, in any domain.
    #[must_use]
    pub fn greylist_roles(self) -> Self {
        self.set(|settings| settings.exempts_roles = false)
    }

    /// Sets the reply to a first attempt. Default: 450 4.7.1.
    ///
    /// RFC 6647 section 5 uses 450, and 421, which closes the connection. A 5yz reply would make clients give up.
    #[must_use]
    pub fn reply(self, reply: Reply) -> Self {
        self.reply_with(move |_| reply.clone())
    }

    /// Like [`reply`](Self::reply), with a function of the time after which a retry passes.
    ///
    /// ```
    /// use smtpd_tower::{Reply, layer::GreylistLayer};
    ///
    /// let layer = GreylistLayer::new().reply_with(|retry_after| {
    ///     let seconds = retry_after.as_secs() + 1;
    ///     Reply::mailbox_busy(format!("Greylisted, try again in {seconds} seconds"))
    /// });
    /// ```
    #[must_use]
    pub fn reply_with(self, reply: impl Fn(Duration) -> Reply + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.reply = Arc::new(reply))
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

    /// Returns a layer for RCPT that lets the null sender pass, and one for DATA that greylists messages from it there (RFC 6647
    /// section 2.5). So servers that verify senders by a callout receive a reply about the recipient, and bounces that nobody has
    /// sent for are still deferred.
    ///
    /// Use both. They share the store, and have the settings that this layer has now.
    ///
    /// ```
    /// use smtpd_tower::{
    ///     Data, Pipeline, Rcpt, Request, handler_fn, layer::GreylistLayer,
    /// };
    /// use tower::ServiceBuilder;
    ///
    /// let (at_rcpt, at_data) = GreylistLayer::new().into_rcpt_and_data();
    /// let rcpt = ServiceBuilder::new()
    ///     .layer(at_rcpt)
    ///     .service(handler_fn(async |_: Request<Rcpt>| {}));
    /// let data = ServiceBuilder::new().layer(at_data).service(handler_fn(
    ///     async |request: Request<Data>| request.into_body().discard().await,
    /// ));
    /// let pipeline = Pipeline::new().rcpt(rcpt).data(data);
    /// ```
    #[must_use = "without the layer for DATA, the null sender passes"]
    pub fn into_rcpt_and_data(self) -> (Self, GreylistDataLayer<G>) {
        let at_rcpt = self.set(|settings| settings.null_sender = NullSender::AtData);
        let at_data = GreylistDataLayer::new(at_rcpt.clone());
        (at_rcpt, at_data)
    }

    /// Returns the store.
    pub fn store(&self) -> &G {
        &self.store
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// Asks the store about the key, if there is one, and then `inner`.
    fn check<S, P>(
        &self,
        inner: &mut S,
        request: Request<P>,
        key: Option<GreylistKey>,
    ) -> GreylistFuture<G::Check, S, S::Future, P>
    where
        S: Service<Request<P>> + Clone,
    {
        let Some(key) = key else {
            return GreylistFuture::inner(inner.call(request));
        };
        let settings = &self.settings;
        let check = self.store.check(key, settings.policy);
        // The instance that was made ready is the one to call; its clone may not be ready.
        let clone = inner.clone();
        let ready = std::mem::replace(inner, clone);
        GreylistFuture::check(check, ready, request, settings.clone())
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
        let settings = &self.greylist.settings;
        let (sender, recipient) = (request.sender(), request.recipient());
        let passes = sender.is_null() && settings.null_sender == NullSender::AtData;
        let key = match passes {
            true => None,
            false => settings.key(request.session(), sender, recipient),
        };
        self.greylist.check(&mut self.inner, request, key)
    }
}

fn log_failure(error: &BoxError) {
    let error = error.to_string();
    let error = error.escape_debug();
    quietly(|| tracing::warn!(%error, "the greylist store has failed"));
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        net::IpAddr,
    };

    use smtpd_core::envelope::Envelope;
    use tokio::time::{Instant, advance};
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
    use tower::ServiceExt;
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        net::PeerAddr,
        phase::Data,
        service::handler_fn,
        session::{ReverseName, Session},
    };

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
        let own = Exempt::local()
            .authenticated()
            .parse_networks(["203.0.113.0/24", "2001:db8:5::/48"]);
        let layer = GreylistLayer::new().exempt(own.unwrap());
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
            let received = code(&layer, stranger("192.0.2.1")).await;
            assert_eq!(received, expected, "{minutes}");
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

    fn named(ip: &str, name: &str, is_confirmed: bool) -> Session {
        let session = stranger(ip);
        let name = ReverseName::new(name).unwrap();
        session.insert(name.with_confirmed(is_confirmed));
        session
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_provider_that_retries_from_six_networks_is_six_strangers() {
        let attempts = |is_confirmed| {
            (0..6).map(move |n| {
                let ip = format!("203.0.{n}.1");
                named(&ip, &format!("mx{n}.out.example.com"), is_confirmed)
            })
        };
        for (is_confirmed, by_network, expected) in [
            (true, false, [450, 250, 250, 250, 250, 250]),
            (false, false, [450; 6]),
            (true, true, [450; 6]),
        ] {
            let mut layer =
                GreylistLayer::new().policy(GreylistPolicy::new().with_trust_after(None));
            if by_network {
                layer = layer.client_by(|_| None);
            }
            for (session, expected) in attempts(is_confirmed).zip(expected) {
                let received = code(&layer, session.clone()).await;
                assert_eq!(received, expected, "{is_confirmed} {session:?}");
                advance(MINUTE).await;
            }
        }
        // Trust is for the organization, not for others in one of its networks.
        let layer = GreylistLayer::new();
        for (session, expected) in attempts(true).zip([450, 250, 250]) {
            assert_eq!(code(&layer, session).await, expected);
            advance(MINUTE).await;
        }
        assert_eq!(code(&layer, stranger("203.0.1.2")).await, 450);
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_for_data_lets_the_null_sender_pass_the_layer_that_it_was_made_of() {
        let layer = GreylistLayer::new();
        let (_rcpt, data) = layer.clone().into_rcpt_and_data();
        let service = data.layer(handler_fn(async |_: Request<Data>| Reply::OK));
        assert_eq!(
            ask(&layer, stranger("192.0.2.1"), "", "b@example.org").await,
            450
        );
        drop(service);
    }

    #[tokio::test(start_paused = true)]
    async fn a_customer_who_retries_makes_all_others_of_the_hoster_trusted() {
        let layer = GreylistLayer::new();
        let (one, neighbor, other) = (
            named("203.0.113.1", "vps-1.vps.hoster.example", true),
            named("203.0.113.2", "vps-2.vps.hoster.example", true),
            named("198.51.100.1", "vps-3.vps.hoster.example", true),
        );
        let to = "b@example.org";
        assert_eq!(ask(&layer, one.clone(), "1@one.example", to).await, 450);
        advance(MINUTE).await;
        assert_eq!(ask(&layer, one.clone(), "1@one.example", to).await, 250);
        assert_eq!(ask(&layer, one, "2@one.example", to).await, 250);
        assert_eq!(
            ask(&layer, other.clone(), "eve@other.example", to).await,
            450
        );
        // As without names, the neighbors in the network of the first are trusted, too.
        assert_eq!(ask(&layer, neighbor, "eve@other.example", to).await, 250);
        // The first message is still known, from wherever it comes.
        assert_eq!(ask(&layer, other, "1@one.example", to).await, 250);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_to_another_detail_of_a_mailbox_is_a_first_attempt() {
        let policy = GreylistPolicy::new().with_trust_after(None);
        let exact = GreylistLayer::new().policy(policy);
        let rules = AddressRules::new()
            .ignore_case(true)
            .recipient_delimiter('+');
        for (layer, expected) in [(exact.clone(), 450), (exact.address_rules(rules), 250)] {
            let client = || stranger("192.0.2.1");
            assert_eq!(
                ask(&layer, client(), "a@b.example", "bob+x@d.example").await,
                450
            );
            advance(MINUTE).await;
            let received = ask(&layer, client(), "a@b.example", "Bob+y@d.example").await;
            assert_eq!(received, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_spf_has_proved_is_no_client() {
        #[derive(Clone)]
        struct SpfPass(&'static str);
        let layer = GreylistLayer::new().client_by(|session| {
            let SpfPass(domain) = session.transaction().get()?;
            Some(GreylistClient::domain(&domain.parse().ok()?))
        });
        for (n, domain, expected) in [
            (0, Some("example.com"), 450),
            (1, Some("EXAMPLE.com"), 250),
            (2, Some("example.net"), 450),
            (3, None, 450),
        ] {
            let session = stranger(&format!("203.0.{n}.1"));
            if let Some(domain) = domain {
                session.transaction().insert(SpfPass(domain));
            }
            assert_eq!(code(&layer, session).await, expected, "{n}");
            advance(MINUTE).await;
        }
    }

    async fn ask<G: GreylistStore>(
        layer: &GreylistLayer<G>,
        session: Session,
        sender: &str,
        recipient: &str,
    ) -> u16 {
        let service = layer.layer(handler_fn(async |_: Request<Rcpt>| {}));
        let request = request(session, sender, recipient);
        service.oneshot(request).await.unwrap().code().as_u16()
    }

    #[tokio::test(start_paused = true)]
    async fn five_messages_of_a_list_are_five_strangers() {
        let layer = GreylistLayer::new().policy(GreylistPolicy::new().with_trust_after(None));
        let exact = layer.clone().normalize_senders(false);
        for n in 0..5 {
            let sender = format!("list-return-{n}-b=example.org@lists.example");
            let received = ask(&layer, stranger("192.0.2.1"), &sender, "b@example.org").await;
            assert_eq!(received, if n == 0 { 450 } else { 250 }, "{n}");
            let received = ask(&exact, stranger("192.0.2.1"), &sender, "b@example.org").await;
            assert_eq!(received, 450, "{n}");
            advance(MINUTE).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_writes_to_postmaster_waits() {
        let layer = GreylistLayer::new();
        let strict = layer.clone().greylist_roles();
        for (recipient, expected) in [
            ("Postmaster", 250),
            ("POSTMASTER@example.org", 250),
            (r#""postmaster"@example.org"#, 250),
            ("Abuse@example.org", 250),
            ("postmaster2@example.org", 450),
            ("b@postmaster.example", 450),
        ] {
            let sender = "a@example.com";
            let received = ask(&layer, stranger("192.0.2.1"), sender, recipient).await;
            assert_eq!(received, expected, "{recipient}");
            let received = ask(&strict, stranger("192.0.2.1"), sender, recipient).await;
            assert_eq!(received, 450, "{recipient}");
        }
    }

    async fn at_data<G: GreylistStore>(
        layer: &GreylistDataLayer<G>,
        session: &Session,
        sender: &str,
        recipients: &[&str],
    ) -> u16 {
        let mut envelope = Envelope::new(sender.parse().unwrap());
        for recipient in recipients {
            envelope = envelope.with_recipient(recipient.parse().unwrap());
        }
        let service = layer.layer(handler_fn(async |_: Request<Data>| Reply::OK));
        let data = Data::new(envelope, "".into());
        let reply = service.oneshot(Request::new(session.clone(), data)).await;
        reply.unwrap().merged().code().as_u16()
    }

    #[tokio::test(start_paused = true)]
    async fn a_callout_hears_that_it_is_greylisted() {
        let (layer, data) = GreylistLayer::new().into_rcpt_and_data();
        let client = stranger("192.0.2.1");
        let to = "b@example.org";
        for (after, expected) in [(0, 450), (59, 450), (1, 250)] {
            advance(Duration::from_secs(after)).await;
            assert_eq!(
                at_data(&data, &client, "", &["abuse@example.org", to]).await,
                expected
            );
            assert_eq!(ask(&layer, stranger("192.0.3.1"), "", to).await, 250);
        }
        // Others are greylisted at RCPT only.
        let other = stranger("192.0.4.1");
        assert_eq!(ask(&layer, other.clone(), "a@example.com", to).await, 450);
        assert_eq!(at_data(&data, &other, "a@example.com", &[to]).await, 250);
        for session in [other.clone().with_identity("alice"), stranger("127.0.0.1")] {
            assert_eq!(at_data(&data, &session, "", &[to]).await, 250);
        }
        assert_eq!(
            at_data(&data, &other, "", &["postmaster@example.org"]).await,
            250
        );
        assert_eq!(at_data(&data, &other, "", &[]).await, 250);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_of_an_exempt_domain_waits() {
        let domains = Domains::parse(["example.com", "mx.example.net"]).unwrap();
        let layer = GreylistLayer::new().exempt_hosts(domains);
        for (name, is_confirmed, expected) in [
            ("mx.out.Example.com", true, 250),
            ("example.com", true, 250),
            ("mx.example.net", true, 250),
            ("mx.example.com", false, 450),
            ("notexample.com", true, 450),
            ("example.net", true, 450),
            ("com", true, 450),
        ] {
            let session = named("192.0.2.1", name, is_confirmed);
            assert_eq!(code(&layer, session).await, expected, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn senders_and_recipients_that_are_exempt_wait() {
        let recipients = Addresses::parse(["sales@example.org", "*@example.net"]).unwrap();
        let recipients = Reloadable::new(recipients);
        let layer = GreylistLayer::new()
            .exempt_senders(Addresses::parse(["alerts@example.com"]).unwrap())
            .exempt_recipients(recipients.clone());
        for (sender, recipient, expected) in [
            ("a@example.com", "sales@example.org", 250),
            ("a@example.com", "b@example.org", 450),
            ("a@example.com", "b@example.net", 250),
            ("alerts@example.com", "b@example.org", 250),
            ("", "b@example.org", 450),
            ("", "b@example.net", 250),
        ] {
            let received = ask(&layer, stranger("192.0.2.1"), sender, recipient).await;
            assert_eq!(received, expected, "{sender} {recipient}");
        }
        recipients.set(Addresses::parse(["<>"]).unwrap());
        let received = ask(
            &layer,
            stranger("192.0.2.1"),
            "a@example.com",
            "b@example.net",
        )
        .await;
        assert_eq!(received, 450, "the list was replaced");
        let null = layer.exempt_senders(recipients);
        assert_eq!(
            ask(&null, stranger("192.0.2.1"), "", "b@example.org").await,
            250
        );
    }

    /// The bits of a mapped network are not cut to the width of IPv4.
    #[tokio::test(start_paused = true)]
    async fn a_mapped_network_exempts_one_address() {
        let mapped = Exempt::new().parse_networks(["::ffff:192.0.2.0/120"]);
        let layer = GreylistLayer::new().exempt(mapped.unwrap());
        assert_eq!(code(&layer, stranger("192.0.2.77")).await, 250);
        assert_eq!(code(&layer, stranger("192.0.3.1")).await, 450);
        // What was exempt by default is not any more.
        assert_eq!(code(&layer, stranger("127.0.0.1")).await, 450);
    }

    #[tokio::test(start_paused = true)]
    async fn the_reply_says_when_to_come_again() {
        let layer = GreylistLayer::new()
            .reply_with(|after| Reply::mailbox_busy(format!("In {} seconds", after.as_secs())));
        let mut received = Vec::new();
        for _ in 0..3 {
            let request = request(stranger("192.0.2.1"), "a@example.com", "b@example.org");
            let service = layer.layer(handler_fn(async |_: Request<Rcpt>| {}));
            received.push(service.oneshot(request).await.unwrap().to_string());
            advance(MINUTE / 2).await;
        }
        assert!(received[0].ends_with("In 60 seconds"), "{received:?}");
        assert!(received[1].ends_with("In 30 seconds"), "{received:?}");
        assert!(received[2].starts_with("250"), "{received:?}");
    }
}
