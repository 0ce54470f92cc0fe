use std::{any::type_name, fmt, hash::Hash, num::NonZeroUsize, sync::Arc};

use smtpd_core::reply::{Code, Reply, Status};
use tower_layer::Layer;

use super::{
    AtLimit, FindKey, LimitKey, PerIp, PerSession, key::client_settings, slots::Config,
    watch::Watch,
};
use crate::{
    layer::{Admit, Exempt, Gate},
    phase::{Connect, Request},
    reload::Reloadable,
    session::Session,
};

/// Limits the sessions of each client, and refuses further ones with 421 4.7.0.
///
/// It fits connect only. A session counts from its connect request to the end of its connection, however it ends and whoever
/// keeps a clone of the [`Session`](crate::session::Session): the session [holds](crate::session::Session::hold) the permit.
/// After XCLIENT it counts for the client that is named.
///
/// A client is an IPv4 address or an IPv6 /64 unless [`prefixes`](Self::prefixes) are set, and all clients of an IPv6 /48
/// together may have 16 times as many sessions, unless [`network`](Self::network) says otherwise. Clients without an IP address,
/// such as those on a Unix socket, are not limited, nor are those that you [exempt](Self::exempt): a mail system on the same
/// machine, for instance. All clones of a layer, and all services that they make, count together.
///
/// ```
/// use smtpd_tower::{
///     Connect, Request, Session, handler_fn, layer::SessionsPerIpLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let connect = ServiceBuilder::new()
///     .layer(SessionsPerIpLayer::new(1))
///     .service(handler_fn(async |_: Request<Connect>| {}));
/// let ask = |session: &Session| {
///     connect.clone().oneshot(Request::new(session.clone(), Connect::new()))
/// };
///
/// let first = Session::from_peer(([192, 0, 2, 1], 4711));
/// assert_eq!(ask(&first).await?.code().as_u16(), 250);
/// let second = Session::from_peer(([192, 0, 2, 1], 4712));
/// assert_eq!(
///     ask(&second).await?.to_string(),
///     "421 4.7.0 Too many connections from your address"
/// );
/// drop(first);
/// assert_eq!(ask(&second).await?.code().as_u16(), 250);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SessionsPerIpLayer<F = PerIp> {
    key: F,
    config: Arc<Config>,
}

impl SessionsPerIpLayer {
    /// Allows each client `n` sessions at a time. With 0, every client is refused.
    pub fn new(n: usize) -> Self {
        Self::by_key(n, PerIp::default())
    }
}

client_settings!(SessionsPerIpLayer);

impl<F> SessionsPerIpLayer<PerSession<F>> {
    /// Allows each key `n` sessions at a time, instead of each client. The key is a function of the session at connect; sessions
    /// without one are not limited.
    ///
    /// ```
    /// use smtpd_tower::{Session, layer::SessionsPerIpLayer, session::ReverseName};
    ///
    /// // Within `ReverseDnsLayer`: all machines of a provider together.
    /// let per_domain = SessionsPerIpLayer::by(50, |session: &Session| {
    ///     let name = session.get::<ReverseName>()?;
    ///     let (_, domain) = name.as_str().split_once('.')?;
    ///     Some(domain.to_owned())
    /// });
    /// ```
    pub fn by<K>(n: usize, key: F) -> Self
    where
        F: Fn(&Session) -> Option<K>,
        K: Hash,
    {
        Self::by_key(n, PerSession(key))
    }
}

impl<F> SessionsPerIpLayer<F> {
    fn by_key(n: usize, key: F) -> Self {
        let reply = Reply::new(
            Code::SERVICE_UNAVAILABLE,
            Status::POLICY,
            "Too many connections from your address",
        );
        Self {
            key,
            config: Arc::new(Config::new(n, reply)),
        }
    }

    /// Sets the reply to a session over the limit. Default: 421 4.7.0.
    #[must_use]
    pub fn reply(self, reply: Reply) -> Self {
        self.set(|config| config.set_reply(reply))
    }

    /// Sets which sessions are not limited, and do not count. Default: none. Nobody has authenticated at connect.
    ///
    /// ```
    /// use smtpd_tower::layer::{Exempt, SessionsPerIpLayer};
    ///
    /// let layer = SessionsPerIpLayer::new(20).exempt(Exempt::local());
    /// ```
    #[must_use]
    pub fn exempt(self, exempt: impl Into<Reloadable<Exempt>>) -> Self {
        self.set(|config| config.set_exempt(exempt.into()))
    }

    /// Remembers the names of those that were refused last, up to `names` of them, for [`top`](Self::top). `name` is called only
    /// for a session that is refused.
    #[must_use]
    pub fn watch_by(
        self,
        names: NonZeroUsize,
        name: impl Fn(&Session) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.set(|config| config.set_watch(Watch::new(names, name)))
    }

    /// Changes the number of sessions of each key, for all clones. Sessions beyond it are not interrupted.
    pub fn set_limit(&self, n: usize) {
        self.config.slots.set_limit(n);
    }

    /// Returns how many sessions `subject` has: a [`ClientKey`](crate::limiter::ClientKey), or a key as your function returns it.
    pub fn in_use<T>(&self, subject: T) -> usize
    where
        F: FindKey<T>,
    {
        self.config.slots.in_use(self.key.find_key(subject))
    }

    /// Returns how many keys have sessions now, for metrics. The wider networks of clients count too.
    pub fn tracked(&self) -> usize {
        self.config.slots.tracked()
    }

    /// Returns the `n` names that were refused most often, if they are [remembered](Self::watch_by).
    pub fn top(&self, n: usize) -> Vec<AtLimit> {
        self.config.top(n)
    }

    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

// By hand: a closure has no Debug.
impl<F> fmt::Debug for SessionsPerIpLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionsPerIpLayer")
            .field("key", &type_name::<F>())
            .field("config", &self.config)
            .finish()
    }
}

impl<S, F: Clone> Layer<S> for SessionsPerIpLayer<F> {
    type Service = Gate<S, Self>;

    fn layer(&self, inner: S) -> Gate<S, Self> {
        Gate::new(inner, self.clone())
    }
}

impl<F: LimitKey<Connect>> Admit<Connect> for SessionsPerIpLayer<F> {
    fn admit(&self, request: &Request<Connect>) -> Result<(), Reply> {
        if let Some(taken) = self.config.take(&self.key, request)? {
            request.session().hold(taken);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, net::IpAddr, num::NonZeroU32};

    use tokio_test::{assert_pending, assert_ready_ok};
    use tower::{ServiceExt, service_fn};
    use tower_layer::Layer;
    use tower_service::Service;
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        limiter::ClientKey,
        net::{PeerAddr, Prefixes},
        session::Session,
    };

    fn from(ip: &str) -> Session {
        let ip: IpAddr = ip.parse().unwrap();
        Session::from_peer((ip, 4711))
    }

    async fn code<L>(layer: &L, session: &Session) -> u16
    where
        L: Layer<Accept>,
        L::Service: Service<Request<Connect>, Response = Reply, Error = Infallible>,
    {
        let inner: Accept =
            service_fn(|_: Request<Connect>| std::future::ready(Ok::<_, Infallible>(Reply::OK)));
        let request = Request::new(session.clone(), Connect::new());
        let reply = layer.layer(inner).oneshot(request).await.unwrap();
        reply.code().as_u16()
    }

    type Accept = tower::util::ServiceFn<
        fn(Request<Connect>) -> std::future::Ready<Result<Reply, Infallible>>,
    >;

    #[tokio::test]
    async fn a_permit_is_kept_when_its_session_ends() {
        let layer = SessionsPerIpLayer::new(2);
        let (first, second) = (from("192.0.2.1"), from("192.0.2.1"));
        assert_eq!(code(&layer, &first).await, 250);
        assert_eq!(code(&layer.clone(), &second).await, 250);
        assert_eq!(code(&layer, &from("192.0.2.1")).await, 421);
        assert_eq!(code(&layer, &from("192.0.2.2")).await, 250);
        drop(first);
        let third = from("192.0.2.1");
        assert_eq!(code(&layer, &third).await, 250);
        assert_eq!(code(&layer, &from("192.0.2.1")).await, 421);
    }

    #[tokio::test]
    async fn a_second_layer_releases_the_permit_of_the_first() {
        let narrow = SessionsPerIpLayer::new(1);
        let wide = SessionsPerIpLayer::new(10).prefixes(Prefixes::new(24, 48).unwrap());
        let both = tower::ServiceBuilder::new()
            .layer(narrow.clone())
            .layer(wide)
            .into_inner();
        let first = from("192.0.2.1");
        assert_eq!(code(&both, &first).await, 250);
        assert_eq!(code(&narrow, &from("192.0.2.1")).await, 421);
        drop(first);
        assert_eq!(code(&narrow, &from("192.0.2.1")).await, 250);
    }

    #[tokio::test]
    async fn clients_are_told_apart_by_prefix() {
        let table = [
            (None, "2001:db8::1", "2001:db8::2", 421),
            (None, "2001:db8::1", "2001:db8:0:1::1", 250),
            (None, "192.0.2.1", "::ffff:192.0.2.1", 421),
            (Some((24, 48)), "192.0.2.1", "192.0.2.2", 421),
            (Some((24, 48)), "2001:db8::1", "2001:db8:0:1::1", 421),
        ];
        for (prefix, first, second, expected) in table {
            let mut layer = SessionsPerIpLayer::new(1);
            if let Some((v4_bits, v6_bits)) = prefix {
                layer = layer.prefixes(Prefixes::new(v4_bits, v6_bits).unwrap());
            }
            let first = from(first);
            assert_eq!(code(&layer, &first).await, 250);
            let second = code(&layer, &from(second)).await;
            assert_eq!(second, expected, "{first:?}, {prefix:?}");
        }
    }

    #[tokio::test]
    async fn peers_without_an_address_are_never_limited() {
        let layer = SessionsPerIpLayer::new(1);
        let sessions = [(); 3].map(|()| Session::from_peer(PeerAddr::Unix(None)));
        for session in &sessions {
            assert_eq!(code(&layer, session).await, 250);
        }
    }

    #[tokio::test]
    async fn a_client_that_is_refused_never_reaches_the_service() {
        let layer = SessionsPerIpLayer::new(1).reply(Reply::closing("Enough"));
        let first = from("192.0.2.1");
        assert_eq!(code(&layer, &first).await, 250);
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(layer);
        assert_ready_ok!(service.poll_ready());
        let request = Request::new(from("192.0.2.1"), Connect::new());
        let refused = service.call(request).await.unwrap();
        assert_eq!(refused, Reply::closing("Enough"));
        assert_pending!(handle.poll_request());
    }

    #[tokio::test]
    async fn clients_of_one_site_have_no_limit_together() {
        let layer = SessionsPerIpLayer::new(1);
        let session = |n: u16| from(&format!("2001:db8:1:{n:x}::1"));
        let mut sessions: Vec<_> = (0..16).map(session).collect();
        for session in &sessions {
            assert_eq!(code(&layer, session).await, 250);
        }
        assert_eq!(code(&layer, &session(16)).await, 421);
        assert_eq!(code(&layer, &from("2001:db8:2::1")).await, 250);
        sessions.clear();
        assert_eq!(layer.tracked(), 0);
        let wide =
            SessionsPerIpLayer::new(1).network(Prefixes::new(24, 32).unwrap(), NonZeroU32::MIN);
        let first = from("192.0.2.1");
        assert_eq!(code(&wide, &first).await, 250);
        assert_eq!(code(&wide, &from("192.0.2.2")).await, 421);
    }

    #[tokio::test]
    async fn a_mail_system_on_this_machine_is_limited_unless_it_is_exempt() {
        let layer = SessionsPerIpLayer::new(1).watch(NonZeroUsize::MIN);
        let first = from("127.0.0.1");
        assert_eq!(code(&layer, &first).await, 250);
        assert_eq!(code(&layer, &from("127.0.0.1")).await, 421);
        assert_eq!(layer.top(1)[0].name(), "127.0.0.1");
        assert_eq!(layer.in_use(ClientKey::new([127, 0, 0, 1].into())), 1);
        let exempt = layer.clone().exempt(Exempt::local());
        assert_eq!(code(&exempt, &from("127.0.0.1")).await, 250);
        layer.set_limit(2);
        assert_eq!(code(&layer, &from("127.0.0.1")).await, 250);
    }

    #[tokio::test]
    async fn sessions_are_counted_by_a_key_of_ones_own() {
        let layer = SessionsPerIpLayer::by(1, |session: &Session| {
            let ip = session.client_addr().ip()?;
            ip.is_ipv6().then_some("all of IPv6")
        });
        let first = from("2001:db8::1");
        assert_eq!(code(&layer, &first).await, 250);
        assert_eq!(code(&layer, &from("2001:db8:ffff::2")).await, 421);
        assert_eq!(code(&layer, &from("192.0.2.1")).await, 250);
    }
}
