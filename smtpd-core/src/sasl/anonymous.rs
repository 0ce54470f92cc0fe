use super::{
    Credentials, ExchangeContext, Mechanism, MechanismFactory, MechanismName, SaslError, Step,
    credentials::text,
};

/// The maximum number of characters of a trace token (RFC 4505 section 2).
const MAX_TOKEN: usize = 255;

/// The maximum number of characters of an address as trace information: a local part of 64, `@`, and a domain of 255 (RFC 5321
/// section 4.5.3.1).
const MAX_ADDRESS: usize = 320;

/// ANONYMOUS (RFC 4505): the client does not identify itself, but may leave a trace: an address or an opaque token.
///
/// The application reads it with [`Credentials::trace`], and accepts the client under an identity of its own choice, such as
/// `anonymous`. The trace is not verified.
///
/// ```
/// use smtpd_core::sasl::{Mechanisms, Anonymous};
///
/// let mechanisms = Mechanisms::none().with(Anonymous);
/// assert!(mechanisms.find(b"anonymous").is_some());
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

impl MechanismFactory for Anonymous {
    fn name(&self) -> MechanismName {
        const { MechanismName::from_static("ANONYMOUS") }
    }

    fn is_plaintext(&self) -> bool {
        false
    }

    fn needs_entropy(&self) -> bool {
        false
    }

    fn start(&self, _: &ExchangeContext<'_>) -> Box<dyn Mechanism> {
        Box::new(AnonymousExchange)
    }
}

#[derive(Debug)]
struct AnonymousExchange;

impl Mechanism for AnonymousExchange {
    fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError> {
        let Some(response) = response else {
            return Ok(Step::Challenge(Vec::new())); // RFC 4505 section 4: the client speaks first
        };
        let trace = text(response)?;
        let limit = if trace.contains('@') {
            MAX_ADDRESS
        } else {
            MAX_TOKEN
        };
        if trace.chars().count() > limit {
            return Err(SaslError::Malformed);
        }
        Ok(Step::Ask(Credentials::anonymous(trace)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces() {
        for (response, good) in [
            (String::new(), true),
            ("sirhc".to_owned(), true),
            ("tim@example.org".to_owned(), true),
            ("ü".repeat(255), true),
            ("ü".repeat(256), false),
            (format!("{}@a", "x".repeat(318)), true),
            (format!("{}@a", "x".repeat(319)), false),
            ("a\r\nb".to_owned(), false),
        ] {
            let step = AnonymousExchange.step(Some(response.as_bytes()));
            match step {
                Ok(Step::Ask(credentials)) => {
                    assert!(good, "{response}");
                    assert_eq!(credentials.trace(), Some(&*response));
                    assert_eq!((credentials.username(), credentials.authzid()), ("", None));
                }
                step => {
                    assert!(!good, "{response}");
                    assert_eq!(step.unwrap_err(), SaslError::Malformed);
                }
            }
        }
    }
}
