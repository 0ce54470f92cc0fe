//! Delivery status notifications: what the sender of a message is told (RFC 3461, 3464, 6533).

mod original;
mod report;
#[cfg(test)]
#[cfg(feature = "mime")]
mod tests;
mod text;

use std::time::SystemTime;

use smtpd_core::reply::Reply;

pub(super) use self::report::Report;

/// What has become of the message for a recipient (RFC 3464 section 2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    Failed,
    Delayed,
    Delivered,
    Relayed,
    Expanded,
}

impl Action {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }

    const fn subject(self) -> &'static str {
        match self {
            Self::Failed => "Undelivered mail returned to sender",
            Self::Delayed => "Delayed mail, which is still being tried",
            Self::Delivered | Self::Relayed | Self::Expanded => "Successful mail delivery report",
        }
    }

    const fn explanation(self) -> &'static str {
        match self {
            Self::Failed => "Your message could not be delivered to:",
            Self::Delayed => {
                "Your message could not be delivered yet. You need not send it again: it is still being tried for:"
            }
            Self::Delivered => "Your message was delivered to:",
            Self::Relayed => {
                "Your message was passed on to a server that may not report anything more, for:"
            }
            Self::Expanded => "Your message was delivered to this list, which sends it on:",
        }
    }
}

/// What the sender is to be told about a recipient.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    /// The position of the recipient in the envelope.
    pub(super) number: usize,
    pub(super) action: Action,
    status: String,
    /// What the peer has replied, if anything.
    reply: Option<Reply>,
    retried_until: Option<SystemTime>,
}

impl Notice {
    pub(super) const fn new(
        number: usize,
        action: Action,
        status: String,
        reply: Option<Reply>,
    ) -> Self {
        Self {
            number,
            action,
            status,
            reply,
            retried_until: None,
        }
    }

    pub(super) fn retried_until(self, until: SystemTime) -> Self {
        Self {
            retried_until: Some(until),
            ..self
        }
    }
}
