//! Replies that refuse.

use super::{event::MessageError, fixed};
use crate::reply::{Origin, Reply};

/// A reply of 4yz or 5yz: the only replies that can refuse.
///
/// A reply with any other code becomes 451 4.3.0 when it is converted, so it can never accept anything.
///
/// ```
/// use smtpd_core::{Reply, connection::Refusal};
///
/// assert_eq!(
///     Refusal::from(Reply::no_such_user()).reply(),
///     &Reply::no_such_user()
/// );
/// assert_eq!(Refusal::from(Reply::OK).reply().code().as_u16(), 451);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Reply);

impl Refusal {
    /// Returns the reply.
    pub const fn reply(&self) -> &Reply {
        &self.0
    }

    pub(super) fn into_reply(self) -> Reply {
        self.0
    }
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Self {
        if reply.is_positive() {
            Self(fixed::FORGOTTEN.with_origin(Origin::Fault))
        } else {
            Self(reply)
        }
    }
}

impl From<MessageError> for Refusal {
    fn from(error: MessageError) -> Self {
        Self(error.reply().with_origin(Origin::Protocol))
    }
}
