use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use smtpd_core::reply::Reply;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    fault::{caught, local_error},
    layer::AnswerFuture,
    phase::{Phase, PhaseKind, Request},
    session::{Session, SessionError},
};

/// Defers requests with 451 4.3.0 if the service panics, and reports the panic.
///
/// It fits every phase. Without it, a panic ends the session with 421 and leaves other sessions unaffected; with it, the client
/// can continue, for instance with its next recipient. Either way, the panic is reported once, to the log and to
/// [`Server::on_error`](crate::server::Server::on_error), as a [`SessionError::Panic`] with the phase and the message. The
/// message is never sent to the client. If panics abort the process, nothing can be caught.
///
/// A service that panics is called again for later requests. The state that its clones share must tolerate that; a poisoned
/// [`Mutex`](std::sync::Mutex) does not.
///
/// ```
/// use smtpd_tower::{Rcpt, Request, Session, handler_fn, layer::CatchPanicLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt =
///     ServiceBuilder::new()
///         .layer(CatchPanicLayer::new())
///         .service(handler_fn(async |request: Request<Rcpt>| {
///             assert_ne!(request.recipient().as_str(), "bug@example.org")
///         }));
/// let ask = |path| {
///     rcpt.clone().oneshot(Request::new(Session::local(), Rcpt::new(path)))
/// };
///
/// assert_eq!(ask("user@example.org".parse()?).await?.code().as_u16(), 250);
/// assert_eq!(
///     ask("bug@example.org".parse()?).await?.to_string(),
///     "451 4.3.0 Local error in processing"
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CatchPanicLayer;

impl CatchPanicLayer {
    /// Catches panics.
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for CatchPanicLayer {
    type Service = CatchPanic<S>;

    fn layer(&self, inner: S) -> CatchPanic<S> {
        CatchPanic {
            inner,
            unready: None,
        }
    }
}

/// The service of [`CatchPanicLayer`].
#[derive(Debug)]
pub struct CatchPanic<S> {
    inner: S,
    /// The message of a panic within `poll_ready`, which cannot return a reply: `call` does.
    unready: Option<String>,
}

// By hand: clones do not inherit the panic of this instance.
impl<S: Clone> Clone for CatchPanic<S> {
    fn clone(&self) -> Self {
        CatchPanicLayer.layer(self.inner.clone())
    }
}

impl<S, P> Service<Request<P>> for CatchPanic<S>
where
    P: Phase,
    S: Service<Request<P>>,
    S::Response: From<Reply>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CatchPanicFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        caught(|| self.inner.poll_ready(cx)).unwrap_or_else(|panic| {
            self.unready = Some(panic);
            Poll::Ready(Ok(()))
        })
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let site = Site {
            phase: P::KIND,
            session: request.session().clone(),
        };
        let called = match self.unready.take() {
            Some(panic) => Err(panic),
            None => caught(|| self.inner.call(request)),
        };
        let answer = match called {
            Ok(future) => AnswerFuture::inner(future),
            Err(panic) => AnswerFuture::answer(site.report(panic).into()),
        };
        CatchPanicFuture { answer, site }
    }
}

/// The future of [`CatchPanic`].
#[pin_project]
#[derive(Debug)]
pub struct CatchPanicFuture<F, R> {
    #[pin]
    answer: AnswerFuture<F, R>,
    site: Site,
}

impl<F, R, E> Future for CatchPanicFuture<F, R>
where
    F: Future<Output = Result<R, E>>,
    R: From<Reply>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // A future that has panicked is not polled again; state that services share is their responsibility, as the layer
        // documents.
        caught(|| this.answer.poll(cx))
            .unwrap_or_else(|panic| Poll::Ready(Ok(this.site.report(panic).into())))
    }
}

/// Where a panic may come from.
#[derive(Debug)]
struct Site {
    phase: PhaseKind,
    session: Session,
}

impl Site {
    /// Reports a panic, and returns the reply for it.
    fn report(&self, message: String) -> Reply {
        self.session.report(&SessionError::Panic {
            phase: Some(self.phase),
            message,
        });
        local_error()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Ready;

    use tower::{BoxError, ServiceExt};
    use tracing::Level;

    use super::*;
    use crate::{
        fault::test::{At, Log, Panicking},
        phase::Connect,
    };

    /// Panics at this point.
    #[derive(Clone, Copy, PartialEq)]
    enum Bomb {
        Ready,
        Call,
        Poll,
        Never,
    }

    impl Service<Request<Connect>> for Bomb {
        type Response = Reply;
        type Error = BoxError;
        type Future = Lit;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            assert!(*self != Self::Ready, "at poll_ready");
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Connect>) -> Lit {
            assert!(*self != Self::Call, "at call");
            Lit(*self == Self::Poll, std::future::ready(Ok(Reply::OK)))
        }
    }

    struct Lit(bool, Ready<Result<Reply, BoxError>>);

    impl Future for Lit {
        type Output = Result<Reply, BoxError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            assert!(!self.0, "at\npoll");
            Pin::new(&mut self.1).poll(cx)
        }
    }

    #[tokio::test]
    async fn a_panic_anywhere_is_deferred_and_logged() {
        let (log, _guard) = Log::listen(Level::INFO);
        let table = [
            (Bomb::Ready, Some("at poll_ready")),
            (Bomb::Call, Some("at call")),
            (Bomb::Poll, Some(r"at\npoll")),
            (Bomb::Never, None),
        ];
        for (bomb, panic) in table {
            let session = Session::from_peer(([192, 0, 2, 1], 4711));
            let id = session.id();
            let service = CatchPanicLayer::new().layer(bomb);
            let request = Request::new(session, Connect::new());
            let reply = service.oneshot(request).await.unwrap().to_string();
            let logged = log.lines();
            if let Some(panic) = panic {
                assert_eq!(reply, "451 4.3.0 Local error in processing");
                let line = format!(
                    "ERROR connect service panicked: {panic} session={id} listener=127.0.0.1:25 peer=192.0.2.1:4711"
                );
                assert_eq!(logged, [line]);
            } else {
                assert_eq!((&*reply, &*logged), ("250 2.0.0 OK", &[][..]));
            }
        }
    }

    #[cfg(feature = "test")]
    #[tokio::test]
    async fn a_panic_that_is_caught_is_hidden_from_on_error() {
        use std::sync::{Arc, Mutex};

        use crate::{server::Server, service::Pipeline, test::Client};

        for bomb in [Bomb::Ready, Bomb::Call, Bomb::Poll] {
            let errors = Arc::<Mutex<Vec<String>>>::default();
            let seen = errors.clone();
            let pipeline = Pipeline::new().connect(CatchPanicLayer::new().layer(bomb));
            let server = Server::new("mx.test", pipeline).on_error(move |_, error| {
                let SessionError::Panic { phase, message } = error else {
                    panic!("{error}")
                };
                let text = format!("{phase:?} {}", message.escape_debug());
                seen.lock().unwrap().push(text);
            });
            let mut client = Client::connect(&server);
            client.greeting().await.unwrap().expect_code(421).unwrap();
            client.ended().await.unwrap();
            let expected = match bomb {
                Bomb::Ready => "Some(Connect) at poll_ready",
                Bomb::Call => "Some(Connect) at call",
                _ => r"Some(Connect) at\npoll",
            };
            assert_eq!(*errors.lock().unwrap(), [expected]);
        }
    }

    #[tokio::test]
    async fn a_log_that_panics_too_does_not_end_the_session() {
        for bomb in [Bomb::Ready, Bomb::Call, Bomb::Poll] {
            let _guard = Panicking::listen(At::Event);
            let service = CatchPanicLayer::new().layer(bomb);
            let request = Request::new(Session::local(), Connect::new());
            let reply = service.oneshot(request).await.unwrap();
            assert_eq!(reply.to_string(), "451 4.3.0 Local error in processing");
        }
    }

    #[tokio::test]
    async fn a_clone_of_an_instance_that_could_not_get_ready_starts_afresh() {
        let mut service = CatchPanicLayer::new().layer(Bomb::Ready);
        assert!(service.ready().await.is_ok());
        assert!(service.unready.is_some() && service.clone().unready.is_none());
    }
}
