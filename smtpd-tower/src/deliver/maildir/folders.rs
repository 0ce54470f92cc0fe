use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use super::{MaildirError, disk, durable::DirSync};

/// The directories of a maildir.
#[derive(Debug)]
pub(super) struct Folders {
    root: PathBuf,
    tmp: PathBuf,
    new: PathBuf,
    cur: PathBuf,
    pub(super) arrivals: DirSync,
    making: Mutex<()>,
}

impl Folders {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            tmp: root.join("tmp"),
            new: root.join("new"),
            cur: root.join("cur"),
            arrivals: DirSync::new(root.join("new")),
            root,
            making: Mutex::default(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn tmp(&self) -> &Path {
        &self.tmp
    }

    pub(super) fn arrived(&self) -> &Path {
        &self.new
    }

    /// Creates the directories that are missing, including the maildir, but nothing above it: if its disk is not mounted, mail
    /// must not be stored on another one.
    pub(super) fn create(&self) -> Result<(), MaildirError> {
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if make(&self.root)? {
            let above = self.root.parent().filter(|path| *path != Path::new(""));
            sync(above.unwrap_or_else(|| Path::new(".")))?;
        }
        make(&self.new)?;
        make(&self.cur)?;
        sync(&self.root)?;
        // The last one: if it exists, the others exist and are durable.
        make(&self.tmp).map(drop)
    }

    /// Runs an action; if a directory is missing, creates it and runs the action once more.
    pub(super) fn act<T>(
        &self,
        action: &'static str,
        path: &Path,
        act: impl Fn() -> io::Result<T>,
    ) -> Result<T, MaildirError> {
        let result = match act() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create()?;
                act()
            }
            result => result,
        };
        result.map_err(|error| MaildirError::new(action, path, error))
    }

    /// Removes the files of `tmp` that were last written before `now - older_than`, and counts them.
    pub(super) fn clean_tmp(
        &self,
        older_than: Duration,
        now: SystemTime,
    ) -> Result<usize, MaildirError> {
        let failed = |error| MaildirError::new("clean", &self.tmp, error);
        let files = match fs::read_dir(&self.tmp) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            files => files.map_err(failed)?,
        };
        let mut removed = 0;
        for file in files {
            let file = file.map_err(failed)?;
            match remove_stale(&file, older_than, now) {
                Ok(true) => removed += 1,
                Ok(false) => {}
                // Its delivery has just ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(MaildirError::new("remove", &file.path(), error)),
            }
        }
        Ok(removed)
    }
}

fn remove_stale(file: &fs::DirEntry, older_than: Duration, now: SystemTime) -> io::Result<bool> {
    let metadata = file.metadata()?;
    let age = now.duration_since(metadata.modified()?).unwrap_or_default();
    let stale = metadata.is_file() && age >= older_than;
    if stale {
        fs::remove_file(file.path())?;
    }
    Ok(stale)
}

/// Makes a directory for its owner alone. Returns `false` if it exists.
fn make(path: &Path) -> Result<bool, MaildirError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        Err(error) => Err(MaildirError::new("make directory", path, error)),
    }
}

fn sync(path: &Path) -> Result<(), MaildirError> {
    disk::sync_dir(path).map_err(|error| MaildirError::new("sync directory", path, error))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn directories_are_made_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(dir.path().join("mail"));
        folders.create().unwrap();
        folders.create().unwrap();
        for path in [folders.root(), &folders.tmp, &folders.new, &folders.cur] {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700, "{}", path.display());
        }
    }

    #[test]
    fn nothing_is_made_if_the_directory_above_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("not mounted").join("mail");
        let error = Folders::new(root.clone()).create().unwrap_err();
        assert_eq!(error.path(), root);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_old_files_are_cleaned() {
        const HOURS_36: Duration = Duration::from_secs(36 * 60 * 60);
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(dir.path().join("mail"));
        let now = SystemTime::now();
        assert_eq!(folders.clean_tmp(HOURS_36, now).unwrap(), 0);
        folders.create().unwrap();
        fs::create_dir(folders.tmp.join("directory")).unwrap();
        for (name, age) in [("old", HOURS_36), ("young", HOURS_36 / 2)] {
            let file = File::create(folders.tmp.join(name)).unwrap();
            file.set_modified(now - age).unwrap();
        }
        assert_eq!(folders.clean_tmp(HOURS_36, now).unwrap(), 1);
        assert!(!folders.tmp.join("old").exists());
        assert!(folders.tmp.join("young").exists() && folders.tmp.join("directory").exists());
    }
}
