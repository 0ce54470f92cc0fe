use super::{Extension, SessionFacts};
use crate::protocol::Protocol;

/// ETRN (RFC 1985): the command by which a client asks for the mail that waits for a node.
///
/// It comes as an [`Step::Command`](crate::Step::Command) if [`Config::custom_commands`](crate::Config::custom_commands) is on,
/// its argument a node's name, `@` and a domain, or `#` and a queue; the answers are those of section 5.1: 250 to 253, 458,
/// 459. Who answers has to look at who asks (section 8). Otherwise the answer is 458: nothing can be sent.
///
/// ```
/// use smtpd_core::{Extensions, extension::Etrn};
///
/// assert!(Extensions::default().with(Etrn).contains("ETRN"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Etrn;

impl Extension for Etrn {
    fn keyword(&self) -> &str {
        "ETRN"
    }

    fn is_offered(&self, session: SessionFacts<'_>) -> bool {
        session.protocol() == Protocol::Smtp // RFC 2033 section 1: LMTP has no queue
    }
}
