use smtpd_core::reply::Reply;

use crate::{
    layer::{Admit, compose::rule_layer},
    phase::Request,
};

/// Accepts authenticated clients only, and rejects all others with 530 5.7.0 (RFC 4954 section 6).
///
/// It is meant for MAIL, RCPT and DATA. A submission server puts it around MAIL; a server that also accepts mail from strangers
/// puts it around the branch that relays. Around connect, HELO or AUTH, it would reject every client.
///
/// ```
/// use smtpd_tower::{
///     Mail, Request, Session, address::ReversePath, handler_fn,
///     layer::RequireAuthLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mail = ServiceBuilder::new()
///     .layer(RequireAuthLayer::new())
///     .service(handler_fn(async |_: Request<Mail>| {}));
/// let ask = |session| {
///     mail.clone()
///         .oneshot(Request::new(session, Mail::new(ReversePath::Null)))
/// };
///
/// assert_eq!(
///     ask(Session::local().with_identity("alice")).await?.code().as_u16(),
///     250
/// );
/// assert_eq!(
///     ask(Session::local()).await?.to_string(),
///     "530 5.7.0 Authentication required"
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RequireAuthLayer;

impl RequireAuthLayer {
    /// Requires authentication.
    pub const fn new() -> Self {
        Self
    }
}

rule_layer!(RequireAuthLayer);

impl<P> Admit<P> for RequireAuthLayer {
    fn admit(&self, request: &Request<P>) -> Result<(), Reply> {
        match request.session().identity() {
            Some(_) => Ok(()),
            None => Err(Reply::auth_required()),
        }
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::address::ReversePath;
    use tokio_test::{assert_pending, assert_ready_ok};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{phase::Mail, session::Session};

    fn mail(session: Session) -> Request<Mail> {
        Request::new(session, Mail::new(ReversePath::Null))
    }

    #[tokio::test]
    async fn strangers_never_reach_the_service() {
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(RequireAuthLayer::new());
        assert_ready_ok!(service.poll_ready());
        let refused = service.call(mail(Session::local())).await.unwrap();
        assert_eq!(refused.to_string(), "530 5.7.0 Authentication required");
        assert_pending!(handle.poll_request());
    }

    #[tokio::test]
    async fn whoever_has_authenticated_gets_the_answer_or_error_of_the_service() {
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(RequireAuthLayer::new());
        for answer in [Ok(Reply::busy()), Err("db down")] {
            assert_ready_ok!(service.poll_ready());
            let asked = tokio::spawn(service.call(mail(Session::local().with_identity("alice"))));
            let (request, respond) = handle.next_request().await.unwrap();
            assert_eq!(
                request.session().identity().map(|i| i.as_str()),
                Some("alice")
            );
            match answer.clone() {
                Ok(reply) => respond.send_response(reply),
                Err(error) => respond.send_error(error),
            }
            let received = asked.await.unwrap().map_err(|error| error.to_string());
            assert_eq!(received, answer.map_err(str::to_owned));
        }
    }
}
