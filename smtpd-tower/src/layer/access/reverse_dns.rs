use std::{
    any::type_name,
    fmt,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Timeout, timeout};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    phase::{Connect, Request},
    session::ReverseName,
};

/// Looks up the name of a client's address when it connects, and stores it as [`ReverseName`] in the state of the session.
///
/// The resolver is a function from an address to a name. It should resolve that name too, and return it only if it leads back to
/// the address: otherwise anyone can choose any name. A lookup that finds nothing or times out rejects nobody: the session
/// continues without a name. Clients without an IP address are not looked up.
///
/// It fits connect only. The greeting waits for the lookup, other connections do not. Layers inside of this one see the name.
///
/// ```
/// use std::net::IpAddr;
///
/// use smtpd_tower::{Connect, Reply, Request, Session, handler_fn, layer::{ReverseDnsLayer, ReverseName}};
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
/// let connect = ServiceBuilder::new().layer(ReverseDnsLayer::new(resolve)).service(handler_fn(greet));
/// let from = |ip: [u8; 4]| Request::new(Session::from_peer((ip, 4711)), Connect::new());
/// assert_eq!(connect.clone().oneshot(from([192, 0, 2, 1])).await?.code().as_u16(), 250);
/// assert_eq!(connect.oneshot(from([192, 0, 2, 2])).await?.code().as_u16(), 554);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ReverseDnsLayer<R> {
    resolver: R,
    limit: Duration,
}

impl<R> ReverseDnsLayer<R> {
    /// Looks names up with `resolver`.
    pub const fn new(resolver: R) -> Self {
        Self {
            resolver,
            limit: Duration::from_secs(5),
        }
    }

    /// Sets the timeout of a lookup. Default: 5 seconds.
    #[must_use]
    pub fn timeout(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }
}

// By hand: a closure has no Debug.
impl<R> fmt::Debug for ReverseDnsLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReverseDnsLayer")
            .field("resolver", &type_name::<R>())
            .field("limit", &self.limit)
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
    R: Fn(IpAddr) -> L,
    L: Future<Output = Option<String>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ReverseDnsFuture<L, S, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Connect>) -> Self::Future {
        // The unspecified address stands for a client that a proxy could not name.
        let ip = request.session().client_addr().ip();
        let Some(ip) = ip.filter(|ip| !ip.is_unspecified()) else {
            return State::Inner(self.inner.call(request)).into();
        };
        let lookup = timeout(self.lookup.limit, (self.lookup.resolver)(ip));
        // The instance that was made ready is the one to call; its clone may not be ready.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        State::Lookup {
            lookup,
            then: Some((ready, request)),
        }
        .into()
    }
}

/// The future of [`ReverseDns`]: waits for the lookup, then for the service.
#[pin_project]
#[derive(Debug)]
pub struct ReverseDnsFuture<L, S, F> {
    #[pin]
    state: State<L, S, F>,
}

#[pin_project(project = StateProj)]
#[derive(Debug)]
enum State<L, S, F> {
    Lookup {
        #[pin]
        lookup: Timeout<L>,
        then: Option<(S, Request<Connect>)>,
    },
    Inner(#[pin] F),
}

impl<L, S, F> From<State<L, S, F>> for ReverseDnsFuture<L, S, F> {
    fn from(state: State<L, S, F>) -> Self {
        Self { state }
    }
}

impl<L, S, F> Future for ReverseDnsFuture<L, S, F>
where
    L: Future<Output = Option<String>>,
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
                    let found = ready!(lookup.poll(cx));
                    // Empty only if the call below has panicked.
                    let Some((mut service, request)) = then.take() else {
                        return Poll::Pending;
                    };
                    if let Some(name) = found.ok().flatten().and_then(ReverseName::new) {
                        request.session().insert(name);
                    }
                    service.call(request)
                }
            };
            state.set(State::Inner(inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use smtpd_core::Reply;
    use tokio::time::Instant;
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
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
        let slow = ReverseDnsLayer::new(|_| pending());
        let second = Duration::from_secs(1);
        for (layer, seconds) in [(slow.clone(), 5), (slow.timeout(second), 1)] {
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
}
