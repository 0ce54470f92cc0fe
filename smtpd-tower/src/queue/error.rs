use std::{error::Error, fmt, io, path::PathBuf, sync::Arc};

use super::Durability;
use crate::session::QueueId;

/// An error of a [`Store`](super::Store). Its text may name a path: it is for the log only.
///
/// As the error of a service, each is a fault: [`recover`](crate::reply::recover()) makes 452 4.3.1 of a full disk or quota, and
/// 451 4.3.0 of anything else.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum QueueError {
    /// The storage failed.
    Io {
        /// What was to be done.
        action: &'static str,
        /// The error of the system. All messages that were written together share it.
        source: Arc<io::Error>,
    },
    /// Another process has opened the directory.
    InUse(PathBuf),
    /// There is no such message.
    NotFound(QueueId),
    /// The message was leased by somebody else meanwhile, or deleted. Nothing has changed.
    LeaseLost(QueueId),
    /// The store is closed.
    Closed,
}

impl QueueError {
    /// Creates an error of the storage. A quota is that of the queue, not of a mailbox, so it counts as a full disk.
    pub fn io(action: &'static str, source: io::Error) -> Self {
        let source = match source.kind() {
            io::ErrorKind::QuotaExceeded => io::Error::new(io::ErrorKind::StorageFull, source),
            _ => source,
        };
        Self::Io {
            action,
            source: Arc::new(source),
        }
    }

    /// Returns whether the disk is full, or a quota used up.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, .. } => write!(f, "the queue cannot {action}"),
            Self::InUse(path) => write!(f, "another process uses the queue {}", path.display()),
            Self::NotFound(id) => write!(f, "no message {id} in the queue"),
            Self::LeaseLost(id) => write!(f, "the lease of message {id} is lost"),
            Self::Closed => f.write_str("the queue is closed"),
        }
    }
}

impl Error for QueueError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(&**source),
            _ => None,
        }
    }
}

/// A store is less durable than [`Enqueue::require`](super::Enqueue::require) demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurabilityError {
    required: Durability,
    found: Durability,
}

impl DurabilityError {
    pub(super) const fn new(required: Durability, found: Durability) -> Self {
        Self { required, found }
    }

    /// Returns what was required.
    pub const fn required(&self) -> Durability {
        self.required
    }

    /// Returns what the store has.
    pub const fn found(&self) -> Durability {
        self.found
    }
}

impl fmt::Display for DurabilityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { required, found } = self;
        write!(f, "messages are kept {found}, but required is {required}")
    }
}

impl Error for DurabilityError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::recover;

    #[test]
    fn a_quota_of_the_queue_is_not_that_of_a_mailbox() {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        for (kind, code) in [
            (StorageFull, "452 4.3.1"),
            (QuotaExceeded, "452 4.3.1"),
            (ReadOnlyFilesystem, "451 4.3.0"),
        ] {
            let error = QueueError::io("write", kind.into());
            assert_eq!(error.is_disk_full(), code == "452 4.3.1");
            assert!(recover(&error.into()).to_string().starts_with(code));
        }
    }
}
