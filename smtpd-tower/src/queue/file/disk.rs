//! All access to the disk. Tests replace it by one that fails.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FlockOperation, flock};

use crate::{body::ReadAt, queue::QueueError};

/// The directory of a queue: segments, which have numbers, and what was set aside.
pub(super) trait Disk: Send {
    /// Returns the numbers of the segments, in any order.
    fn segments(&self) -> io::Result<Vec<u64>>;
    fn open(&self, number: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a segment, which does not exist.
    fn create(&self, number: u64) -> io::Result<Arc<dyn DiskFile>>;
    fn remove(&self, number: u64) -> io::Result<()>;
    /// Makes durable which segments there are.
    fn sync_dir(&self) -> io::Result<()>;
    /// Creates a file for damaged bytes at a place. `None` if it exists.
    fn set_aside(&self, number: u64, at: u64) -> io::Result<Option<Arc<dyn DiskFile>>>;
}

pub(super) trait DiskFile: ReadAt {
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes durable what was written.
    fn sync(&self) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
}

/// A directory of the file system, which is locked as long as this exists.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    file: File,
    _lock: File,
}

impl Directory {
    /// Opens the directory, which is created unless it exists. The one above must exist.
    pub(super) fn open(path: &Path) -> Result<Self, QueueError> {
        let created = DirBuilder::new().mode(0o700).create(path);
        match created {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(QueueError::io("create its directory", error));
            }
            Ok(()) => Self::sync_parent(path).map_err(|error| QueueError::io("sync", error))?,
            Err(_) => {}
        }
        let opened = |error| QueueError::io("open its directory", error);
        let lock = options().open(path.join("lock")).map_err(opened)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                return Err(QueueError::InUse(path.to_owned()));
            }
            Err(error) => return Err(QueueError::io("lock its directory", error.into())),
        }
        Ok(Self {
            path: path.to_owned(),
            file: File::open(path).map_err(opened)?,
            _lock: lock,
        })
    }

    fn sync_parent(path: &Path) -> io::Result<()> {
        let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:016x}.log"))
    }
}

/// For the owner alone.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

impl Disk for Directory {
    fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".log"));
            let stem = stem.filter(|stem| stem.len() == 16);
            numbers.extend(stem.and_then(|stem| u64::from_str_radix(stem, 16).ok()));
        }
        Ok(numbers)
    }

    fn open(&self, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.segment(number);
        Ok(Arc::new(
            OpenOptions::new().read(true).write(true).open(path)?,
        ))
    }

    fn create(&self, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.segment(number);
        Ok(Arc::new(options().create_new(true).open(path)?))
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        fs::remove_file(self.segment(number))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn set_aside(&self, number: u64, at: u64) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let path = self.path.join(format!("{number:016x}-{at}.damaged"));
        match options().create_new(true).open(path) {
            Ok(file) => Ok(Some(Arc::new(file))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl ReadAt for File {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, at)
    }
}

impl DiskFile for File {
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
