use std::sync::Arc;

use smtpd_core::reply::Reply;

use crate::{
    layer::{Admit, compose::rule_layer},
    net::{CidrError, CidrSet},
    phase::Request,
    reload::Reloadable,
    session::Session,
};

/// Rejects clients of the given networks with 554 5.7.1, and accepts all others.
///
/// It fits every phase, and is meant for connect, where 554 replaces the greeting (RFC 5321 section 3.1). An IPv4
/// client matches whether it connects through an IPv4 or a dual-stack socket. Clients without an IP address, such as those on
/// a Unix socket, pass. The list may have thousands of entries: a lookup is a binary search.
///
/// ```
/// use smtpd_tower::{
///     Connect, Request, Session, handler_fn, layer::DenyClientsLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let connect = ServiceBuilder::new()
///     .layer(DenyClientsLayer::parse([
///         "192.0.2.0/24",
///         "2001:db8::/32",
///         "198.51.100.7",
///     ])?)
///     .service(handler_fn(async |_: Request<Connect>| {}));
/// let ask = |ip: [u8; 4]| {
///     connect
///         .clone()
///         .oneshot(Request::new(Session::from_peer((ip, 4711)), Connect::new()))
/// };
///
/// assert_eq!(ask([203, 0, 113, 1]).await?.code().as_u16(), 250);
/// assert_eq!(ask([192, 0, 2, 1]).await?.to_string(), "554 5.7.1 Access denied");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DenyClientsLayer {
    rule: Arc<Rule>,
}

impl DenyClientsLayer {
    /// Rejects clients of these networks.
    ///
    /// The list may change while the server runs: see [`Reloadable`].
    pub fn new(networks: impl Into<Reloadable<CidrSet>>) -> Self {
        Self {
            rule: Rule::new(networks.into(), Listed::Rejected).into(),
        }
    }

    /// Like [`new`](Self::new), with networks in CIDR notation and single addresses.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first text that is neither a network nor an address.
    pub fn parse<T: AsRef<str>>(networks: impl IntoIterator<Item = T>) -> Result<Self, CidrError> {
        CidrSet::parse(networks).map(Self::new)
    }

    /// Sets the reply to a client that is rejected. Default: 554 5.7.1.
    ///
    /// A 4yz reply makes clients try again later; at connect it becomes 421.
    #[must_use]
    pub fn reply(mut self, reply: Reply) -> Self {
        Arc::make_mut(&mut self.rule).reply = reply;
        self
    }
}

rule_layer!(DenyClientsLayer);

impl<P> Admit<P> for DenyClientsLayer {
    fn admit(&self, request: &Request<P>) -> Result<(), Reply> {
        self.rule.admit(request.session())
    }
}

/// Accepts clients of the given networks, and rejects all others with 554 5.7.1.
///
/// This is the opposite of [`DenyClientsLayer`]. Clients without an IP address, such as those on a Unix socket, pass here too.
///
/// ```
/// use smtpd_tower::{
///     Connect, Request, Session, handler_fn, layer::AllowClientsLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let connect = ServiceBuilder::new()
///     .layer(AllowClientsLayer::parse(["127.0.0.0/8", "::1", "10.0.0.0/8"])?)
///     .service(handler_fn(async |_: Request<Connect>| {}));
/// let ask = |ip: [u8; 4]| {
///     connect
///         .clone()
///         .oneshot(Request::new(Session::from_peer((ip, 4711)), Connect::new()))
/// };
///
/// assert_eq!(ask([10, 0, 0, 1]).await?.code().as_u16(), 250);
/// assert_eq!(ask([192, 0, 2, 1]).await?.to_string(), "554 5.7.1 Access denied");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct AllowClientsLayer {
    rule: Arc<Rule>,
}

impl AllowClientsLayer {
    /// Accepts clients of these networks only.
    ///
    /// The list may change while the server runs: see [`Reloadable`].
    pub fn new(networks: impl Into<Reloadable<CidrSet>>) -> Self {
        Self {
            rule: Rule::new(networks.into(), Listed::Accepted).into(),
        }
    }

    /// Like [`new`](Self::new), with networks in CIDR notation and single addresses.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first text that is neither a network nor an address.
    pub fn parse<T: AsRef<str>>(networks: impl IntoIterator<Item = T>) -> Result<Self, CidrError> {
        CidrSet::parse(networks).map(Self::new)
    }

    /// Sets the reply to a client that is rejected. Default: 554 5.7.1.
    ///
    /// A 4yz reply makes clients try again later; at connect it becomes 421.
    #[must_use]
    pub fn reply(mut self, reply: Reply) -> Self {
        Arc::make_mut(&mut self.rule).reply = reply;
        self
    }
}

rule_layer!(AllowClientsLayer);

impl<P> Admit<P> for AllowClientsLayer {
    fn admit(&self, request: &Request<P>) -> Result<(), Reply> {
        self.rule.admit(request.session())
    }
}

#[derive(Clone, Debug)]
struct Rule {
    networks: Reloadable<CidrSet>,
    listed: Listed,
    reply: Reply,
}

/// What happens to a client that is on the list.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Listed {
    Accepted,
    Rejected,
}

impl Rule {
    fn new(networks: Reloadable<CidrSet>, listed: Listed) -> Self {
        Self {
            networks,
            listed,
            reply: Reply::rejected("Access denied"),
        }
    }

    fn admit(&self, session: &Session) -> Result<(), Reply> {
        let is_listed = |ip| self.networks.with(|networks| networks.contains(ip));
        let is_accepted = |ip| is_listed(ip) == (self.listed == Listed::Accepted);
        if session.client_addr().ip().is_none_or(is_accepted) {
            Ok(())
        } else {
            Err(self.reply.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, net::IpAddr};

    use tokio_test::{assert_pending, assert_ready_ok};
    use tower::{ServiceExt, service_fn};
    use tower_layer::Layer;
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        layer::Gate,
        net::{Cidr, PeerAddr},
        phase::{Connect, Rcpt},
    };

    const LIST: [&str; 3] = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"];

    async fn code<L, P>(layer: &L, peer: impl Into<PeerAddr>, payload: P) -> u16
    where
        L: Layer<Accept<P>, Service = Gate<Accept<P>, L>> + Admit<P>,
    {
        let inner: Accept<P> = service_fn(|_| std::future::ready(Ok::<_, Infallible>(Reply::OK)));
        let request = Request::new(Session::from_peer(peer), payload);
        layer
            .layer(inner)
            .oneshot(request)
            .await
            .unwrap()
            .code()
            .as_u16()
    }

    type Accept<P> =
        tower::util::ServiceFn<fn(Request<P>) -> std::future::Ready<Result<Reply, Infallible>>>;

    #[tokio::test]
    async fn whoever_is_on_the_list() {
        let (deny, allow) = (
            DenyClientsLayer::parse(LIST).unwrap(),
            AllowClientsLayer::parse(LIST).unwrap(),
        );
        let table = [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.3.1", false),
            ("2001:db8::25", true),
            ("2001:db9::25", false),
            ("198.51.100.7", true),
            ("198.51.100.8", false),
        ];
        for (ip, listed) in table {
            let ip: IpAddr = ip.parse().unwrap();
            let path = || Rcpt::new("user@example.org".parse().unwrap());
            let (refused, passes) = if listed { (554, 250) } else { (250, 554) };
            assert_eq!(
                code(&deny, (ip, 4711), Connect::new()).await,
                refused,
                "{ip}"
            );
            assert_eq!(
                code(&allow, (ip, 4711), Connect::new()).await,
                passes,
                "{ip}"
            );
            assert_eq!(code(&deny, (ip, 4711), path()).await, refused, "{ip}");
            assert_eq!(code(&allow, (ip, 4711), path()).await, passes, "{ip}");
        }
        for peer in [PeerAddr::Unix(None), PeerAddr::Unknown] {
            assert_eq!(code(&deny, peer.clone(), Connect::new()).await, 250);
            assert_eq!(code(&allow, peer, Connect::new()).await, 250);
        }
    }

    #[tokio::test]
    async fn a_client_that_is_refused_never_reaches_the_service() {
        let networks = [Cidr::from(IpAddr::from([192, 0, 2, 1]))];
        let layer = DenyClientsLayer::new(CidrSet::from_iter(networks)).reply(Reply::busy());
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(layer);
        assert_ready_ok!(service.poll_ready());
        let request = Request::new(Session::from_peer(([192, 0, 2, 1], 4711)), Connect::new());
        assert_eq!(service.call(request).await.unwrap(), Reply::busy());
        assert_pending!(handle.poll_request());
    }

    #[tokio::test]
    async fn a_list_that_changes_is_the_old_one_until_a_restart() {
        let networks = Reloadable::new(CidrSet::default());
        let (deny, allow) = (
            DenyClientsLayer::new(networks.clone()),
            AllowClientsLayer::new(networks.clone()),
        );
        let peer = ([192, 0, 2, 1], 4711);
        for (list, denied, allowed) in [
            (&[][..], 250, 554),
            (&["192.0.2.0/24"], 554, 250),
            (&["192.0.3.0/24"], 250, 554),
        ] {
            networks.set(CidrSet::parse(list).unwrap());
            assert_eq!(code(&deny, peer, Connect::new()).await, denied, "{list:?}");
            assert_eq!(
                code(&allow, peer, Connect::new()).await,
                allowed,
                "{list:?}"
            );
        }
    }

    #[test]
    fn a_list_with_a_typing_error_makes_no_layer() {
        let list = ["192.0.2.0/24", "192.0.2.0/42"];
        let shown = "`192.0.2.0/42` does not end with a prefix length of 0 to 32";
        assert_eq!(
            DenyClientsLayer::parse(list).unwrap_err().to_string(),
            shown
        );
        assert_eq!(
            AllowClientsLayer::parse(list).unwrap_err().to_string(),
            shown
        );
    }
}
