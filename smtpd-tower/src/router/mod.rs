//! Different services for different recipients, listeners and identities.
//!
//! | type | what it is |
//! |---|---|
//! | [`Routes`], [`Route`] | one table for RCPT and DATA, which a server with both phases should use |
//! | [`Router`] | the service of one phase, from such a table or by itself |

mod broadcast;
mod conditions;
mod future;
mod hub;
mod limited;
mod pace;
mod routes;
mod split;
mod table;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use smtpd_core::{
    address::{AddressRules, ForwardPath},
    config::Timeouts,
    reply::Reply,
};
use tower::BoxError;
use tower_service::Service;

#[cfg(test)]
pub(crate) use self::broadcast::probed_broadcast;
use self::table::{Rule, Table};
pub use self::{
    future::RouteFuture,
    routes::{Route, Routes},
    split::SplitFuture,
};
use crate::{
    phase::{Data, Phase, Rcpt, Request, no_delivery, no_recipient},
    service::{BoxPhaseService, PhaseService},
};

/// Chooses the service for each recipient, at RCPT or at DATA.
///
/// To route at both phases, build the two routers with [`Routes`]: then each recipient that is accepted has a route for its message.
///
/// Routes are tried in the order in which they were added, like the arms of a `match`: add the most specific first. Addresses and
/// domains are looked up, however many there are. A router is a service itself, so routers can be nested.
///
/// It is always ready. The chosen service is cloned, made ready and called within the call, so a route that is not ready holds up
/// only its own requests. If that takes longer than [`ready_timeout`](Self::ready_timeout), the reply is 451 4.3.2. If a service
/// panics, only its own recipients receive 451 4.3.0, and [`Server::on_error`](crate::server::Server::on_error) is told.
///
/// # RCPT
///
/// ```
/// use smtpd_tower::{Rcpt, Reply, Request, Session, handler_fn, router::Router};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), smtpd_tower::BoxError> {
/// let reply_with =
///     |text| handler_fn(move |_: Request<Rcpt>| async move { Reply::ok(text) });
/// let router = Router::new()
///     .address("list@example.org".parse()?, reply_with("list"))
///     .domain("example.org".parse()?, reply_with("local"))
///     // Has no domain, and must be accepted: RFC 5321 section 4.5.1.
///     .address("Postmaster".parse()?, reply_with("local"))
///     .route(
///         |request: &Request<Rcpt>| request.session().identity().is_some(),
///         reply_with("relay"),
///     );
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
/// assert_eq!(
///     ask(&stranger.with_identity("alice"), "user@example.com").await?,
///     "relay"
/// );
/// # Ok(()) }
/// ```
///
/// # DATA
///
/// Each recipient is routed separately. If all have the same route, its service receives the request unchanged, and the message
/// streams straight through. Otherwise each service receives an envelope with its own recipients, and the message at the pace of
/// the slowest: the others may be ahead by [`read_ahead`](Self::read_ahead) bytes. A service that replies early or is dropped no
/// longer holds up the others.
///
/// The response has the reply of each recipient's route, whatever happens to the other routes:
///
/// | a service | its own recipients receive | the others |
/// |---|---|---|
/// | fails | the reply of [`recover`](crate::reply::recover) | continue |
/// | panics, in its destructor too | 451 4.3.0; what it has replied before stands | continue |
/// | keeps the client waiting for longer than [`route_timeout`](Self::route_timeout) | 451 4.3.0 | have their own replies |
/// | reads nothing for half as long, while another waits for it | 451 4.3.0 | continue |
/// | replies early, or drops its body | its reply | no longer wait for it |
///
/// What is a fault is logged and reported to [`Server::on_error`](crate::server::Server::on_error). A service that is given up is
/// dropped. If it has passed its body to another task, the body ends there with
/// [`BodyError::Incomplete`](crate::body::BodyError::Incomplete); it does so too once the service has replied.
///
/// A service whose reply is not awaited at once needs a Tokio runtime with its timer, as a server does.
///
/// ```
/// use smtpd_tower::{
///     Body, Data, Envelope, Reply, Request, Session, deliver::Inbox, handler_fn,
///     router::Router,
/// };
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), smtpd_tower::BoxError> {
/// let (org, net) = (Inbox::new(), Inbox::new());
/// let router = Router::new()
///     .domain("example.org".parse()?, org.clone())
///     .domain("example.net".parse()?, net.clone());
/// let envelope = Envelope::new("sender@example.com".parse()?)
///     .with_recipient("a@example.org".parse()?)
///     .with_recipient("b@example.net".parse()?)
///     .with_recipient("c@example.org".parse()?);
/// let request = Request::new(
///     Session::local(),
///     Data::new(envelope, Body::from("Hello\r\n")),
/// );
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
/// LMTP sends a reply for each recipient. SMTP has room for one, which is positive only if all are
/// ([`DataReply::merged`](smtpd_core::DataReply::merged)). So if one route has accepted a message and another defers it, hangs or
/// panics, the client sends the message to both again, and **the first delivers it twice**; if another rejects it, the sender is
/// told of a failure although some recipients have the message. The only way to avoid that is to accept such a message once for
/// all recipients, into a queue of its own. It becomes rarer the more is decided at RCPT, and is harmless to a service that
/// recognizes duplicates.
///
/// Known refusals never cause this: over SMTP, a message with a recipient that no route matches is refused as a whole, before it
/// is read and without calling any service.
///
/// ## Limits shared by routes
///
/// While several services read a message, each holds what its readiness has reserved, such as a concurrency permit. Two messages
/// longer than [`read_ahead`](Self::read_ahead) can thus wait for each other, each with a permit that the other needs, until
/// [`ready_timeout`](Self::ready_timeout) expires; so can a single message if two routes share a limit. Put the limit around the
/// router, or give each service a single route, by [`domains`](Self::domains). A permit is released when its route has replied or
/// is given up, not only when the whole message is answered.
pub struct Router<P: RoutePhase> {
    // Behind `Arc`, because a router is cloned for each command.
    routes: Arc<Table<P>>,
    otherwise: Arc<Otherwise<P>>,
    ready: Duration,
    /// At DATA; `None` for a part of the server's own.
    timeout: Option<Duration>,
    ahead: usize,
}

/// A phase that a [`Router`] supports: [`Rcpt`] and [`Data`].
///
/// ```
/// use smtpd_tower::{
///     address::AddressError,
///     router::{RoutePhase, Router},
///     service::PhaseService,
/// };
///
/// /// Adds a route for a domain, at whichever phase.
/// fn with_lists<P: RoutePhase>(
///     router: Router<P>,
///     lists: impl PhaseService<P>,
/// ) -> Result<Router<P>, AddressError> {
///     Ok(router.domain("lists.example.org".parse()?, lists))
/// }
/// ```
pub trait RoutePhase: Phase {
    /// The default reply if no route matches.
    fn refusal() -> Reply;
}

impl RoutePhase for Rcpt {
    /// 550 5.7.1.
    fn refusal() -> Reply {
        no_recipient()
    }
}

impl RoutePhase for Data {
    /// 451 4.3.0: the recipient has been accepted, so the fault is on this side and must not bounce mail.
    fn refusal() -> Reply {
        no_delivery()
    }
}

/// See [`Router::read_ahead`].
const READ_AHEAD: usize = 128 << 10;

enum Otherwise<P: Phase> {
    Refuse(Reply),
    Ask(BoxPhaseService<P>),
}

impl<P: RoutePhase> Router<P> {
    /// Creates a router without routes, which refuses everything: at RCPT with 550 5.7.1, at DATA with 451 4.3.0.
    ///
    /// If the phase cannot be inferred from its services, write `Router::<Rcpt>::new()`.
    pub fn new() -> Self {
        Self {
            routes: Arc::default(),
            otherwise: Arc::new(Otherwise::Refuse(P::refusal())),
            ready: Timeouts::default().ready,
            timeout: None,
            ahead: READ_AHEAD,
        }
    }

    /// Sets the service for what no route matches. Default: none, see [`new`](Self::new).
    #[must_use]
    pub fn otherwise(self, service: impl PhaseService<P>) -> Self {
        self.otherwise_boxed(BoxPhaseService::new(service))
    }

    /// Sets the reply to what no route matches. Default: see [`new`](Self::new).
    #[must_use]
    pub fn otherwise_reply(mut self, reply: Reply) -> Self {
        self.otherwise = Arc::new(Otherwise::Refuse(reply));
        self
    }

    /// Sets when a recipient is one of those of [`address`](Self::address): whether case matters, and whether there are details
    /// as in `alice+news`. Default: the rules of RFC 5321.
    ///
    /// A recipient with a detail matches a route with the same detail or without one, whichever was added first.
    #[must_use]
    pub fn address_rules(mut self, rules: AddressRules) -> Self {
        Arc::make_mut(&mut self.routes).set_rules(rules);
        self
    }

    /// Sets how long the chosen service may take to become ready before the reply is 451 4.3.2. Default: 30 seconds. The server's
    /// timeouts for the whole call apply as well.
    #[must_use]
    pub const fn ready_timeout(mut self, limit: Duration) -> Self {
        self.ready = limit;
        self
    }

    fn otherwise_boxed(mut self, service: BoxPhaseService<P>) -> Self {
        self.otherwise = Arc::new(Otherwise::Ask(service));
        self
    }

    fn add(mut self, rule: Rule<P>, service: BoxPhaseService<P>) -> Self {
        Arc::make_mut(&mut self.routes).add(rule, service);
        self
    }

    /// Returns the index of the route for a recipient, if any matches.
    fn find(&self, request: &Request<P>, recipient: &ForwardPath) -> Option<usize> {
        self.routes.find(request, recipient)
    }

    fn ask(&self, route: Option<usize>, request: Request<P>) -> RouteFuture<P> {
        let service = match route.and_then(|number| self.routes.service(number)) {
            Some(service) => service,
            None => match &*self.otherwise {
                Otherwise::Refuse(reply) => return RouteFuture::answer(reply.clone().into()),
                Otherwise::Ask(service) => service,
            },
        };
        RouteFuture::ask(service.clone(), request, self.ready)
    }

    /// Returns the refusal of what no route matches, if it is one.
    fn refuses(&self) -> Option<&Reply> {
        match &*self.otherwise {
            Otherwise::Refuse(reply) if !reply.is_positive() => Some(reply),
            _ => None,
        }
    }
}

impl Router<Data> {
    /// Sets how long a route may keep the client waiting for its reply, or for reading on. Default: 3/4 of the server's
    /// [`delivery`](Timeouts::delivery) timeout, 405 seconds if that is not changed; but a route that has all recipients of a
    /// message has all of that timeout.
    ///
    /// When the server's timeout has passed, the server replies with 451 for all recipients, also for those to whom the message was
    /// delivered. So does another router that this one is a route of. If there are replies by then, the routes without one are given
    /// up in time, at nine tenths of what is left. A route learns of its limit by [`Request::deadline`].
    ///
    /// The recipients of a route that takes longer receive 451 4.3.0, and the others their own replies. Its call is dropped, and
    /// reported to [`Server::on_error`](crate::server::Server::on_error). The time does not run while the route waits for the
    /// client or for another route. A route for which another has to wait, because it is [`read_ahead`](Self::read_ahead) bytes
    /// ahead, has half of the time to read on.
    #[must_use]
    pub const fn route_timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets how many bytes a service may be ahead of the slowest one that reads the same message. Default: 128 KiB. Up to that
    /// many are kept in memory, but at least one chunk, and only if there is more than one service.
    #[must_use]
    pub const fn read_ahead(mut self, bytes: usize) -> Self {
        self.ahead = bytes;
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
            timeout: self.timeout,
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
    mod company;
    mod deadlines;

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

    fn accept() -> impl PhaseService<Rcpt> {
        handler_fn(|_: Request<Rcpt>| ready(Reply::OK))
    }

    #[tokio::test]
    async fn what_no_route_matches_has_the_configured_reply() {
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

    #[tokio::test]
    async fn a_panic_of_a_route_ends_the_session_for_all_recipients() {
        async fn panics(_: Request<Rcpt>) {
            panic!("on purpose")
        }
        let router = Router::new()
            .domain("example.org".parse().unwrap(), handler_fn(panics))
            .domain("example.net".parse().unwrap(), accept());
        let told = ask(&router, "a@example.org").await.unwrap();
        assert_eq!(told, crate::fault::local_error());
        assert_eq!(ask(&router, "a@example.net").await.unwrap(), Reply::OK);
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

    /// A router with a route that takes one request at a time and never completes, and how often that was called.
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
    async fn a_slow_route_holds_up_no_other() {
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
