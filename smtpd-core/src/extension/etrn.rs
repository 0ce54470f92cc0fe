use super::{Extension, SessionFacts};
use crate::protocol::Protocol;

/// ETRN (RFC 1985): the command by which a client requests the mail queued for a node.
///
/// If [`DriverConfig::custom_commands`](crate::config::DriverConfig::custom_commands) is on, it is returned as a
/// [`Step::Command`](crate::Step::Command). Its argument is a node's name, `@` and a domain, or `#` and a queue. Reply as section
/// 5.1 says (250 to 253, 458, 459), and check who the client is (section 8). Otherwise, the reply is 458: nothing can be sent.
///
/// ```
/// use smtpd_core::extension::{Etrn, Extensions};
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
