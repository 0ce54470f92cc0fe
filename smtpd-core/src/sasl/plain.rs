use super::{
    Credentials, ExchangeContext, Mechanism, MechanismFactory, MechanismName, SaslError, Step,
    credentials::text,
};

/// PLAIN (RFC 4616): one message with the authorization identity, the user name and the password.
///
/// ```
/// use smtpd_core::sasl::{Mechanisms, Plain};
///
/// let mechanisms = Mechanisms::none().with(Plain);
/// assert!(mechanisms.find(b"plain").is_some());
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl MechanismFactory for Plain {
    fn name(&self) -> MechanismName {
        const { MechanismName::from_static("PLAIN") }
    }

    fn is_plaintext(&self) -> bool {
        true
    }

    fn start(&self, _: &ExchangeContext<'_>) -> Box<dyn Mechanism> {
        Box::new(PlainExchange)
    }
}

#[derive(Debug)]
struct PlainExchange;

impl Mechanism for PlainExchange {
    fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError> {
        let Some(response) = response else {
            return Ok(Step::Challenge(Vec::new())); // RFC 4422 section 5.1: the client speaks first
        };
        Ok(Step::Ask(parse(text(response)?)?))
    }
}

/// RFC 4616 section 2: `message = [authzid] UTF8NUL authcid UTF8NUL passwd`.
fn parse(message: &str) -> Result<Credentials, SaslError> {
    let (authzid, rest) = message.split_once('\0').ok_or(SaslError::Malformed)?;
    let (username, password) = rest.split_once('\0').ok_or(SaslError::Malformed)?;
    Credentials::plain(username, password)?.with_authzid(authzid)
}
