//! The layer that limits rates: its settings, what a request weighs, and its service.

mod config;
mod replies;
mod running;
mod service;
mod weigh;

use std::{any::type_name, fmt, hash::Hash, num::NonZeroUsize, sync::Arc};

use smtpd_core::reply::Reply;
use tower_layer::Layer;

use self::{config::Config, replies::Replies};
pub use self::{
    service::{RateLimit, RateLimitFuture},
    weigh::{Weigh, WeighKib, WeighOne, WeighRecipients},
};
use super::{
    LimitKey, PerIdentity, PerIp, PerRequest, PerSession, key::client_settings, watch::Watch,
};
use crate::{
    layer::Exempt,
    limiter::{Limited, Rate, RateLimiter},
    phase::{Data, Request},
    reload::Reloadable,
    session::Session,
};

/// Limits the rate of requests by client, by user or by any other key, and defers further ones with 451 4.7.1.
///
/// It fits every phase, and counts the requests that pass through it: connections at connect, messages at MAIL or DATA,
/// recipients at RCPT, attempts at AUTH. Requests over the limit are not counted. At connect, a refusal closes the connection
/// with 421; to AUTH it is 454 4.7.0.
///
/// Around a whole [`Pipeline`](crate::service::Pipeline::layer), it counts every command: a connection with one message is a
/// connect, an EHLO, a MAIL, a RCPT and a DATA, so five, and an EHLO over the limit is deferred. Put it around the phases that it
/// is to count, each by itself or with [`Pipeline::layer_on`](crate::service::Pipeline::layer_on).
///
/// The events of a whole [`Rate::period`] may happen at once, and are then regained evenly: of 100 a day, one every 14.4 minutes,
/// so that there may be 199 in the first 24 hours. With [`Rate::strict`], there are never more than 100 in any 24 hours.
///
/// All clones of a layer, and all services that they make, share one table, which is in memory and bounded (see
/// [`limiter`](crate::limiter)); for two limits, create two layers. tower's own `rate_limit` is something else: it makes all
/// clients wait.
///
/// | constructor | counts by | not limited | what [counts](Self::count) |
/// |---|---|---|---|
/// | [`per_ip`](Self::per_ip) | IPv4 address or IPv6 /64 | clients without an IP address, such as those on a Unix socket | every request |
/// | [`per_identity`](Self::per_identity) | authenticated identity | clients that have not authenticated | what is accepted |
/// | [`by`](Self::by) | a function of the request, for one phase | requests without a key | every request |
/// | [`by_session`](Self::by_session) | a function of the session, for every phase | sessions without a key | every request |
///
/// [`reject_without_key`](Self::reject_without_key) rejects these instead, and [`exempt`](Self::exempt) lets your own clients
/// pass; by default, this machine is limited like any other.
///
/// A request is one event, unless [`weight`](Self::weight), [`weigh_recipients`](Self::weigh_recipients) or
/// [`weigh_kib`](Self::weigh_kib) says otherwise.
///
/// ```
/// use smtpd_tower::{
///     Rcpt, Request, Session, handler_fn, layer::RateLimitLayer, limiter::Rate,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new()
///     .layer(RateLimitLayer::per_ip(Rate::per_minute(2)?))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let path: smtpd_tower::address::ForwardPath = "user@example.org".parse()?;
/// let ask = |client: [u8; 4]| {
///     rcpt.clone().oneshot(Request::new(
///         Session::from_peer((client, 4711)),
///         Rcpt::new(path.clone()),
///     ))
/// };
///
/// assert_eq!(ask([192, 0, 2, 1]).await?.code().as_u16(), 250);
/// assert_eq!(ask([192, 0, 2, 1]).await?.code().as_u16(), 250);
/// assert_eq!(
///     ask([192, 0, 2, 1]).await?.to_string(),
///     "451 4.7.1 Too many requests, try again later"
/// );
/// assert_eq!(ask([192, 0, 2, 2]).await?.code().as_u16(), 250);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RateLimitLayer<F = PerIp, W = WeighOne> {
    key: F,
    weight: W,
    config: Arc<Config>,
}

/// Which requests a [`RateLimitLayer`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Counted {
    /// All that are not over the limit, whatever becomes of them. So it also limits clients that guess passwords or recipients.
    Requests,
    /// Those that the service accepts. A request that is deferred, rejected or fails, or whose client is gone before it is
    /// answered, is not counted. Neither are the recipients of a message that are refused, where [recipients
    /// count](RateLimitLayer::weigh_recipients).
    ///
    /// Requests whose answer is awaited are in the way of others as if they were counted, so many at once do not exceed the
    /// limit. An AUTH is accepted if its service leaves it to the mechanism to compare a secret.
    Accepted,
}

impl RateLimitLayer {
    /// Allows each client `rate`: each IPv4 address or IPv6 /64, unless [`prefixes`](Self::prefixes) are set. All clients of an
    /// IPv6 /48 together are allowed 16 times as much, unless [`network`](Self::network) says otherwise.
    ///
    /// Every request counts, so that the layer also limits clients that guess. At worst, a client has twice the events of the
    /// rate in one period, unless the rate is [strict](Rate::strict).
    pub fn per_ip(rate: Rate) -> Self {
        Self::new(rate, PerIp::default(), Counted::Requests)
    }
}

client_settings!(RateLimitLayer<PerIp, W>, W);

impl RateLimitLayer<PerIdentity> {
    /// Allows each identity `rate`, over all its sessions: a quota for each user.
    ///
    /// Only what is accepted counts, so that nobody pays for our own faults; at MAIL, that is a sender, and at DATA, a message.
    /// For a quota such as 100 a day, make the rate [strict](Rate::strict): otherwise, a user may send up to 199 in the first 24
    /// hours.
    ///
    /// ```
    /// use smtpd_tower::{
    ///     Mail, Reply, Request, Session, address::ReversePath, handler_fn,
    ///     layer::RateLimitLayer, limiter::Rate,
    /// };
    /// use tower::{ServiceBuilder, ServiceExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let quota = RateLimitLayer::per_identity(Rate::per_hour(1)?)
    ///     .reply(Reply::mailbox_busy("Quota exceeded"));
    /// let mail = ServiceBuilder::new()
    ///     .layer(quota)
    ///     .service(handler_fn(async |_: Request<Mail>| {}));
    /// let ask = |name: &str| {
    ///     let session = Session::local().with_identity(name);
    ///     mail.clone()
    ///         .oneshot(Request::new(session, Mail::new(ReversePath::Null)))
    /// };
    /// assert_eq!(ask("alice").await?.code().as_u16(), 250);
    /// assert_eq!(ask("alice").await?.code().as_u16(), 450);
    /// assert_eq!(ask("bob").await?.code().as_u16(), 250);
    /// # Ok(()) }
    /// ```
    pub fn per_identity(rate: Rate) -> Self {
        Self::new(rate, PerIdentity, Counted::Accepted)
    }
}

impl<W> RateLimitLayer<PerIdentity, W> {
    /// Remembers the identities that were refused last, up to `identities` of them, for [`top`](Self::top).
    #[must_use]
    pub fn watch(self, identities: NonZeroUsize) -> Self {
        self.watch_by(identities, |session| {
            Some(PerIdentity::key_of(session.identity()?).to_string())
        })
    }
}

impl<F> RateLimitLayer<PerRequest<F>> {
    /// Allows each key `rate`. The key is a function of the request, so the layer fits one phase.
    ///
    /// Every request counts. At worst, a key has twice the events of the rate in one period, unless the rate is
    /// [strict](Rate::strict).
    ///
    /// ```
    /// use smtpd_tower::{Mail, Request, layer::RateLimitLayer, limiter::Rate};
    ///
    /// let per_sender =
    ///     RateLimitLayer::by(Rate::per_hour(100)?, |request: &Request<Mail>| {
    ///         request.sender().mailbox().map(|sender| sender.to_string())
    ///     });
    /// # Ok::<(), smtpd_tower::limiter::RateError>(())
    /// ```
    pub fn by<P, K>(rate: Rate, key: F) -> Self
    where
        F: Fn(&Request<P>) -> Option<K>,
        K: Hash,
    {
        Self::new(rate, PerRequest(key), Counted::Requests)
    }
}

impl<F> RateLimitLayer<F> {
    fn new(rate: Rate, key: F, counted: Counted) -> Self {
        Self {
            key,
            weight: WeighOne,
            config: Arc::new(Config::new(rate, counted)),
        }
    }
}

impl<F> RateLimitLayer<PerSession<F>> {
    /// Allows each key `rate`. The key is a function of the session, so the layer fits every phase.
    ///
    /// Every request counts. At worst, a key has twice the events of the rate in one period, unless the rate is
    /// [strict](Rate::strict).
    ///
    /// ```
    /// use smtpd_tower::{Session, layer::RateLimitLayer, limiter::Rate};
    ///
    /// // The domain of the user's name.
    /// let per_domain =
    ///     RateLimitLayer::by_session(Rate::per_hour(1000)?, |session: &Session| {
    ///         let (_, domain) = session.identity()?.as_str().rsplit_once('@')?;
    ///         Some(domain.to_ascii_lowercase())
    ///     });
    /// # Ok::<(), smtpd_tower::limiter::RateError>(())
    /// ```
    pub fn by_session<K>(rate: Rate, key: F) -> Self
    where
        F: Fn(&Session) -> Option<K>,
        K: Hash,
    {
        Self::new(rate, PerSession(key), Counted::Requests)
    }
}

/// # Settings
impl<F, W> RateLimitLayer<F, W> {
    /// Sets the maximum number of keys that are remembered. Default: [`RateLimiter::DEFAULT_CAPACITY`].
    ///
    /// This starts a new table. Earlier clones keep the old one.
    #[must_use]
    pub fn capacity(self, keys: NonZeroUsize) -> Self {
        self.set(|config| {
            config.limiter = RateLimiter::with_capacity(config.limiter.rate(), keys);
        })
    }

    /// Sets which requests count. The default depends on the constructor.
    #[must_use]
    pub fn count(self, counted: Counted) -> Self {
        self.set(|config| config.counted = counted)
    }

    /// Sets the rate of each session's key. Where `rate` returns `None`, that of the layer applies, which is the default.
    ///
    /// Return the same rate for all sessions with the same key. Clients of one [network](RateLimitLayer::network) may have
    /// different ones: it has a limit for each rate.
    ///
    /// ```
    /// use smtpd_tower::{Session, layer::RateLimitLayer, limiter::Rate};
    ///
    /// let (usual, newsletter) = (Rate::per_day(100)?, Rate::per_day(10_000)?);
    /// let quota = RateLimitLayer::per_identity(usual.strict()).rate_by(
    ///     move |session: &Session| {
    ///         let is_newsletter = session.identity()?.as_str() == "newsletter";
    ///         is_newsletter.then_some(newsletter)
    ///     },
    /// );
    /// # Ok::<(), smtpd_tower::limiter::RateError>(())
    /// ```
    #[must_use]
    pub fn rate_by(self, rate: impl Fn(&Session) -> Option<Rate> + Send + Sync + 'static) -> Self {
        self.set(|config| config.rate = Some(Arc::new(rate)))
    }

    /// Sets which sessions are not limited, and do not count. Default: none.
    ///
    /// ```
    /// use smtpd_tower::{
    ///     layer::{Exempt, RateLimitLayer},
    ///     limiter::Rate,
    /// };
    ///
    /// let own = Exempt::local().parse_networks(["192.0.2.0/24"])?.authenticated();
    /// let layer = RateLimitLayer::per_ip(Rate::per_minute(100)?).exempt(own);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn exempt(self, exempt: impl Into<Reloadable<Exempt>>) -> Self {
        self.set(|config| config.exempt = Some(exempt.into()))
    }

    /// Sets the reply to requests over the limit. Default: 451 4.7.1.
    ///
    /// A 5yz reply makes clients give up instead of trying again later. A request that is never allowed, because its
    /// [weight](Self::weight) exceeds the [burst](Rate::burst), receives 550 5.7.1 instead of a 4yz reply.
    #[must_use]
    pub fn reply(self, reply: Reply) -> Self {
        self.set(|config| config.replies = Replies::Fixed(reply))
    }

    /// Sets the reply to requests over the limit as a function of how long the client has to wait. Replaces
    /// [`reply`](Self::reply).
    ///
    /// Whoever is told the exact time can use the limit to its full, so this is for your own users rather than for strangers.
    ///
    /// ```
    /// use smtpd_tower::{
    ///     Reply,
    ///     layer::RateLimitLayer,
    ///     limiter::{Limited, Rate},
    /// };
    ///
    /// // "450 4.2.1 Quota exceeded, try again in 40 seconds"
    /// let quota = RateLimitLayer::per_identity(Rate::per_hour(90)?).reply_with(
    ///     |limited: Limited| match limited.retry_after() {
    ///         Some(_) => Reply::mailbox_busy(format!("Quota exceeded, {limited}")),
    ///         None => Reply::rejected("More than a whole quota"),
    ///     },
    /// );
    /// # Ok::<(), smtpd_tower::limiter::RateError>(())
    /// ```
    #[must_use]
    pub fn reply_with(self, reply: impl Fn(Limited) -> Reply + Send + Sync + 'static) -> Self {
        self.set(|config| config.replies = Replies::By(Arc::new(reply)))
    }

    /// Rejects requests without a key with `reply`, such as [`Reply::auth_required`]. By default, they pass.
    #[must_use]
    pub fn reject_without_key(self, reply: Reply) -> Self {
        self.set(|config| config.without_key = Some(reply))
    }

    /// Remembers the names of those that were refused last, up to `names` of them, for [`top`](Self::top). `name` is called only
    /// for a request that is refused.
    #[must_use]
    pub fn watch_by(
        self,
        names: NonZeroUsize,
        name: impl Fn(&Session) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.set(|config| config.watch = Some(Watch::new(names, name)))
    }

    /// Sets how many events a request is, as a function of the request. Default: 1. With 0, a request is not limited.
    ///
    /// ```
    /// use smtpd_tower::{Mail, Request, layer::RateLimitLayer, limiter::Rate};
    ///
    /// // A message to many, which has no sender to report failures to, counts tenfold.
    /// let layer = RateLimitLayer::per_ip(Rate::per_hour(1000)?).weight(
    ///     |request: &Request<Mail>| if request.sender().is_null() { 10 } else { 1 },
    /// );
    /// # Ok::<(), smtpd_tower::limiter::RateError>(())
    /// ```
    #[must_use]
    pub fn weight<P, G>(self, weight: G) -> RateLimitLayer<F, G>
    where
        G: Fn(&Request<P>) -> u32,
    {
        self.weighed(weight)
    }

    /// Counts a message once for each of its recipients, at DATA. Where only what is [accepted](Counted::Accepted) counts, these
    /// are the recipients that it is accepted for.
    ///
    /// A message to more recipients than the [burst](Rate::burst) is rejected with 550 5.7.1. Within a
    /// [`DistinctRecipientsLayer`](crate::layer::DistinctRecipientsLayer), a recipient that is named twice counts once.
    #[must_use]
    pub fn weigh_recipients(self) -> RateLimitLayer<F, WeighRecipients>
    where
        F: LimitKey<Data>,
    {
        self.weighed(WeighRecipients)
    }

    /// Counts each started KiB of a message, at DATA: a rate of 1,048,576 is 1 GiB in each period.
    ///
    /// The size that MAIL declares is reserved, or else 1 KiB, and what the service has read is counted in the end. So a message
    /// that says too little about its size passes, but it is paid for: its key may owe more than a whole burst.
    #[must_use]
    pub fn weigh_kib(self) -> RateLimitLayer<F, WeighKib>
    where
        F: LimitKey<Data>,
    {
        self.weighed(WeighKib)
    }

    fn weighed<G>(self, weight: G) -> RateLimitLayer<F, G> {
        RateLimitLayer {
            key: self.key,
            weight,
            config: self.config,
        }
    }

    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

// By hand: closures have no Debug.
impl<F, W> fmt::Debug for RateLimitLayer<F, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &*self.config;
        f.debug_struct("RateLimitLayer")
            .field("key", &type_name::<F>())
            .field("weight", &type_name::<W>())
            .field("limiter", &config.limiter)
            .field("counted", &config.counted)
            .field("replies", &config.replies)
            .field("without_key", &config.without_key)
            .field("exempt", &config.exempt)
            .finish_non_exhaustive()
    }
}

impl<S, F: Clone, W: Clone> Layer<S> for RateLimitLayer<F, W> {
    type Service = RateLimit<S, F, W>;

    fn layer(&self, inner: S) -> RateLimit<S, F, W> {
        RateLimit::new(inner, self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        num::NonZeroU32,
        panic::{AssertUnwindSafe, catch_unwind},
        time::Duration,
    };

    use smtpd_core::{
        address::ReversePath,
        connection::AuthOutcome,
        envelope::Envelope,
        reply::{Code, DataReply},
        sasl::Identity,
    };
    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok};
    use tower::{BoxError, ServiceExt, service_fn};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        body::Body,
        limiter::ClientKey,
        net::{PeerAddr, Prefixes},
        phase::{Connect, Data, Mail, Rcpt},
        reply::Answer,
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
        R: Answer,
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

    /// What becomes of a request.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fate {
        Accepted,
        Deferred,
        Rejected,
        Thrown,
        Failed,
        Canceled,
        Panicked,
    }

    const FATES: [Fate; 7] = [
        Fate::Accepted,
        Fate::Deferred,
        Fate::Rejected,
        Fate::Thrown,
        Fate::Failed,
        Fate::Canceled,
        Fate::Panicked,
    ];

    fn data(session: Session, recipients: usize, text: &'static str) -> Request<Data> {
        let recipients = (0..recipients).map(|n| format!("{n}@x.test").parse().unwrap());
        let envelope = recipients.fold(Envelope::default(), Envelope::with_recipient);
        Request::new(session, Data::new(envelope, Body::from(text)))
    }

    /// Sends a message that reads its body and then has that fate. Returns whether it was limited.
    async fn send<F, W>(layer: &RateLimitLayer<F, W>, request: Request<Data>, fate: Fate) -> bool
    where
        F: LimitKey<Data> + Clone,
        W: Weigh<Data> + Clone,
    {
        let inner = service_fn(move |request: Request<Data>| async move {
            request.into_body().discard().await?;
            match fate {
                Fate::Accepted => Ok(Reply::OK),
                Fate::Deferred => Ok(Reply::mailbox_busy("later")),
                Fate::Rejected => Ok(Reply::no_such_user()),
                Fate::Thrown => Err(BoxError::from(Reply::busy())),
                Fate::Failed => Err("the disk is broken".into()),
                Fate::Canceled => std::future::pending().await,
                Fate::Panicked => panic!("on purpose"),
            }
        });
        let call = layer.layer(inner).oneshot(request);
        match fate {
            Fate::Canceled => {
                let mut call = tokio_test::task::spawn(call);
                call.poll().is_ready()
            }
            Fate::Panicked => {
                let mut call = tokio_test::task::spawn(call);
                catch_unwind(AssertUnwindSafe(|| call.poll().is_ready())).unwrap_or(false)
            }
            _ => call
                .await
                .is_ok_and(|reply| reply.code() == Code::LOCAL_ERROR),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn faults_of_our_own_use_up_a_quota() {
        for strict in [false, true] {
            let rate = if strict { rate(1).strict() } else { rate(1) };
            for fate in FATES {
                let quota = RateLimitLayer::per_identity(rate);
                for _ in 0..3 {
                    let limited = send(&quota, data(user("alice"), 1, ""), fate).await;
                    assert!(!limited, "{fate:?}");
                    if fate == Fate::Accepted {
                        break;
                    }
                }
                let usage = quota.usage(Identity::new("alice"));
                let expected = u64::from(fate == Fate::Accepted);
                assert_eq!(
                    (usage.counted(), usage.reserved()),
                    (expected, 0),
                    "{fate:?}"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_accepted_by_an_error_is_not_counted() {
        let quota = RateLimitLayer::per_identity(rate(2));
        let inner = service_fn(async |_: Request<Data>| {
            Err::<DataReply, _>(BoxError::from(Reply::queued("already")))
        });
        let thrown = quota.layer(inner).oneshot(data(user("alice"), 1, "")).await;
        assert!(thrown.is_err());
        assert_eq!(quota.usage("alice").counted(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_that_are_refused_are_not_counted() {
        for fate in FATES {
            let layers = (
                RateLimitLayer::per_ip(rate(2)),
                RateLimitLayer::per_identity(rate(2)).count(Counted::Requests),
            );
            let session = || from("192.0.2.1").into_parts().0.with_identity("alice");
            for _ in 0..2 {
                send(&layers.0, data(session(), 1, ""), fate).await;
                send(&layers.1, data(session(), 1, ""), fate).await;
            }
            assert!(
                send(&layers.0, data(session(), 1, ""), Fate::Accepted).await,
                "{fate:?}"
            );
            assert!(
                send(&layers.1, data(session(), 1, ""), Fate::Accepted).await,
                "{fate:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_messages_at_once_exceed_the_quota_together() {
        let quota = RateLimitLayer::per_identity(rate(3));
        let (mut service, mut handle) = spawn_layer::<_, DataReply, _>(quota.clone());
        let mut calls = Vec::new();
        for n in 0..5 {
            assert_ready_ok!(service.poll_ready());
            let mut call = tokio_test::task::spawn(service.call(data(user("alice"), 1, "")));
            assert_eq!(call.poll().is_ready(), n >= 3, "{n}");
            calls.push(call);
        }
        assert_eq!(quota.usage("alice").reserved(), 3);
        let (_, respond) = assert_ready!(handle.poll_request()).unwrap();
        respond.send_response(Reply::OK.into());
        assert!(assert_ready!(calls[0].poll()).unwrap().is_accepted());
        // The completed future still exists.
        let usage = quota.usage("alice");
        assert_eq!((usage.counted(), usage.reserved()), (1, 2));
        let (_, respond) = assert_ready!(handle.poll_request()).unwrap();
        respond.send_error("the disk is broken");
        assert!(assert_ready!(calls[1].poll()).is_err());
        assert_eq!(quota.usage("alice").reserved(), 1);
        calls.clear();
        let usage = quota.usage("alice");
        assert_eq!((usage.counted(), usage.reserved()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_to_many_is_one_event_unless_it_is_weighed() {
        let quota = RateLimitLayer::per_identity(rate(10)).weigh_recipients();
        let alice = |n| data(user("alice"), n, "");
        assert!(!send(&quota, alice(6), Fate::Accepted).await);
        assert!(send(&quota, alice(6), Fate::Accepted).await);
        assert!(!send(&quota, alice(4), Fate::Failed).await);
        assert!(!send(&quota, alice(4), Fate::Accepted).await);
        assert!(send(&quota, alice(1), Fate::Accepted).await);

        let by_size = RateLimitLayer::per_identity(rate(10))
            .weight(|request: &Request<Mail>| u32::from(!request.sender().is_null()) * 5);
        let inner = || service_fn(async |_: Request<Mail>| Ok::<_, BoxError>(Reply::OK));
        let ask = async |sender: &str| {
            let request = mail(user("alice"), sender.parse().unwrap());
            let reply = by_size.layer(inner()).oneshot(request).await;
            reply.unwrap().code().as_u16()
        };
        for (sender, code) in [
            ("a@x.test", 250),
            ("a@x.test", 250),
            ("a@x.test", 451),
            ("", 250),
        ] {
            assert_eq!(ask(sender).await, code, "{sender}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn recipients_that_are_refused_by_lmtp_are_counted() {
        let quota = RateLimitLayer::per_identity(rate(10)).weigh_recipients();
        let inner = service_fn(async |_: Request<Data>| {
            let replies = [
                Reply::OK,
                Reply::mailbox_full(),
                Reply::OK,
                Reply::no_such_user(),
            ];
            Ok::<_, BoxError>(DataReply::each(replies))
        });
        let reply = quota.layer(inner).oneshot(data(user("alice"), 4, "")).await;
        assert!(reply.unwrap().is_accepted());
        assert_eq!(quota.usage("alice").counted(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_conceals_its_size_costs_nothing() {
        let text = || "x".repeat(5000).leak();
        let alice = || data(user("alice"), 1, text());
        let quota = RateLimitLayer::per_identity(rate(6)).weigh_kib();
        assert!(!send(&quota, alice(), Fate::Failed).await);
        assert_eq!(quota.usage("alice").counted(), 0);
        assert!(!send(&quota, alice(), Fate::Accepted).await);
        assert_eq!(quota.usage("alice").counted(), 5);
        assert!(
            !send(&quota, alice(), Fate::Accepted).await,
            "1 KiB is left"
        );
        assert_eq!(quota.usage("alice").counted(), 10);
        assert!(send(&quota, alice(), Fate::Accepted).await);

        // What has arrived counts, even if the client is gone then.
        for fate in FATES {
            let all = RateLimitLayer::per_ip(rate(6)).weigh_kib();
            let request = data(from("192.0.2.1").into_parts().0, 1, text());
            assert!(!send(&all, request, fate).await);
            let client = ClientKey::new([192, 0, 2, 1].into());
            assert_eq!(all.usage(client).counted(), 5, "{fate:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_declared_size_is_kept_from_others_until_the_message_has_arrived() {
        let quota = RateLimitLayer::per_identity(rate(10)).weigh_kib();
        let alice = |size: u32| {
            let parameters = format!("SIZE={size}").parse().unwrap();
            let envelope = Envelope::default().with_parameters(parameters);
            Request::new(user("alice"), Data::new(envelope, Body::from("short")))
        };
        let pending = quota.admit(&alice(6 * 1024)).unwrap();
        assert_eq!(quota.usage("alice").reserved(), 6);
        assert!(send(&quota, alice(6 * 1024), Fate::Accepted).await);
        assert!(!send(&quota, alice(4 * 1024), Fate::Accepted).await);
        drop(pending);
        assert_eq!(quota.usage("alice").counted(), 1, "it was short");
        let never = quota.admit(&alice(11 * 1024)).unwrap_err();
        assert_eq!(never.code().as_u16(), 550);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_never_allowed_is_deferred_for_days() {
        let weighed = |layer: RateLimitLayer<PerIdentity>| layer.weigh_recipients();
        let refused = |layer| {
            let reply = weighed(layer)
                .admit(&data(user("alice"), 2, ""))
                .unwrap_err();
            reply.to_string()
        };
        let quota = || RateLimitLayer::per_identity(rate(1));
        let never = "550 5.7.1 More than the limit ever allows at once";
        assert_eq!(refused(quota()), never);
        assert_eq!(refused(quota().reply(Reply::busy())), never);
        let no = Reply::rejected("No");
        assert_eq!(refused(quota().reply(no.clone())), no.to_string());
        let told = quota().reply_with(|limited| Reply::try_again(limited.to_string()));
        assert_eq!(refused(told), "451 4.3.0 more than is ever allowed at once");
    }

    #[tokio::test(start_paused = true)]
    async fn the_reply_says_how_long_to_wait() {
        let layer = RateLimitLayer::per_ip(rate(1))
            .reply_with(|limited| Reply::try_again(format!("Too fast, {limited}")));
        assert_eq!(code(&layer, from("192.0.2.1")).await, 250);
        advance(Duration::from_secs(20)).await;
        let refused = ask(&layer, from("192.0.2.1"), Reply::OK).await;
        assert_eq!(refused.text(), "Too fast, try again in 40 seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn own_networks_are_limited_unless_they_are_exempt() {
        let layer = RateLimitLayer::per_ip(rate(1));
        let exempt = layer.clone().exempt(Exempt::local());
        assert_eq!(code(&layer, from("127.0.0.1")).await, 250);
        assert_eq!(code(&layer, from("127.0.0.1")).await, 451);
        for _ in 0..3 {
            assert_eq!(code(&exempt, from("127.0.0.1")).await, 250);
        }
        assert_eq!(code(&exempt, from("192.0.2.1")).await, 250);
        assert_eq!(code(&exempt, from("192.0.2.1")).await, 451);
        let users = RateLimitLayer::per_identity(rate(1))
            .reject_without_key(Reply::auth_required())
            .exempt(Exempt::new().unix_sockets());
        let unix = Request::new(Session::from_peer(PeerAddr::Unix(None)), Connect::new());
        assert_eq!(code(&users, unix).await, 250);
    }

    #[tokio::test(start_paused = true)]
    async fn a_site_sends_without_limit_from_ever_new_networks() {
        let layer = RateLimitLayer::per_ip(rate(2));
        let ask = async |n: u32| code(&layer, from(&format!("2001:db8:1:{n:x}::1"))).await;
        for n in 0..32 {
            assert_eq!(ask(n).await, 250, "{n}");
        }
        for n in 32..1000 {
            assert_eq!(ask(n).await, 451, "{n}");
        }
        assert_eq!(
            layer.tracked(),
            33,
            "a client refused by the network owes nothing"
        );
        assert_eq!(code(&layer, from("2001:db8:2::1")).await, 250);
        advance(MINUTE / 32).await;
        assert_eq!(ask(1000).await, 250, "the network regains 32 a minute");

        let narrow = RateLimitLayer::per_ip(rate(1)).without_network();
        for n in 0..100 {
            let request = from(&format!("2001:db8:1:{n:x}::1"));
            assert_eq!(code(&narrow, request).await, 250, "{n}");
        }
        let two = NonZeroU32::MIN.saturating_add(1);
        let v4 = RateLimitLayer::per_ip(rate(1)).network(Prefixes::new(24, 48).unwrap(), two);
        for (ip, expected) in [("192.0.2.1", 250), ("192.0.2.2", 250), ("192.0.2.3", 451)] {
            assert_eq!(code(&v4, from(ip)).await, expected, "{ip}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_gives_back_what_was_not_accepted() {
        let layer = RateLimitLayer::per_ip(rate(1)).count(Counted::Accepted);
        let message = |n: u16| {
            let ip: IpAddr = format!("2001:db8:1:{n:x}::1").parse().unwrap();
            data(Session::from_peer((ip, 4711)), 1, "")
        };
        for fate in FATES.into_iter().skip(1) {
            for n in 0..20 {
                send(&layer, message(n), fate).await;
            }
        }
        assert_eq!(layer.tracked(), 0);
        for n in 0..16 {
            assert!(!send(&layer, message(n), Fate::Accepted).await);
        }
        assert!(send(&layer, message(16), Fate::Accepted).await);
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_may_have_a_rate_of_its_own() {
        let layer = RateLimitLayer::per_identity(rate(1)).rate_by(|session: &Session| {
            let is_large = session.identity()?.as_str() == "newsletter";
            is_large.then_some(Rate::per_minute(5).unwrap().strict())
        });
        for (name, allowed) in [("newsletter", 5), ("alice", 1)] {
            for _ in 0..allowed {
                assert_eq!(code(&layer, mail(user(name), ReversePath::Null)).await, 250);
            }
            assert_eq!(code(&layer, mail(user(name), ReversePath::Null)).await, 451);
        }
        let usage = layer.usage_at("newsletter", Rate::per_minute(5).unwrap().strict());
        assert_eq!((usage.counted(), usage.limit()), (5, 5));
        assert_eq!(layer.usage("alice").limit(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_a_small_rate_of_its_own_lowers_what_its_network_owes() {
        let small = rate(1);
        let layer = RateLimitLayer::per_ip(rate(10)).rate_by(move |session: &Session| {
            let ip = session.client_addr().ip()?;
            ip.to_string().ends_with("::bad").then_some(small)
        });
        let ask = async |n: u32, host: &str| {
            code(&layer, from(&format!("2001:db8:1:{n:x}::{host}"))).await == 250
        };
        let mut allowed = 0;
        for n in 0..1_000 {
            allowed += u32::from(ask(n, "1").await);
            ask(0x8000 + n, "bad").await;
        }
        assert_eq!(allowed, 160);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_inspected_reset_and_changed_while_it_is_in_use() {
        let layer = RateLimitLayer::per_identity(rate(1)).watch(NonZeroUsize::MIN);
        let service = layer.clone();
        let ask = async |name| code(&service, mail(user(name), ReversePath::Null)).await;
        assert_eq!(
            [ask("alice").await, ask("alice").await, ask("alice").await],
            [250, 451, 451]
        );
        assert_eq!(layer.usage("alice").retry_after(), MINUTE);
        let top = layer.top(5);
        assert_eq!(
            (top[0].name(), top[0].refused(), top.len()),
            ("alice", 2, 1)
        );
        assert_eq!(layer.tracked(), 1);
        layer.reset(Identity::new("alice"));
        assert_eq!([ask("alice").await, ask("alice").await], [250, 451]);
        layer.set_rate(rate(2));
        assert_eq!([ask("alice").await, ask("alice").await], [250, 451]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_who_is_reset_by_another_spelling_of_the_name_stays_at_the_limit() {
        let quota = RateLimitLayer::per_identity(rate(1)).watch(NonZeroUsize::MIN);
        let ask = async |name| code(&quota, mail(user(name), ReversePath::Null)).await;
        // The name as the login has stored it.
        let stored = Identity::new("Alice@Example.org");
        for spelling in [
            "Alice@Example.org",
            "alice@example.org",
            "ALICE@EXAMPLE.ORG",
        ] {
            assert_eq!(ask("Alice@Example.org").await, 250);
            assert_eq!(ask("alice@example.org").await, 451);
            assert_eq!(quota.usage(spelling).counted(), 1, "{spelling}");
            assert_eq!(quota.usage_at(&stored, rate(1)).counted(), 1);
            quota.reset(spelling);
            assert_eq!(quota.usage(&stored).counted(), 0, "{spelling}");
        }
        let top = quota.top(5);
        assert_eq!(
            (top[0].name(), top[0].refused(), top.len()),
            ("alice@example.org", 3, 1),
            "one user is one name"
        );
    }
}
