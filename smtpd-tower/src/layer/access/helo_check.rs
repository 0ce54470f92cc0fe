use std::{net::IpAddr, sync::Arc};

use smtpd_core::{
    address::{ClientName, ClientNameKind},
    reply::{Code, Reply, Status},
};

use crate::{
    domains::Domains,
    layer::{Admit, Exempt, compose::rule_layer},
    phase::{Helo, Mail, Request},
    reload::Reloadable,
    session::Session,
};

/// Rejects clients by their HELO name, with 550 5.7.1 (RFC 5321 section 4.1.4).
///
/// By default, only names that are certainly forged are rejected: the names and addresses of this server, and those that every
/// machine has for itself, such as `localhost` and `[127.0.0.1]`. The methods below reject more. Clients of this machine (over
/// loopback, a Unix socket, or from the address that they connect to) and clients that have authenticated always pass, unless
/// [`exempt`](Self::exempt) says otherwise: the HELO name of a mail program at home means nothing.
///
/// RFC 5321 section 4.1.4 allows a server to verify that a HELO name belongs to the address of the client, but forbids it to
/// reject mail because that fails. So this layer does not look names up in the DNS, and
/// [`reject_foreign_literal`](Self::reject_foreign_literal), the only check against the address, is off by default: a client
/// behind a NAT sends the address that it knows of. A loopback address is another matter, for no client that comes from outside
/// has it.
///
/// It fits HELO and MAIL. At HELO, a client is rejected at once, but may send another HELO; at MAIL, its mail is rejected.
///
/// ```
/// use smtpd_tower::{
///     Helo, Request, Session, domains::Domains, handler_fn, layer::HeloCheckLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let helo = ServiceBuilder::new()
///     .layer(
///         HeloCheckLayer::new()
///             .own_names(Domains::parse(["mx.example.org"])?)
///             .reject_unqualified(),
///     )
///     .service(handler_fn(async |_: Request<Helo>| {}));
/// let ask = |name: &str| {
///     let request = name.parse().map(|name| {
///         Request::new(
///             Session::from_peer(([192, 0, 2, 1], 4711)),
///             Helo::new(name),
///         )
///     });
///     let helo = helo.clone();
///     async move {
///         Ok::<_, Box<dyn std::error::Error>>(
///             helo.oneshot(request?).await?.to_string(),
///         )
///     }
/// };
/// assert_eq!(ask("client.example.net").await?, "250 2.0.0 OK");
/// assert_eq!(ask("MX.example.org").await?, "550 5.7.1 That is my own name");
/// assert_eq!(
///     ask("localhost.localdomain").await?,
///     "550 5.7.1 That is a loopback name"
/// );
/// assert_eq!(
///     ask("laptop").await?,
///     "550 5.7.1 Give a fully qualified domain name"
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct HeloCheckLayer {
    config: Arc<Config>,
}

#[derive(Clone, Debug)]
struct Config {
    rules: Vec<Rule>,
    names: Vec<Reloadable<Domains>>,
    addresses: Vec<IpAddr>,
    exempt: Reloadable<Exempt>,
}

/// What is rejected.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    Own,
    Loopback,
    Malformed,
    Unqualified,
    ForeignLiteral,
}

impl Default for HeloCheckLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl HeloCheckLayer {
    /// Rejects clients that use the name of this server, the address that they have connected to, or a loopback name.
    pub fn new() -> Self {
        let config = Config {
            rules: vec![Rule::Own, Rule::Loopback],
            names: Vec::new(),
            addresses: Vec::new(),
            exempt: Exempt::local().authenticated().into(),
        };
        Self {
            config: Arc::new(config),
        }
    }

    /// Adds names of this server, such as those of the other machines of a cluster.
    #[must_use]
    pub fn own_names(self, names: impl Into<Reloadable<Domains>>) -> Self {
        self.with(|config| config.names.push(names.into()))
    }

    /// Adds addresses of this server, such as those outside of a NAT or a load balancer.
    #[must_use]
    pub fn own_addresses(self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let addresses = addresses.into_iter().map(|ip| ip.to_canonical());
        self.with(|config| config.addresses.extend(addresses))
    }

    /// Accepts names and addresses of this server.
    #[must_use]
    pub fn allow_own(self) -> Self {
        self.with(|config| config.rules.retain(|&rule| rule != Rule::Own))
    }

    /// Accepts `localhost`, names below it (RFC 6761 section 6.3), `localhost.localdomain`, and loopback and unspecified
    /// addresses, such as `[127.0.0.1]` and `[IPv6:::]`.
    #[must_use]
    pub fn allow_loopback(self) -> Self {
        self.with(|config| config.rules.retain(|&rule| rule != Rule::Loopback))
    }

    /// Sets which clients may use any name. Default: those of this machine, and those that have authenticated.
    #[must_use]
    pub fn exempt(self, exempt: impl Into<Reloadable<Exempt>>) -> Self {
        self.with(|config| config.exempt = exempt.into())
    }

    /// Rejects names that are neither a domain nor an address literal (RFC 5321 section 4.1.1.1). This includes names with an
    /// underscore, which legitimate clients have too.
    #[must_use]
    pub fn reject_malformed(self) -> Self {
        self.with(|config| config.rules.push(Rule::Malformed))
    }

    /// Rejects names without a dot, such as `localhost`, which are not fully qualified (RFC 5321 section 2.3.5). Address
    /// literals pass.
    #[must_use]
    pub fn reject_unqualified(self) -> Self {
        self.with(|config| config.rules.push(Rule::Unqualified))
    }

    /// Rejects address literals that are not the address of the client. If the address of the client is unknown, as behind a
    /// proxy that could not name it, every literal passes.
    ///
    /// RFC 5321 section 4.1.4 forbids rejecting mail because the name of a client does not match its address. A client behind
    /// a NAT sends the address that it knows of. Use this only if you know all clients.
    #[must_use]
    pub fn reject_foreign_literal(self) -> Self {
        self.with(|config| config.rules.push(Rule::ForeignLiteral))
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

rule_layer!(HeloCheckLayer);

impl Admit<Helo> for HeloCheckLayer {
    fn admit(&self, request: &Request<Helo>) -> Result<(), Reply> {
        self.config.check(request.session(), request.name())
    }
}

impl Admit<Mail> for HeloCheckLayer {
    fn admit(&self, request: &Request<Mail>) -> Result<(), Reply> {
        let session = request.session();
        session
            .helo()
            .map_or(Ok(()), |name| self.config.check(session, name))
    }
}

impl Config {
    fn check(&self, session: &Session, name: &ClientName) -> Result<(), Reply> {
        if self.exempt.with(|exempt| exempt.contains(session)) {
            return Ok(());
        }
        let mut rules = self.rules.iter();
        match rules.find(|rule| self.matches(**rule, session, name)) {
            // RFC 5321 section 4.1.4: 550 is a reply to an unacceptable EHLO; 504 is not.
            Some(rule) => Err(Reply::new(
                Code::MAILBOX_UNAVAILABLE,
                Status::DENIED,
                rule.text(),
            )),
            None => Ok(()),
        }
    }

    fn matches(&self, rule: Rule, session: &Session, name: &ClientName) -> bool {
        match rule {
            Rule::Own => self.is_own(session, name),
            Rule::Loopback => is_loopback(name),
            Rule::Malformed => name.kind() == ClientNameKind::Other,
            Rule::Unqualified => {
                name.kind() != ClientNameKind::Literal && !without_root(name).contains('.')
            }
            // If a proxy could not name the client, there is no address to compare.
            Rule::ForeignLiteral => literal(name)
                .zip(known_ip(session))
                .is_some_and(|(given, ip)| given != ip),
        }
    }

    fn is_own(&self, session: &Session, name: &ClientName) -> bool {
        if let Some(ip) = address(name) {
            return session.local_addr().ip() == Some(ip) || self.addresses.contains(&ip);
        }
        let name = without_root(name);
        name.eq_ignore_ascii_case(session.hostname()) || {
            let mut lists = self.names.iter();
            lists.any(|own| own.with(|own| own.contains_text(name)))
        }
    }
}

impl Rule {
    const fn text(self) -> &'static str {
        match self {
            Self::Own => "That is my own name",
            Self::Loopback => "That is a loopback name",
            Self::Malformed => "Give a domain name or an address literal",
            Self::Unqualified => "Give a fully qualified domain name",
            Self::ForeignLiteral => "That is not your address",
        }
    }
}

/// Returns whether every machine has this name or address, and knows itself by it.
fn is_loopback(name: &ClientName) -> bool {
    if let Some(ip) = address(name) {
        return ip.is_loopback() || ip.is_unspecified();
    }
    let name = without_root(name).to_ascii_lowercase();
    let (host, domain) = name.split_once('.').unwrap_or((&name, ""));
    name.ends_with(".localhost")
        || ["localhost", "localhost4", "localhost6"].contains(&host)
            && ["", "localdomain", "localdomain4", "localdomain6"].contains(&domain)
}

/// Returns the address of the client. If a proxy could not name it, this is the unspecified address, which may also be that of
/// the listener.
fn known_ip(session: &Session) -> Option<IpAddr> {
    session.client_addr().ip().filter(|ip| !ip.is_unspecified())
}

fn literal(name: &ClientName) -> Option<IpAddr> {
    Some(name.domain()?.ip()?.to_canonical())
}

/// Returns the address that a name stands for, even if the brackets or the tag of IPv6 are missing.
fn address(name: &ClientName) -> Option<IpAddr> {
    let bare = || {
        let name = name.as_str();
        let inner = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        let ip: IpAddr = inner.unwrap_or(name).parse().ok()?;
        Some(ip.to_canonical())
    };
    literal(name).or_else(bare)
}

/// Returns the name without the trailing dot of the root, which does not change its meaning.
fn without_root(name: &ClientName) -> &str {
    let name = name.as_str();
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use smtpd_core::{address::ReversePath, connection::Greeting};
    use tokio_test::{assert_pending, assert_ready_ok};
    use tower::{Layer, ServiceExt, service_fn};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::net::PeerAddr;

    const STRANGER: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);

    /// The refusals at HELO and at MAIL, which are the same.
    async fn refusal(layer: &HeloCheckLayer, session: Session, name: &str) -> Option<String> {
        let name: ClientName = name.parse().unwrap();
        let service = layer.layer(service_fn(async |_| Ok::<_, Infallible>(Reply::OK)));
        let helo = Request::new(session.clone(), Helo::new(name.clone()));
        let at_helo = service.oneshot(helo).await.unwrap();

        let service = layer.layer(service_fn(async |_| Ok::<_, Infallible>(Reply::OK)));
        let session = session.with_helo(name, Greeting::Ehlo);
        let mail = Request::new(session, Mail::new(ReversePath::Null));
        assert_eq!(service.oneshot(mail).await.unwrap(), at_helo);
        (!at_helo.is_positive()).then(|| at_helo.to_string())
    }

    #[tokio::test]
    async fn a_new_name_of_this_server_is_believed_of_others() {
        let names = Reloadable::new(Domains::parse(["mx1.example.org"]).unwrap());
        let layer = HeloCheckLayer::new().own_names(names.clone());
        for (name, is_own) in [("mx1.example.org", true), ("mx2.example.org", false)] {
            let received = refusal(&layer, Session::from_peer(STRANGER), name).await;
            assert_eq!(received.is_some(), is_own, "{name}");
        }
        names.set(Domains::parse(["mx2.example.org"]).unwrap());
        for (name, is_own) in [("mx1.example.org", false), ("mx2.example.org", true)] {
            let received = refusal(&layer, Session::from_peer(STRANGER), name).await;
            assert_eq!(received.is_some(), is_own, "{name}");
        }
    }

    #[tokio::test]
    async fn what_each_option_refuses() {
        let fresh = HeloCheckLayer::new();
        let none = fresh.clone().allow_own().allow_loopback();
        let own = fresh
            .clone()
            .own_names(Domains::parse(["mx2.example.org"]).unwrap())
            .own_addresses(["203.0.113.5".parse().unwrap()]);
        let malformed = none.clone().reject_malformed();
        let unqualified = none.clone().reject_unqualified();
        let foreign = none.clone().reject_foreign_literal();
        let (is_own, is_odd) = (
            "That is my own name",
            "Give a domain name or an address literal",
        );
        let (has_no_dot, is_not_yours) = (
            "Give a fully qualified domain name",
            "That is not your address",
        );
        let table = [
            // The name and address of the server of a test.
            (&fresh, "localhost", is_own),
            (&fresh, "LocalHost.", is_own),
            (&fresh, "[127.0.0.1]", is_own),
            (&fresh, "[IPv6:::ffff:127.0.0.1]", is_own),
            (&fresh, "127.0.0.1", is_own),
            (&none, "localhost", ""),
            (&none, "under_score", ""),
            (&fresh, "mx2.example.org", ""),
            (&own, "MX2.example.org", is_own),
            (&own, "mx2.example.org.uk", ""),
            (&own, "localhost", is_own),
            (&own, "[203.0.113.5]", is_own),
            (&own, "[203.0.113.6]", ""),
            (&fresh, "[203.0.113.5]", ""),
            (&malformed, "under_score.example.org", is_odd),
            (&malformed, "[x:y]", is_odd),
            (&malformed, "localhost", ""),
            (&malformed, "[203.0.113.5]", ""),
            (&unqualified, "laptop", has_no_dot),
            (&unqualified, "laptop.", has_no_dot),
            (&unqualified, "under_score", has_no_dot),
            (&unqualified, "under_score.example.org", ""),
            (&unqualified, "[IPv6:2001:db8::1]", ""),
            (&foreign, "[203.0.113.5]", is_not_yours),
            (&foreign, "[192.0.2.1]", ""),
            (&foreign, "[IPv6:::ffff:192.0.2.1]", ""),
            (&foreign, "mx.example.net", ""),
        ];
        for (layer, name, expected) in table {
            let received = refusal(layer, Session::from_peer(STRANGER), name).await;
            let expected = (!expected.is_empty()).then(|| format!("550 5.7.1 {expected}"));
            assert_eq!(received, expected, "{name} {layer:?}");
        }
    }

    #[tokio::test]
    async fn trusted_clients_may_use_any_name() {
        let layer = HeloCheckLayer::new()
            .reject_malformed()
            .reject_unqualified()
            .reject_foreign_literal();
        let known = [
            Session::local(),
            Session::from_peer(PeerAddr::Unix(None)),
            Session::from_peer(STRANGER).with_identity("alice"),
        ];
        for name in ["localhost", "my_laptop", "[203.0.113.5]"] {
            for session in known.clone() {
                assert_eq!(
                    refusal(&layer, session.clone(), name).await,
                    None,
                    "{session:?}"
                );
            }
            let nobody = Session::from_peer(STRANGER)
                .with_xclient("ADDR=[UNAVAILABLE] DESTADDR=[UNAVAILABLE]".parse().unwrap());
            assert_eq!(nobody.client_addr().ip(), nobody.local_addr().ip());
            let stranger = Session::from_peer(STRANGER);
            assert!(refusal(&layer, stranger, name).await.is_some(), "{name}");
            let is_literal = name.starts_with('[');
            let is_refused = refusal(&layer, nobody, name).await.is_some();
            assert_eq!(is_refused, !is_literal, "{name}");
        }
    }

    #[tokio::test]
    async fn a_literal_that_cannot_be_verified_is_not_called_forged() {
        let layer = HeloCheckLayer::new().reject_foreign_literal();
        for peer in [PeerAddr::from(([0, 0, 0, 0], 0)), PeerAddr::Unknown] {
            let session = Session::from_peer(peer);
            assert_eq!(refusal(&layer, session, "[203.0.113.5]").await, None);
        }
        let known = Session::from_peer(STRANGER);
        let received = refusal(&layer, known, "[203.0.113.5]").await;
        assert_eq!(
            received.as_deref(),
            Some("550 5.7.1 That is not your address")
        );
    }

    #[tokio::test]
    async fn a_client_that_is_refused_never_reaches_the_service() {
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(HeloCheckLayer::default());
        assert_ready_ok!(service.poll_ready());
        let helo = Helo::new("localhost".parse().unwrap());
        let refused = service.call(Request::new(Session::from_peer(STRANGER), helo));
        assert_eq!(refused.await.unwrap().code().as_u16(), 550);
        assert_pending!(handle.poll_request());
    }

    #[tokio::test]
    async fn names_that_every_machine_has_for_itself_are_believed() {
        let layer = HeloCheckLayer::new().allow_own();
        let lenient = layer.clone().allow_loopback();
        for (name, is_loopback) in [
            ("localhost", true),
            ("LOCALHOST.", true),
            ("localhost.localdomain", true),
            ("localhost6.localdomain6", true),
            ("mail.localhost", true),
            ("[127.0.0.1]", true),
            ("[127.9.9.9]", true),
            ("127.0.0.1", true),
            ("[IPv6:::1]", true),
            ("[IPv6:0:0:0:0:0:0:0:1]", true),
            ("[IPv6:::ffff:127.0.0.1]", true),
            ("[::1]", true),
            ("::1", true),
            ("[0.0.0.0]", true),
            ("[IPv6:::]", true),
            ("[IPv6:::ffff:0.0.0.0]", true),
            ("localhost.example.org", false),
            ("notlocalhost", false),
            ("localdomain", false),
            ("[192.0.2.1]", false),
            ("[10.0.0.1]", false),
            ("[IPv6:2001:db8::1]", false),
        ] {
            for peer in ["192.0.2.1", "2001:db8::1", "10.0.0.7"] {
                let ip: IpAddr = peer.parse().unwrap();
                let session = || Session::from_peer((ip, 4711));
                let received = refusal(&layer, session(), name).await;
                let expected = is_loopback.then_some("550 5.7.1 That is a loopback name");
                assert_eq!(received.as_deref(), expected, "{name} from {peer}");
                assert_eq!(refusal(&lenient, session(), name).await, None, "{name}");
            }
            for session in [
                Session::local(),
                Session::from_peer(([127, 0, 0, 2], 1)),
                Session::from_peer((IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), 1)),
                Session::from_peer(PeerAddr::Unix(None)),
            ] {
                assert_eq!(refusal(&layer, session, name).await, None, "{name}");
            }
        }
    }

    #[tokio::test]
    async fn the_default_exemptions_stay_beside_those_that_are_set() {
        let partner = Exempt::new().parse_networks(["192.0.2.0/24"]).unwrap();
        let layer = HeloCheckLayer::new().exempt(partner);
        let other = || Session::from_peer(([203, 0, 113, 1], 4711));
        for (session, is_refused) in [
            (Session::from_peer(STRANGER), false),
            (other(), true),
            (other().with_identity("alice"), true),
            (Session::local(), true),
        ] {
            let received = refusal(&layer, session.clone(), "localhost").await;
            assert_eq!(received.is_some(), is_refused, "{session:?}");
        }
    }
}
