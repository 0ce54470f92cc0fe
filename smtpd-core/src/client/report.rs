//! What became of a message.

use std::sync::Arc;

use super::{
    fault::{Fault, Stage},
    unsupported::Unsupported,
};
use crate::{
    envelope::{Envelope, Recipient},
    reply::{DataReply, Reply},
};

/// What became of a message for one recipient.
///
/// ```
/// use smtpd_core::client::{Fault, Outcome, Stage};
///
/// let lost = Outcome::Unknown(Fault::Lost(Stage::Message));
/// assert!(lost.may_be_duplicate() && !lost.is_accepted());
/// assert_eq!(
///     lost.reply().to_string(),
///     "451 4.4.2 Next server: connection lost at end of message"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The server accepted the message, and is responsible for it now.
    Accepted(Reply),
    /// The server refused the recipient or the message.
    Refused {
        /// The command that was refused.
        stage: Stage,
        /// The reply to it.
        reply: Reply,
    },
    /// The message was not sent, because it needs something that the server lacks.
    Unsupported(Unsupported),
    /// The session ended before the message did, so the server cannot have accepted it.
    Failed(Fault),
    /// The session ended after the whole message was sent and before the reply to it: the server may have accepted it. Sending it
    /// again may duplicate it, not sending it again may lose it. RFC 5321 section 4.5.4.1 wants it sent again.
    Unknown(Fault),
}

impl Outcome {
    /// Returns whether the server accepted the message for the recipient.
    pub const fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted(_))
    }

    /// Returns whether the server may have accepted the message without this client learning of it.
    pub const fn may_be_duplicate(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Returns the reply to a client that waits for the outcome: that of the server, or one that says what happened.
    pub fn reply(&self) -> Reply {
        match self {
            Self::Accepted(reply) | Self::Refused { reply, .. } => reply.clone(),
            Self::Unsupported(unsupported) => unsupported.reply(),
            Self::Failed(fault) | Self::Unknown(fault) => fault.reply(),
        }
    }
}

/// What became of a message, as [`Step::Done`](super::Step::Done) reports it. There is exactly one for each message that was
/// begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub(super) envelope: Arc<Envelope>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) omitted: Vec<&'static str>,
}

impl Report {
    /// Returns the envelope.
    pub const fn envelope(&self) -> &Arc<Envelope> {
        &self.envelope
    }

    /// Returns the outcome for each recipient of the envelope, in its order.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// Returns each recipient with its outcome.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Recipient, &Outcome)> {
        self.envelope.recipients().iter().zip(&self.outcomes)
    }

    /// Returns the keywords of the parameters that were left out, because the server does not know them and the message may be sent
    /// without them. If `NOTIFY` is among them, a "relayed" notification is due to senders who asked for one of success (RFC 3461
    /// section 5.2.2).
    pub fn omitted(&self) -> &[&'static str] {
        &self.omitted
    }

    /// Returns whether the message was accepted for any recipient.
    pub fn is_accepted(&self) -> bool {
        self.outcomes.iter().any(Outcome::is_accepted)
    }

    /// Returns the outcomes as the reply to a client: one for each recipient.
    pub fn data_reply(&self) -> DataReply {
        DataReply::each(self.outcomes.iter().map(Outcome::reply))
    }
}
