use std::{fmt, sync::Arc};

use smtpd_core::reply::{Code, Reply, Status};

use crate::limiter::Limited;

/// The reply to requests over the limit.
#[derive(Clone)]
pub(super) enum Replies {
    Fixed(Reply),
    By(Arc<dyn Fn(Limited) -> Reply + Send + Sync>),
}

impl Replies {
    pub(super) fn default_reply() -> Reply {
        Reply::new(
            Code::LOCAL_ERROR,
            Status::DENIED,
            "Too many requests, try again later",
        )
    }

    pub(super) fn reply(&self, limited: Limited) -> Reply {
        match self {
            Self::By(reply) => reply(limited),
            // Trying again would not help.
            Self::Fixed(reply)
                if limited.retry_after().is_none() && reply.code().is_transient() =>
            {
                Reply::new(
                    Code::MAILBOX_UNAVAILABLE,
                    Status::DENIED,
                    "More than the limit ever allows at once",
                )
            }
            Self::Fixed(reply) => reply.clone(),
        }
    }
}

// By hand: a closure has no Debug.
impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(reply) => reply.fmt(f),
            Self::By(_) => f.write_str("by a function"),
        }
    }
}
