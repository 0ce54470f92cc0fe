use std::{collections::HashSet, fmt, sync::Arc};

use smtpd_core::sasl::Identity;

use crate::{
    addresses::canonical_user,
    net::{Cidr, CidrError, CidrSet, PeerAddr},
    session::Session,
};
#[cfg(doc)]
use crate::{
    layer::{
        ConcurrencyLayer, CondLayer, GreylistLayer, HeloCheckLayer, MaxRecipientsLayer,
        RateLimitLayer, SessionsPerIpLayer, TarpitLayer,
    },
    reload::Reloadable,
};

/// The clients that a layer lets pass: your own networks, users and machines.
///
/// A list that is empty exempts nobody. A client is exempt if any of the rules matches. Cloning a list is cheap, so that one list
/// serves all layers that have a setter for it. They also accept a [`Reloadable`], to replace the list while the server runs:
///
/// | exempts by default | layers |
/// |---|---|
/// | nobody | [`ConcurrencyLayer`], [`MaxRecipientsLayer`], [`RateLimitLayer`], [`SessionsPerIpLayer`] |
/// | [this machine](Self::local) | [`TarpitLayer`] |
/// | this machine, and clients that have [authenticated](Self::authenticated) | [`GreylistLayer`], [`HeloCheckLayer`] |
///
/// Around any other layer, put a [`CondLayer`] that asks [`contains`](Self::contains).
///
/// The address is that of the [client](Session::client_addr), not of a proxy in front of the server. A proxy that is not among
/// [the trusted ones](crate::net::TrustedPeers) *is* the client, and if it is exempt, then everybody behind it
/// is. The unspecified address, which stands for a client that a proxy could not name, is in no network.
///
/// ```
/// use smtpd_tower::{Session, layer::Exempt};
///
/// let own = Exempt::local()
///     .parse_networks(["192.0.2.0/24", "2001:db8::/32"])?
///     .identities(["newsletter"]);
///
/// let from = |ip: [u8; 4]| Session::from_peer((ip, 4711));
/// assert!(own.contains(&from([127, 0, 0, 1])));
/// assert!(own.contains(&from([192, 0, 2, 77])));
/// assert!(!own.contains(&from([203, 0, 113, 1])));
/// assert!(own.contains(&from([203, 0, 113, 1]).with_identity("newsletter")));
/// # Ok::<(), smtpd_tower::net::CidrError>(())
/// ```
#[derive(Clone, Default)]
pub struct Exempt {
    rules: Arc<Rules>,
}

type Predicate = Arc<dyn Fn(&Session) -> bool + Send + Sync>;

#[derive(Clone, Default)]
struct Rules {
    /// As they were given, to be extended; `set` is made of them.
    networks: Vec<Cidr>,
    set: Arc<CidrSet>,
    is_local: bool,
    unix_sockets: bool,
    authenticated: bool,
    /// In their canonical form.
    identities: HashSet<Box<str>>,
    predicates: Vec<Predicate>,
}

impl Exempt {
    /// Exempts nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Exempts the clients of this machine: those on a loopback address, on a Unix socket, or from the very address that they
    /// connect to. A client of a listener of your own that has no address ([`PeerAddr::Unknown`]) counts as one of them.
    ///
    /// Do not use it behind a proxy on this machine that does not name its clients.
    pub fn local() -> Self {
        Self::new().set(|rules| rules.is_local = true)
    }

    /// Adds the clients of these networks.
    #[must_use]
    pub fn networks(self, networks: impl IntoIterator<Item = Cidr>) -> Self {
        self.set(|rules| {
            rules.networks.extend(networks);
            rules.set = Arc::new(rules.networks.iter().copied().collect());
        })
    }

    /// Like [`networks`](Self::networks), with networks in CIDR notation and single addresses.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first text that is neither a network nor an address.
    pub fn parse_networks<T: AsRef<str>>(
        self,
        networks: impl IntoIterator<Item = T>,
    ) -> Result<Self, CidrError> {
        let networks = networks
            .into_iter()
            .map(|text| text.as_ref().parse::<Cidr>());
        Ok(self.networks(networks.collect::<Result<Vec<_>, _>>()?))
    }

    /// Adds the clients on Unix sockets.
    #[must_use]
    pub fn unix_sockets(self) -> Self {
        self.set(|rules| rules.unix_sockets = true)
    }

    /// Adds all clients that have authenticated.
    #[must_use]
    pub fn authenticated(self) -> Self {
        self.set(|rules| rules.authenticated = true)
    }

    /// Adds the clients that have authenticated as one of these, in any case, and in any spelling of a domain and of accents.
    #[must_use]
    pub fn identities<I: Into<Identity>>(self, identities: impl IntoIterator<Item = I>) -> Self {
        self.set(|rules| {
            for identity in identities {
                let identity = identity.into();
                rules.identities.insert(canonical_user(&identity).into());
            }
        })
    }

    /// Adds the sessions for which `is_exempt` returns true. It is called for each request of all others, so it should be quick.
    ///
    /// Do not rely on what clients choose themselves, such as the name in HELO, or a [`ReverseName`](crate::session::ReverseName)
    /// that is not confirmed.
    ///
    /// ```
    /// use smtpd_tower::{Session, layer::Exempt, session::ReverseName};
    ///
    /// let partners = Exempt::new().when(|session: &Session| {
    ///     session.get::<ReverseName>().is_some_and(|name| {
    ///         name.is_confirmed() && name.as_str().ends_with(".partner.example")
    ///     })
    /// });
    /// ```
    #[must_use]
    pub fn when(self, is_exempt: impl Fn(&Session) -> bool + Send + Sync + 'static) -> Self {
        self.set(|rules| rules.predicates.push(Arc::new(is_exempt)))
    }

    /// Returns whether a session is exempt.
    pub fn contains(&self, session: &Session) -> bool {
        self.rules.contains(session)
    }

    fn set(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        change(Arc::make_mut(&mut self.rules));
        self
    }
}

impl Rules {
    fn contains(&self, session: &Session) -> bool {
        // What costs least is asked first.
        self.authenticated && session.identity().is_some()
            || self.has_address(session)
            || session.identity().is_some_and(|name| self.has(name))
            || self.predicates.iter().any(|matches| matches(session))
    }

    fn has(&self, identity: &Identity) -> bool {
        !self.identities.is_empty() && self.identities.contains(&*canonical_user(identity))
    }

    fn has_address(&self, session: &Session) -> bool {
        let client = session.client_addr();
        let Some(ip) = client.ip() else {
            return self.is_local || self.unix_sockets && matches!(client, PeerAddr::Unix(_));
        };
        if ip.is_unspecified() {
            return false;
        }
        let is_own = || client.is_local() || session.local_addr().ip() == Some(ip);
        self.is_local && is_own() || self.set.contains(ip)
    }
}

// By hand: a closure has no Debug, and the lists may be long.
impl fmt::Debug for Exempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = &*self.rules;
        f.debug_struct("Exempt")
            .field("is_local", &rules.is_local)
            .field("networks", &rules.networks.len())
            .field("unix_sockets", &rules.unix_sockets)
            .field("authenticated", &rules.authenticated)
            .field("identities", &rules.identities.len())
            .field("predicates", &rules.predicates.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tower::{Layer, ServiceExt};

    use super::*;
    use crate::{
        layer::MaxRecipientsLayer,
        phase::{Rcpt, Request},
        reload::Reloadable,
        service::handler_fn,
    };

    fn from(ip: &str) -> Session {
        let ip: IpAddr = ip.parse().unwrap();
        Session::from_peer((ip, 4711))
    }

    fn unix() -> Session {
        Session::from_peer(PeerAddr::Unix(None))
    }

    #[test]
    fn nobody_is_exempt_unless_it_is_said() {
        for session in [
            from("127.0.0.1"),
            from("::1"),
            from("192.0.2.1").with_identity("alice"),
            unix(),
            Session::from_peer(PeerAddr::Unknown),
        ] {
            assert!(!Exempt::new().contains(&session), "{session:?}");
        }
    }

    #[test]
    fn each_rule_exempts_what_it_says_and_no_more() {
        let alice = || from("203.0.113.1").with_identity("alice");
        let networks = || {
            let networks = Exempt::new().parse_networks(["192.0.2.0/24", "2001:db8::/32"]);
            networks.unwrap().parse_networks(["198.51.100.7"]).unwrap()
        };
        let everywhere = || Exempt::new().parse_networks(["0.0.0.0/0", "::/0"]).unwrap();
        let table = [
            (Exempt::local(), from("127.0.0.1"), true),
            (Exempt::local(), from("::1"), true),
            (Exempt::local(), from("::ffff:127.1.2.3"), true),
            (Exempt::local(), unix(), true),
            (Exempt::local(), from("192.0.2.1"), false),
            (Exempt::local(), from("0.0.0.0"), false),
            (Exempt::local(), alice(), false),
            (Exempt::new().unix_sockets(), unix(), true),
            (Exempt::new().unix_sockets(), from("127.0.0.1"), false),
            (
                Exempt::new().unix_sockets(),
                Session::from_peer(PeerAddr::Unknown),
                false,
            ),
            (networks(), from("192.0.2.77"), true),
            (networks(), from("::ffff:192.0.2.77"), true),
            (networks(), from("2001:db8:1::1"), true),
            (networks(), from("198.51.100.7"), true),
            (networks(), from("127.0.0.1"), false),
            (networks(), unix(), false),
            (everywhere(), from("203.0.113.1"), true),
            (everywhere(), from("0.0.0.0"), false),
            (everywhere(), from("::"), false),
            (Exempt::new().authenticated(), alice(), true),
            (Exempt::new().authenticated(), from("203.0.113.1"), false),
            (Exempt::new().identities(["alice", "bob"]), alice(), true),
            (Exempt::new().identities(["bob"]), alice(), false),
            (Exempt::new().identities(["Alice"]), alice(), true),
            (
                Exempt::new().identities(["carol@GRÅ.example"]),
                from("203.0.113.1").with_identity("carol@xn--gr-zia.example"),
                true,
            ),
            (
                Exempt::new().when(|session| session.helo().is_none()),
                alice(),
                true,
            ),
        ];
        for (exempt, session, expected) in table {
            assert_eq!(
                exempt.contains(&session),
                expected,
                "{exempt:?} {session:?}"
            );
        }
    }

    #[test]
    fn a_client_from_the_address_that_it_connects_to_is_local() {
        let session = Session::new(
            ([192, 0, 2, 25], 4711).into(),
            ([192, 0, 2, 25], 25).into(),
            Arc::default(),
            smtpd_core::config::Protocol::Smtp,
        );
        assert!(Exempt::local().contains(&session));
        assert!(!Exempt::new().unix_sockets().contains(&session));
    }

    #[tokio::test]
    async fn a_list_that_was_replaced_still_exempts() {
        let list = Reloadable::new(Exempt::local());
        let layer = MaxRecipientsLayer::new(0).exempt(list.clone());
        let service = layer.layer(handler_fn(async |_: Request<Rcpt>| {}));
        let code = async |client: &str| {
            let rcpt = Rcpt::new("b@example.org".parse().unwrap());
            let asked = service.clone().oneshot(Request::new(from(client), rcpt));
            asked.await.unwrap().code().as_u16()
        };
        assert_eq!(code("127.0.0.1").await, 250);
        assert_eq!(code("192.0.2.1").await, 452);
        list.set(Exempt::new().parse_networks(["192.0.2.0/24"]).unwrap());
        assert_eq!(code("127.0.0.1").await, 452);
        assert_eq!(code("192.0.2.1").await, 250);
    }

    #[test]
    fn a_clone_that_is_changed_leaves_the_original_alone() {
        let local = Exempt::local();
        let wider = local.clone().authenticated();
        let alice = from("203.0.113.1").with_identity("alice");
        assert!(wider.contains(&alice) && !local.contains(&alice));
        assert!(Exempt::new().parse_networks(["192.0.2.1/24"]).is_err());
    }
}
