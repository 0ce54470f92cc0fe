//! The operations on the store, as they wait to be written.

use tokio::sync::oneshot;

use super::{
    frame::Place,
    index::{Entry, Index},
};
use crate::{body::Spooled, queue::QueueError, session::QueueId};

/// An operation that waits to be written.
pub(super) struct Op {
    pub(super) id: QueueId,
    pub(super) change: Change,
    pub(super) answer: oneshot::Sender<Result<QueueId, QueueError>>,
}

pub(super) enum Change {
    Put {
        head: Vec<u8>,
        message: Spooled,
        created: u64,
        due: u64,
        pending: u32,
        priority: i8,
    },
    /// Ends a lease.
    States {
        token: u64,
        head: Vec<u8>,
        due: u64,
        pending: u32,
    },
    /// Ends a lease, if there is a token.
    Remove {
        token: Option<u64>,
    },
    Hold {
        held: bool,
        due: Option<u64>,
    },
}

impl Change {
    pub(super) const fn is_put(&self) -> bool {
        matches!(self, Self::Put { .. })
    }

    /// Whether it has to be durable before it is answered. The end of a lease need not: if it is lost, so is only the knowledge
    /// that something was delivered.
    pub(super) const fn is_synced(&self) -> bool {
        match self {
            Self::Put { .. } | Self::Hold { .. } => true,
            Self::States { .. } => false,
            Self::Remove { token } => token.is_none(),
        }
    }

    pub(super) fn apply(self, id: &QueueId, place: Place, index: &mut Index) {
        match self {
            Self::Put {
                created,
                due,
                pending,
                priority,
                ..
            } => index.put(id, Entry::new(place, created, due, pending, priority)),
            Self::States { due, pending, .. } => index.set_states(id, place, due, pending),
            Self::Remove { .. } => index.remove(id),
            Self::Hold { held, due } => index.set_hold(id, place, held, due),
        }
    }
}
