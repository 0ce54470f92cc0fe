use super::{Extension, SessionFacts};
use crate::{
    parameter::{ParameterRule, no_value},
    protocol::Protocol,
};

/// PRDR (draft-hall-prdr-00): `PRDR` on MAIL, by which a client requests a separate reply for each recipient of the message.
///
/// The replies are those of a [`DataReply`](crate::DataReply). If they differ, the client receives 353, then one for each
/// accepted recipient, then one for the message as a whole (section 4.5), both after DATA and after BDAT LAST. Otherwise, it
/// receives one reply for all (section 4.4). LMTP does not need it. The draft has expired, and few clients support it.
///
/// ```
/// use smtpd_core::extension::{Extensions, Prdr};
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
    fn extra_bytes(&self) -> usize {
        5
    }
}
