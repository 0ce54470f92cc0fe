use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use super::{MaildirError, dir_sync::DirSync, disk};

/// The directories of a maildir, and what is to be said of the files in them. Clones share the work on them.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    root: PathBuf,
    tmp: PathBuf,
    new: PathBuf,
    cur: PathBuf,
    pub(super) arrivals: Arc<DirSync>,
    making: Arc<Mutex<()>>,
    file_mode: Option<u32>,
    folder_mode: Option<u32>,
    has_virtual_size: bool,
}

/// The bits of a mode that can be set.
const MODE: u32 = 0o7777;

/// What the owner of a maildir may always do: without it, no message could be delivered.
const OWNER_OF_FILE: u32 = 0o600;
const OWNER_OF_FOLDER: u32 = 0o700;

/// New files and directories within a directory that has this bit belong to its group.
const SETGID: u32 = 0o2000;

impl Folders {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            tmp: root.join("tmp"),
            new: root.join("new"),
            cur: root.join("cur"),
            arrivals: Arc::new(DirSync::new(root.join("new"))),
            root,
            making: Arc::default(),
            file_mode: None,
            folder_mode: None,
            has_virtual_size: false,
        }
    }

    pub(super) const fn set_file_mode(&mut self, mode: u32) {
        self.file_mode = Some(mode & MODE | OWNER_OF_FILE);
    }

    pub(super) const fn set_folder_mode(&mut self, mode: u32) {
        self.folder_mode = Some(mode & MODE | OWNER_OF_FOLDER);
    }

    pub(super) const fn set_virtual_size(&mut self, on: bool) {
        self.has_virtual_size = on;
    }

    /// Returns the mode of files, if it was set.
    pub(super) const fn file_mode(&self) -> Option<u32> {
        self.file_mode
    }

    pub(super) const fn has_virtual_size(&self) -> bool {
        self.has_virtual_size
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
        if self.make(&self.root)? {
            let above = self.root.parent().filter(|path| *path != Path::new(""));
            sync(above.unwrap_or_else(|| Path::new(".")))?;
        }
        self.make(&self.new)?;
        self.make(&self.cur)?;
        sync(&self.root)?;
        // The last one: if it exists, the others exist and are durable.
        self.make(&self.tmp).map(drop)
    }

    /// Makes a directory. Returns `false` if it exists.
    fn make(&self, path: &Path) -> Result<bool, MaildirError> {
        match DirBuilder::new().mode(OWNER_OF_FOLDER).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
                return Ok(false);
            }
            Err(error) => return Err(MaildirError::new("make directory", path, error)),
        }
        if let Some(mode) = self.folder_mode
            && let Err(error) = set_mode(path, mode)
        {
            // If it stayed, it would be taken for one whose mode somebody else has chosen.
            let _ = fs::remove_dir(path);
            return Err(MaildirError::new("set the mode of", path, error));
        }
        Ok(true)
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

/// Sets the mode of a new directory. It keeps the group that it has from the directory above.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let directory = File::open(path)?;
    let inherited = directory.metadata()?.permissions().mode() & SETGID;
    directory.set_permissions(Permissions::from_mode(mode | inherited))
}

fn sync(path: &Path) -> Result<(), MaildirError> {
    disk::sync_dir(path).map_err(|error| MaildirError::new("sync directory", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_for_their_owner_alone_unless_a_mode_is_set() {
        // The bits of the directory above, the mode that is set, and that of the new directories.
        for (above, set, expected) in [
            (0o755, None, 0o700),
            (0o755, Some(0o750), 0o750),
            (0o755, Some(0o2770), 0o2770),
            (0o2770, None, 0o2700),
            (0o2770, Some(0o770), 0o2770),
            (0o2770, Some(0o1_000_050), 0o2750),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), Permissions::from_mode(above)).unwrap();
            let mut folders = Folders::new(dir.path().join("mail"));
            if let Some(mode) = set {
                folders.set_folder_mode(mode);
            }
            folders.create().unwrap();
            folders.create().unwrap();
            for path in [folders.root(), &folders.tmp, &folders.new, &folders.cur] {
                let mode = path.metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o7777, expected, "{}", path.display());
            }
        }
    }

    #[test]
    fn a_directory_that_exists_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let mut folders = Folders::new(dir.path().to_owned());
        let made = dir.path().join("cur");
        DirBuilder::new().mode(0o711).create(&made).unwrap();
        folders.set_folder_mode(0o770);
        folders.create().unwrap();
        let mode = made.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o711);
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
