//! What a route can depend on.

use std::sync::Arc;

use smtpd_core::{
    address::{Domain, ForwardPath},
    sasl::Identity,
};

use super::{RoutePhase, Router, table::Rule};
use crate::{
    addresses::canonical_user,
    domains::Domains,
    net::PeerAddr,
    phase::{Phase, Request},
    reload::Reloadable,
    service::{BoxPhaseService, PhaseService},
    session::{Profile, Session},
};

impl<P: RoutePhase> Router<P> {
    /// Adds a route for the recipients of `domain`, compared as in [`Domains`]. A subdomain is another domain. The lookup is fast
    /// even for many routes.
    #[must_use]
    pub fn domain(self, domain: Domain, service: impl PhaseService<P>) -> Self {
        self.add(Rule::Domain(domain), BoxPhaseService::new(service))
    }

    /// Adds a route for the recipients of all these domains. The lookup is fast even for many domains.
    ///
    /// The list may change while the server runs: see [`Reloadable`]. A recipient who is accepted before the list loses the
    /// domain is deferred at DATA with 451, and rejected when the client tries again.
    #[must_use]
    pub fn domains(
        self,
        domains: impl Into<Reloadable<Domains>>,
        service: impl PhaseService<P>,
    ) -> Self {
        let rule = by(of_domains(domains.into()));
        self.add(rule, BoxPhaseService::new(service))
    }

    /// Adds a route for one recipient. The lookup is fast even for many routes.
    ///
    /// The local part is compared with its case, unless [`address_rules`](Self::address_rules) change that, but regardless of its
    /// quotes (RFC 5321 sections 2.4 and 4.1.2), the domain as in [`Domains`]. `postmaster` is the same in any case (section
    /// 4.5.1); without a domain, it is a recipient of its own.
    #[must_use]
    pub fn address(self, address: ForwardPath, service: impl PhaseService<P>) -> Self {
        self.add(Rule::Address(address), BoxPhaseService::new(service))
    }

    /// Adds a route for the recipients for which `matches` returns true.
    #[must_use]
    pub fn recipient(
        self,
        matches: impl Fn(&ForwardPath) -> bool + Send + Sync + 'static,
        service: impl PhaseService<P>,
    ) -> Self {
        let rule = by(move |_: &Session, path: &ForwardPath| matches(path));
        self.add(rule, BoxPhaseService::new(service))
    }

    /// Adds a route for the clients of a listener, compared to [`Session::listener_addr`]: what a proxy says has no influence. The
    /// unspecified address (`0.0.0.0` or `::`) with a port matches any address with that port.
    #[must_use]
    pub fn listener(self, address: impl Into<PeerAddr>, service: impl PhaseService<P>) -> Self {
        let rule = by(at_listener(address.into()));
        self.add(rule, BoxPhaseService::new(service))
    }

    /// Adds a route for the clients of a listener with this [profile](crate::server::Server::profile).
    #[must_use]
    pub fn profile(self, profile: Profile, service: impl PhaseService<P>) -> Self {
        self.add(by(with_profile(profile)), BoxPhaseService::new(service))
    }

    /// Adds a route for the clients that have authenticated as `identity`, in any case, and in any spelling of a domain and of
    /// accents.
    #[must_use]
    pub fn identity(self, identity: impl Into<Identity>, service: impl PhaseService<P>) -> Self {
        let rule = by(of_identity(identity.into()));
        self.add(rule, BoxPhaseService::new(service))
    }

    /// Adds a route for the requests for which `matches` returns true. At DATA, `matches` is called for each recipient that no
    /// earlier route has matched.
    #[must_use]
    pub fn route(
        self,
        matches: impl Fn(&Request<P>) -> bool + Send + Sync + 'static,
        service: impl PhaseService<P>,
    ) -> Self {
        let condition = move |request: &Request<P>, _: &ForwardPath| matches(request);
        let rule = Rule::Condition(Arc::new(condition));
        self.add(rule, BoxPhaseService::new(service))
    }
}

/// A condition that is the same at every phase.
pub(super) trait Matches:
    Fn(&Session, &ForwardPath) -> bool + Send + Sync + 'static
{
}

impl<F: Fn(&Session, &ForwardPath) -> bool + Send + Sync + 'static> Matches for F {}

pub(super) fn by<P: Phase>(matches: impl Matches) -> Rule<P> {
    Rule::Condition(Arc::new(move |request, path| {
        matches(request.session(), path)
    }))
}

pub(super) fn of_domains(domains: Reloadable<Domains>) -> impl Matches + Clone {
    // All but `<Postmaster>` have a domain (RFC 5321 section 4.1.1.3).
    move |_: &Session, path: &ForwardPath| {
        path.mailbox()
            .is_some_and(|own| domains.with(|domains| domains.contains(own.domain())))
    }
}

pub(super) fn at_listener(address: PeerAddr) -> impl Matches + Clone {
    move |session: &Session, _: &ForwardPath| is_at(session.listener_addr(), &address)
}

pub(super) fn with_profile(profile: Profile) -> impl Matches + Clone {
    move |session: &Session, _: &ForwardPath| session.profile() == Some(profile)
}

pub(super) fn of_identity(identity: Identity) -> impl Matches + Clone {
    let name: Arc<str> = canonical_user(&identity).into();
    move |session: &Session, _: &ForwardPath| {
        let own = session.identity();
        own.is_some_and(|own| canonical_user(own) == *name)
    }
}

fn is_at(own: &PeerAddr, named: &PeerAddr) -> bool {
    match (own, named) {
        (PeerAddr::Inet(at), PeerAddr::Inet(bound)) => {
            let any = bound.ip().is_unspecified();
            at.port() == bound.port() && (any || own.ip() == named.ip())
        }
        _ => own == named,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use smtpd_core::{config::Protocol, reply::Reply};
    use tower::ServiceExt;

    use super::*;
    use crate::{phase::Rcpt, service::handler_fn, session::Session};

    fn answer(text: &'static str) -> impl PhaseService<Rcpt> {
        handler_fn(move |_: Request<Rcpt>| std::future::ready(Reply::ok(text)))
    }

    async fn route(router: &Router<Rcpt>, session: &Session, recipient: &str) -> String {
        let request = Request::new(session.clone(), Rcpt::new(recipient.parse().unwrap()));
        let reply = router.clone().oneshot(request).await.unwrap();
        reply.text().to_owned()
    }

    #[tokio::test]
    async fn the_first_route_for_a_recipient_is_taken() {
        let router = Router::new()
            .address("List@Example.Org".parse().unwrap(), answer("address"))
            .address("postmaster".parse().unwrap(), answer("postmaster"))
            .domain("Example.ORG".parse().unwrap(), answer("domain"))
            .address("late@example.org".parse().unwrap(), answer("never"))
            .address(
                "Postmaster@example.net".parse().unwrap(),
                answer("postmaster of example.net"),
            )
            .domains(
                Domains::parse(["Example.net", "[192.0.2.1]"]).unwrap(),
                answer("domains"),
            )
            .recipient(
                |path| path.as_str().ends_with(".example"),
                answer("recipient"),
            )
            .domain(
                "XN--GR-ZIA.test".parse().unwrap(),
                answer("both kinds of labels"),
            )
            .address(
                "chef@bücher.test".parse().unwrap(),
                answer("address in U-labels"),
            )
            .otherwise(answer("otherwise"));
        for (recipient, expected) in [
            ("List@example.org", "address"),
            (r#""List"@EXAMPLE.org"#, "address"),
            ("list@example.org", "domain"),
            ("late@example.org", "domain"),
            ("user@sub.example.org", "otherwise"),
            ("POSTMASTER", "postmaster"),
            ("postmaster@example.org", "domain"),
            ("POSTMASTER@Example.net", "postmaster of example.net"),
            ("user@EXAMPLE.NET", "domains"),
            ("user@[192.0.2.1]", "domains"),
            ("user@[192.0.2.2]", "otherwise"),
            ("doe@lenient.example", "recipient"),
            ("user@grå.test", "both kinds of labels"),
            ("user@xn--gr-zia.test", "both kinds of labels"),
            ("chef@xn--bcher-kva.test", "address in U-labels"),
        ] {
            let taken = route(&router, &Session::local(), recipient).await;
            assert_eq!(taken, expected, "{recipient}");
        }
    }

    #[tokio::test]
    async fn routes_by_identity_and_by_any_closure() {
        let router = Router::new()
            .identity("alice", answer("alice"))
            .identity("carol@GRÅ.example", answer("carol"))
            .route(
                |request: &Request<Rcpt>| request.session().identity().is_some(),
                answer("user"),
            )
            .otherwise(answer("stranger"));
        let session = Session::local();
        assert_eq!(route(&router, &session, "a@b.example").await, "stranger");
        for (identity, expected) in [
            ("alice", "alice"),
            ("Alice", "alice"),
            ("bob", "user"),
            ("carol@grå.example", "carol"),
            ("carol@xn--gr-zia.example", "carol"),
        ] {
            let session = session.clone().with_identity(identity);
            let taken = route(&router, &session, "a@b.example").await;
            assert_eq!(taken, expected, "{identity}");
        }
    }

    #[tokio::test]
    async fn a_domain_that_was_taken_off_the_list_still_has_a_route() {
        let domains = Reloadable::new(Domains::parse(["one.example"]).unwrap());
        let router = Router::new()
            .domains(domains.clone(), answer("listed"))
            .otherwise(answer("other"));
        let (session, one, two) = (Session::local(), "a@one.example", "a@two.example");
        assert_eq!(route(&router, &session, one).await, "listed");
        assert_eq!(route(&router, &session, two).await, "other");
        domains.set(Domains::parse(["two.example"]).unwrap());
        assert_eq!(route(&router, &session, one).await, "other");
        assert_eq!(route(&router, &session, two).await, "listed");
    }

    #[tokio::test]
    async fn routes_by_profile() {
        let router = Router::new()
            .profile(Profile::Submission, answer("users"))
            .otherwise(answer("others"));
        let session = Session::local();
        assert_eq!(route(&router, &session, "a@b.example").await, "others");
        for (profile, expected) in [
            (Profile::Submission, "users"),
            (Profile::Submissions, "others"),
            (Profile::Mx, "others"),
        ] {
            let session = session.clone().with_profile(profile);
            assert_eq!(route(&router, &session, "a@b.example").await, expected);
        }
    }

    fn at(local: PeerAddr) -> Session {
        Session::new(PeerAddr::Unknown, local, Arc::default(), Protocol::Smtp)
    }

    #[tokio::test]
    async fn routes_by_listener() {
        let inet = |address: &str| PeerAddr::Inet(address.parse().unwrap());
        let router = Router::new()
            .listener(PeerAddr::unix(Some("/run/smtp")), answer("unix"))
            .listener(inet("192.0.2.1:25"), answer("one"))
            .listener(([0, 0, 0, 0], 587), answer("submission"))
            .otherwise(answer("other"));
        for (local, expected) in [
            (PeerAddr::unix(Some("/run/smtp")), "unix"),
            (PeerAddr::unix(Some("/run/lmtp")), "other"),
            (PeerAddr::Unknown, "other"),
            (inet("192.0.2.1:25"), "one"),
            (inet("[::ffff:192.0.2.1]:25"), "one"),
            (inet("192.0.2.2:25"), "other"),
            (inet("192.0.2.1:587"), "submission"),
            (inet("[2001:db8::1]:587"), "submission"),
        ] {
            let shown = local.to_string();
            let taken = route(&router, &at(local), "a@b.example").await;
            assert_eq!(taken, expected, "{shown}");
        }
    }

    #[cfg(feature = "proxy")]
    #[tokio::test]
    async fn a_proxy_does_not_move_its_clients_to_another_listener() {
        let own = PeerAddr::from(([192, 0, 2, 25], 2525));
        let router = Router::new()
            .listener(([203, 0, 113, 5], 25), answer("named by the proxy"))
            .listener(own.clone(), answer("own"));
        let header = b"PROXY TCP4 198.51.100.22 203.0.113.5 35646 25\r\n";
        let header = crate::proxy::ProxyInfo::parse(header).unwrap();
        let proxied = at(own.clone()).with_proxy(header);
        let xclient = at(own).with_xclient("DESTADDR=203.0.113.5 DESTPORT=25".parse().unwrap());
        for session in [proxied, xclient] {
            assert_eq!(session.local_addr().to_string(), "203.0.113.5:25");
            assert_eq!(route(&router, &session, "a@b.example").await, "own");
        }
    }
}
