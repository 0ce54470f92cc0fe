use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use smtpd_core::{Code, Reply, Status, sasl::Identity};
use tower_layer::Layer;
use tower_service::Service;

use super::slots::{Slot, Slots};
use crate::{layer::AnswerFuture, limiter::ClientKey, phase::Request, session::Session};

/// Refuses a client that already has as many requests in flight as it may, with 451 4.7.1.
///
/// It fits every phase, and is meant for those that take long, such as DATA or an AUTH that hashes passwords. A request is
/// in flight until it is answered or given up. Nothing waits: what is over the limit is refused at once, and
/// the client tries again later. All clones of a layer, and all services that they make, count together; a client with
/// nothing in flight takes no memory.
///
/// It does not limit connections: a connect request ends when the client is greeted. That is what
/// [`SessionsPerIpLayer`](crate::layer::SessionsPerIpLayer) does. tower's own `concurrency_limit` is one limit for all clients,
/// and makes them wait.
///
/// ```
/// use smtpd_tower::{Rcpt, Request, Session, handler_fn, layer::ConcurrencyLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new()
///     .layer(ConcurrencyLayer::per_ip(1))
///     .service(handler_fn(async |_: Request<Rcpt>| tokio::task::yield_now().await));
/// let path: smtpd_tower::ForwardPath = "user@example.org".parse()?;
/// let ask = |peer: [u8; 4]| rcpt.clone().oneshot(Request::new(Session::from_peer((peer, 4711)), Rcpt::new(path.clone())));
///
/// let (first, second, other) = tokio::join!(ask([192, 0, 2, 1]), ask([192, 0, 2, 1]), ask([192, 0, 2, 2]));
/// assert_eq!(first?.code().as_u16(), 250);
/// assert_eq!(second?.to_string(), "451 4.7.1 Too many requests at once, try again later");
/// assert_eq!(other?.code().as_u16(), 250);
/// assert_eq!(ask([192, 0, 2, 1]).await?.code().as_u16(), 250);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ConcurrencyLayer {
    config: Config,
}

#[derive(Clone, Debug)]
struct Config {
    by: By,
    slots: Arc<Slots<Key>>,
    reply: Reply,
}

/// Whose requests count together.
#[derive(Clone, Copy, Debug)]
enum By {
    Client,
    Identity,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Client(ClientKey),
    Identity(Identity),
}

impl ConcurrencyLayer {
    /// Lets each client have `n` requests in flight. With 0, every client is refused.
    ///
    /// A client is an IPv4 address or an IPv6 /64. One without an IP address, as on a Unix socket, is never limited.
    pub fn per_ip(n: usize) -> Self {
        Self::new(By::Client, n)
    }

    /// Lets each identity have `n` requests in flight, over all its sessions. With 0, every client is refused.
    ///
    /// A client that has not authenticated is not limited; [`RequireAuthLayer`](crate::layer::RequireAuthLayer) refuses it.
    pub fn per_identity(n: usize) -> Self {
        Self::new(By::Identity, n)
    }

    fn new(by: By, n: usize) -> Self {
        let reply = Reply::new(
            Code::LOCAL_ERROR,
            Status::DENIED,
            "Too many requests at once, try again later",
        );
        Self {
            config: Config {
                by,
                slots: Slots::new(n),
                reply,
            },
        }
    }

    /// Refuses with that reply.
    #[must_use]
    pub fn reply(mut self, reply: Reply) -> Self {
        self.config.reply = reply;
        self
    }
}

impl<S> Layer<S> for ConcurrencyLayer {
    type Service = Concurrency<S>;

    fn layer(&self, inner: S) -> Concurrency<S> {
        Concurrency {
            inner,
            config: self.config.clone(),
        }
    }
}

/// The service of [`ConcurrencyLayer`].
#[derive(Clone, Debug)]
pub struct Concurrency<S> {
    inner: S,
    config: Config,
}

impl<S, P> Service<Request<P>> for Concurrency<S>
where
    S: Service<Request<P>>,
    S::Response: From<Reply>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ConcurrencyFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let slot = match self.config.key(request.session()) {
            None => None,
            Some(key) => match self.config.slots.take(key) {
                Some(slot) => Some(slot),
                None => {
                    return ConcurrencyFuture {
                        answer: AnswerFuture::answer(self.config.reply.clone().into()),
                        slot: None,
                    };
                }
            },
        };
        ConcurrencyFuture {
            answer: AnswerFuture::inner(self.inner.call(request)),
            slot,
        }
    }
}

impl Config {
    fn key(&self, session: &Session) -> Option<Key> {
        match self.by {
            By::Client => session.client_addr().ip().map(|ip| Key::Client(ip.into())),
            By::Identity => session.identity().cloned().map(Key::Identity),
        }
    }
}

/// The future of [`Concurrency`]: while it lives and has not answered, the request is in flight.
#[pin_project]
#[derive(Debug)]
pub struct ConcurrencyFuture<F, R> {
    #[pin]
    answer: AnswerFuture<F, R>,
    slot: Option<Slot<Key>>,
}

impl<F, R, E> Future for ConcurrencyFuture<F, R>
where
    F: Future<Output = Result<R, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let result = ready!(this.answer.poll(cx));
        // Whoever keeps a future that is done keeps nobody out.
        *this.slot = None;
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use smtpd_core::{
        AuthOutcome,
        sasl::{Credentials, MechanismName},
    };
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
    use tower::{BoxError, ServiceExt, service_fn};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        net::PeerAddr,
        phase::{Auth, Connect},
    };

    fn from(ip: &str) -> Session {
        let ip: IpAddr = ip.parse().unwrap();
        Session::from_peer((ip, 4711))
    }

    /// Whether the second session is refused while a request of the first is in flight.
    fn refuses(layer: &ConcurrencyLayer, first: &Session, second: &Session) -> bool {
        let service = layer.layer(service_fn(async |_: Request<Connect>| {
            std::future::pending::<Result<Reply, BoxError>>().await
        }));
        let ask = |session: &Session| {
            let request = Request::new(session.clone(), Connect::new());
            task::spawn(service.clone().oneshot(request))
        };
        let mut in_flight = ask(first);
        assert_pending!(in_flight.poll());
        let mut asked = ask(second);
        asked.poll().is_ready()
    }

    #[test]
    fn clients_are_told_apart() {
        let alice = || from("192.0.2.1").with_identity("alice");
        let (per_ip, per_identity) = (
            ConcurrencyLayer::per_ip(1),
            ConcurrencyLayer::per_identity(1),
        );
        let unix = || Session::from_peer(PeerAddr::Unix(None));
        let table = [
            (&per_ip, from("192.0.2.1"), from("192.0.2.1"), true),
            (&per_ip, from("192.0.2.1"), from("192.0.2.2"), false),
            (&per_ip, from("192.0.2.1"), from("::ffff:192.0.2.1"), true),
            (&per_ip, from("2001:db8::1"), from("2001:db8::2"), true),
            (&per_ip, from("2001:db8::1"), from("2001:db8:0:1::"), false),
            (&per_ip, unix(), unix(), false),
            (&per_identity, alice(), unix().with_identity("alice"), true),
            (&per_identity, alice(), alice().with_identity("bob"), false),
            (&per_identity, from("192.0.2.1"), from("192.0.2.1"), false),
        ];
        for (layer, first, second, refused) in table {
            assert_eq!(
                refuses(layer, &first, &second),
                refused,
                "{layer:?} {first:?} {second:?}"
            );
            assert!(!refuses(layer, &from("192.0.2.9"), &unix()), "not freed");
        }
    }

    #[tokio::test]
    async fn a_request_is_in_flight_until_it_is_answered_or_given_up() {
        let (mut service, mut handle) =
            spawn_layer::<Request<Connect>, Reply, _>(ConcurrencyLayer::per_ip(1));
        let request = || Request::new(from("192.0.2.1"), Connect::new());
        for give_up in [false, true] {
            assert_ready_ok!(service.poll_ready());
            let mut first = task::spawn(service.call(request()));
            assert_pending!(first.poll());
            let (_, respond) = assert_ready!(handle.poll_request()).unwrap();

            assert_ready_ok!(service.poll_ready());
            let refused = service.call(request()).await.unwrap();
            assert_eq!(
                refused.to_string(),
                "451 4.7.1 Too many requests at once, try again later"
            );
            assert_pending!(handle.poll_request());

            if give_up {
                drop(first);
            } else {
                respond.send_response(Reply::OK);
                assert_ready!(first.poll()).unwrap();
                // The future that is done still exists.
                assert_ready_ok!(service.poll_ready());
                let mut next = task::spawn(service.call(request()));
                assert_pending!(next.poll());
                assert_ready!(handle.poll_request()).unwrap();
            }
        }
        assert_ready_ok!(service.poll_ready());
        let _passes = service.call(request());
        assert!(assert_ready!(handle.poll_request()).is_some());
    }

    #[tokio::test]
    async fn auth_is_refused_with_the_reply_of_the_layer() {
        let layer = ConcurrencyLayer::per_ip(1).reply(Reply::busy());
        let _in_flight = layer.config.slots.take(Key::Client(ClientKey::new(
            from("192.0.2.1").client_addr().ip().unwrap(),
        )));
        let service = layer.layer(service_fn(async |_: Request<Auth>| {
            Ok::<_, BoxError>(AuthOutcome::Accept("alice".into()))
        }));
        let credentials = Credentials::plain("alice", "hunter2").unwrap();
        let auth = Auth::new(MechanismName::from_static("PLAIN"), credentials);
        let outcome = service
            .oneshot(Request::new(from("192.0.2.1"), auth))
            .await
            .unwrap();
        assert!(matches!(outcome, AuthOutcome::Refuse(reply) if reply == Reply::busy()));
    }
}
