use super::{Extension, SessionFacts};
use crate::parameter::{ParameterRule, no_value};

/// REQUIRETLS (RFC 8689): `REQUIRETLS` on MAIL, the demand that the message go on by verified TLS alone. It is offered, and
/// taken, only within TLS (section 2).
///
/// Who turns it on has to mark such messages, and not to relay them otherwise (section 4). It is read by
/// [`Parameters::contains`](crate::Parameters::contains).
///
/// ```
/// use smtpd_core::{Extensions, extension::RequireTls};
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
    fn extra_octets(&self) -> usize {
        11
    }
}
