use std::sync::Arc;

use smtpd_core::{Code, Reply, Status};

use super::slots::{Slot, Slots};
use crate::{
    layer::{Admit, compose::rule_layer},
    limiter::ClientKey,
    net::Prefixes,
    phase::{Connect, Request},
};

/// Limits the sessions of each client, and refuses further ones with 421 4.7.0.
///
/// It fits connect only. A session counts from its connect request to its end, however it ends: its permit is kept in the
/// [state](crate::session::Session::state) of the session, and released when that is dropped. A task that keeps a clone of the
/// [`Session`](crate::session::Session) therefore keeps the permit too.
///
/// A client is an IPv4 address or an IPv6 /64 unless [`prefixes`](Self::prefixes) are set. Clients without an IP address, such
/// as those on a Unix socket, are not limited. All clones of a layer, and all services that they make, count together.
///
/// ```
/// use smtpd_tower::{Connect, Request, Session, handler_fn, layer::SessionsPerIpLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let connect = ServiceBuilder::new()
///     .layer(SessionsPerIpLayer::new(1))
///     .service(handler_fn(async |_: Request<Connect>| {}));
/// let ask = |session: &Session| connect.clone().oneshot(Request::new(session.clone(), Connect::new()));
///
/// let first = Session::from_peer(([192, 0, 2, 1], 4711));
/// assert_eq!(ask(&first).await?.code().as_u16(), 250);
/// let second = Session::from_peer(([192, 0, 2, 1], 4712));
/// assert_eq!(ask(&second).await?.to_string(), "421 4.7.0 Too many connections from your address");
/// drop(first);
/// assert_eq!(ask(&second).await?.code().as_u16(), 250);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SessionsPerIpLayer {
    config: Config,
}

#[derive(Clone, Debug)]
struct Config {
    slots: Arc<Slots>,
    prefixes: Prefixes,
    reply: Arc<Reply>,
}

/// The permits of a session: one for each such layer that it has passed.
#[derive(Default)]
struct Permits(Vec<Slot>);

impl SessionsPerIpLayer {
    /// Allows each client `n` sessions at a time. With 0, every client is refused.
    pub fn new(n: usize) -> Self {
        let reply = Reply::new(
            Code::SERVICE_UNAVAILABLE,
            Status::POLICY,
            "Too many connections from your address",
        );
        Self {
            config: Config {
                slots: Slots::new(n),
                prefixes: Prefixes::CLIENT,
                reply: reply.into(),
            },
        }
    }

    /// Sets which addresses are the same client: those with the same first bits. Default: [`Prefixes::CLIENT`].
    #[must_use]
    pub fn prefixes(mut self, prefixes: Prefixes) -> Self {
        self.config.prefixes = prefixes;
        self
    }

    /// Sets the reply to a session over the limit. Default: 421 4.7.0.
    #[must_use]
    pub fn reply(mut self, reply: Reply) -> Self {
        self.config.reply = reply.into();
        self
    }
}

rule_layer!(SessionsPerIpLayer);

impl Admit<Connect> for SessionsPerIpLayer {
    fn admit(&self, request: &Request<Connect>) -> Result<(), Reply> {
        let (config, session) = (&self.config, request.session());
        let Some(client) = ClientKey::of_session(session, config.prefixes) else {
            return Ok(());
        };
        let slot = config.slots.take(client);
        let slot = slot.ok_or_else(|| Reply::clone(&config.reply))?;
        session
            .state()
            .update(|permits: &mut Permits| permits.0.push(slot));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, net::IpAddr};

    use tokio_test::{assert_pending, assert_ready_ok};
    use tower::{ServiceExt, service_fn};
    use tower_layer::Layer;
    use tower_service::Service;
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{net::PeerAddr, session::Session};

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
}
