use super::{
    Credentials, ExchangeContext, Mechanism, MechanismFactory, MechanismName, SaslError, Step,
    credentials::text,
};

/// LOGIN (draft-murchison-sasl-login): a challenge requests the user name, another one the password.
///
/// An initial response is used as the user name. The mechanism is obsolete, but some clients support no other.
///
/// ```
/// use smtpd_core::sasl::{Mechanisms, Login};
///
/// let mechanisms = Mechanisms::none().with(Login);
/// assert!(mechanisms.find(b"login").is_some());
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Login;

impl MechanismFactory for Login {
    fn name(&self) -> MechanismName {
        const { MechanismName::from_static("LOGIN") }
    }

    fn is_plaintext(&self) -> bool {
        true
    }

    fn start(&self, _: &ExchangeContext<'_>) -> Box<dyn Mechanism> {
        Box::new(LoginExchange { username: None })
    }
}

#[derive(Debug)]
struct LoginExchange {
    username: Option<String>,
}

impl Mechanism for LoginExchange {
    fn step(&mut self, response: Option<&[u8]>) -> Result<Step, SaslError> {
        let Some(response) = response else {
            return Ok(Step::Challenge(b"Username:".to_vec()));
        };
        let response = text(response)?;
        if let Some(username) = self.username.take() {
            return Ok(Step::Ask(Credentials::plain(&username, response)?));
        }
        // Checked now, so that a password is requested only for a user name that can be valid.
        Credentials::lookup(response)?;
        self.username = Some(response.to_owned());
        Ok(Step::Challenge(b"Password:".to_vec()))
    }
}
