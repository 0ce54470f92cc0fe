use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Makes the entries of one directory durable. Concurrent deliveries share the work: one fsync serves every rename that
/// came before it began.
#[derive(Debug)]
pub(super) struct DirSync {
    path: PathBuf,
    /// How many fsyncs have begun.
    begun: AtomicU64,
    ended: Mutex<Ended>,
}

/// A rename that is to be made durable: by any fsync that begins after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(u64);

/// The last fsync that has ended.
#[derive(Debug, Default)]
struct Ended {
    number: u64,
    failure: Option<Failure>,
}

/// [`io::Error`] is not `Clone`, and all whom an fsync served must hear of its failure.
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
            ended: Mutex::default(),
        }
    }

    /// Marks what was renamed into the directory until now.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.begun.load(Ordering::SeqCst))
    }

    /// Blocks until what is marked is on disk.
    pub(super) fn sync(&self, mark: Mark) -> io::Result<()> {
        self.sync_by(mark, || sync_dir(&self.path))
    }

    fn sync_by(&self, mark: Mark, fsync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        // Held during the fsync: whoever comes meanwhile waits here, and the first of them serves all the others.
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.number > mark.0 {
            return ended.result();
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let failure = fsync().err().map(Failure::from);
        *ended = Ended { number, failure };
        ended.result()
    }
}

impl Ended {
    fn result(&self) -> io::Result<()> {
        self.failure.map_or(Ok(()), |failure| Err(failure.into()))
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

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn one_fsync_serves_what_was_renamed_before_it_began() {
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
    fn a_failed_fsync_fails_for_all_whom_it_served() {
        let dir = DirSync::new(PathBuf::new());
        let (one, two) = (dir.mark(), dir.mark());
        let failed = dir.sync_by(one, || Err(io::Error::from_raw_os_error(5)));
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(5));
        let shared = dir.sync_by(two, || Ok(()));
        assert_eq!(shared.unwrap_err().raw_os_error(), Some(5));
        dir.sync_by(dir.mark(), || Ok(())).unwrap();
    }
}
