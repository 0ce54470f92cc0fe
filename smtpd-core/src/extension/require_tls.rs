use super::{Extension, SessionFacts};
use crate::parameter::{ParameterRule, no_value};

/// REQUIRETLS (RFC 8689): `REQUIRETLS` on MAIL, which requires that the message be relayed over verified TLS only. It is offered
/// and accepted only within TLS (section 2).
///
/// If you enable it, your server must mark such messages and must not relay them otherwise (section 4). Read it with
/// [`Parameters::contains`](crate::parameter::Parameters::contains).
///
/// ```
/// use smtpd_core::extension::{Extensions, RequireTls};
///
/// assert!(Extensions::default().with(RequireTls).contains("REQUIRETLS"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RequireTls;

impl Extension for RequireTls {
    fn keyword(&self) -> &str {
        "REQUIRETLS"
    }

    fn is_offered(&self, session: SessionFacts<'_>) -> bool {
        session.is_tls()
    }

    fn mail_parameters(&self) -> &[ParameterRule] {
        &[const { ParameterRule::new("REQUIRETLS", no_value) }]
    }

    /// RFC 8689 section 2 (5).
    fn extra_bytes(&self) -> usize {
        11
    }
}
