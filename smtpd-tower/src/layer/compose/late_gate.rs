use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use smtpd_core::reply::Reply;
use tower_service::Service;

use super::gate::name_of;
use crate::phase::Request;

/// A rule that asks somebody before it accepts or refuses a request: a database, the DNS, or another server.
///
/// [`Admit`](super::Admit) is for rules that know at once. Turn a rule into a service with [`LateGate`]:
///
/// ```
/// use std::{pin::Pin, time::Duration};
///
/// use smtpd_tower::{
///     Rcpt, Reply, Request, Session, handler_fn,
///     layer::{AdmitLater, LateGate},
/// };
/// use tokio::time::timeout;
/// use tower::ServiceExt;
///
/// async fn is_user(address: String) -> Result<bool, std::io::Error> {
///     Ok(address == "alice@example.org") // a query to a database
/// }
///
/// #[derive(Clone)]
/// struct Users;
///
/// impl AdmitLater<Rcpt> for Users {
///     type Admission = Pin<Box<dyn Future<Output = Result<(), Reply>> + Send>>;
///
///     fn admit(&self, request: &Request<Rcpt>) -> Self::Admission {
///         let address = request.recipient().as_str().to_owned();
///         Box::pin(async move {
///             match timeout(Duration::from_secs(5), is_user(address)).await {
///                 Ok(Ok(true)) => Ok(()),
///                 Ok(Ok(false)) => Err(Reply::no_such_user()),
///                 _ => Err(Reply::try_again("User database not available")),
///             }
///         })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = LateGate::new(handler_fn(async |_: Request<Rcpt>| {}), Users);
/// let to = Rcpt::new("bob@example.org".parse()?);
/// let reply = rcpt.oneshot(Request::new(Session::local(), to)).await?;
/// assert_eq!(reply, Reply::no_such_user());
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot serve the SMTP phase `{P}`",
    label = "the rule of a layer for another phase",
    note = "a layer that fits one phase goes around the service of that phase, by `ServiceBuilder`; `Pipeline::layer` wraps every phase"
)]
pub trait AdmitLater<P> {
    /// The decision. It owns what it needs, because the request waits beside it.
    ///
    /// It is dropped if the client leaves, and when [`Timeouts::call`](smtpd_core::config::Timeouts::call) is over. A rule should
    /// have a shorter timeout of its own, to decide what a missing answer means.
    type Admission: Future<Output = Result<(), Reply>> + Send + 'static;

    /// Begins to decide on a request. Called once for each request.
    ///
    /// The rule is cloned with its service for each command; wrap anything expensive to clone in an `Arc`.
    fn admit(&self, request: &Request<P>) -> Self::Admission;

    /// Returns the name that stands for the rule in logs and metrics, as [`Admit::name`](super::Admit::name) does.
    fn name(&self) -> &'static str {
        name_of::<Self>()
    }
}

/// A service behind a rule that needs time: it is called only with the requests that the rule accepts.
///
/// The instance of the service that is ready waits for the decision, so whatever its readiness reserves is reserved for that long.
#[derive(Clone, Copy, Debug)]
pub struct LateGate<S, A> {
    inner: S,
    rule: A,
}

impl<S, A> LateGate<S, A> {
    /// Puts `inner` behind `rule`.
    pub const fn new(inner: S, rule: A) -> Self {
        Self { inner, rule }
    }
}

impl<S, A, P> Service<Request<P>> for LateGate<S, A>
where
    S: Service<Request<P>> + Clone,
    S::Response: From<Reply>,
    A: AdmitLater<P>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = LateGateFuture<A::Admission, S, P, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let admission = self.rule.admit(&request);
        // The instance that was made ready is the one to call; its clone may not be ready.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        LateGateFuture {
            state: State::Asking {
                admission,
                then: Some((ready, request)),
            },
            name: self.rule.name(),
        }
    }
}

/// The future of [`LateGate`]: waits for the decision, then for the service.
#[pin_project]
pub struct LateGateFuture<A, S, P, F> {
    #[pin]
    state: State<A, S, P, F>,
    name: &'static str,
}

#[pin_project(project = StateProj)]
enum State<A, S, P, F> {
    Asking {
        #[pin]
        admission: A,
        then: Option<(S, Request<P>)>,
    },
    Inner(#[pin] F),
    Refused,
}

impl<A, S, P> Future for LateGateFuture<A, S, P, S::Future>
where
    A: Future<Output = Result<(), Reply>>,
    S: Service<Request<P>>,
    S::Response: From<Reply>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Inner(inner) => return inner.poll(cx),
                // Polled after completion, it stays pending like a fused future.
                StateProj::Refused => return Poll::Pending,
                StateProj::Asking { admission, then } => match ready!(admission.poll(cx)) {
                    Err(reply) => {
                        // What the service has reserved is given back with it, before the client knows.
                        this.state.set(State::Refused);
                        return Poll::Ready(Ok(reply.or_origin(*this.name).into()));
                    }
                    // Empty only if the call below has panicked.
                    Ok(()) => match then.take() {
                        Some((mut service, request)) => State::Inner(service.call(request)),
                        None => State::Refused,
                    },
                },
            };
            this.state.set(next);
        }
    }
}

// By hand: the service, the rule's future and the request need no Debug.
impl<A, S, P, F> fmt::Debug for LateGateFuture<A, S, P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Asking { .. } => "asking",
            State::Inner(_) => "admitted",
            State::Refused => "refused",
        };
        f.debug_struct("LateGateFuture")
            .field("rule", &self.name)
            .field("state", &state)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::Ready,
        sync::{Arc, Mutex},
    };

    use smtpd_core::reply::Origin;
    use tokio::sync::oneshot;
    use tokio_test::{assert_pending, assert_ready, task::spawn};
    use tower::{Layer, limit::ConcurrencyLimitLayer};

    use super::*;
    use crate::{phase::Connect, session::Session};

    /// Decides what it is told.
    #[derive(Clone)]
    struct Told(Arc<Mutex<Option<Decision>>>);

    type Decision = oneshot::Receiver<Result<(), Reply>>;

    impl<P> AdmitLater<P> for Told {
        type Admission = Pin<Box<dyn Future<Output = Result<(), Reply>> + Send>>;

        fn admit(&self, _: &Request<P>) -> Self::Admission {
            let told = self.0.lock().unwrap().take().unwrap();
            Box::pin(async move { told.await.unwrap() })
        }
    }

    #[derive(Clone)]
    struct Hello;

    impl Service<Request<Connect>> for Hello {
        type Response = Reply;
        type Error = Infallible;
        type Future = Ready<Result<Reply, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Connect>) -> Self::Future {
            std::future::ready(Ok(Reply::ok("hello")))
        }
    }

    fn request() -> Request<Connect> {
        Request::new(Session::local(), Connect::new())
    }

    #[test]
    fn the_permit_of_the_service_comes_back_whatever_is_decided_and_whenever_it_is_dropped() {
        let limit = ConcurrencyLimitLayer::new(1);
        let limited = limit.layer(Hello);
        for end in ["accepted", "refused", "dropped", "dropped before the poll"] {
            let (tell, told) = oneshot::channel();
            let rule = Told(Arc::new(Some(told).into()));
            let mut gate = LateGate::new(limited.clone(), rule);
            assert_ready!(spawn(()).enter(|cx, _| gate.poll_ready(cx))).unwrap();
            let mut other = limited.clone();
            assert_pending!(spawn(()).enter(|cx, _| other.poll_ready(cx)), "{end}");
            drop(other);
            let mut future = spawn(gate.call(request()));
            if end != "dropped before the poll" {
                assert_pending!(future.poll(), "{end}");
            }
            match end {
                "accepted" => {
                    tell.send(Ok(())).unwrap();
                    assert!(future.is_woken());
                    assert_eq!(assert_ready!(future.poll()).unwrap().text(), "hello");
                }
                "refused" => {
                    tell.send(Err(Reply::busy())).unwrap();
                    let reply = assert_ready!(future.poll()).unwrap();
                    assert_eq!(reply, Reply::busy());
                    assert_eq!(reply.origin(), Some(Origin::Layer("Told")));
                    assert_pending!(future.poll());
                }
                _ => {}
            }
            if end != "refused" {
                drop(future);
            }
            let mut other = limited.clone();
            assert_ready!(spawn(()).enter(|cx, _| other.poll_ready(cx))).unwrap();
        }
    }
}
