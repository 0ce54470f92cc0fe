use std::task::{Context, Poll};

use smtpd_core::Reply;
use tower_layer::Layer;
use tower_service::Service;

use super::AnswerFuture;
use crate::Request;

/// A rule by which a request passes or is refused: what the layers are made of that do nothing else.
///
/// A layer of your own of that kind needs only the rule, and a [`Gate`] around the service:
///
/// ```
/// use smtpd_tower::{Mail, Reply, Request, ReversePath, Session, handler_fn, layer::{Admit, Gate}};
/// use tower::ServiceExt;
///
/// #[derive(Clone)]
/// struct Closed;
///
/// impl<P> Admit<P> for Closed {
///     fn admit(&self, _: &Request<P>) -> Result<(), Reply> {
///         Err(Reply::try_again("Closed for today"))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mail = Gate::new(handler_fn(async |_: Request<Mail>| {}), Closed);
/// let reply = mail.oneshot(Request::new(Session::local(), Mail::new(ReversePath::Null))).await?;
/// assert_eq!(reply.to_string(), "451 4.3.0 Closed for today");
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot serve the SMTP phase `{P}`",
    label = "the rule of a layer for another phase",
    note = "a layer that fits one phase goes around the service of that phase, by `ServiceBuilder`; `Pipeline::layer` wraps every phase"
)]
pub trait Admit<P> {
    /// Asked once for each request. A rule that counts does so here.
    ///
    /// # Errors
    ///
    /// The reply to a request that is refused.
    fn admit(&self, request: &Request<P>) -> Result<(), Reply>;
}

/// A service that is asked only what a rule admits.
#[derive(Clone, Copy, Debug)]
pub struct Gate<S, A> {
    inner: S,
    rule: A,
}

impl<S, A> Gate<S, A> {
    /// The service behind that rule.
    pub const fn new(inner: S, rule: A) -> Self {
        Self { inner, rule }
    }
}

impl<S, A, P> Service<Request<P>> for Gate<S, A>
where
    S: Service<Request<P>>,
    S::Response: From<Reply>,
    A: Admit<P>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = AnswerFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        match self.rule.admit(&request) {
            Ok(()) => AnswerFuture::inner(self.inner.call(request)),
            Err(reply) => AnswerFuture::answer(reply.into()),
        }
    }
}

/// Layers that are rules themselves.
macro_rules! gates {
    ($($layer:ty),* $(,)?) => {
        $(
            impl<S> Layer<S> for $layer {
                type Service = Gate<S, Self>;

                fn layer(&self, inner: S) -> Gate<S, Self> {
                    Gate::new(inner, self.clone())
                }
            }
        )*
    };
}

gates! {
    super::AllowHostsLayer,
    super::DenyHostsLayer,
    super::DomainFilterLayer,
    super::HeloCheckLayer,
    super::MaxRecipientsLayer,
    super::OwnSenderLayer,
    super::RateLimitLayer,
    super::RequireAuthLayer,
    super::RequireTlsLayer,
    super::ScoreGateLayer,
    super::SessionsPerIpLayer,
}

impl<S, K: Clone, F: Clone> Layer<S> for super::QuotaLayer<K, F> {
    type Service = Gate<S, Self>;

    fn layer(&self, inner: S) -> Gate<S, Self> {
        Gate::new(inner, self.clone())
    }
}
