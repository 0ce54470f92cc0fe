//! The names of clients in the DNS, looked up once for each address.

mod cache;
mod flight;
mod lookups;

use std::{
    any::type_name,
    fmt,
    net::IpAddr,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Timeout, timeout};
use tower_layer::Layer;
use tower_service::Service;

use self::{
    cache::{Cache, Entry},
    flight::{Lookup, look_up},
    lookups::Lookups,
};
use crate::{
    phase::{Connect, PhaseKind, Request},
    session::ReverseName,
};

/// Looks up the name of a client's address when it connects, and stores it as [`ReverseName`] in the state of the session.
///
/// The resolver is a function from an address to a name. The owner of the address chooses that name, so it proves nothing. With
/// [`confirm`](Self::confirm), the name is resolved too, and kept only if it leads back to the address.
///
/// A lookup that finds nothing, times out or panics rejects nobody: the session continues without a name. A panic is reported to
/// [`Server::on_error`](crate::server::Server::on_error). Clients without an IP address are not looked up.
///
/// It fits connect only. The greeting waits for the lookup, other connections do not. Layers inside of this one see the name.
///
/// # What is remembered, and limits
///
/// Names are remembered by address, for [10 minutes](Self::keep_found), and for [one minute](Self::keep_missing) if there was
/// none. The cache has at most [10,000 addresses](Self::capacity) of up to half a kilobyte each; the oldest go first. Connections
/// of one address share one lookup: if the one that has begun it ends, the others go on with it. At most
/// [100 lookups](Self::max_lookups) are in flight, and a quarter of them for addresses of one network (an IPv4 /24 or an IPv6
/// /48): its name servers may never answer. Networks, and clients within them, take turns. A connection that waits for its turn
/// does so within the same [timeout](Self::timeout); if more than 1,024 wait, the network with the most of them loses one.
///
/// All clones of a layer, and all services that they make, share the cache and the limit.
///
/// ```
/// use std::net::IpAddr;
///
/// use smtpd_tower::{
///     Connect, Reply, Request, Session, handler_fn,
///     layer::{ReverseDnsLayer, ReverseName},
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// async fn resolve(ip: IpAddr) -> Option<String> {
///     // Stands for a query to the DNS.
///     (ip == IpAddr::from([192, 0, 2, 1])).then(|| "mx.example.org".to_owned())
/// }
///
/// async fn greet(request: Request<Connect>) -> Result<(), Reply> {
///     match request.session().get::<ReverseName>() {
///         Some(_) => Ok(()),
///         None => Err(Reply::rejected("No reverse DNS")),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let connect = ServiceBuilder::new()
///     .layer(ReverseDnsLayer::new(resolve))
///     .service(handler_fn(greet));
/// let from =
///     |ip: [u8; 4]| Request::new(Session::from_peer((ip, 4711)), Connect::new());
/// assert_eq!(
///     connect.clone().oneshot(from([192, 0, 2, 1])).await?.code().as_u16(),
///     250
/// );
/// assert_eq!(connect.oneshot(from([192, 0, 2, 2])).await?.code().as_u16(), 554);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ReverseDnsLayer<R> {
    resolver: R,
    settings: Settings,
    lookups: Lookups,
    cache: Arc<Cache>,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    limit: Duration,
    keep_found: Duration,
    keep_missing: Duration,
    capacity: NonZeroUsize,
    confirms: bool,
}

impl Settings {
    const fn keep(&self, found: bool) -> Duration {
        if found {
            self.keep_found
        } else {
            self.keep_missing
        }
    }
}

const CAPACITY: NonZeroUsize = match NonZeroUsize::new(10_000) {
    Some(addresses) => addresses,
    None => NonZeroUsize::MIN,
};

const MAX_LOOKUPS: NonZeroUsize = match NonZeroUsize::new(100) {
    Some(lookups) => lookups,
    None => NonZeroUsize::MIN,
};

impl<R> ReverseDnsLayer<R> {
    /// Looks names up with `resolver`.
    pub fn new(resolver: R) -> Self {
        Self {
            resolver,
            settings: Settings {
                limit: Duration::from_secs(5),
                keep_found: Duration::from_secs(600),
                keep_missing: Duration::from_secs(60),
                capacity: CAPACITY,
                confirms: false,
            },
            lookups: Lookups::new(MAX_LOOKUPS),
            cache: Arc::default(),
        }
    }

    /// Resolves each name by `forward`, and drops it unless one of the first 100 addresses is that of the client. The names that
    /// remain are [confirmed](ReverseName::is_confirmed) (RFC 8601 section 2.7.3).
    ///
    /// The name that `forward` is given ends with a dot, so that a resolver does not add a domain of its own.
    ///
    /// ```
    /// use std::net::IpAddr;
    ///
    /// use smtpd_tower::layer::ReverseDnsLayer;
    /// use tokio::net::lookup_host;
    ///
    /// async fn reverse(_: IpAddr) -> Option<String> {
    ///     None // a query to the DNS
    /// }
    ///
    /// let layer =
    ///     ReverseDnsLayer::new(reverse).confirm(async |name: String| {
    ///         let addresses = lookup_host((name, 0)).await.into_iter().flatten();
    ///         addresses.map(|addr| addr.ip()).collect::<Vec<_>>()
    ///     });
    /// ```
    #[must_use]
    pub fn confirm<L, F, A>(
        self,
        forward: F,
    ) -> ReverseDnsLayer<impl Fn(IpAddr) -> Lookup + Clone + Send + 'static>
    where
        R: Fn(IpAddr) -> L + Clone + Send + 'static,
        L: Future<Output = Option<String>> + Send + 'static,
        F: Fn(String) -> A + Clone + Send + 'static,
        A: Future<Output: IntoIterator<Item = IpAddr>> + Send + 'static,
    {
        let resolver = self.resolver;
        let confirmed = move |ip: IpAddr| -> Lookup {
            let (lookup, forward) = (resolver(ip), forward.clone());
            Box::pin(async move {
                let name = absolute(lookup.await?)?;
                // Called in a statement of its own, so that `forward` is not borrowed while it is awaited.
                let addresses = forward(name.clone());
                let mut addresses = addresses.await.into_iter().take(MAX_ADDRESSES);
                let ip = ip.to_canonical();
                addresses
                    .any(|address| address.to_canonical() == ip)
                    .then_some(name)
            })
        };
        ReverseDnsLayer {
            resolver: confirmed,
            settings: Settings {
                confirms: true,
                ..self.settings
            },
            lookups: self.lookups,
            cache: Arc::default(),
        }
    }

    /// States that the resolver returns only names that lead back to the address. They are
    /// [confirmed](ReverseName::is_confirmed) then.
    #[must_use]
    pub fn resolver_confirms(self) -> Self {
        self.set(|settings| settings.confirms = true)
    }

    /// Sets the timeout of a lookup. Default: 5 seconds.
    #[must_use]
    pub fn timeout(self, limit: Duration) -> Self {
        self.set(|settings| settings.limit = limit)
    }

    /// Sets how long a name is remembered. Default: 10 minutes.
    #[must_use]
    pub fn keep_found(self, time: Duration) -> Self {
        self.set(|settings| settings.keep_found = time)
    }

    /// Sets how long it is remembered that there is no name, or that the lookup has timed out. Default: one minute. Failures
    /// should not be remembered for more than five minutes (RFC 2308 section 7).
    #[must_use]
    pub fn keep_missing(self, time: Duration) -> Self {
        self.set(|settings| settings.keep_missing = time)
    }

    /// Sets how many addresses are remembered. Default: 10,000.
    #[must_use]
    pub fn capacity(self, addresses: NonZeroUsize) -> Self {
        self.set(|settings| settings.capacity = addresses)
    }

    /// Sets how many lookups may be in flight at a time, of which one network has a quarter at most, but at least one. Default:
    /// 100.
    #[must_use]
    pub fn max_lookups(self, lookups: NonZeroUsize) -> Self {
        Self {
            lookups: Lookups::new(lookups),
            ..self
        }
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }
}

/// How many addresses of a name are compared. Its owner may give it any number.
const MAX_ADDRESSES: usize = 100;

/// Returns a name with its final dot. Returns `None` for an address, which everybody could confirm, and for a name that is longer
/// than the DNS allows.
fn absolute(mut name: String) -> Option<String> {
    if !name.ends_with('.') {
        name.push('.');
    }
    let relative = name.strip_suffix('.').unwrap_or_default();
    let is_name = (1..=253).contains(&relative.len()) && relative.parse::<IpAddr>().is_err();
    is_name.then_some(name)
}

// By hand: a closure has no Debug.
impl<R> fmt::Debug for ReverseDnsLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReverseDnsLayer")
            .field("resolver", &type_name::<R>())
            .field("settings", &self.settings)
            .finish()
    }
}

impl<S, R: Clone> Layer<S> for ReverseDnsLayer<R> {
    type Service = ReverseDns<S, R>;

    fn layer(&self, inner: S) -> ReverseDns<S, R> {
        ReverseDns {
            inner,
            lookup: self.clone(),
        }
    }
}

/// The service of [`ReverseDnsLayer`].
#[derive(Clone, Debug)]
pub struct ReverseDns<S, R> {
    inner: S,
    lookup: ReverseDnsLayer<R>,
}

impl<S, R, L> Service<Request<Connect>> for ReverseDns<S, R>
where
    S: Service<Request<Connect>> + Clone,
    R: Fn(IpAddr) -> L + Clone + Send + 'static,
    L: Future<Output = Option<String>> + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ReverseDnsFuture<S, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Connect>) -> Self::Future {
        // The unspecified address stands for a client that a proxy could not name.
        let ip = request.session().client_addr().ip();
        let Some(ip) = ip.filter(|ip| !ip.is_unspecified()) else {
            return State::Inner(self.inner.call(request)).into();
        };
        let waiter = match self.lookup.cache.entry(ip) {
            Entry::InFlight(waiter) => waiter,
            Entry::Known(name) => {
                keep(name, &request);
                return State::Inner(self.inner.call(request)).into();
            }
        };
        let ReverseDnsLayer {
            resolver,
            settings,
            lookups,
            ..
        } = self.lookup.clone();
        let resolver = move |ip| -> Lookup { Box::pin(resolver(ip)) };
        // The box is for connections of unknown addresses only, and nothing beside their lookup.
        let lookup: Waiting = Box::pin(look_up(waiter, resolver, lookups, settings));
        // The instance that was made ready is the one to call; its clone may not be ready.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        State::Lookup {
            lookup: timeout(settings.limit, lookup),
            then: Some((ready, request)),
        }
        .into()
    }
}

fn keep(name: Option<ReverseName>, request: &Request<Connect>) {
    if let Some(name) = name {
        request.session().insert(name);
    }
}

/// The result is the message of a panic, if the resolver has panicked.
type Waiting = Pin<Box<dyn Future<Output = Result<Option<ReverseName>, String>> + Send>>;

/// The future of [`ReverseDns`]: waits for the lookup, then for the service.
#[pin_project]
pub struct ReverseDnsFuture<S, F> {
    #[pin]
    state: State<S, F>,
}

#[pin_project(project = StateProj)]
enum State<S, F> {
    Lookup {
        #[pin]
        lookup: Timeout<Waiting>,
        then: Option<(S, Request<Connect>)>,
    },
    Inner(#[pin] F),
}

impl<S, F> From<State<S, F>> for ReverseDnsFuture<S, F> {
    fn from(state: State<S, F>) -> Self {
        Self { state }
    }
}

impl<S, F> Future for ReverseDnsFuture<S, F>
where
    S: Service<Request<Connect>, Future = F>,
    F: Future,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let inner = match state.as_mut().project() {
                StateProj::Inner(inner) => return inner.poll(cx),
                StateProj::Lookup { lookup, then } => {
                    let found = ready!(lookup.poll(cx)).unwrap_or(Ok(None));
                    // Empty only if the call below has panicked.
                    let Some((mut service, request)) = then.take() else {
                        return Poll::Pending;
                    };
                    match found {
                        Ok(name) => keep(name, &request),
                        Err(panic) => {
                            let error = format!("the resolver has panicked: {panic}");
                            request.session().report_fault(PhaseKind::Connect, error);
                        }
                    }
                    service.call(request)
                }
            };
            state.set(State::Inner(inner));
        }
    }
}

// By hand: a lookup has no Debug.
impl<S, F> fmt::Debug for ReverseDnsFuture<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReverseDnsFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::{pending, ready},
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use smtpd_core::reply::Reply;
    use tokio::time::{Instant, advance, sleep};
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
    use tower::{ServiceExt, service_fn};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{net::PeerAddr, session::Session};

    fn connect(peer: impl Into<PeerAddr>) -> Request<Connect> {
        Request::new(Session::from_peer(peer), Connect::new())
    }

    fn name(request: &Request<Connect>) -> Option<String> {
        let name = request.session().get::<ReverseName>();
        name.map(|name| name.to_string())
    }

    #[tokio::test]
    async fn the_service_finds_the_name() {
        let table = [
            (Some("mx.example.org."), Some("mx.example.org")),
            (Some("a\r\nX: y"), Some("a??X??y")),
            (Some("."), None),
            (None, None),
        ];
        for (found, expected) in table {
            let layer = ReverseDnsLayer::new(move |_| ready(found.map(str::to_owned)));
            let (mut service, mut handle) = spawn_layer::<_, Reply, _>(layer);
            assert_ready_ok!(service.poll_ready());
            let asked = tokio::spawn(service.call(connect(([192, 0, 2, 1], 4711))));
            let (request, respond) = handle.next_request().await.unwrap();
            assert_eq!(name(&request).as_deref(), expected, "{found:?}");
            respond.send_response(Reply::busy());
            assert_eq!(asked.await.unwrap().unwrap(), Reply::busy());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_never_ends_only_delays() {
        let slow = || ReverseDnsLayer::new(|_| pending());
        for (layer, seconds) in [(slow(), 5), (slow().timeout(SECOND), 1)] {
            let (mut service, mut handle) = spawn_layer::<_, Reply, _>(layer);
            assert_ready_ok!(service.poll_ready());
            let start = Instant::now();
            let _asked = tokio::spawn(service.call(connect(([192, 0, 2, 1], 4711))));
            let (request, _respond) = handle.next_request().await.unwrap();
            assert_eq!(name(&request), None);
            assert_eq!(start.elapsed().as_secs(), seconds);
        }
    }

    #[tokio::test]
    async fn a_peer_without_an_address_is_not_looked_up() {
        let layer = ReverseDnsLayer::new(|_| pending());
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(layer);
        for peer in [PeerAddr::Unix(None), ([0, 0, 0, 0], 0).into()] {
            assert_ready_ok!(service.poll_ready());
            let _asked = service.call(connect(peer));
            assert!(assert_ready!(handle.poll_request()).is_some());
        }
    }

    #[tokio::test]
    async fn the_instance_that_was_ready_is_the_one_called() {
        let layer = ReverseDnsLayer::new(|_| ready(None));
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(layer);
        handle.allow(1);
        assert_ready_ok!(service.poll_ready());
        // A call to an instance that is not ready would panic.
        let mut asked = task::spawn(service.call(connect(([192, 0, 2, 1], 4711))));
        assert_pending!(asked.poll());
        assert!(assert_ready!(handle.poll_request()).is_some());
        assert_pending!(service.poll_ready());
    }

    /// A resolver that takes a second, and counts.
    #[derive(Clone, Default)]
    struct Slow {
        calls: Arc<AtomicUsize>,
        in_flight: Arc<AtomicUsize>,
        most_in_flight: Arc<AtomicUsize>,
    }

    impl Slow {
        fn resolve(self, takes: Duration) -> impl Fn(IpAddr) -> Lookup + Clone + Send {
            move |ip| {
                let this = self.clone();
                Box::pin(async move {
                    this.calls.fetch_add(1, Relaxed);
                    let now = this.in_flight.fetch_add(1, Relaxed) + 1;
                    this.most_in_flight.fetch_max(now, Relaxed);
                    let _landed = OnDrop(|| {
                        this.in_flight.fetch_sub(1, Relaxed);
                    });
                    sleep(takes).await;
                    let missing = ip == IpAddr::from([203, 0, 113, 1]);
                    (!missing).then(|| format!("{ip}.example").replace(':', "-"))
                })
            }
        }

        fn calls(&self) -> usize {
            self.calls.load(Relaxed)
        }
    }

    struct OnDrop<F: Fn()>(F);

    impl<F: Fn()> Drop for OnDrop<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Connects, and returns the name that the service sees, after how many seconds.
    async fn seen<R, L>(layer: ReverseDnsLayer<R>, ip: impl Into<String>) -> (Option<String>, u64)
    where
        R: Fn(IpAddr) -> L + Clone + Send + 'static,
        L: Future<Output = Option<String>> + Send + 'static,
    {
        let ip: IpAddr = ip.into().parse().unwrap();
        let start = Instant::now();
        let service = layer.layer(service_fn(async |request: Request<Connect>| {
            Ok::<_, Infallible>(name(&request))
        }));
        let name = service.oneshot(connect((ip, 4711))).await.unwrap();
        (name, start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn five_hundred_connections_of_one_address_are_five_hundred_lookups() {
        let slow = Slow::default();
        let layer = ReverseDnsLayer::new(slow.clone().resolve(SECOND));
        let connections: Vec<_> = (0..500)
            .map(|n| {
                let ip = ["192.0.2.1", "::ffff:192.0.2.1"][n % 2];
                tokio::spawn(seen(layer.clone(), ip))
            })
            .collect();
        for connection in connections {
            let seen = connection.await.unwrap();
            assert_eq!(seen, (Some("192.0.2.1.example".into()), 1));
        }
        assert_eq!(slow.calls(), 1);
        assert_eq!(layer.cache.counts(), (1, 0));
        // An IPv6 address has a name of its own, not one of its network.
        assert_eq!(seen(layer.clone(), "2001:db8::1").await.1, 1);
        assert_eq!(seen(layer.clone(), "2001:db8::2").await.1, 1);
        assert_eq!(seen(layer.clone(), "2001:db8::1").await.1, 0);
        assert_eq!(slow.calls(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_remembered_for_ever_or_not_at_all() {
        for (ip, seconds) in [("192.0.2.1", 600), ("203.0.113.1", 60)] {
            let slow = Slow::default();
            let layer = ReverseDnsLayer::new(slow.clone().resolve(SECOND));
            for (after, calls) in [(0, 1), (seconds - 1, 1), (1, 2), (1, 2)] {
                advance(SECOND * after).await;
                let (name, _) = seen(layer.clone(), ip).await;
                assert_eq!(name.is_some(), ip == "192.0.2.1");
                assert_eq!(slow.calls(), calls, "{ip}");
            }
            let forgetful = layer
                .clone()
                .keep_found(Duration::ZERO)
                .keep_missing(Duration::ZERO);
            advance(SECOND * seconds).await;
            for calls in 3..6 {
                seen(forgetful.clone(), ip).await;
                assert_eq!(slow.calls(), calls);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_lookup_ends_with_the_connection_that_began_it() {
        let slow = Slow::default();
        let layer = ReverseDnsLayer::new(slow.clone().resolve(SECOND * 3));
        let connections: Vec<_> = (0..3)
            .map(|_| tokio::spawn(seen(layer.clone(), "192.0.2.1")))
            .collect();
        for connection in &connections[..2] {
            sleep(SECOND).await;
            connection.abort();
        }
        let last = connections.into_iter().next_back().unwrap();
        assert_eq!(last.await.unwrap(), (Some("192.0.2.1.example".into()), 3));
        assert_eq!(slow.calls(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_nobody_waits_for_stays() {
        let slow = Slow::default();
        let layer =
            ReverseDnsLayer::new(slow.clone().resolve(SECOND)).max_lookups(NonZeroUsize::MIN);
        let connections =
            ["192.0.2.1", "192.0.2.1", "192.0.2.2"].map(|ip| tokio::spawn(seen(layer.clone(), ip)));
        sleep(SECOND / 2).await;
        assert_eq!(layer.cache.counts(), (0, 2));
        for connection in connections {
            connection.abort();
            assert!(connection.await.unwrap_err().is_cancelled());
        }
        assert_eq!(layer.cache.counts(), (0, 0));
        assert_eq!(slow.in_flight.load(Relaxed), 0);
        assert_eq!(layer.lookups.counts(), (1, 0));
        assert_eq!(seen(layer, "192.0.2.2").await.1, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_botnet_has_as_many_lookups_in_flight_as_it_has_addresses() {
        let slow = Slow::default();
        let layer = ReverseDnsLayer::new(slow.clone().resolve(SECOND))
            .max_lookups(NonZeroUsize::new(10).unwrap());
        let connections: Vec<_> = (0..100)
            .map(|n| tokio::spawn(seen(layer.clone(), format!("198.{n}.100.1"))))
            .collect();
        let (mut names, mut waited) = (0, [0; 6]);
        for connection in connections {
            let (name, seconds) = connection.await.unwrap();
            names += usize::from(name.is_some());
            waited[seconds as usize] += 1;
        }
        assert_eq!(slow.most_in_flight.load(Relaxed), 10);
        // After five seconds, half of them go on without a name.
        assert_eq!(waited, [0, 10, 10, 10, 10, 60]);
        assert!((40..=50).contains(&names), "{names}");
        // Those that have not been looked up are not remembered as without a name.
        assert_eq!(seen(layer.clone(), "198.51.100.99").await.1, 1);
        assert_eq!(layer.lookups.counts(), (10, 0));
    }

    /// Its name servers never answer, and it has more addresses than there are lookups.
    #[tokio::test(start_paused = true)]
    async fn one_network_has_all_lookups() {
        for (flood, expected) in [("192.0.2.", 25), ("2001:db8:1:1::", 25)] {
            let in_flight = Arc::new(AtomicUsize::new(0));
            let flying = in_flight.clone();
            let hangs = move |ip: IpAddr| -> Lookup {
                if ip == IpAddr::from([198, 51, 100, 1]) {
                    return Box::pin(ready(Some("mx.example.org".to_owned())));
                }
                flying.fetch_add(1, Relaxed);
                Box::pin(pending())
            };
            let layer = ReverseDnsLayer::new(hangs);
            let connections: Vec<_> = (0..200)
                .map(|n| tokio::spawn(seen(layer.clone(), format!("{flood}{n}"))))
                .collect();
            tokio::task::yield_now().await;
            assert_eq!(in_flight.load(Relaxed), expected, "{flood}");
            let honest = seen(layer.clone(), "198.51.100.1").await;
            assert_eq!(honest, (Some("mx.example.org".into()), 0), "{flood}");
            for connection in connections {
                assert_eq!(connection.await.unwrap(), (None, 5));
            }
            assert_eq!(layer.lookups.counts(), (100, 0));
        }
    }

    /// Whatever floods it, a connection of another network is not the last of those that wait.
    #[tokio::test(start_paused = true)]
    async fn a_lookup_waits_behind_all_those_of_a_flood() {
        let slow = Slow::default();
        let layer = ReverseDnsLayer::new(slow.clone().resolve(SECOND))
            .max_lookups(NonZeroUsize::MIN)
            .timeout(SECOND * 100);
        let flood: Vec<_> = (0..50)
            .map(|n| tokio::spawn(seen(layer.clone(), format!("192.0.2.{n}"))))
            .collect();
        tokio::task::yield_now().await;
        let (name, seconds) = seen(layer.clone(), "198.51.100.1").await;
        assert!(name.is_some());
        assert!(seconds <= 3, "{seconds}");
        flood.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn each_connection_waits_anew_for_a_lookup_that_hangs() {
        let slow = Slow::default();
        let layer = ReverseDnsLayer::new(slow.clone().resolve(SECOND * 3600));
        let first = tokio::spawn(seen(layer.clone(), "192.0.2.1"));
        sleep(SECOND * 4).await;
        assert_eq!(seen(layer.clone(), "192.0.2.1").await, (None, 1));
        assert_eq!(first.await.unwrap(), (None, 5));
        assert_eq!(seen(layer.clone(), "192.0.2.1").await, (None, 0));
        assert_eq!(slow.calls(), 1);
        advance(SECOND * 60).await;
        assert_eq!(seen(layer.clone(), "192.0.2.1").await, (None, 5));
        assert_eq!(layer.lookups.counts(), (100, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_panics_ends_sessions_or_hangs_others() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let resolver = move |_| -> Lookup {
            match counted.fetch_add(1, Relaxed) {
                0 => panic!("when it is called"),
                1 => Box::pin(async {
                    sleep(SECOND).await;
                    panic!("when it is polled")
                }),
                _ => Box::pin(ready(Some("mx.example.org".to_owned()))),
            }
        };
        let layer = ReverseDnsLayer::new(resolver);
        assert_eq!(seen(layer.clone(), "192.0.2.1").await, (None, 0));
        let connections = [(); 3].map(|()| tokio::spawn(seen(layer.clone(), "192.0.2.1")));
        for connection in connections {
            assert_eq!(connection.await.unwrap(), (None, 1));
        }
        assert_eq!(layer.cache.counts(), (0, 0));
        // A panic is not remembered.
        let seen = seen(layer.clone(), "192.0.2.1").await;
        assert_eq!(seen, (Some("mx.example.org".into()), 0));
        assert_eq!(calls.load(Relaxed), 3);
        assert_eq!(layer.lookups.counts(), (100, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_addresses_grows_memory() {
        let slow = Slow::default();
        let layer = ReverseDnsLayer::new(slow.clone().resolve(Duration::ZERO))
            .capacity(NonZeroUsize::new(10).unwrap());
        for n in 0..1000 {
            seen(layer.clone(), format!("2001:db8::{n}")).await;
            assert!(layer.cache.counts().0 <= 10);
        }
        // The same addresses again and again, each time forgotten.
        for _ in 0..100 {
            advance(SECOND * 600).await;
            seen(layer.clone(), "192.0.2.1").await;
            assert!(layer.cache.counts().0 <= 10);
        }
        let calls = slow.calls();
        seen(layer.clone(), "192.0.2.1").await;
        assert_eq!(slow.calls(), calls, "the latest is still there");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_does_not_lead_back_is_believed() {
        for (name, addresses, expected) in [
            ("mx.example.org", &["192.0.2.1"][..], true),
            (
                "mx.example.org.",
                &["::ffff:192.0.2.1", "2001:db8::1"],
                true,
            ),
            ("mx.example.org", &["192.0.2.2"], false),
            ("mx.example.org", &[], false),
            ("192.0.2.1", &["192.0.2.1"], false),
            ("192.0.2.1.", &["192.0.2.1"], false),
            (".", &["192.0.2.1"], false),
            ("", &["192.0.2.1"], false),
        ] {
            let layer = ReverseDnsLayer::new(move |_| ready(Some(name.to_owned())));
            let layer = layer.confirm(move |asked| {
                assert_eq!(asked, format!("{}.", name.trim_end_matches('.')));
                let addresses = addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap());
                ready(addresses.collect::<Vec<_>>())
            });
            let (seen, _) = seen(layer, "192.0.2.1").await;
            let expected = expected.then(|| "mx.example.org".to_owned());
            assert_eq!(seen, expected, "{name} {addresses:?}");
        }
        let far = (0..1000).map(|n| IpAddr::from([203, 0, (n / 250) as u8, (n % 250) as u8]));
        let far: Vec<_> = far.chain([IpAddr::from([192, 0, 2, 1])]).collect();
        let layer = ReverseDnsLayer::new(|_| ready(Some("mx.example.org".to_owned())));
        let layer = layer.confirm(move |_| ready(far.clone()));
        assert_eq!(seen(layer, "192.0.2.1").await.0, None);
        let long = ReverseDnsLayer::new(|_| ready(Some("x".repeat(254))));
        let long = long.confirm(|_| ready([IpAddr::from([192, 0, 2, 1])]));
        assert_eq!(seen(long, "192.0.2.1").await.0, None);
    }

    #[tokio::test]
    async fn a_name_is_confirmed_unless_it_is_said() {
        let resolver = |_| ready(Some("mx.example.org".to_owned()));
        let ip = IpAddr::from([192, 0, 2, 1]);
        for (layer, expected) in [
            (ReverseDnsLayer::new(resolver), false),
            (ReverseDnsLayer::new(resolver).resolver_confirms(), true),
        ] {
            assert_eq!(is_confirmed(layer).await, expected);
        }
        let confirming = ReverseDnsLayer::new(resolver).confirm(move |_| ready([ip]));
        assert!(is_confirmed(confirming).await);
    }

    async fn is_confirmed<R, L>(layer: ReverseDnsLayer<R>) -> bool
    where
        R: Fn(IpAddr) -> L + Clone + Send + 'static,
        L: Future<Output = Option<String>> + Send + 'static,
    {
        let service = layer.layer(service_fn(async |request: Request<Connect>| {
            let name = request.session().get::<ReverseName>();
            Ok::<_, Infallible>(name.unwrap().is_confirmed())
        }));
        let request = connect(([192, 0, 2, 1], 4711));
        service.oneshot(request).await.unwrap()
    }

    /// Connections that come and go at random: those that stay see a name in time, and nothing is left.
    #[tokio::test(start_paused = true)]
    async fn an_interleaving_loses_a_wake_or_leaks_a_permit() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for round in 0..200 {
            let slow = Slow::default();
            let takes = Duration::from_millis(next(700));
            let layer = ReverseDnsLayer::new(slow.clone().resolve(takes))
                .max_lookups(NonZeroUsize::new(1 + next(3) as usize).unwrap())
                .keep_found(Duration::from_millis(next(300)))
                .capacity(NonZeroUsize::new(2).unwrap());
            let mut connections = Vec::new();
            for _ in 0..20 {
                let ip = format!("192.0.2.{}", next(4));
                let connection = tokio::spawn(seen(layer.clone(), ip.clone()));
                let leaves = (next(2) == 0).then(|| {
                    let (handle, after) = (connection.abort_handle(), next(900));
                    tokio::spawn(async move {
                        sleep(Duration::from_millis(after)).await;
                        handle.abort();
                    })
                });
                connections.push((ip, connection, leaves));
                sleep(Duration::from_millis(next(100))).await;
            }
            for (ip, connection, leaves) in connections {
                match connection.await {
                    Ok((Some(name), _)) => assert_eq!(name, format!("{ip}.example")),
                    Ok((None, seconds)) => assert!(seconds >= 5, "{round}"),
                    Err(error) => assert!(error.is_cancelled() && leaves.is_some(), "{round}"),
                }
            }
            assert_eq!(layer.cache.counts().1, 0, "{round}");
            assert_eq!(slow.in_flight.load(Relaxed), 0, "{round}");
            assert!(slow.most_in_flight.load(Relaxed) <= 3, "{round}");
        }
    }
}
