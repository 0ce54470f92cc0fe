use smtpd_core::Reply;

use crate::{
    layer::{Admit, compose::rule_layer},
    phase::{Rcpt, Request},
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
/// use smtpd_tower::{Envelope, Rcpt, Request, ReversePath, Session, handler_fn, layer::MaxRecipientsLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new()
///     .layer(MaxRecipientsLayer::new(1))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let ask = |envelope, path| rcpt.clone().oneshot(Request::new(Session::local(), Rcpt::new(path).with_envelope(envelope)));
///
/// let none = Envelope::new(ReversePath::Null);
/// let one = none.clone().with_recipient("a@example.org".parse()?);
/// assert_eq!(ask(none, "a@example.org".parse()?).await?.code().as_u16(), 250);
/// assert_eq!(ask(one, "b@example.org".parse()?).await?.to_string(), "452 4.5.3 Too many recipients");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MaxRecipientsLayer {
    limit: usize,
}

impl MaxRecipientsLayer {
    /// Accepts up to `recipients` recipients for each message.
    pub const fn new(recipients: usize) -> Self {
        Self { limit: recipients }
    }
}

rule_layer!(MaxRecipientsLayer);

impl Admit<Rcpt> for MaxRecipientsLayer {
    fn admit(&self, request: &Request<Rcpt>) -> Result<(), Reply> {
        if request.envelope().recipients().len() < self.limit {
            Ok(())
        } else {
            Err(Reply::too_many_recipients())
        }
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::Envelope;
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
}
