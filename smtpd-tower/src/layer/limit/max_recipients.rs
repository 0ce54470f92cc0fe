use std::{any::type_name, fmt};

use smtpd_core::reply::Reply;
use tower_layer::Layer;

use crate::{
    layer::{Admit, Exempt, Gate},
    phase::{Rcpt, Request},
    reload::Reloadable,
};

/// Limits the recipients of a message, and defers all further ones with 452 4.5.3 (RFC 5321 section 4.5.3.1.10).
///
/// The recipients that were accepted stay: the client sends the message to them, and to the rest in another transaction.
/// Recipients that were refused do not count. The server has its own limit for all clients; use this layer to limit some of them.
/// RFC 5321 section 4.5.3.1.8 requires at least 100, which only a submission server should ignore.
///
/// It fits the RCPT phase only; around any other phase, it does not compile.
///
/// ```
/// use smtpd_tower::{
///     Envelope, Rcpt, Request, Session, address::ReversePath, handler_fn,
///     layer::MaxRecipientsLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new()
///     .layer(MaxRecipientsLayer::new(1))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let ask = |envelope, path| {
///     rcpt.clone().oneshot(Request::new(
///         Session::local(),
///         Rcpt::new(path).with_envelope(envelope),
///     ))
/// };
///
/// let none = Envelope::new(ReversePath::Null);
/// let one = none.clone().with_recipient("a@example.org".parse()?);
/// assert_eq!(ask(none, "a@example.org".parse()?).await?.code().as_u16(), 250);
/// assert_eq!(
///     ask(one, "b@example.org".parse()?).await?.to_string(),
///     "452 4.5.3 Too many recipients"
/// );
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MaxRecipientsLayer<F = fn(&Request<Rcpt>) -> Option<usize>> {
    limit: Limit<F>,
    exempt: Option<Reloadable<Exempt>>,
}

#[derive(Clone, Copy)]
enum Limit<F> {
    Fixed(usize),
    By(F),
}

impl MaxRecipientsLayer {
    /// Accepts up to `recipients` recipients for each message.
    pub const fn new(recipients: usize) -> Self {
        Self {
            limit: Limit::Fixed(recipients),
            exempt: None,
        }
    }
}

impl<F> MaxRecipientsLayer<F>
where
    F: Fn(&Request<Rcpt>) -> Option<usize>,
{
    /// Accepts up to as many recipients as `limit` returns, or any number if it returns `None`.
    ///
    /// ```
    /// use smtpd_tower::{Rcpt, Request, layer::MaxRecipientsLayer};
    ///
    /// // A report of a failure goes to one mailbox.
    /// let layer = MaxRecipientsLayer::by(|request: &Request<Rcpt>| {
    ///     request.sender().is_null().then_some(1)
    /// });
    /// ```
    pub const fn by(limit: F) -> Self {
        Self {
            limit: Limit::By(limit),
            exempt: None,
        }
    }
}

impl<F> MaxRecipientsLayer<F> {
    /// Sets which sessions are not limited. Default: none. The server's own limit still applies.
    #[must_use]
    pub fn exempt(self, exempt: impl Into<Reloadable<Exempt>>) -> Self {
        Self {
            exempt: Some(exempt.into()),
            ..self
        }
    }
}

// By hand: a closure has no Debug.
impl<F> fmt::Debug for MaxRecipientsLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut layer = f.debug_struct("MaxRecipientsLayer");
        match &self.limit {
            Limit::Fixed(recipients) => layer.field("recipients", recipients),
            Limit::By(_) => layer.field("by", &type_name::<F>()),
        };
        layer.field("exempt", &self.exempt).finish()
    }
}

impl<S, F: Clone> Layer<S> for MaxRecipientsLayer<F> {
    type Service = Gate<S, Self>;

    fn layer(&self, inner: S) -> Gate<S, Self> {
        Gate::new(inner, self.clone())
    }
}

impl<F> Admit<Rcpt> for MaxRecipientsLayer<F>
where
    F: Fn(&Request<Rcpt>) -> Option<usize>,
{
    fn admit(&self, request: &Request<Rcpt>) -> Result<(), Reply> {
        let limit = match &self.limit {
            Limit::Fixed(recipients) => Some(*recipients),
            Limit::By(limit) => limit(request),
        };
        let accepted = request.envelope().recipients().len();
        let exempt = self.exempt.as_ref();
        if limit.is_none_or(|limit| accepted < limit)
            || exempt.is_some_and(|exempt| exempt.with(|exempt| exempt.contains(request.session())))
        {
            Ok(())
        } else {
            Err(Reply::too_many_recipients())
        }
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::envelope::Envelope;
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::session::Session;

    #[tokio::test]
    async fn recipients_over_the_limit_never_reach_the_service() {
        for limit in [0, 1, 3] {
            let (mut service, mut handle) =
                spawn_layer::<_, Reply, _>(MaxRecipientsLayer::new(limit));
            let mut envelope = Envelope::default();
            for accepted in 0..5 {
                let path = format!("{accepted}@example.org");
                let rcpt = Rcpt::new(path.parse().unwrap()).with_envelope(envelope.clone());
                assert_ready_ok!(service.poll_ready());
                let answer = service.call(Request::new(Session::local(), rcpt));
                if accepted < limit {
                    assert!(assert_ready!(handle.poll_request()).is_some());
                } else {
                    assert_eq!(answer.await.unwrap(), Reply::too_many_recipients());
                    assert_pending!(handle.poll_request());
                }
                envelope = envelope.with_recipient(path.parse().unwrap());
            }
        }
    }

    #[test]
    fn own_clients_are_limited_unless_they_are_exempt() {
        let request = |session, accepted| {
            let path = || "a@example.org".parse().unwrap();
            let envelope = (0..accepted).map(|_| path());
            let envelope = envelope.fold(Envelope::default(), Envelope::with_recipient);
            Request::new(session, Rcpt::new(path()).with_envelope(envelope))
        };
        let stranger = || Session::from_peer(([192, 0, 2, 1], 4711));
        let layer = MaxRecipientsLayer::new(2).exempt(Exempt::local());
        assert!(layer.admit(&request(stranger(), 1)).is_ok());
        assert!(layer.admit(&request(stranger(), 2)).is_err());
        assert!(layer.admit(&request(Session::local(), 2)).is_ok());
        let by = MaxRecipientsLayer::by(|request: &Request<Rcpt>| {
            request.session().identity().is_none().then_some(2)
        });
        assert!(by.admit(&request(stranger(), 2)).is_err());
        let alice = stranger().with_identity("alice");
        assert!(by.admit(&request(alice, 1000)).is_ok());
    }
}
