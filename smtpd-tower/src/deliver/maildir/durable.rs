use std::{
    io,
    path::PathBuf,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::disk;

/// Makes the entries of one directory durable. Concurrent deliveries share the work: one fsync covers every rename that came
/// before it began.
#[derive(Debug)]
pub(super) struct DirSync {
    path: PathBuf,
    /// How many fsyncs have begun.
    begun: AtomicU64,
    progress: Mutex<Progress>,
    /// Notified when an fsync ends.
    ended: Condvar,
}

/// A rename to make durable: any fsync that begins after it does so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(u64);

/// The progress of the fsyncs, which are numbered from 1.
#[derive(Debug, Default)]
struct Progress {
    running: bool,
    last: u64,
    last_failed: Option<(u64, Failure)>,
}

/// [`io::Error`] is not `Clone`, and every rename that an fsync covered must receive its failure.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Os(i32),
    Other(io::ErrorKind),
}

impl DirSync {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            begun: AtomicU64::new(0),
            progress: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// Marks everything that was renamed into the directory until now.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.begun.load(Ordering::SeqCst))
    }

    /// Blocks until everything marked is on disk.
    pub(super) fn sync(&self, mark: Mark) -> io::Result<()> {
        self.sync_by(mark, || disk::sync_dir(&self.path))
    }

    fn sync_by(&self, mark: Mark, fsync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        // One at a time: further callers wait meanwhile, and the first of them covers all the others.
        let busy = |progress: &mut Progress| progress.running && progress.last <= mark.0;
        let waited = self.ended.wait_while(self.progress(), busy);
        let mut progress = waited.unwrap_or_else(PoisonError::into_inner);
        if progress.last > mark.0 {
            return progress.result(mark);
        }
        progress.running = true;
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        // What is already on disk does not wait for this fsync.
        drop(progress);
        let failure = fsync().err().map(Failure::from);
        let mut progress = self.progress();
        progress.running = false;
        progress.last = number;
        progress.last_failed = failure
            .map(|failure| (number, failure))
            .or(progress.last_failed);
        self.ended.notify_all();
        progress.result(mark)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// The result of the fsyncs that were to cover a mark. That a later one succeeds says nothing about what an earlier one lost.
    fn result(&self, mark: Mark) -> io::Result<()> {
        match self.last_failed {
            Some((number, failure)) if number > mark.0 => Err(failure.into()),
            _ => Ok(()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        error
            .raw_os_error()
            .map_or_else(|| Self::Other(error.kind()), Self::Os)
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Os(number) => Self::from_raw_os_error(number),
            Failure::Other(kind) => kind.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn one_fsync_covers_what_was_renamed_before_it_began() {
        let dir = DirSync::new(PathBuf::new());
        let count = Cell::new(0);
        let during = Cell::new(None);
        let fsync = || {
            during.set(Some(dir.mark()));
            count.set(count.get() + 1);
            Ok(())
        };
        let (one, two) = (dir.mark(), dir.mark());
        dir.sync_by(one, fsync).unwrap();
        dir.sync_by(two, fsync).unwrap();
        assert_eq!(count.get(), 1);
        dir.sync_by(during.take().unwrap(), fsync).unwrap();
        assert_eq!(count.get(), 2, "renamed while the first fsync ran");
        dir.sync_by(dir.mark(), fsync).unwrap();
        assert_eq!(count.get(), 3);
    }

    #[test]
    fn a_failed_fsync_fails_for_all_that_it_covered() {
        let dir = DirSync::new(PathBuf::new());
        let (one, two) = (dir.mark(), dir.mark());
        let failed = dir.sync_by(one, || Err(io::Error::from_raw_os_error(5)));
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(5));
        let shared = dir.sync_by(two, || Ok(()));
        assert_eq!(shared.unwrap_err().raw_os_error(), Some(5));
        dir.sync_by(dir.mark(), || Ok(())).unwrap();
        let late = dir.sync_by(two, || Ok(()));
        assert_eq!(late.unwrap_err().raw_os_error(), Some(5));
    }

    #[test]
    fn what_is_on_disk_does_not_wait_for_the_next_fsync() {
        let dir = DirSync::new(PathBuf::new());
        let early = dir.mark();
        dir.sync_by(early, || Ok(())).unwrap();
        let next = || dir.sync_by(early, || unreachable!("it was served"));
        dir.sync_by(dir.mark(), next).unwrap();
    }

    #[test]
    fn many_threads_share_their_fsyncs() {
        let dir = DirSync::new(PathBuf::new());
        let (renamed, durable) = (AtomicU64::new(0), AtomicU64::new(0));
        let start = std::sync::Barrier::new(8);
        let fsync = || {
            let seen = renamed.load(Ordering::SeqCst);
            std::thread::yield_now();
            durable.fetch_max(seen, Ordering::SeqCst);
            Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..1000 {
                        let mine = renamed.fetch_add(1, Ordering::SeqCst) + 1;
                        dir.sync_by(dir.mark(), fsync).unwrap();
                        assert!(durable.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
        assert!(dir.begun.into_inner() < 8000, "none was shared");
    }
}
