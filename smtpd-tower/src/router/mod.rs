//! Different services for different recipients, listeners, identities: see [`Router`].

mod broadcast;
mod conditions;
mod future;
mod split;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use smtpd_core::{ForwardPath, Reply, Timeouts};
use tower::BoxError;
use tower_service::Service;

#[cfg(test)]
pub(crate) use self::broadcast::probed_broadcast;
pub use self::{future::RouteFuture, split::SplitFuture};
use crate::{
    phase::{Data, Phase, Rcpt, Request, no_delivery, no_recipient},
    service::{PhaseService, ServePhase},
};

/// Chooses the service for each recipient, at RCPT or at DATA.
///
/// Routes are tried in the order in which they were added, as the arms of a `match` are: what is special goes first. A
/// router is a service itself, so routers can be nested.
///
/// It is always ready. The chosen service is cloned, made ready and called within the call, so a route that is not ready holds
/// up nobody but those who want it. That may take as long as [`ready_timeout`](Self::ready_timeout) says, then the answer is
/// 451 4.3.2.
///
/// # RCPT
///
/// ```
/// use smtpd_tower::{Rcpt, Reply, Request, Session, handler_fn, router::Router};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), smtpd_tower::BoxError> {
/// let answer = |text| handler_fn(move |_: Request<Rcpt>| async move { Reply::ok(text) });
/// let router = Router::new()
///     .address("list@example.org".parse()?, answer("list"))
///     .domain("example.org".parse()?, answer("local"))
///     .address("Postmaster".parse()?, answer("local")) // has no domain, and must be taken: RFC 5321 section 4.5.1
///     .route(|request: &Request<Rcpt>| request.session().identity().is_some(), answer("relay"));
///
/// let ask = async |session: &Session, recipient: &str| {
///     let request = Request::new(session.clone(), Rcpt::new(recipient.parse()?));
///     let reply = router.clone().oneshot(request).await?;
///     Ok::<_, smtpd_tower::BoxError>(reply.text().to_owned())
/// };
/// let stranger = Session::local();
/// assert_eq!(ask(&stranger, "list@Example.org").await?, "list");
/// assert_eq!(ask(&stranger, "user@example.org").await?, "local");
/// assert_eq!(ask(&stranger, "postmaster").await?, "local");
/// assert_eq!(ask(&stranger, "user@example.com").await?, "Relaying denied");
/// assert_eq!(ask(&stranger.with_identity("alice"), "user@example.com").await?, "relay");
/// # Ok(()) }
/// ```
///
/// # DATA
///
/// Each recipient is routed by itself. Where all have one route, its service gets the request as it is, and the message
/// streams straight through. Otherwise each service gets an envelope of its own recipients, and the message at the pace of the
/// slowest: others may be ahead by as much as [`read_ahead`](Self::read_ahead) says. One that answers early, or goes away,
/// holds up the others no longer.
///
/// The answer has the reply of each recipient's route. A service that fails is answered for with [`recover`](crate::reply::recover),
/// for its own recipients, and its error goes to the log and to [`Server::on_error`](crate::server::Server::on_error); the others go on.
///
/// ```
/// use smtpd_tower::{Body, Data, Envelope, Reply, Request, Session, deliver::Inbox, handler_fn, router::Router};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), smtpd_tower::BoxError> {
/// let (org, net) = (Inbox::new(), Inbox::new());
/// let router = Router::new().domain("example.org".parse()?, org.clone()).domain("example.net".parse()?, net.clone());
/// let envelope = Envelope::new("sender@example.com".parse()?)
///     .with_recipient("a@example.org".parse()?)
///     .with_recipient("b@example.net".parse()?)
///     .with_recipient("c@example.org".parse()?);
/// let request = Request::new(Session::local(), Data::new(envelope, Body::from("Hello\r\n")));
/// assert_eq!(router.oneshot(request).await?, Reply::OK);
///
/// let delivered = org.next().await;
/// assert_eq!(delivered.message(), "Hello\r\n");
/// assert_eq!(delivered.envelope().recipients().len(), 2);
/// assert_eq!(net.next().await.message(), "Hello\r\n");
/// # Ok(()) }
/// ```
///
/// ## One reply for several services
///
/// LMTP sends each recipient's reply. SMTP has room for one, which is positive only if all are
/// ([`DataReply::merged`](smtpd_core::DataReply::merged)). So where one route has taken a message and another says 4yz, the client
/// sends the message to both again, and **the first delivers it twice**; where another says 5yz, the sender is told of a
/// failure though some have the message. No server can avoid that by itself but by taking such a message once for all, into a
/// queue of its own. It is rarer the more is decided at RCPT, and is no matter to a service that knows a message again.
///
/// What is known beforehand is kept from doing so: over SMTP, a message with a recipient that no route matches is refused as a
/// whole, before it is read, and no service is asked.
///
/// ## Limits shared by routes
///
/// While a message is read by several services, each holds what its readiness has granted, such as the permit of a
/// concurrency limit. Two messages longer than [`read_ahead`](Self::read_ahead) can thus wait for each other, each with a
/// permit that the other wants, until [`ready_timeout`](Self::ready_timeout) is over; so can a single one, where two routes
/// share a limit. Put a limit around the router, or give one service a single route, by [`domains`](Self::domains).
pub struct Router<P: RoutePhase> {
    // Behind `Arc`, for a router is cloned for each command.
    routes: Arc<Vec<Arc<Route<P>>>>,
    otherwise: Arc<Otherwise<P>>,
    ready: Duration,
    ahead: usize,
}

/// A phase that a [`Router`] knows: [`Rcpt`] and [`Data`].
///
/// ```
/// use smtpd_tower::{AddressError, ServePhase, router::{RoutePhase, Router}};
///
/// /// The same routes for RCPT and for DATA.
/// fn routes<P: RoutePhase>(org: impl ServePhase<P>, net: impl ServePhase<P>) -> Result<Router<P>, AddressError> {
///     Ok(Router::new().domain("example.org".parse()?, org).domain("example.net".parse()?, net))
/// }
/// ```
pub trait RoutePhase: Phase {
    /// What is answered where no route matches, and nothing else is set.
    fn refusal() -> Reply;
}

impl RoutePhase for Rcpt {
    /// 550 5.7.1.
    fn refusal() -> Reply {
        no_recipient()
    }
}

impl RoutePhase for Data {
    /// 451 4.3.0: that the recipient was accepted is a fault on this side, which must not bounce mail.
    fn refusal() -> Reply {
        no_delivery()
    }
}

/// See [`Router::read_ahead`].
const READ_AHEAD: usize = 128 << 10;

struct Route<P: Phase> {
    condition: Box<Condition<P>>,
    service: PhaseService<P>,
}

type Condition<P> = dyn Fn(&Request<P>, &ForwardPath) -> bool + Send + Sync;

enum Otherwise<P: Phase> {
    Refuse(Reply),
    Ask(PhaseService<P>),
}

impl<P: RoutePhase> Router<P> {
    /// A router without routes, which refuses everything: at RCPT with 550 5.7.1, at DATA with 451 4.3.0.
    ///
    /// Where its services do not tell the phase, `Router::<Rcpt>::new()` does.
    pub fn new() -> Self {
        Self {
            routes: Arc::default(),
            otherwise: Arc::new(Otherwise::Refuse(P::refusal())),
            ready: Timeouts::default().ready,
            ahead: READ_AHEAD,
        }
    }

    /// What no route matches goes to that service.
    #[must_use]
    pub fn otherwise(mut self, service: impl ServePhase<P>) -> Self {
        self.otherwise = Arc::new(Otherwise::Ask(PhaseService::new(service)));
        self
    }

    /// What no route matches is answered with that reply.
    #[must_use]
    pub fn otherwise_reply(mut self, reply: Reply) -> Self {
        self.otherwise = Arc::new(Otherwise::Refuse(reply));
        self
    }

    /// How long the chosen service may take to become ready, before the answer is 451 4.3.2; 30 seconds by default. The limits
    /// of the server for the whole call hold beside it.
    #[must_use]
    pub const fn ready_timeout(mut self, limit: Duration) -> Self {
        self.ready = limit;
        self
    }

    fn add(
        mut self,
        condition: impl Fn(&Request<P>, &ForwardPath) -> bool + Send + Sync + 'static,
        service: impl ServePhase<P>,
    ) -> Self {
        Arc::make_mut(&mut self.routes).push(Arc::new(Route {
            condition: Box::new(condition),
            service: PhaseService::new(service),
        }));
        self
    }

    /// The number of the route for a recipient, if any matches.
    fn find(&self, request: &Request<P>, recipient: &ForwardPath) -> Option<usize> {
        self.routes
            .iter()
            .position(|route| (route.condition)(request, recipient))
    }

    fn ask(&self, route: Option<usize>, request: Request<P>) -> RouteFuture<P> {
        let service = match route.and_then(|number| self.routes.get(number)) {
            Some(route) => &route.service,
            None => match &*self.otherwise {
                Otherwise::Refuse(reply) => return RouteFuture::answer(reply.clone().into()),
                Otherwise::Ask(service) => service,
            },
        };
        RouteFuture::ask(service.clone(), request, self.ready)
    }

    /// The refusal of those that no route matches, if it is one.
    fn refuses(&self) -> Option<&Reply> {
        match &*self.otherwise {
            Otherwise::Refuse(reply) if !reply.is_positive() => Some(reply),
            _ => None,
        }
    }
}

impl Router<Data> {
    /// How many octets a service may be ahead of the slowest one that reads the same message; 128 KiB by default. Up to that
    /// many are kept in memory, but at least one piece of the message, and only where there is more than one service.
    #[must_use]
    pub const fn read_ahead(mut self, octets: usize) -> Self {
        self.ahead = octets;
        self
    }
}

impl<P: RoutePhase> Default for Router<P> {
    /// See [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

impl<P: RoutePhase> Clone for Router<P> {
    fn clone(&self) -> Self {
        Self {
            routes: self.routes.clone(),
            otherwise: self.otherwise.clone(),
            ready: self.ready,
            ahead: self.ahead,
        }
    }
}

impl<P: RoutePhase> fmt::Debug for Router<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("phase", &P::KIND)
            .field("routes", &self.routes.len())
            .finish_non_exhaustive()
    }
}

impl Service<Request<Rcpt>> for Router<Rcpt> {
    type Response = Reply;
    type Error = BoxError;
    type Future = RouteFuture<Rcpt>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Rcpt>) -> Self::Future {
        self.ask(self.find(&request, request.recipient()), request)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready_ok, task};
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;
    use crate::{service::handler_fn, session::Session};

    fn ask(
        router: &Router<Rcpt>,
        recipient: &str,
    ) -> impl Future<Output = Result<Reply, BoxError>> + use<> {
        let rcpt = Rcpt::new(recipient.parse().unwrap());
        router.clone().oneshot(Request::new(Session::local(), rcpt))
    }

    fn accept() -> impl ServePhase<Rcpt> {
        handler_fn(|_: Request<Rcpt>| ready(Reply::OK))
    }

    #[tokio::test]
    async fn what_no_route_matches_is_refused_as_the_user_likes() {
        let router = Router::new().domain("example.org".parse().unwrap(), accept());
        let default = router.clone();
        let reply = router.clone().otherwise_reply(Reply::no_such_user());
        let service = router.clone().otherwise(accept());
        for (router, expected) in [
            (&default, Reply::relay_denied()),
            (&reply, Reply::no_such_user()),
            (&service, Reply::OK),
        ] {
            assert_eq!(ask(router, "a@example.com").await.unwrap(), expected);
            assert_eq!(ask(router, "postmaster").await.unwrap(), expected);
            assert_eq!(ask(router, "a@example.org").await.unwrap(), Reply::OK);
        }
    }

    #[tokio::test]
    async fn routers_nest_and_errors_pass() {
        let fails = service_fn(|_: Request<Rcpt>| ready(Err::<Reply, _>(Reply::mailbox_full())));
        let inner = Router::new().address("full@example.org".parse().unwrap(), fails);
        let router = Router::new().domain("example.org".parse().unwrap(), inner);
        let error = ask(&router, "full@example.org").await.unwrap_err();
        assert!(error.is::<Reply>());
        let refused = ask(&router, "user@example.org").await.unwrap();
        assert_eq!(refused, Reply::relay_denied());
    }

    #[test]
    fn an_answer_comes_once() {
        let mut router = Router::new().domain("example.org".parse().unwrap(), accept());
        for recipient in ["a@example.org", "a@example.com"] {
            let rcpt = Rcpt::new(recipient.parse().unwrap());
            let mut answer = task::spawn(router.call(Request::new(Session::local(), rcpt)));
            assert_ready_ok!(answer.poll());
            assert_pending!(answer.poll());
        }
    }

    /// A router with a route that takes one request at a time and never answers, and how often that was called.
    fn with_slow_route() -> (Router<Rcpt>, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        let slow = ServiceBuilder::new()
            .concurrency_limit(1)
            .service(handler_fn(move |_: Request<Rcpt>| {
                count.fetch_add(1, Ordering::Relaxed);
                pending::<Reply>()
            }));
        let router = Router::new()
            .domain("slow.example".parse().unwrap(), slow)
            .domain("fast.example".parse().unwrap(), accept());
        (router, calls)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_route_holds_up_nobody_else() {
        let (router, calls) = with_slow_route();
        let mut holds = task::spawn(ask(&router, "a@slow.example"));
        assert_pending!(holds.poll());
        let mut waits = task::spawn(ask(&router, "b@slow.example"));
        assert_pending!(waits.poll());
        let mut fast = task::spawn(ask(&router, "c@fast.example"));
        assert_eq!(assert_ready_ok!(fast.poll()), Reply::OK);
        assert_eq!(
            calls.load(Ordering::Relaxed),
            1,
            "called before it was ready"
        );

        drop(holds);
        assert!(waits.is_woken());
        assert_pending!(waits.poll());
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_that_does_not_become_ready_is_busy() {
        let (router, _) = with_slow_route();
        for limit in [30, 5] {
            let router = if limit == 30 {
                router.clone()
            } else {
                router.clone().ready_timeout(Duration::from_secs(limit))
            };
            let mut holds = task::spawn(ask(&router, "a@slow.example"));
            assert_pending!(holds.poll());
            let mut waits = task::spawn(ask(&router, "b@slow.example"));
            assert_pending!(waits.poll());
            advance(Duration::from_secs(limit) - Duration::from_millis(1)).await;
            assert_pending!(waits.poll());
            advance(Duration::from_millis(2)).await;
            assert_eq!(assert_ready_ok!(waits.poll()), Reply::busy());
            assert_pending!(holds.poll(), "the time of the answer is not limited here");
        }
    }
}
