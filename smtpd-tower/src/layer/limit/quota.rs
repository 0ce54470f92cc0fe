use std::{any::type_name, fmt, hash::Hash, num::NonZeroUsize, sync::Arc};

use smtpd_core::{Code, Reply, Status, sasl::Identity};
use tower_layer::Layer;

use crate::{
    layer::{Admit, Gate},
    limiter::{Rate, RateLimiter},
    phase::Request,
    session::Session,
};

/// Gives everybody a quota, and refuses with 450 4.7.1 who has used it up.
///
/// It fits every phase, and counts the requests that pass through it: messages at DATA (or at MAIL, those that come to
/// nothing included), recipients at RCPT. Whose quota it is, a function of the session says; mostly it is the
/// [identity](Self::per_identity). Sessions without a key pass, see [`reject_without_key`](Self::reject_without_key).
///
/// The quota of a whole [`Rate::period`] may be used at once, and comes back evenly: of 100 a day, one each 14.4 minutes. A
/// refused request is not counted. All clones of a layer, and all services that they make, count in one table, also in
/// different phases; a quota of messages and one of recipients are two layers. The table is in memory and bounded, see
/// [`limiter`](crate::limiter).
///
/// ```
/// use smtpd_tower::{Mail, Request, ReversePath, Session, handler_fn, layer::QuotaLayer, limiter::Rate};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mail = ServiceBuilder::new()
///     .layer(QuotaLayer::per_identity(Rate::per_hour(1)?))
///     .service(handler_fn(async |_: Request<Mail>| {}));
/// let ask = |name: &str| {
///     let session = Session::local().with_identity(name);
///     mail.clone().oneshot(Request::new(session, Mail::new(ReversePath::Null)))
/// };
/// assert_eq!(ask("alice").await?.code().as_u16(), 250);
/// assert_eq!(ask("alice").await?.to_string(), "450 4.7.1 Quota exceeded, try again later");
/// assert_eq!(ask("bob").await?.code().as_u16(), 250);
/// # Ok(()) }
/// ```
///
/// A key of your own, here the domain of the user's name:
///
/// ```
/// use smtpd_tower::{Session, layer::QuotaLayer, limiter::Rate};
///
/// let per_domain = QuotaLayer::new(Rate::per_hour(1000)?, |session: &Session| {
///     let (_, domain) = session.identity()?.as_str().rsplit_once('@')?;
///     Some(domain.to_ascii_lowercase())
/// });
/// # Ok::<(), smtpd_tower::limiter::RateError>(())
/// ```
#[derive(Clone)]
pub struct QuotaLayer<K, F = fn(&Session) -> Option<K>> {
    key: F,
    config: Arc<Config<K>>,
}

#[derive(Clone, Debug)]
struct Config<K> {
    limiter: RateLimiter<K>,
    reply: Reply,
    without_key: Option<Reply>,
}

impl QuotaLayer<Identity> {
    /// Gives each identity that quota.
    pub fn per_identity(rate: Rate) -> Self {
        Self::new(rate, |session| session.identity().cloned())
    }
}

impl<K, F> QuotaLayer<K, F>
where
    K: Hash + Eq + Clone,
    F: Fn(&Session) -> Option<K>,
{
    /// Gives each key that quota.
    pub fn new(rate: Rate, key: F) -> Self {
        // RFC 5321 section 4.2.3: 450 is for what is "temporarily blocked for policy reasons".
        let reply = Reply::new(
            Code::MAILBOX_BUSY,
            Status::DENIED,
            "Quota exceeded, try again later",
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

    /// Remembers up to that many keys instead of [`RateLimiter::DEFAULT_CAPACITY`]. It begins a table of
    /// its own: clones made before keep theirs.
    #[must_use]
    pub fn capacity(self, keys: NonZeroUsize) -> Self {
        self.set(|config| {
            config.limiter = RateLimiter::with_capacity(config.limiter.rate(), keys);
        })
    }

    /// Refuses with that reply. One of 5yz makes clients give the message up instead of trying again.
    #[must_use]
    pub fn reply(self, reply: Reply) -> Self {
        self.set(|config| config.reply = reply)
    }

    /// Refuses sessions without a key with that reply, such as [`Reply::auth_required`], instead of letting them pass.
    #[must_use]
    pub fn reject_without_key(self, reply: Reply) -> Self {
        self.set(|config| config.without_key = Some(reply))
    }

    fn set(mut self, change: impl FnOnce(&mut Config<K>)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

// By hand: a closure has no Debug.
impl<K, F> fmt::Debug for QuotaLayer<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuotaLayer")
            .field("key", &type_name::<F>())
            .field("limiter", &self.config.limiter)
            .field("reply", &self.config.reply)
            .field("without_key", &self.config.without_key)
            .finish()
    }
}

impl<S, K: Clone, F: Clone> Layer<S> for QuotaLayer<K, F> {
    type Service = Gate<S, Self>;

    fn layer(&self, inner: S) -> Gate<S, Self> {
        Gate::new(inner, self.clone())
    }
}

impl<P, K, F> Admit<P> for QuotaLayer<K, F>
where
    K: Hash + Eq + Clone,
    F: Fn(&Session) -> Option<K>,
{
    fn admit(&self, request: &Request<P>) -> Result<(), Reply> {
        let Some(key) = (self.key)(request.session()) else {
            return self.config.without_key.clone().map_or(Ok(()), Err);
        };
        if self.config.limiter.check(key).is_allowed() {
            Ok(())
        } else {
            Err(self.config.reply.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use smtpd_core::{Envelope, ReversePath};
    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok};
    use tower::ServiceExt;
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        body::Body,
        phase::{Data, Mail, Phase, Rcpt},
        service::handler_fn,
    };

    fn rate(n: u32) -> Rate {
        Rate::per_minute(n).unwrap()
    }

    fn user(name: &str) -> Session {
        Session::local().with_identity(name)
    }

    fn mail(session: Session) -> Request<Mail> {
        Request::new(session, Mail::new(ReversePath::Null))
    }

    async fn code<K, F, P>(layer: &QuotaLayer<K, F>, request: Request<P>) -> u16
    where
        K: Hash + Eq + Clone,
        F: Fn(&Session) -> Option<K> + Clone,
        P: Phase,
    {
        let inner =
            tower::service_fn(|_: Request<P>| std::future::ready(Ok::<_, Reply>(Reply::OK)));
        let reply = layer.layer(inner).oneshot(request).await.unwrap();
        reply.code().as_u16()
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_until_the_quota_comes_back_without_asking_the_service() {
        let (mut service, mut handle) =
            spawn_layer::<_, Reply, _>(QuotaLayer::per_identity(rate(1)));
        assert_ready_ok!(service.poll_ready());
        let _passes = service.call(mail(user("alice")));
        assert!(assert_ready!(handle.poll_request()).is_some());

        assert_ready_ok!(service.poll_ready());
        let refused = service.call(mail(user("alice"))).await.unwrap();
        assert_eq!(
            refused.to_string(),
            "450 4.7.1 Quota exceeded, try again later"
        );
        assert_pending!(handle.poll_request());

        advance(Duration::from_secs(60)).await;
        assert_ready_ok!(service.poll_ready());
        let _passes = service.call(mail(user("alice")));
        assert!(assert_ready!(handle.poll_request()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_layer_counts_in_all_its_phases() {
        let layer = QuotaLayer::per_identity(rate(3));
        let rcpt = || Request::new(user("alice"), Rcpt::new("b@example.org".parse().unwrap()));
        let data = || {
            Request::new(
                user("alice"),
                Data::new(Envelope::default(), Body::from("")),
            )
        };
        assert_eq!(code(&layer, mail(user("alice"))).await, 250);
        assert_eq!(code(&layer.clone(), rcpt()).await, 250);
        assert_eq!(code(&layer, data()).await, 250);
        assert_eq!(code(&layer, rcpt()).await, 450);
        assert_eq!(code(&layer, mail(user("bob"))).await, 250);
        let apart = layer.clone().capacity(NonZeroUsize::MIN);
        assert_eq!(code(&apart, rcpt()).await, 250);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_without_a_key_pass_unless_told_otherwise() {
        let layer = QuotaLayer::per_identity(rate(1));
        for _ in 0..3 {
            assert_eq!(code(&layer, mail(Session::local())).await, 250);
        }
        let layer = layer.reject_without_key(Reply::auth_required());
        assert_eq!(code(&layer, mail(Session::local())).await, 530);
        assert_eq!(code(&layer, mail(user("alice"))).await, 250);
    }

    #[tokio::test(start_paused = true)]
    async fn key_and_reply_are_free_to_choose() {
        let layer = QuotaLayer::new(rate(1), |session: &Session| session.client_addr().ip())
            .reply(Reply::mailbox_full());
        let service = layer.layer(handler_fn(async |_: Request<Mail>| Reply::busy()));
        let ask = |ip: [u8; 4]| {
            let session = Session::from_peer((ip, 4711));
            service.clone().oneshot(mail(session))
        };
        assert_eq!(ask([192, 0, 2, 1]).await.unwrap(), Reply::busy());
        assert_eq!(ask([192, 0, 2, 1]).await.unwrap(), Reply::mailbox_full());
        assert_eq!(ask([192, 0, 2, 2]).await.unwrap(), Reply::busy());
        assert!(format!("{layer:?}").starts_with("QuotaLayer { key: "));
    }
}
