use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use smtpd_core::{Code, Reply, Status};

use crate::{
    layer::{Admit, compose::rule_layer},
    limiter::{ClientKey, Rate, RateLimiter},
    net::Prefixes,
    phase::Request,
};

/// Refuses clients that ask too often, with 451 4.7.1.
///
/// It fits every phase, and counts the requests that pass through it: connections at connect, messages at MAIL, recipients
/// at RCPT, attempts at AUTH. At connect a refusal closes the connection with 421.
///
/// A client is an IPv4 address or an IPv6 /64, see [`prefixes`](Self::prefixes). One without an IP address, as on a
/// Unix socket, is never limited. All clones of a layer, and all services that they make, count in one table; two limits
/// are two layers. A refused request is not counted. tower's own `rate_limit` is something else: it makes all clients wait.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_tower::{Rcpt, Request, Session, handler_fn, layer::RateLimitLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new()
///     .layer(RateLimitLayer::per_ip(2, Duration::from_secs(60)))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let path: smtpd_tower::ForwardPath = "user@example.org".parse()?;
/// let ask = |peer: [u8; 4]| rcpt.clone().oneshot(Request::new(Session::from_peer((peer, 4711)), Rcpt::new(path.clone())));
///
/// assert_eq!(ask([192, 0, 2, 1]).await?.code().as_u16(), 250);
/// assert_eq!(ask([192, 0, 2, 1]).await?.code().as_u16(), 250);
/// assert_eq!(ask([192, 0, 2, 1]).await?.to_string(), "451 4.7.1 Too many requests, try again later");
/// assert_eq!(ask([192, 0, 2, 2]).await?.code().as_u16(), 250);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    config: Arc<Config>,
}

#[derive(Clone, Debug)]
struct Config {
    limiter: RateLimiter<ClientKey>,
    prefixes: Prefixes,
    reply: Reply,
}

impl RateLimitLayer {
    /// Lets each client make `n` requests in each `per`. Both are at least 1: 0 requests are taken as 1, and no time as a
    /// nanosecond.
    pub fn per_ip(n: u32, per: Duration) -> Self {
        let rate = Rate::new(n.max(1), per.max(Duration::from_nanos(1)));
        #[expect(
            clippy::expect_used,
            reason = "only zeros are refused, and there is none"
        )]
        Self::new(rate.expect("neither is zero"))
    }

    /// Lets each client make requests at that rate.
    pub fn new(rate: Rate) -> Self {
        let reply = Reply::new(
            Code::LOCAL_ERROR,
            Status::DENIED,
            "Too many requests, try again later",
        );
        Self {
            config: Arc::new(Config {
                limiter: RateLimiter::new(rate),
                prefixes: Prefixes::CLIENT,
                reply,
            }),
        }
    }

    /// Sets how many clients are remembered at most. Default: [`RateLimiter::DEFAULT_CAPACITY`].
    ///
    /// This starts a new table. Clones that were made before keep the old one.
    #[must_use]
    pub fn capacity(mut self, clients: NonZeroUsize) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.limiter = RateLimiter::with_capacity(config.limiter.rate(), clients);
        self
    }

    /// Sets which addresses are the same client: those with the same first bits. Default: [`Prefixes::CLIENT`].
    #[must_use]
    pub fn prefixes(mut self, prefixes: Prefixes) -> Self {
        Arc::make_mut(&mut self.config).prefixes = prefixes;
        self
    }

    /// Refuses with that reply. One of 5yz makes clients give the message up instead of trying again.
    #[must_use]
    pub fn reply(mut self, reply: Reply) -> Self {
        Arc::make_mut(&mut self.config).reply = reply;
        self
    }
}

rule_layer!(RateLimitLayer);

impl<P> Admit<P> for RateLimitLayer {
    fn admit(&self, request: &Request<P>) -> Result<(), Reply> {
        let config = &*self.config;
        match ClientKey::of_session(request.session(), config.prefixes) {
            Some(client) if !config.limiter.check(client).is_allowed() => Err(config.reply.clone()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use smtpd_core::AuthOutcome;
    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok};
    use tower::{BoxError, Layer, ServiceExt, service_fn};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{net::PeerAddr, phase::Connect, session::Session};

    const MINUTE: Duration = Duration::from_secs(60);

    fn from(ip: &str) -> Request<Connect> {
        let ip: IpAddr = ip.parse().unwrap();
        Request::new(Session::from_peer((ip, 4711)), Connect::new())
    }

    async fn ask<P, R>(layer: &RateLimitLayer, request: Request<P>, response: R) -> R
    where
        P: Send + 'static,
        R: From<Reply> + Send + 'static,
    {
        let mut response = Some(response);
        let inner = service_fn(move |_: Request<P>| {
            std::future::ready(response.take().ok_or_else(|| BoxError::from("asked twice")))
        });
        layer.layer(inner).oneshot(request).await.unwrap()
    }

    async fn code(layer: &RateLimitLayer, ip: &str) -> u16 {
        let reply = ask(layer, from(ip), Reply::OK).await;
        reply.code().as_u16()
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_until_time_has_passed_without_asking_the_service() {
        let layer = RateLimitLayer::per_ip(1, MINUTE);
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
        let layer = RateLimitLayer::per_ip(2, MINUTE);
        assert_eq!(code(&layer, "192.0.2.1").await, 250);
        assert_eq!(code(&layer.clone(), "192.0.2.1").await, 250);
        let renamed = layer
            .clone()
            .reply(Reply::busy())
            .prefixes(Prefixes::CLIENT);
        assert_eq!(
            ask(&renamed, from("192.0.2.1"), Reply::OK).await,
            Reply::busy()
        );
        let apart = layer.clone().capacity(NonZeroUsize::MIN);
        assert_eq!(code(&apart, "192.0.2.1").await, 250);
        assert_eq!(code(&layer, "192.0.2.1").await, 451);
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
            let mut layer = RateLimitLayer::new(Rate::per_minute(1).unwrap());
            if let Some((v4_bits, v6_bits)) = prefix {
                layer = layer.prefixes(Prefixes::new(v4_bits, v6_bits).unwrap());
            }
            assert_eq!(code(&layer, first).await, 250);
            assert_eq!(
                code(&layer, second).await,
                expected,
                "{first}, {second}, {prefix:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn peers_without_an_address_are_never_limited() {
        let layer = RateLimitLayer::per_ip(1, MINUTE);
        for peer in [PeerAddr::Unix(None), PeerAddr::Unknown] {
            for _ in 0..3 {
                let request = Request::new(Session::from_peer(peer.clone()), Connect::new());
                assert_eq!(ask(&layer, request, Reply::OK).await, Reply::OK, "{peer}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn zeros_do_not_lock_everybody_out() {
        let layer = RateLimitLayer::per_ip(0, MINUTE);
        assert_eq!(code(&layer, "192.0.2.1").await, 250);
        assert_eq!(code(&layer, "192.0.2.1").await, 451);
        let layer = RateLimitLayer::per_ip(1, Duration::ZERO);
        assert_eq!(code(&layer, "192.0.2.1").await, 250);
        advance(Duration::from_nanos(1)).await;
        assert_eq!(code(&layer, "192.0.2.1").await, 250);
    }

    #[tokio::test(start_paused = true)]
    async fn auth_is_refused_too() {
        let layer = RateLimitLayer::per_ip(1, MINUTE);
        let accept = || AuthOutcome::Accept("alice".into());
        let outcome = ask(&layer, from("192.0.2.1"), accept()).await;
        assert!(matches!(outcome, AuthOutcome::Accept(_)));
        let outcome = ask(&layer, from("192.0.2.1"), accept()).await;
        assert!(matches!(outcome, AuthOutcome::Refuse(reply) if reply.code() == Code::LOCAL_ERROR));
    }
}
