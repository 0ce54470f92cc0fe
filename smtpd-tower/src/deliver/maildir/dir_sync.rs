use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::Notify, task};

use super::disk;
use crate::disk::DiskPermit;

/// Makes the entries of one directory durable. Concurrent deliveries share the work: one fsync covers every rename that came
/// before it began. While it runs, the others wait without a thread.
#[derive(Debug)]
pub(super) struct DirSync {
    path: PathBuf,
    /// How many fsyncs have begun.
    begun: AtomicU64,
    progress: Mutex<Progress>,
    /// Notified when an fsync ends.
    ended: Notify,
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
    /// The first fsync that covers all renames until now.
    wanted: u64,
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
            ended: Notify::new(),
        }
    }

    /// Begins to make everything durable that was renamed into the directory until now, in the job that has the permit. Blocks
    /// for one fsync, unless another job is at work, which then does this as well.
    pub(super) fn begin(self: &Arc<Self>, permit: DiskPermit) -> Mark {
        let mark = self.mark();
        if let Some(turn) = self.turn(mark) {
            turn.run(permit);
        }
        mark
    }

    /// Waits until everything marked is on disk.
    pub(super) async fn done(&self, mark: Mark) -> io::Result<()> {
        loop {
            // Before the check: the future is woken by what ends from now on, whether it has been polled or not.
            let ended = self.ended.notified();
            if let Some(result) = self.result(mark) {
                return result;
            }
            ended.await;
        }
    }

    /// Marks everything that was renamed into the directory until now.
    fn mark(&self) -> Mark {
        Mark(self.begun.load(Ordering::SeqCst))
    }

    /// Asks for the fsync that covers a mark. Returns the turn if the caller has to run it.
    fn turn(self: &Arc<Self>, mark: Mark) -> Option<Turn> {
        let mut progress = self.progress();
        if progress.last > mark.0 {
            return None;
        }
        progress.wanted = progress.wanted.max(mark.0 + 1);
        let is_running = std::mem::replace(&mut progress.running, true);
        (!is_running).then(|| Turn(Some(self.clone())))
    }

    /// Returns the result of the fsyncs that were to cover a mark, once there is one. That a later one succeeds says nothing
    /// about what an earlier one lost.
    fn result(&self, mark: Mark) -> Option<io::Result<()>> {
        let progress = self.progress();
        (progress.last > mark.0).then(|| match progress.last_failed {
            Some((number, failure)) if number > mark.0 => Err(failure.into()),
            _ => Ok(()),
        })
    }

    /// Runs one fsync. Returns whether another one is wanted, for what was renamed meanwhile.
    fn sync(&self, fsync: impl FnOnce(&Path) -> io::Result<()>) -> bool {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let failure = fsync(&self.path).err().map(Failure::from);
        let mut progress = self.progress();
        progress.last = number;
        progress.last_failed = failure
            .map(|failure| (number, failure))
            .or(progress.last_failed);
        progress.running = progress.wanted > number;
        let is_wanted = progress.running;
        drop(progress);
        self.ended.notify_waiters();
        is_wanted
    }

    /// Fails for everything that was renamed until now: the job that had the turn has panicked, or the runtime is shutting down.
    fn give_up(&self) {
        let mut progress = self.progress();
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        progress.last = number;
        progress.last_failed = Some((number, Failure::Other(io::ErrorKind::Interrupted)));
        progress.running = false;
        drop(progress);
        self.ended.notify_waiters();
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run the fsyncs of a directory, which one job has at a time. While another waits for one of them, it goes on.
#[derive(Debug)]
struct Turn(Option<Arc<DirSync>>);

impl Turn {
    /// Runs one fsync here. If more are wanted, they run in a job of their own that has the permit from then on: this one ends,
    /// so that its own message need not wait for them.
    fn run(self, permit: DiskPermit) {
        let mut next = self.step(disk::sync_dir);
        if next.is_some() {
            task::spawn_blocking(move || {
                while let Some(turn) = next.take() {
                    next = turn.step(disk::sync_dir);
                }
                drop(permit);
            });
        }
    }

    /// Runs one fsync. Returns the turn if another one is wanted.
    fn step(mut self, fsync: impl FnOnce(&Path) -> io::Result<()>) -> Option<Self> {
        let is_wanted = self.0.as_ref().is_some_and(|dir| dir.sync(fsync));
        if is_wanted {
            return Some(self);
        }
        self.0 = None;
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take() {
            dir.give_up();
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
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    fn dir() -> Arc<DirSync> {
        Arc::new(DirSync::new(PathBuf::new()))
    }

    const FINE: fn(&Path) -> io::Result<()> = |_| Ok(());

    #[test]
    fn one_fsync_covers_what_was_renamed_before_it_began() {
        let dir = dir();
        let (one, two) = (dir.mark(), dir.mark());
        let turn = dir.turn(one).unwrap();
        let mut during = None;
        let turn = turn.step(|_| {
            assert!(dir.turn(two).is_none(), "it is covered");
            let mark = dir.mark();
            assert!(dir.turn(mark).is_none(), "one at a time");
            during = Some(mark);
            Ok(())
        });
        assert!(dir.result(one).unwrap().is_ok());
        assert!(dir.result(two).unwrap().is_ok());
        let during = during.unwrap();
        assert!(dir.result(during).is_none(), "renamed while it ran");
        assert!(turn.unwrap().step(FINE).is_none());
        assert!(dir.result(during).unwrap().is_ok());
        assert_eq!(dir.begun.load(Ordering::SeqCst), 2);
        assert!(dir.turn(during).is_none(), "it is on disk");
        assert!(dir.turn(dir.mark()).unwrap().step(FINE).is_none());
    }

    #[test]
    fn a_failed_fsync_fails_for_all_that_it_covered() {
        let dir = dir();
        let (one, two) = (dir.mark(), dir.mark());
        let number = |mark| dir.result(mark).unwrap().unwrap_err().raw_os_error();
        let turn = dir.turn(one).unwrap();
        assert!(
            turn.step(|_| Err(io::Error::from_raw_os_error(5)))
                .is_none()
        );
        assert_eq!((number(one), number(two)), (Some(5), Some(5)));
        let later = dir.mark();
        assert!(dir.turn(later).unwrap().step(FINE).is_none());
        assert!(dir.result(later).unwrap().is_ok());
        assert_eq!(number(two), Some(5));
    }

    #[test]
    fn each_that_waits_is_woken_by_the_fsync_that_covers_it() {
        let dir = dir();
        let one = dir.mark();
        let mut first = task::spawn(dir.done(one));
        let turn = dir.turn(one).unwrap();
        assert_pending!(first.poll());
        let mut second = None;
        let turn = turn.step(|_| {
            let mark = dir.mark();
            assert!(dir.turn(mark).is_none());
            second = Some(task::spawn(dir.done(mark)));
            Ok(())
        });
        assert!(first.is_woken());
        assert!(assert_ready!(first.poll()).is_ok());
        // Polled for the first time when that fsync has ended, and again when its own has.
        let mut second = second.unwrap();
        assert_pending!(second.poll());
        assert!(turn.unwrap().step(FINE).is_none());
        assert!(second.is_woken());
        assert!(assert_ready!(second.poll()).is_ok());
    }

    #[test]
    fn a_job_that_is_lost_leaves_nobody_waiting() {
        let dir = dir();
        let mark = dir.mark();
        // A runtime that shuts down drops the job.
        drop(dir.turn(mark).unwrap());
        dir.result(mark).unwrap().unwrap_err();

        let mark = dir.mark();
        let turn = dir.turn(mark).unwrap();
        let panicking = std::thread::spawn(|| turn.step(|_| panic!("on purpose")));
        panicking.join().unwrap_err();
        dir.result(mark).unwrap().unwrap_err();

        let mark = dir.mark();
        assert!(dir.turn(mark).unwrap().step(FINE).is_none());
        assert!(dir.result(mark).unwrap().is_ok());
    }

    #[test]
    fn many_threads_share_their_fsyncs() {
        let dir = dir();
        let (renamed, durable) = (AtomicU64::new(0), AtomicU64::new(0));
        let start = std::sync::Barrier::new(8);
        let fsync = |_: &Path| {
            let seen = renamed.load(Ordering::SeqCst);
            std::thread::yield_now();
            durable.fetch_max(seen, Ordering::SeqCst);
            Ok(())
        };
        let deliver = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            start.wait();
            for _ in 0..1000 {
                let mine = renamed.fetch_add(1, Ordering::SeqCst) + 1;
                let mark = dir.mark();
                let mut next = dir.turn(mark);
                while let Some(turn) = next.take() {
                    next = turn.step(fsync);
                }
                runtime.block_on(dir.done(mark)).unwrap();
                assert!(durable.load(Ordering::SeqCst) >= mine);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(deliver);
            }
        });
        let progress = dir.progress();
        assert!(!progress.running);
        assert!(progress.last < 8000, "none was shared");
    }
}
