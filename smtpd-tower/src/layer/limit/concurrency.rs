use std::{
    any::type_name,
    fmt,
    hash::Hash,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use smtpd_core::reply::{Code, Reply, Status};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    AtLimit, FindKey, LimitKey, PerIdentity, PerIp, PerRequest, PerSession,
    key::client_settings,
    slots::{Config, Taken},
    watch::Watch,
};
use crate::{
    layer::{AnswerFuture, Exempt},
    phase::Request,
    reload::Reloadable,
    session::Session,
};

/// Limits the requests in flight of each client, user or any other key, and defers further ones with 451 4.7.1.
///
/// It fits every phase, and is meant for those that take long, such as DATA or an AUTH that hashes passwords. A request is in
/// flight until its future completes or is dropped. Nothing waits: requests over the limit are deferred at once, and the client
/// tries again later. All clones of a layer, and all services that they make, count together; a key with nothing in flight uses
/// no memory.
///
/// It has the same constructors as [`RateLimitLayer`](crate::layer::RateLimitLayer). Requests without a key are not limited, nor
/// are those that you [exempt](Self::exempt); by default, this machine is limited like any other.
///
/// To limit sessions, use [`SessionsPerIpLayer`](crate::layer::SessionsPerIpLayer): a connect request ends when the client is
/// greeted. tower's own `concurrency_limit` is one limit for all clients, and makes them wait.
///
/// [The guide](crate::guide::backpressure) compares it with limits that make clients wait.
///
/// ```
/// use smtpd_tower::{
///     Rcpt, Request, Session, handler_fn, layer::ConcurrencyLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new().layer(ConcurrencyLayer::per_ip(1)).service(
///     handler_fn(async |_: Request<Rcpt>| tokio::task::yield_now().await),
/// );
/// let path: smtpd_tower::address::ForwardPath = "user@example.org".parse()?;
/// let ask = |client: [u8; 4]| {
///     rcpt.clone().oneshot(Request::new(
///         Session::from_peer((client, 4711)),
///         Rcpt::new(path.clone()),
///     ))
/// };
///
/// let (first, second, other) =
///     tokio::join!(ask([192, 0, 2, 1]), ask([192, 0, 2, 1]), ask([192, 0, 2, 2]));
/// assert_eq!(first?.code().as_u16(), 250);
/// assert_eq!(
///     second?.to_string(),
///     "451 4.7.1 Too many requests at once, try again later"
/// );
/// assert_eq!(other?.code().as_u16(), 250);
/// assert_eq!(ask([192, 0, 2, 1]).await?.code().as_u16(), 250);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ConcurrencyLayer<F = PerIp> {
    key: F,
    config: Arc<Config>,
}

impl ConcurrencyLayer {
    /// Allows each client `n` requests in flight. With 0, every client is refused.
    ///
    /// A client is an IPv4 address or an IPv6 /64, unless [`prefixes`](Self::prefixes) are set. All clients of an IPv6 /48
    /// together may have 16 times as many, unless [`network`](Self::network) says otherwise. Clients without an IP address, such
    /// as those on a Unix socket, are not limited.
    pub fn per_ip(n: usize) -> Self {
        Self::new(n, PerIp::default())
    }
}

client_settings!(ConcurrencyLayer);

impl ConcurrencyLayer<PerIdentity> {
    /// Allows each identity `n` requests in flight, over all its sessions. With 0, every identity is refused.
    ///
    /// Clients that have not authenticated are not limited; [`RequireAuthLayer`](crate::layer::RequireAuthLayer) rejects them.
    pub fn per_identity(n: usize) -> Self {
        Self::new(n, PerIdentity)
    }

    /// Remembers the identities that were refused last, up to `identities` of them, for [`top`](Self::top).
    #[must_use]
    pub fn watch(self, identities: NonZeroUsize) -> Self {
        self.watch_by(identities, |session| {
            Some(PerIdentity::key_of(session.identity()?).to_string())
        })
    }
}

impl<F> ConcurrencyLayer<PerSession<F>> {
    /// Allows each key `n` requests in flight. The key is a function of the session, so the layer fits every phase.
    pub fn by_session<K>(n: usize, key: F) -> Self
    where
        F: Fn(&Session) -> Option<K>,
        K: Hash,
    {
        Self::new(n, PerSession(key))
    }
}

impl<F> ConcurrencyLayer<PerRequest<F>> {
    /// Allows each key `n` requests in flight. The key is a function of the request, so the layer fits one phase.
    ///
    /// ```
    /// use smtpd_tower::{Data, Request, layer::ConcurrencyLayer};
    ///
    /// let per_sender = ConcurrencyLayer::by(4, |request: &Request<Data>| {
    ///     request.envelope().sender().mailbox().map(|sender| sender.to_string())
    /// });
    /// ```
    pub fn by<P, K>(n: usize, key: F) -> Self
    where
        F: Fn(&Request<P>) -> Option<K>,
        K: Hash,
    {
        Self::new(n, PerRequest(key))
    }
}

impl<F> ConcurrencyLayer<F> {
    fn new(n: usize, key: F) -> Self {
        let reply = Reply::new(
            Code::LOCAL_ERROR,
            Status::DENIED,
            "Too many requests at once, try again later",
        );
        Self {
            key,
            config: Arc::new(Config::new(n, reply)),
        }
    }

    /// Sets the reply to requests over the limit. Default: 451 4.7.1.
    #[must_use]
    pub fn reply(self, reply: Reply) -> Self {
        self.set(|config| config.set_reply(reply))
    }

    /// Sets which sessions are not limited, and do not count. Default: none.
    #[must_use]
    pub fn exempt(self, exempt: impl Into<Reloadable<Exempt>>) -> Self {
        self.set(|config| config.set_exempt(exempt.into()))
    }

    /// Remembers the names of those that were refused last, up to `names` of them, for [`top`](Self::top). `name` is called only
    /// for a request that is refused.
    #[must_use]
    pub fn watch_by(
        self,
        names: NonZeroUsize,
        name: impl Fn(&Session) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.set(|config| config.set_watch(Watch::new(names, name)))
    }

    /// Changes the number of requests in flight of each key, for all clones. Requests beyond it are not interrupted.
    pub fn set_limit(&self, n: usize) {
        self.config.slots.set_limit(n);
    }

    /// Returns how many requests of `subject` are in flight: of a [`ClientKey`](crate::limiter::ClientKey), of the name of a user in any spelling, or of a key
    /// as your function returns it.
    pub fn in_use<T>(&self, subject: T) -> usize
    where
        F: FindKey<T>,
    {
        self.config.slots.in_use(self.key.find_key(subject))
    }

    /// Returns how many keys have requests in flight now, for metrics. The wider networks of clients count too.
    pub fn tracked(&self) -> usize {
        self.config.slots.tracked()
    }

    /// Returns the `n` names that were refused most often, if they are [remembered](Self::watch_by).
    pub fn top(&self, n: usize) -> Vec<AtLimit> {
        self.config.top(n)
    }

    fn take<P>(&self, request: &Request<P>) -> Result<Option<Taken>, Reply>
    where
        F: LimitKey<P>,
    {
        self.config.take(&self.key, request)
    }

    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

// By hand: a closure has no Debug.
impl<F> fmt::Debug for ConcurrencyLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLayer")
            .field("key", &type_name::<F>())
            .field("config", &self.config)
            .finish()
    }
}

impl<S, F: Clone> Layer<S> for ConcurrencyLayer<F> {
    type Service = Concurrency<S, F>;

    fn layer(&self, inner: S) -> Concurrency<S, F> {
        Concurrency {
            inner,
            limit: self.clone(),
        }
    }
}

/// The service of [`ConcurrencyLayer`].
#[derive(Clone, Debug)]
pub struct Concurrency<S, F = PerIp> {
    inner: S,
    limit: ConcurrencyLayer<F>,
}

impl<S, F, P> Service<Request<P>> for Concurrency<S, F>
where
    S: Service<Request<P>>,
    F: LimitKey<P>,
    S::Response: From<Reply>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ConcurrencyFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        match self.limit.take(&request) {
            Ok(taken) => ConcurrencyFuture {
                answer: AnswerFuture::inner(self.inner.call(request)),
                taken,
            },
            Err(reply) => ConcurrencyFuture {
                answer: AnswerFuture::answer(reply.or_origin("ConcurrencyLayer").into()),
                taken: None,
            },
        }
    }
}

/// The future of [`Concurrency`]. The request is in flight until the future completes or is dropped.
#[pin_project]
#[derive(Debug)]
pub struct ConcurrencyFuture<F, R> {
    #[pin]
    answer: AnswerFuture<F, R>,
    taken: Option<Taken>,
}

impl<F, R, E> Future for ConcurrencyFuture<F, R>
where
    F: Future<Output = Result<R, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let result = ready!(this.answer.poll(cx));
        // A future that is kept after it has completed must not hold its permit.
        *this.taken = None;
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use smtpd_core::{
        connection::AuthOutcome,
        sasl::{Credentials, MechanismName},
    };
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
    use tower::{BoxError, ServiceExt, service_fn};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        limiter::ClientKey,
        net::{PeerAddr, Prefixes},
        phase::{Auth, Connect},
    };

    fn from(ip: &str) -> Session {
        let ip: IpAddr = ip.parse().unwrap();
        Session::from_peer((ip, 4711))
    }

    /// Returns whether the second session is refused while a request of the first is in flight.
    fn refuses<F>(layer: &ConcurrencyLayer<F>, first: &Session, second: &Session) -> bool
    where
        F: LimitKey<Connect> + Clone,
    {
        let service = layer.layer(service_fn(async |_: Request<Connect>| {
            std::future::pending::<Result<Reply, BoxError>>().await
        }));
        let ask = |session: &Session| {
            let request = Request::new(session.clone(), Connect::new());
            task::spawn(service.clone().oneshot(request))
        };
        let mut in_flight = ask(first);
        assert_pending!(in_flight.poll());
        let mut asked = ask(second);
        asked.poll().is_ready()
    }

    fn assert_refusals<F>(layer: &ConcurrencyLayer<F>, table: &[(Session, Session, bool)])
    where
        F: LimitKey<Connect> + Clone,
    {
        for (first, second, refused) in table {
            assert_eq!(
                refuses(layer, first, second),
                *refused,
                "{layer:?} {first:?} {second:?}"
            );
            let stranger = from("203.0.113.9");
            assert!(!refuses(layer, &stranger, second), "not freed");
        }
    }

    #[test]
    fn clients_are_told_apart() {
        let alice = || from("192.0.2.1").with_identity("alice");
        let (per_ip, per_identity) = (
            ConcurrencyLayer::per_ip(1),
            ConcurrencyLayer::per_identity(1),
        );
        let unix = || Session::from_peer(PeerAddr::Unix(None));
        let by_ip = [
            (from("192.0.2.1"), from("192.0.2.1"), true),
            (from("192.0.2.1"), from("192.0.2.2"), false),
            (from("192.0.2.1"), from("::ffff:192.0.2.1"), true),
            (from("2001:db8::1"), from("2001:db8::2"), true),
            (from("2001:db8::1"), from("2001:db8:0:1::"), false),
            (unix(), unix(), false),
        ];
        let by_identity = [
            (alice(), unix().with_identity("alice"), true),
            (alice(), alice().with_identity("bob"), false),
            (from("192.0.2.1"), from("192.0.2.1"), false),
        ];
        assert_refusals(&per_ip, &by_ip);
        assert_refusals(&per_identity, &by_identity);
        let wide = ConcurrencyLayer::per_ip(1).prefixes(Prefixes::new(24, 48).unwrap());
        assert_refusals(&wide, &[(from("192.0.2.1"), from("192.0.2.2"), true)]);
    }

    #[test]
    fn the_key_is_a_function_of_the_request_or_of_the_session() {
        let local = |session: &Session| session.client_addr().is_local().then_some(());
        let by_session = ConcurrencyLayer::by_session(1, local);
        let by_request = ConcurrencyLayer::by(1, move |request: &Request<Connect>| {
            local(request.session())
        });
        let table = [
            (from("127.0.0.1"), from("127.0.0.2"), true),
            (from("127.0.0.1"), from("192.0.2.1"), false),
            (from("192.0.2.1"), from("192.0.2.1"), false),
        ];
        assert_refusals(&by_session, &table);
        assert_refusals(&by_request, &table);
    }

    #[tokio::test]
    async fn a_request_is_in_flight_until_it_is_answered_or_dropped() {
        let (mut service, mut handle) =
            spawn_layer::<Request<Connect>, Reply, _>(ConcurrencyLayer::per_ip(1));
        let request = || Request::new(from("192.0.2.1"), Connect::new());
        for give_up in [false, true] {
            assert_ready_ok!(service.poll_ready());
            let mut first = task::spawn(service.call(request()));
            assert_pending!(first.poll());
            let (_, respond) = assert_ready!(handle.poll_request()).unwrap();

            assert_ready_ok!(service.poll_ready());
            let refused = service.call(request()).await.unwrap();
            assert_eq!(
                refused.to_string(),
                "451 4.7.1 Too many requests at once, try again later"
            );
            assert_pending!(handle.poll_request());

            if give_up {
                drop(first);
            } else {
                respond.send_response(Reply::OK);
                assert_ready!(first.poll()).unwrap();
                // The completed future still exists.
                assert_ready_ok!(service.poll_ready());
                let mut next = task::spawn(service.call(request()));
                assert_pending!(next.poll());
                assert_ready!(handle.poll_request()).unwrap();
            }
        }
        assert_ready_ok!(service.poll_ready());
        let _passes = service.call(request());
        assert!(assert_ready!(handle.poll_request()).is_some());
    }

    #[tokio::test]
    async fn auth_is_refused_with_the_reply_of_the_layer() {
        let layer = ConcurrencyLayer::per_ip(1).reply(Reply::busy());
        let connect = Request::new(from("192.0.2.1"), Connect::new());
        let _in_flight = layer.take(&connect).unwrap();
        let service = layer.layer(service_fn(async |_: Request<Auth>| {
            Ok::<_, BoxError>(AuthOutcome::Accept("alice".into()))
        }));
        let credentials = Credentials::plain("alice", "hunter2").unwrap();
        let auth = Auth::new(MechanismName::from_static("PLAIN"), credentials);
        let outcome = service
            .oneshot(Request::new(from("192.0.2.1"), auth))
            .await
            .unwrap();
        assert!(matches!(outcome, AuthOutcome::Refuse(reply) if reply == Reply::busy()));
    }

    #[test]
    fn requests_in_flight_of_a_user_are_not_found_by_another_spelling_of_the_name() {
        let layer = ConcurrencyLayer::per_identity(1).watch(NonZeroUsize::MIN);
        let connect = |name| Request::new(from("192.0.2.1").with_identity(name), Connect::new());
        let taken = layer.take(&connect("Alice")).unwrap();
        assert!(taken.is_some() && layer.take(&connect("ALICE")).is_err());
        for spelling in ["alice", "Alice"] {
            assert_eq!(layer.in_use(spelling), 1, "{spelling}");
        }
        assert_eq!(layer.top(1)[0].name(), "alice");
    }

    #[test]
    fn clients_of_one_site_have_no_limit_together() {
        let layer = ConcurrencyLayer::per_ip(2);
        let connect = |n: u16| Request::new(from(&format!("2001:db8:1:{n:x}::1")), Connect::new());
        let mut taken: Vec<_> = (0..32).map(|n| layer.take(&connect(n)).unwrap()).collect();
        assert!(
            layer.take(&connect(99)).is_err(),
            "16 times as many in a /48"
        );
        let elsewhere = Request::new(from("2001:db8:2::1"), Connect::new());
        assert!(layer.take(&elsewhere).is_ok());
        taken.pop();
        taken.extend([(); 2].map(|()| layer.take(&connect(99)).unwrap_or_default()));
        assert!(taken.last().is_some_and(Option::is_none));
        assert_eq!(
            layer.in_use(ClientKey::new("2001:db8:1::".parse().unwrap())),
            1
        );
        taken.clear();
        assert_eq!(
            layer.tracked(),
            0,
            "a refusal by the network gives back the client's"
        );

        let alone = ConcurrencyLayer::per_ip(1).without_network();
        let taken: Vec<_> = (0..100).map(|n| alone.take(&connect(n))).collect();
        assert!(taken.iter().all(Result::is_ok));
    }

    #[test]
    fn own_networks_are_limited_unless_they_are_exempt() {
        let layer = ConcurrencyLayer::per_ip(1).watch(NonZeroUsize::MIN);
        let connect = || Request::new(from("127.0.0.1"), Connect::new());
        let taken = layer.take(&connect()).unwrap();
        assert!(taken.is_some() && layer.take(&connect()).is_err());
        let [at_limit] = &layer.top(9)[..] else {
            panic!("{:?}", layer.top(9));
        };
        assert_eq!((at_limit.name(), at_limit.refused()), ("127.0.0.1", 1));
        let exempt = layer.clone().exempt(Exempt::local());
        assert!(exempt.take(&connect()).is_ok_and(|taken| taken.is_none()));
        layer.set_limit(2);
        assert!(layer.take(&connect()).is_ok(), "a limit that was changed");
    }
}
