use std::{any::type_name, fmt, hash::Hash, num::NonZeroUsize, sync::Arc};

use smtpd_core::{Code, Reply, Status};
use tower_layer::Layer;

use super::{LimitKey, PerIdentity, PerIp, PerSession};
use crate::{
    layer::{Admit, Gate},
    limiter::{Rate, RateLimiter},
    net::Prefixes,
    phase::Request,
    session::Session,
};

/// Limits the rate of requests by client, by user or by any other key, and defers further ones with 451 4.7.1.
///
/// It fits every phase, and counts the requests that pass through it: connections at connect, messages at MAIL or DATA,
/// recipients at RCPT, attempts at AUTH. Requests over the limit are not counted. At connect, a refusal closes the connection
/// with 421.
///
/// The events of a whole [`Rate::period`] may happen at once, and are then regained evenly: of 100 a day, one every 14.4 minutes.
/// All clones of a layer, and all services that they make, share one table, which is in memory and bounded (see
/// [`limiter`](crate::limiter)); for two limits, create two layers. tower's own `rate_limit` is something else: it makes all
/// clients wait.
///
/// | constructor | counts by | not limited |
/// |---|---|---|
/// | [`per_ip`](Self::per_ip) | IPv4 address or IPv6 /64 | clients without an IP address, such as those on a Unix socket |
/// | [`per_identity`](Self::per_identity) | authenticated identity | clients that have not authenticated |
/// | [`by`](Self::by) | a function of the request, for one phase | requests without a key |
/// | [`by_session`](Self::by_session) | a function of the session, for every phase | sessions without a key |
///
/// [`reject_without_key`](Self::reject_without_key) rejects these instead.
///
/// ```
/// use smtpd_tower::{Rcpt, Request, Session, handler_fn, layer::RateLimitLayer, limiter::Rate};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new()
///     .layer(RateLimitLayer::per_ip(Rate::per_minute(2)?))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let path: smtpd_tower::ForwardPath = "user@example.org".parse()?;
/// let ask = |client: [u8; 4]| rcpt.clone().oneshot(Request::new(Session::from_peer((client, 4711)), Rcpt::new(path.clone())));
///
/// assert_eq!(ask([192, 0, 2, 1]).await?.code().as_u16(), 250);
/// assert_eq!(ask([192, 0, 2, 1]).await?.code().as_u16(), 250);
/// assert_eq!(ask([192, 0, 2, 1]).await?.to_string(), "451 4.7.1 Too many requests, try again later");
/// assert_eq!(ask([192, 0, 2, 2]).await?.code().as_u16(), 250);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RateLimitLayer<F = PerIp> {
    key: F,
    config: Arc<Config>,
}

#[derive(Clone, Debug)]
struct Config {
    limiter: RateLimiter<AnyKey>,
    reply: Reply,
    without_key: Option<Reply>,
}

/// Stands for the keys, which may be of another type in each phase.
enum AnyKey {}

impl RateLimitLayer {
    /// Allows each client `rate`: each IPv4 address or IPv6 /64, unless [`prefixes`](Self::prefixes) are set.
    pub fn per_ip(rate: Rate) -> Self {
        Self::new(rate, PerIp::default())
    }

    /// Sets which addresses are the same client: those with the same first bits. Default: [`Prefixes::CLIENT`].
    #[must_use]
    pub fn prefixes(mut self, prefixes: Prefixes) -> Self {
        self.key.prefixes = prefixes;
        self
    }
}

impl RateLimitLayer<PerIdentity> {
    /// Allows each identity `rate`, over all its sessions: a quota for each user.
    ///
    /// ```
    /// use smtpd_tower::{Mail, Reply, Request, ReversePath, Session, handler_fn, layer::RateLimitLayer, limiter::Rate};
    /// use tower::{ServiceBuilder, ServiceExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let quota = RateLimitLayer::per_identity(Rate::per_hour(1)?).reply(Reply::mailbox_busy("Quota exceeded"));
    /// let mail = ServiceBuilder::new().layer(quota).service(handler_fn(async |_: Request<Mail>| {}));
    /// let ask = |name: &str| {
    ///     let session = Session::local().with_identity(name);
    ///     mail.clone().oneshot(Request::new(session, Mail::new(ReversePath::Null)))
    /// };
    /// assert_eq!(ask("alice").await?.code().as_u16(), 250);
    /// assert_eq!(ask("alice").await?.code().as_u16(), 450);
    /// assert_eq!(ask("bob").await?.code().as_u16(), 250);
    /// # Ok(()) }
    /// ```
    pub fn per_identity(rate: Rate) -> Self {
        Self::new(rate, PerIdentity)
    }
}

impl<F> RateLimitLayer<F> {
    /// Allows each key `rate`. The key is a function of the request, so the layer fits one phase.
    ///
    /// ```
    /// use smtpd_tower::{Mail, Request, layer::RateLimitLayer, limiter::Rate};
    ///
    /// let per_sender = RateLimitLayer::by(Rate::per_hour(100)?, |request: &Request<Mail>| {
    ///     request.sender().mailbox().map(|sender| sender.to_string())
    /// });
    /// # Ok::<(), smtpd_tower::limiter::RateError>(())
    /// ```
    pub fn by<P, K>(rate: Rate, key: F) -> Self
    where
        F: Fn(&Request<P>) -> Option<K>,
        K: Hash,
    {
        Self::new(rate, key)
    }

    fn new(rate: Rate, key: F) -> Self {
        let reply = Reply::new(
            Code::LOCAL_ERROR,
            Status::DENIED,
            "Too many requests, try again later",
        );
        let config = Config {
            limiter: RateLimiter::new(rate),
            reply,
            without_key: None,
        };
        Self {
            key,
            config: Arc::new(config),
        }
    }

    /// Sets the maximum number of keys that are remembered. Default: [`RateLimiter::DEFAULT_CAPACITY`].
    ///
    /// This starts a new table. Earlier clones keep the old one.
    #[must_use]
    pub fn capacity(self, keys: NonZeroUsize) -> Self {
        self.set(|config| {
            config.limiter = RateLimiter::with_capacity(config.limiter.rate(), keys);
        })
    }

    /// Sets the reply to requests over the limit. Default: 451 4.7.1.
    ///
    /// A 5yz reply makes clients give up instead of trying again later.
    #[must_use]
    pub fn reply(self, reply: Reply) -> Self {
        self.set(|config| config.reply = reply)
    }

    /// Rejects requests without a key with `reply`, such as [`Reply::auth_required`]. By default, they pass.
    #[must_use]
    pub fn reject_without_key(self, reply: Reply) -> Self {
        self.set(|config| config.without_key = Some(reply))
    }

    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<F> RateLimitLayer<PerSession<F>> {
    /// Allows each key `rate`. The key is a function of the session, so the layer fits every phase.
    ///
    /// ```
    /// use smtpd_tower::{Session, layer::RateLimitLayer, limiter::Rate};
    ///
    /// // The domain of the user's name.
    /// let per_domain = RateLimitLayer::by_session(Rate::per_hour(1000)?, |session: &Session| {
    ///     let (_, domain) = session.identity()?.as_str().rsplit_once('@')?;
    ///     Some(domain.to_ascii_lowercase())
    /// });
    /// # Ok::<(), smtpd_tower::limiter::RateError>(())
    /// ```
    pub fn by_session<K>(rate: Rate, key: F) -> Self
    where
        F: Fn(&Session) -> Option<K>,
        K: Hash,
    {
        Self::new(rate, PerSession(key))
    }
}

// By hand: a closure has no Debug.
impl<F> fmt::Debug for RateLimitLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("key", &type_name::<F>())
            .field("limiter", &self.config.limiter)
            .field("reply", &self.config.reply)
            .field("without_key", &self.config.without_key)
            .finish()
    }
}

impl<S, F: Clone> Layer<S> for RateLimitLayer<F> {
    type Service = Gate<S, Self>;

    fn layer(&self, inner: S) -> Gate<S, Self> {
        Gate::new(inner, self.clone())
    }
}

impl<P, F: LimitKey<P>> Admit<P> for RateLimitLayer<F> {
    fn admit(&self, request: &Request<P>) -> Result<(), Reply> {
        let config = &*self.config;
        let Some(key) = self.key.key(request) else {
            return config.without_key.clone().map_or(Ok(()), Err);
        };
        if config.limiter.check_any(key).is_allowed() {
            Ok(())
        } else {
            Err(config.reply.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use smtpd_core::{AuthOutcome, Envelope, ReversePath};
    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok};
    use tower::{BoxError, ServiceExt, service_fn};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        body::Body,
        net::PeerAddr,
        phase::{Connect, Data, Mail, Rcpt},
    };

    const MINUTE: Duration = Duration::from_secs(60);

    fn rate(n: u32) -> Rate {
        Rate::per_minute(n).unwrap()
    }

    fn from(ip: &str) -> Request<Connect> {
        let ip: IpAddr = ip.parse().unwrap();
        Request::new(Session::from_peer((ip, 4711)), Connect::new())
    }

    fn user(name: &str) -> Session {
        Session::local().with_identity(name)
    }

    fn mail(session: Session, sender: ReversePath) -> Request<Mail> {
        Request::new(session, Mail::new(sender))
    }

    async fn ask<F, P, R>(layer: &RateLimitLayer<F>, request: Request<P>, response: R) -> R
    where
        F: LimitKey<P> + Clone,
        P: Send + 'static,
        R: From<Reply> + Send + 'static,
    {
        let mut response = Some(response);
        let inner = service_fn(move |_: Request<P>| {
            std::future::ready(response.take().ok_or_else(|| BoxError::from("asked twice")))
        });
        layer.layer(inner).oneshot(request).await.unwrap()
    }

    async fn code<F, P>(layer: &RateLimitLayer<F>, request: Request<P>) -> u16
    where
        F: LimitKey<P> + Clone,
        P: Send + 'static,
    {
        ask(layer, request, Reply::OK).await.code().as_u16()
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_until_time_has_passed_without_calling_the_service() {
        let layer = RateLimitLayer::per_ip(rate(1));
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(layer);
        assert_ready_ok!(service.poll_ready());
        let passes = tokio::spawn(service.call(from("192.0.2.1")));
        let (_, respond) = handle.next_request().await.unwrap();
        respond.send_response(Reply::OK);
        assert_eq!(passes.await.unwrap().unwrap(), Reply::OK);

        assert_ready_ok!(service.poll_ready());
        let refused = service.call(from("192.0.2.1")).await.unwrap();
        assert_eq!(
            refused.to_string(),
            "451 4.7.1 Too many requests, try again later"
        );
        assert_pending!(handle.poll_request());

        advance(MINUTE).await;
        assert_ready_ok!(service.poll_ready());
        let _passes = service.call(from("192.0.2.1"));
        assert!(assert_ready!(handle.poll_request()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn clones_and_services_of_one_layer_share_a_table() {
        let layer = RateLimitLayer::per_ip(rate(2));
        assert_eq!(code(&layer, from("192.0.2.1")).await, 250);
        assert_eq!(code(&layer.clone(), from("192.0.2.1")).await, 250);
        let renamed = layer
            .clone()
            .reply(Reply::busy())
            .prefixes(Prefixes::CLIENT);
        assert_eq!(
            ask(&renamed, from("192.0.2.1"), Reply::OK).await,
            Reply::busy()
        );
        let apart = layer.clone().capacity(NonZeroUsize::MIN);
        assert_eq!(code(&apart, from("192.0.2.1")).await, 250);
        assert_eq!(code(&layer, from("192.0.2.1")).await, 451);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_told_apart_by_prefix() {
        let table = [
            (None, "2001:db8::1", "2001:db8::2", 451),
            (None, "2001:db8::1", "2001:db8:0:1::1", 250),
            (None, "192.0.2.1", "::ffff:192.0.2.1", 451),
            (None, "192.0.2.1", "192.0.2.2", 250),
            (Some((24, 48)), "192.0.2.1", "192.0.2.2", 451),
            (Some((24, 48)), "2001:db8::1", "2001:db8:0:1::1", 451),
            (Some((24, 128)), "2001:db8::1", "2001:db8::2", 250),
        ];
        for (prefix, first, second, expected) in table {
            let mut layer = RateLimitLayer::per_ip(rate(1));
            if let Some((v4_bits, v6_bits)) = prefix {
                layer = layer.prefixes(Prefixes::new(v4_bits, v6_bits).unwrap());
            }
            assert_eq!(code(&layer, from(first)).await, 250);
            assert_eq!(
                code(&layer, from(second)).await,
                expected,
                "{first}, {second}, {prefix:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_without_an_address_are_never_limited() {
        let layer = RateLimitLayer::per_ip(rate(1));
        for peer in [PeerAddr::Unix(None), PeerAddr::Unknown] {
            for _ in 0..3 {
                let request = Request::new(Session::from_peer(peer.clone()), Connect::new());
                assert_eq!(ask(&layer, request, Reply::OK).await, Reply::OK, "{peer}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn auth_is_refused_too() {
        let layer = RateLimitLayer::per_ip(rate(1));
        let accept = || AuthOutcome::Accept("alice".into());
        let outcome = ask(&layer, from("192.0.2.1"), accept()).await;
        assert!(matches!(outcome, AuthOutcome::Accept(_)));
        let outcome = ask(&layer, from("192.0.2.1"), accept()).await;
        assert!(matches!(outcome, AuthOutcome::Refuse(reply) if reply.code() == Code::LOCAL_ERROR));
    }

    #[tokio::test(start_paused = true)]
    async fn one_layer_counts_in_all_its_phases() {
        let domain = |session: &Session| {
            let (_, domain) = session.identity()?.as_str().rsplit_once('@')?;
            Some(domain.to_owned())
        };
        let rcpt = |name: &str| Request::new(user(name), Rcpt::new("b@c.test".parse().unwrap()));
        let data = |name: &str| {
            let data = Data::new(Envelope::default(), Body::from(""));
            Request::new(user(name), data)
        };
        let identity = RateLimitLayer::per_identity(rate(3));
        assert_eq!(
            code(&identity, mail(user("a@x.test"), ReversePath::Null)).await,
            250
        );
        assert_eq!(code(&identity.clone(), rcpt("a@x.test")).await, 250);
        assert_eq!(code(&identity, data("a@x.test")).await, 250);
        assert_eq!(code(&identity, rcpt("a@x.test")).await, 451);
        assert_eq!(code(&identity, rcpt("b@x.test")).await, 250);

        let session = RateLimitLayer::by_session(rate(2), domain);
        assert_eq!(code(&session, rcpt("a@x.test")).await, 250);
        assert_eq!(code(&session, data("b@x.test")).await, 250);
        assert_eq!(code(&session, rcpt("c@x.test")).await, 451);
        assert_eq!(code(&session, rcpt("a@y.test")).await, 250);
    }

    #[tokio::test(start_paused = true)]
    async fn the_key_is_a_function_of_the_request() {
        let layer = RateLimitLayer::by(rate(1), |request: &Request<Mail>| {
            request.sender().mailbox().map(ToString::to_string)
        });
        let from = |sender: &str| mail(Session::local(), sender.parse().unwrap());
        assert_eq!(code(&layer, from("a@x.test")).await, 250);
        assert_eq!(code(&layer, from("a@x.test")).await, 451);
        assert_eq!(code(&layer, from("b@x.test")).await, 250);
        for _ in 0..3 {
            assert_eq!(code(&layer, from("")).await, 250);
        }
        assert!(format!("{layer:?}").starts_with("RateLimitLayer { key: "));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_without_a_key_pass_unless_they_are_rejected() {
        let layer = RateLimitLayer::per_identity(rate(1));
        let stranger = || mail(Session::local(), ReversePath::Null);
        for _ in 0..3 {
            assert_eq!(code(&layer, stranger()).await, 250);
        }
        let layer = layer.reject_without_key(Reply::auth_required());
        assert_eq!(code(&layer, stranger()).await, 530);
        assert_eq!(
            code(&layer, mail(user("alice"), ReversePath::Null)).await,
            250
        );
    }
}
