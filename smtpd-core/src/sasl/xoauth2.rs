use super::{
    Credentials, ExchangeContext, Mechanism, MechanismFactory, MechanismName, SaslError,
    bearer::{self, BearerExchange},
};

/// XOAUTH2 (Google's and Microsoft's predecessor of [`OAuthBearer`](super::OAuthBearer)): a user name and a bearer
/// token.
///
/// The application reads the token with [`Credentials::bearer_token`]. It must check that the token was issued to
/// [`Credentials::username`]. A refused client receives a challenge with an error in JSON, answers it with an empty line, and
/// then receives the refusal.
///
/// ```
/// use smtpd_core::sasl::{Mechanisms, XOAuth2};
///
/// let mechanisms =
///     Mechanisms::none().with(XOAuth2::new().scope("https://mail.example.org/"));
/// assert!(mechanisms.find(b"XOAUTH2").is_some());
/// ```
#[derive(Debug, Clone, Default)]
pub struct XOAuth2 {
    scope: Option<String>,
}

impl XOAuth2 {
    /// Creates the mechanism. By default, it names no scope to a refused client.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the scope that a token needs, which a refused client receives. Default: none.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into());
        self
    }
}

impl MechanismFactory for XOAuth2 {
    fn name(&self) -> MechanismName {
        const { MechanismName::from_static("XOAUTH2") }
    }

    fn is_plaintext(&self) -> bool {
        true
    }

    fn start(&self, _: &ExchangeContext<'_>) -> Box<dyn Mechanism> {
        let scope = self.scope.as_deref().map(|scope| ("scope", scope));
        let error = bearer::json(
            [("status", "401"), ("schemes", "bearer")]
                .into_iter()
                .chain(scope),
        );
        Box::new(BearerExchange::new(Box::new(parse), error))
    }
}

/// `"user=" name ^A "auth=Bearer " token ^A ^A`.
fn parse(message: &str) -> Result<Option<Credentials>, SaslError> {
    let message = message
        .strip_prefix("user=")
        .and_then(|rest| rest.strip_suffix("\x01\x01"));
    let (name, authorization) = message
        .and_then(|rest| rest.split_once("\x01auth="))
        .ok_or(SaslError::Malformed)?;
    if authorization.contains('\x01') {
        return Err(SaslError::Malformed);
    }
    // Checked before the token, so that a message without a name never counts as one.
    Credentials::lookup(name)?;
    bearer::token(authorization)
        .map(|token| Credentials::bearer(name, token))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Exchange, Secret, Step, base64},
        *,
    };

    fn start(message: &str) -> (Exchange, Result<Step, SaslError>) {
        let context = ExchangeContext::new("mx.example.org", &[0; 24]);
        let mut exchange = Exchange::new(XOAuth2::new().scope("mail").start(&context));
        let mut line = Vec::new();
        base64::encode_into(message.as_bytes(), &mut line);
        if line.is_empty() {
            line.push(b'=');
        }
        let step = exchange.handle_initial(Some(&line));
        (exchange, step)
    }

    #[test]
    fn the_example_of_google() {
        let message = "user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01";
        let (mut exchange, step) = start(message);
        let Ok(Step::Ask(credentials)) = step else {
            panic!("{step:?}")
        };
        assert_eq!(credentials.username(), "someuser@example.com");
        let token = "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg";
        assert_eq!(credentials.bearer_token(), Some(token));
        assert_eq!(credentials.password(), None);
        let step = exchange.handle_secret(&Secret::password(token));
        assert!(matches!(step, Ok(Step::Done(name)) if name.as_str() == "someuser@example.com"));
    }

    #[test]
    fn a_refused_client_gets_an_error_and_fails_after_its_answer() {
        let good = "user=a\x01auth=Bearer t\x01\x01";
        for (message, asked) in [(good, true), ("user=a\x01auth=Basic t\x01\x01", false)] {
            let (mut exchange, mut step) = start(message);
            if asked {
                step = exchange.handle_secret(&Secret::password("other"));
            }
            let Ok(Step::Challenge(error)) = step else {
                panic!("{step:?}")
            };
            let want = r#"{"status":"401","schemes":"bearer","scope":"mail"}"#;
            assert_eq!(String::from_utf8_lossy(&error), want);
            assert!(matches!(exchange.handle_line(b""), Ok(Step::Failed)));
        }
    }

    #[test]
    fn malformed_messages() {
        for message in [
            "",
            "\x01",
            "user=a",
            "user=a\x01auth=Bearer t",
            "user=a\x01auth=Bearer t\x01",
            "user=a\x01auth=Bearer t\x01\x01\x01",
            "user=a\x01auth=Bearer t\x01x=y\x01\x01",
            "auth=Bearer t\x01user=a\x01\x01",
            "user=a\r\nb\x01auth=Bearer t\x01\x01",
            "n,a=a,\x01auth=Bearer t\x01\x01",
        ] {
            assert_eq!(
                start(message).1.unwrap_err(),
                SaslError::Malformed,
                "{message:?}"
            );
        }
        let nameless = start("user=\x01auth=Bearer t\x01\x01").1;
        assert_eq!(nameless.unwrap_err(), SaslError::Empty);
    }
}
