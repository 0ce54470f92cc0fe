use std::{
    any::type_name,
    task::{Context, Poll},
};

use smtpd_core::reply::Reply;
use tower_service::Service;

use crate::{layer::AnswerFuture, phase::Request};

/// A rule that accepts or refuses requests. A rule that has to ask somebody first is an [`AdmitLater`](super::AdmitLater).
///
/// Layers that do nothing else consist of such a rule and a [`Gate`]. You can write your own:
///
/// ```
/// use smtpd_tower::{
///     Mail, Reply, Request, Session,
///     address::ReversePath,
///     handler_fn,
///     layer::{Admit, Gate},
/// };
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
/// let reply = mail
///     .oneshot(Request::new(Session::local(), Mail::new(ReversePath::Null)))
///     .await?;
/// assert_eq!(reply.to_string(), "451 4.3.0 Closed for today");
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot serve the SMTP phase `{P}`",
    label = "the rule of a layer for another phase",
    note = "a layer that fits one phase goes around the service of that phase, by `ServiceBuilder`; `Pipeline::layer` wraps every phase"
)]
pub trait Admit<P> {
    /// Decides on a request. Called once for each request, so a rule that counts does so here.
    ///
    /// The rule is cloned with its service for each command; wrap anything expensive to clone in an `Arc`.
    ///
    /// # Errors
    ///
    /// Returns the reply to a request that is refused.
    fn admit(&self, request: &Request<P>) -> Result<(), Reply>;

    /// Returns the name that stands for the rule in logs and metrics: a refusal without an
    /// [`Origin`](crate::reply::Origin) of its own receives it. Default: the name of the type, such as `RequireTlsLayer`.
    fn name(&self) -> &'static str {
        name_of::<Self>()
    }
}

/// Returns the name of a type, without its path and its parameters.
pub(super) fn name_of<T: ?Sized>() -> &'static str {
    let name = type_name::<T>();
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name)
}

/// A service behind a rule: it is called only with the requests that the rule accepts.
#[derive(Clone, Copy, Debug)]
pub struct Gate<S, A> {
    inner: S,
    rule: A,
}

impl<S, A> Gate<S, A> {
    /// Puts `inner` behind `rule`.
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

    #[inline]
    fn call(&mut self, request: Request<P>) -> Self::Future {
        match self.rule.admit(&request) {
            Ok(()) => AnswerFuture::inner(self.inner.call(request)),
            Err(reply) => AnswerFuture::answer(signed(reply, &self.rule).into()),
        }
    }
}

/// Returns the reply of a rule, with its name. Apart from the call, so that what is accepted costs no more for it.
#[cold]
fn signed<A: Admit<P>, P>(reply: Reply, rule: &A) -> Reply {
    reply.or_origin(rule.name())
}

/// Turns a rule into a layer: its service is a [`Gate`] with a clone of the rule.
macro_rules! rule_layer {
    ($layer:ty) => {
        impl<S> ::tower_layer::Layer<S> for $layer {
            type Service = $crate::layer::Gate<S, Self>;

            fn layer(&self, inner: S) -> Self::Service {
                $crate::layer::Gate::new(inner, self.clone())
            }
        }
    };
}

pub(in crate::layer) use rule_layer;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{ByName, OwnSenderLayer, RequireTlsLayer};

    #[test]
    fn a_rule_is_named_after_its_type() {
        assert_eq!(name_of::<RequireTlsLayer>(), "RequireTlsLayer");
        assert_eq!(name_of::<OwnSenderLayer<ByName>>(), "OwnSenderLayer");
    }
}
