use super::{
    Credentials, ExchangeContext, Mechanism, MechanismFactory, MechanismName, SaslError, Step,
    credentials::text,
};

/// EXTERNAL (RFC 4422 appendix A): the session already knows who the client is, from its TLS certificate.
///
/// The [`Credentials`] contain no user name and no proof, only the identity that the client requests to act as, if any. The
/// application must inspect the certificate, and accept the identity that follows from it; it must refuse a client whose
/// certificate does not identify it. The mechanism is offered only if the client presented a verified certificate:
/// [`TlsFacts::client_certificate`](crate::connection::TlsFacts::client_certificate).
///
/// ```
/// use smtpd_core::sasl::{Mechanisms, External};
///
/// let mechanisms = Mechanisms::none().with(External);
/// assert!(mechanisms.find(b"external").is_some());
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct External;

impl MechanismFactory for External {
    fn name(&self) -> MechanismName {
        const { MechanismName::from_static("EXTERNAL") }
    }

    fn is_plaintext(&self) -> bool {
        true // RFC 4422 appendix A.3: by itself it protects nothing.
    }

    fn needs_client_certificate(&self) -> bool {
        true
    }

    fn start(&self, _: &ExchangeContext<'_>) -> Box<dyn Mechanism> {
        Box::new(ExternalExchange)
    }
}

#[derive(Debug)]
struct ExternalExchange;

impl Mechanism for ExternalExchange {
    fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError> {
        let Some(response) = response else {
            return Ok(Step::Challenge(Vec::new())); // RFC 4422 appendix A.1: the client speaks first
        };
        let credentials = Credentials::external().with_authzid(text(response)?)?;
        Ok(Step::Ask(credentials))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Secret, *};

    #[test]
    fn the_authzid_is_all_that_comes() {
        for (response, want) in [
            (&b""[..], Some(None)),
            (b"fred@example.com", Some(Some("fred@example.com"))),
            (b"a\0b", None),
            (b"\xff", None),
        ] {
            let step = ExternalExchange.step(Some(response));
            match want {
                None => assert_eq!(step.unwrap_err(), SaslError::Malformed),
                Some(authzid) => {
                    let Ok(Step::Ask(credentials)) = step else {
                        panic!("{step:?}")
                    };
                    assert_eq!(
                        (credentials.authzid(), credentials.username()),
                        (authzid, "")
                    );
                    assert!(!credentials.verify(&Secret::password("")));
                }
            }
        }
    }
}
