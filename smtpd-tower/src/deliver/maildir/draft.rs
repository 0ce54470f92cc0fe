use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{Arc, Weak},
};

use super::{MaildirError, disk, folders::Folders, name::UniqueName};

/// A message that is being written. Unless it is committed, its file is removed when it is dropped. Its methods block.
#[derive(Debug)]
pub(super) struct Draft {
    folders: Arc<Folders>,
    name: UniqueName,
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Draft {
    /// Creates a file in `tmp`.
    pub(super) fn create(folders: Arc<Folders>) -> Result<Self, MaildirError> {
        let name = UniqueName::new();
        let path = folders.tmp().join(name.file_name());
        let file = folders.act("create", &path, || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
        })?;
        Ok(Self {
            folders,
            name,
            file,
            path,
            kept: false,
        })
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), MaildirError> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| self.failed("write", error))
    }

    /// Moves the message into `new` and makes it durable, unless the caller has gone. Returns its short id.
    pub(super) fn commit(mut self, wanted: &Weak<()>) -> Result<String, MaildirError> {
        let synced = disk::sync_file(&self.file, &self.path);
        synced.map_err(|error| self.failed("sync", error))?;
        if wanted.strong_count() == 0 {
            return Err(self.failed("deliver", io::ErrorKind::Interrupted.into()));
        }
        let arrived = self.folders.arrived().join(self.name.file_name());
        // It overwrites nothing, because the name is unique.
        self.folders
            .act("rename", &self.path, || disk::rename(&self.path, &arrived))?;
        self.path = arrived;
        // After a crash, the message must exist under its new name before the client receives 250 (RFC 5321 section 6.1).
        let mark = self.folders.arrivals.mark();
        let synced = self.folders.arrivals.sync(mark);
        synced.map_err(|error| self.failed("sync the directory of", error))?;
        self.kept = true;
        Ok(self.name.id().to_owned())
    }

    fn failed(&self, action: &'static str, error: io::Error) -> MaildirError {
        MaildirError::new(action, &self.path, error)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            // If it cannot be removed now, `clean_tmp` does so.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::maildir::durable::DirSync;

    #[test]
    fn a_move_that_is_not_durable_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let mut folders = Folders::new(dir.path().to_owned());
        folders.arrivals = DirSync::new(dir.path().join("missing"));
        let mut draft = Draft::create(Arc::new(folders)).unwrap();
        draft.write(b"message").unwrap();
        let wanted = Arc::new(());
        let error = draft.commit(&Arc::downgrade(&wanted)).unwrap_err();
        assert!(error.path().starts_with(dir.path().join("new")));
        for folder in ["tmp", "new"] {
            let mut left = fs::read_dir(dir.path().join(folder)).unwrap();
            assert!(left.next().is_none(), "{folder}");
        }
    }
}
