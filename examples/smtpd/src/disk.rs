//! What the disk and the process can still take: free space, and descriptors.

use std::path::PathBuf;

use rustix::{
    fs::statvfs,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use smtpd_tower::{deliver::Maildir, layer::FreeSpaceLayer};
use tokio::task;

/// The free space of the disk with the Maildir. What is discarded needs none.
#[derive(Clone)]
pub(crate) struct Space(Option<(PathBuf, FreeSpaceLayer)>);

impl Space {
    /// The space for a Maildir, if there is one, of which `keep` bytes stay free. What was measured for the same one before is
    /// still known.
    pub(crate) fn new(maildir: Option<&Maildir>, keep: u64, before: Option<&Self>) -> Self {
        let Some(path) = maildir.map(Maildir::path) else {
            return Self(None);
        };
        let before = before.and_then(|before| before.0.clone());
        let same = before.filter(|(known, _)| known == path);
        let layer = same.map_or_else(|| free_space(path.to_owned()), |(_, layer)| layer);
        Self(Some((path.to_owned(), layer.keep(keep))))
    }

    /// The layer that defers messages while the disk is nearly full.
    pub(crate) fn layer(&self) -> Option<FreeSpaceLayer> {
        self.0.as_ref().map(|(_, layer)| layer.clone())
    }

    /// Measures, so that the log tells of a disk that is nearly full before mail comes.
    pub(crate) fn measure(&self) {
        if let Some(layer) = self.layer() {
            // The layer logs what is wrong.
            task::spawn(async move { layer.measure().await });
        }
    }
}

fn free_space(maildir: PathBuf) -> FreeSpaceLayer {
    FreeSpaceLayer::new(move || {
        let disk = statvfs(&maildir)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    })
}

/// What else needs a descriptor: two for each of the 64 messages that are written at a time, and then connections that are being
/// refused, listeners, the log, and files that are read again.
const RESERVE: u64 = 256;

/// Raises the soft limit on descriptors to the hard one. Returns how many of `sessions` fit below it.
pub(crate) fn sessions(sessions: usize) -> usize {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limits.maximum,
        ..limits
    };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limits.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit on file descriptors cannot be raised");
            limits.current
        }
    };
    let wanted = u64::try_from(sessions).unwrap_or(u64::MAX);
    let fitting = fitting(wanted, limit);
    if fitting < wanted {
        let limit = limit.unwrap_or(u64::MAX);
        tracing::warn!(
            limit,
            wanted,
            sessions = fitting,
            "the limit on file descriptors is too low for --max-sessions, so fewer sessions are served: raise LimitNOFILE in the unit, or the hard limit of ulimit -n"
        );
    }
    usize::try_from(fitting).unwrap_or(usize::MAX)
}

/// Returns how many sessions fit below a limit, where `None` is none. Where it is very low, half of it is for them.
fn fitting(sessions: u64, limit: Option<u64>) -> u64 {
    limit.map_or(sessions, |limit| {
        sessions.min(limit.saturating_sub(RESERVE).max(limit / 2))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_leave_no_descriptor_for_the_messages() {
        let cases = [
            (10_000, None, 10_000),
            (10_000, Some(1_048_576), 10_000),
            (10_000, Some(10_256), 10_000),
            (10_000, Some(10_255), 9_999),
            (10_000, Some(1_024), 768),
            (10_000, Some(300), 150),
            (10, Some(300), 10),
        ];
        for (sessions, limit, fits) in cases {
            assert_eq!(fitting(sessions, limit), fits, "{sessions} of {limit:?}");
        }
    }

    #[tokio::test]
    async fn a_reload_forgets_that_the_disk_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let (mail, other) = (Maildir::new(dir.path()), Maildir::new("/nowhere"));
        let first = Space::new(Some(&mail), 1, None);
        first.layer().unwrap().measure().await.unwrap();
        let free = |space: &Space| space.layer().unwrap().free();
        let second = Space::new(Some(&mail), 2, Some(&first));
        assert_eq!(free(&second), free(&first));
        assert!(free(&second).is_some());
        assert_eq!(free(&Space::new(Some(&other), 1, Some(&second))), None);
        assert!(Space::new(None, 1, Some(&second)).layer().is_none());
    }

    #[tokio::test]
    async fn the_free_space_of_a_disk_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        let space = free_space(dir.path().to_owned());
        assert!(space.measure().await.unwrap() > 0);
        let nowhere = free_space(dir.path().join("nowhere"));
        assert!(nowhere.measure().await.is_err());
    }
}
