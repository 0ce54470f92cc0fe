use smtpd_core::reply::Reply;

use crate::{
    layer::{Admit, compose::rule_layer},
    phase::Request,
};

/// Accepts sessions over TLS only, and rejects all others with 530 5.7.0 (RFC 3207 section 4).
///
/// It is meant for AUTH, MAIL, RCPT and DATA. Do not put it around connect or HELO, or clients never get to STARTTLS.
/// RFC 3207 section 4 forbids it on a publicly referenced server, such as the MX of a domain.
///
/// ```
/// use smtpd_tower::{
///     Mail, Request, Session,
///     address::ReversePath,
///     handler_fn,
///     layer::RequireTlsLayer,
///     session::{TlsInfo, TlsVersion},
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mail = ServiceBuilder::new()
///     .layer(RequireTlsLayer::new())
///     .service(handler_fn(async |_: Request<Mail>| {}));
/// let ask = |session| {
///     mail.clone()
///         .oneshot(Request::new(session, Mail::new(ReversePath::Null)))
/// };
///
/// let tls = TlsInfo::new(TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256");
/// assert_eq!(ask(Session::local().with_tls(tls)).await?.code().as_u16(), 250);
/// assert_eq!(
///     ask(Session::local()).await?.to_string(),
///     "530 5.7.0 Must issue a STARTTLS command first"
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RequireTlsLayer;

impl RequireTlsLayer {
    /// Requires TLS.
    pub const fn new() -> Self {
        Self
    }
}

rule_layer!(RequireTlsLayer);

impl<P> Admit<P> for RequireTlsLayer {
    fn admit(&self, request: &Request<P>) -> Result<(), Reply> {
        match request.session().tls() {
            Some(_) => Ok(()),
            None => Err(Reply::tls_required()),
        }
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::{address::ReversePath, connection::AuthOutcome};
    use tokio_test::{assert_pending, assert_ready_ok};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        phase::Mail,
        session::{Session, TlsInfo, TlsVersion},
    };

    fn mail(session: Session) -> Request<Mail> {
        Request::new(session, Mail::new(ReversePath::Null))
    }

    #[tokio::test]
    async fn plaintext_never_reaches_the_service() {
        let (mut service, mut handle) = spawn_layer::<_, AuthOutcome, _>(RequireTlsLayer::new());
        assert_ready_ok!(service.poll_ready());
        let session = Session::local().with_identity("alice");
        let refused = service.call(mail(session)).await.unwrap();
        assert!(matches!(refused, AuthOutcome::Refuse(reply) if reply == Reply::tls_required()));
        assert_pending!(handle.poll_request());
    }

    #[tokio::test]
    async fn a_session_over_tls_gets_the_answer_of_the_service() {
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(RequireTlsLayer::new());
        assert_ready_ok!(service.poll_ready());
        let tls = TlsInfo::new(TlsVersion::Tls12, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256");
        let asked = tokio::spawn(service.call(mail(Session::local().with_tls(tls))));
        let (_, respond) = handle.next_request().await.unwrap();
        respond.send_response(Reply::busy());
        assert_eq!(asked.await.unwrap().unwrap(), Reply::busy());
    }
}
