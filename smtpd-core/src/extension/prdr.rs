use super::{Extension, SessionFacts};
use crate::{
    parameter::{ParameterRule, no_value},
    protocol::Protocol,
};

/// PRDR (draft-hall-prdr-00): `PRDR` on MAIL, by which a client asks for a reply of its own to each recipient of the message.
///
/// The replies are those of a [`DataReply`](crate::DataReply). Where they differ, the client receives 353, then one for each recipient that was
/// accepted, then one for the message as a whole (section 4.5), after DATA and after BDAT LAST alike. Where they do not, one
/// reply stands for all (section 4.4). LMTP has no need of it. It is an expired draft, and few clients know it.
///
/// ```
/// use smtpd_core::{Extensions, extension::Prdr};
///
/// assert!(Extensions::default().with(Prdr).contains("PRDR"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Prdr;

impl Prdr {
    pub(crate) const KEYWORD: &str = "PRDR";
}

impl Extension for Prdr {
    fn keyword(&self) -> &str {
        Self::KEYWORD
    }

    /// draft-hall-prdr-00 section 4.
    fn requires(&self) -> &[&str] {
        &["PIPELINING", "ENHANCEDSTATUSCODES"]
    }

    fn is_offered(&self, session: SessionFacts<'_>) -> bool {
        session.protocol() == Protocol::Smtp
    }

    fn mail_parameters(&self) -> &[ParameterRule] {
        &[const { ParameterRule::new(Self::KEYWORD, no_value) }]
    }

    /// draft-hall-prdr-00 section 4 (f).
    fn extra_octets(&self) -> usize {
        5
    }
}
