//! What a route can depend on.

use smtpd_core::{Domain, ForwardPath, sasl::Identity};

use super::{RoutePhase, Router};
use crate::{
    domains::{Domains, is_same_recipient},
    net::PeerAddr,
    phase::Request,
    service::ServePhase,
    session::Profile,
};

impl<P: RoutePhase> Router<P> {
    /// Adds a route for the recipients of `domain`, compared as in [`Domains`]. A subdomain is another domain.
    #[must_use]
    pub fn domain(self, domain: Domain, service: impl ServePhase<P>) -> Self {
        self.domains(Domains::from_iter([domain]), service)
    }

    /// Adds a route for the recipients of all these domains. The lookup is fast even for many domains.
    #[must_use]
    pub fn domains(self, domains: Domains, service: impl ServePhase<P>) -> Self {
        self.recipient(
            // All but `<Postmaster>` have a domain (RFC 5321 section 4.1.1.3).
            move |path| {
                path.mailbox()
                    .is_some_and(|own| domains.contains(own.domain()))
            },
            service,
        )
    }

    /// Adds a route for one recipient.
    ///
    /// The local part is compared with its case, but regardless of its quotes (RFC 5321 sections 2.4 and 4.1.2), the domain as
    /// in [`Domains`]. `Postmaster` is the recipient without a domain.
    #[must_use]
    pub fn address(self, address: ForwardPath, service: impl ServePhase<P>) -> Self {
        self.recipient(move |path| is_same_recipient(path, &address), service)
    }

    /// Adds a route for the recipients for which `matches` returns true.
    #[must_use]
    pub fn recipient(
        self,
        matches: impl Fn(&ForwardPath) -> bool + Send + Sync + 'static,
        service: impl ServePhase<P>,
    ) -> Self {
        self.add(move |_, path| matches(path), service)
    }

    /// Adds a route for the clients of a listener. The unspecified address (`0.0.0.0` or `::`) with a port matches any local
    /// address with that port.
    #[must_use]
    pub fn listener(self, address: impl Into<PeerAddr>, service: impl ServePhase<P>) -> Self {
        let address = address.into();
        self.route(
            move |request| is_at(request.session().local_addr(), &address),
            service,
        )
    }

    /// Adds a route for the clients of a listener with this [profile](crate::server::Server::profile).
    #[must_use]
    pub fn profile(self, profile: Profile, service: impl ServePhase<P>) -> Self {
        self.route(
            move |request| request.session().profile() == Some(profile),
            service,
        )
    }

    /// Adds a route for the clients that have authenticated as `identity`, compared with its case.
    #[must_use]
    pub fn identity(self, identity: impl Into<Identity>, service: impl ServePhase<P>) -> Self {
        let identity = identity.into();
        self.route(
            move |request| request.session().identity() == Some(&identity),
            service,
        )
    }

    /// Adds a route for the requests for which `matches` returns true. At DATA, `matches` is called for each recipient that no
    /// earlier route has matched.
    #[must_use]
    pub fn route(
        self,
        matches: impl Fn(&Request<P>) -> bool + Send + Sync + 'static,
        service: impl ServePhase<P>,
    ) -> Self {
        self.add(move |request, _| matches(request), service)
    }
}

fn is_at(local: &PeerAddr, listener: &PeerAddr) -> bool {
    match (local, listener) {
        (PeerAddr::Inet(own), PeerAddr::Inet(bound)) => {
            let any = bound.ip().is_unspecified();
            own.port() == bound.port() && (any || local.ip() == listener.ip())
        }
        _ => local == listener,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use smtpd_core::{Protocol, Reply};
    use tower::ServiceExt;

    use super::*;
    use crate::{phase::Rcpt, service::handler_fn, session::Session};

    fn answer(text: &'static str) -> impl ServePhase<Rcpt> {
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
            .route(
                |request: &Request<Rcpt>| request.session().identity().is_some(),
                answer("user"),
            )
            .otherwise(answer("stranger"));
        let session = Session::local();
        assert_eq!(route(&router, &session, "a@b.example").await, "stranger");
        for (identity, expected) in [("alice", "alice"), ("Alice", "user"), ("bob", "user")] {
            let session = session.clone().with_identity(identity);
            let taken = route(&router, &session, "a@b.example").await;
            assert_eq!(taken, expected, "{identity}");
        }
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
}
