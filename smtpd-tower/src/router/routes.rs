use std::{future::ready, sync::Arc, time::Duration};

use smtpd_core::{
    address::{AddressRules, Domain, ForwardPath},
    reply::Reply,
    sasl::Identity,
};

use super::{
    Router,
    conditions::{at_listener, by, of_domains, of_identity, with_profile},
    table::Rule,
};
use crate::{
    domains::Domains,
    net::PeerAddr,
    phase::{Data, Rcpt, Request},
    reload::Reloadable,
    service::{BoxPhaseService, PhaseService, handler_fn},
    session::{Profile, Session},
};

/// One routing table for RCPT and DATA: the way to build two [`Router`]s that agree.
///
/// Each [`Route`] has a service for both phases. So a recipient that is accepted at RCPT has a route at DATA, and it is the same
/// one. With two routers that are built separately, a forgotten route defers mail that was accepted, until it bounces after days.
///
/// The conditions are those of [`Router`], in the order in which they are added. They are called at RCPT and again at DATA, and
/// must return the same both times: look up what can change meanwhile in the services instead.
///
/// ```
/// use smtpd_tower::{
///     Pipeline, Rcpt, Reply, Request,
///     deliver::Inbox,
///     handler_fn,
///     router::{Route, Routes},
/// };
///
/// let is_user = handler_fn(async |request: Request<Rcpt>| {
///     match request.recipient().as_str() {
///         "alice@example.org" => Ok(()),
///         _ => Err(Reply::no_such_user()),
///     }
/// });
/// let (inbox, list) = (Inbox::new(), Inbox::new());
/// let org = Route::new(is_user, inbox.clone());
/// let routes = Routes::new()
///     .address("list@example.org".parse()?, Route::accept(list.clone()))
///     .domain("example.org".parse()?, org)
///     // Has no domain, and must be accepted: RFC 5321 section 4.5.1.
///     .address("postmaster".parse()?, Route::accept(inbox));
/// let pipeline = Pipeline::new().rcpt(routes.rcpt()).data(routes.data());
/// # use smtpd_tower::{Body, BoxError, Data, Envelope, Session};
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")] async fn run(pipeline: Pipeline) -> Result<(), BoxError> {
/// # for (recipient, reply) in [
/// #     ("list@example.org", Reply::OK),
/// #     ("alice@example.org", Reply::OK),
/// #     ("bob@example.org", Reply::no_such_user()),
/// #     ("alice@example.com", Reply::relay_denied()),
/// # ] {
/// #     let rcpt = Request::new(Session::local(), Rcpt::new(recipient.parse()?));
/// #     assert_eq!(pipeline.clone().oneshot(rcpt).await?, reply);
/// # }
/// # let envelope = Envelope::default().with_recipient("list@example.org".parse()?);
/// # let data = Data::new(envelope, Body::from("Hello\r\n"));
/// # assert_eq!(pipeline.oneshot(Request::new(Session::local(), data)).await?, Reply::OK);
/// # Ok(()) }
/// # run(pipeline).unwrap();
/// # assert_eq!(list.len(), 1);
/// # Ok::<(), smtpd_tower::address::AddressError>(())
/// ```
///
/// The routers are services like any others: put layers around them.
///
/// Over SMTP, there is [one reply for several services](Router#one-reply-for-several-services): if routes disagree about a
/// message, those that have accepted it may receive it again.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    rcpt: Router<Rcpt>,
    data: Router<Data>,
}

/// Where a recipient goes: the services of a route of [`Routes`], for RCPT and for DATA.
#[derive(Clone, Debug)]
pub struct Route {
    rcpt: BoxPhaseService<Rcpt>,
    data: BoxPhaseService<Data>,
}

impl Route {
    /// Creates a route. `rcpt` decides on each of its recipients, and `data` receives the messages to those it has accepted.
    pub fn new(rcpt: impl PhaseService<Rcpt>, data: impl PhaseService<Data>) -> Self {
        Self {
            rcpt: BoxPhaseService::new(rcpt),
            data: BoxPhaseService::new(data),
        }
    }

    /// Creates a route that accepts all of its recipients.
    pub fn accept(data: impl PhaseService<Data>) -> Self {
        let accept = handler_fn(|_: Request<Rcpt>| ready(Reply::OK));
        Self::new(accept, data)
    }
}

impl Routes {
    /// Creates a table without routes, which rejects every recipient with 550 5.7.1.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route for the recipients of `domain`, as [`Router::domain`] does.
    #[must_use]
    pub fn domain(self, domain: Domain, route: Route) -> Self {
        let rules = (Rule::Domain(domain.clone()), Rule::Domain(domain));
        self.add(rules, route)
    }

    /// Adds a route for the recipients of all these domains, as [`Router::domains`] does.
    #[must_use]
    pub fn domains(self, domains: impl Into<Reloadable<Domains>>, route: Route) -> Self {
        self.route(of_domains(domains.into()), route)
    }

    /// Adds a route for one recipient, as [`Router::address`] does.
    #[must_use]
    pub fn address(self, address: ForwardPath, route: Route) -> Self {
        let rules = (Rule::Address(address.clone()), Rule::Address(address));
        self.add(rules, route)
    }

    /// Adds a route for the recipients for which `matches` returns true.
    #[must_use]
    pub fn recipient(
        self,
        matches: impl Fn(&ForwardPath) -> bool + Send + Sync + 'static,
        route: Route,
    ) -> Self {
        self.route(move |_: &Session, path: &ForwardPath| matches(path), route)
    }

    /// Adds a route for the clients of a listener, as [`Router::listener`] does.
    #[must_use]
    pub fn listener(self, address: impl Into<PeerAddr>, route: Route) -> Self {
        self.route(at_listener(address.into()), route)
    }

    /// Adds a route for the clients of a listener with this [profile](crate::server::Server::profile).
    #[must_use]
    pub fn profile(self, profile: Profile, route: Route) -> Self {
        self.route(with_profile(profile), route)
    }

    /// Adds a route for the clients that have authenticated as `identity`, as [`Router::identity`] does.
    #[must_use]
    pub fn identity(self, identity: impl Into<Identity>, route: Route) -> Self {
        self.route(of_identity(identity.into()), route)
    }

    /// Adds a route for the recipients for which `matches` returns true, given the session. It must return the same at RCPT and
    /// at DATA.
    #[must_use]
    pub fn route(
        self,
        matches: impl Fn(&Session, &ForwardPath) -> bool + Send + Sync + 'static,
        route: Route,
    ) -> Self {
        let shared = Arc::new(matches);
        let again = shared.clone();
        let rules = (
            by(move |session: &Session, path: &ForwardPath| shared(session, path)),
            by(move |session: &Session, path: &ForwardPath| again(session, path)),
        );
        self.add(rules, route)
    }

    /// Sets the route of what no other matches. Default: none, see [`new`](Self::new).
    #[must_use]
    pub fn otherwise(self, route: Route) -> Self {
        Self {
            rcpt: self.rcpt.otherwise_boxed(route.rcpt),
            data: self.data.otherwise_boxed(route.data),
        }
    }

    /// Sets the reply to recipients that no route matches. Default: 550 5.7.1.
    #[must_use]
    pub fn otherwise_reply(self, reply: Reply) -> Self {
        Self {
            rcpt: self.rcpt.otherwise_reply(reply),
            ..self
        }
    }

    /// Sets when a recipient is one of those of [`address`](Self::address), as [`Router::address_rules`] does.
    #[must_use]
    pub fn address_rules(self, rules: AddressRules) -> Self {
        Self {
            rcpt: self.rcpt.address_rules(rules),
            data: self.data.address_rules(rules),
        }
    }

    /// Sets how long a service may take to become ready, as [`Router::ready_timeout`] does.
    #[must_use]
    pub fn ready_timeout(self, limit: Duration) -> Self {
        Self {
            rcpt: self.rcpt.ready_timeout(limit),
            data: self.data.ready_timeout(limit),
        }
    }

    /// Sets how long a service may keep the client waiting at DATA, as [`Router::route_timeout`] does.
    #[must_use]
    pub fn route_timeout(self, limit: Duration) -> Self {
        Self {
            data: self.data.route_timeout(limit),
            ..self
        }
    }

    /// Sets how many bytes a service may be ahead of the slowest at DATA, as [`Router::read_ahead`] does.
    #[must_use]
    pub fn read_ahead(self, bytes: usize) -> Self {
        Self {
            data: self.data.read_ahead(bytes),
            ..self
        }
    }

    /// Returns the router for [`Pipeline::rcpt`](crate::service::Pipeline::rcpt).
    pub fn rcpt(&self) -> Router<Rcpt> {
        self.rcpt.clone()
    }

    /// Returns the router for [`Pipeline::data`](crate::service::Pipeline::data).
    pub fn data(&self) -> Router<Data> {
        self.data.clone()
    }

    fn add(self, (at_rcpt, at_data): (Rule<Rcpt>, Rule<Data>), route: Route) -> Self {
        Self {
            rcpt: self.rcpt.add(at_rcpt, route.rcpt),
            data: self.data.add(at_data, route.data),
        }
    }
}
