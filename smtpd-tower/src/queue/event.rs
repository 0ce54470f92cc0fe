use std::time::{Duration, SystemTime};

use smtpd_core::{address::ForwardPath, reply::Reply};

use crate::session::QueueId;

/// What happens to a message in the queue, for [`Worker::on_event`](super::Worker::on_event).
///
/// What is put into the queue by a server is reported by [`Enqueue::on_queued`](super::Enqueue::on_queued). Replies are those of the
/// peer: escape their text before you show it, as `Debug` does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum QueueEvent {
    /// A delivery status notification was put into the queue.
    #[non_exhaustive]
    Queued {
        /// The id of the notification.
        id: QueueId,
        /// The id of the message that it is about.
        about: QueueId,
    },
    /// There was an attempt to deliver a message to the recipients of one destination.
    #[non_exhaustive]
    Attempted {
        /// The id of the message.
        id: QueueId,
        /// The destination, usually a domain.
        destination: String,
        /// The number of recipients.
        recipients: usize,
        /// How long it took.
        took: Duration,
    },
    /// A recipient has the message.
    #[non_exhaustive]
    Delivered {
        /// The id of the message.
        id: QueueId,
        /// The recipient.
        recipient: ForwardPath,
        /// The reply.
        reply: Reply,
    },
    /// The message is to be tried again.
    #[non_exhaustive]
    Deferred {
        /// The id of the message.
        id: QueueId,
        /// The recipient.
        recipient: ForwardPath,
        /// The reply.
        reply: Reply,
        /// When the next attempt is due.
        until: SystemTime,
    },
    /// The message was rejected for a recipient.
    #[non_exhaustive]
    Bounced {
        /// The id of the message.
        id: QueueId,
        /// The recipient.
        recipient: ForwardPath,
        /// The reply.
        reply: Reply,
    },
    /// The message was given up for a recipient, because its time was over.
    #[non_exhaustive]
    Expired {
        /// The id of the message.
        id: QueueId,
        /// The recipient.
        recipient: ForwardPath,
        /// The reply of the last attempt, or what stands for it.
        reply: Reply,
    },
}

impl QueueEvent {
    /// Returns the id of the message that this is about.
    pub const fn id(&self) -> &QueueId {
        match self {
            Self::Queued { id, .. }
            | Self::Attempted { id, .. }
            | Self::Delivered { id, .. }
            | Self::Deferred { id, .. }
            | Self::Bounced { id, .. }
            | Self::Expired { id, .. } => id,
        }
    }
}
