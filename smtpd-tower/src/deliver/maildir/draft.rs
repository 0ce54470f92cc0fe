use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::PathBuf,
    sync::Arc,
};

use super::{MaildirError, disk, folders::Folders, name::UniqueName, size::Size};

/// A message that is being written. Unless it is kept, its file is removed when it is dropped. Its methods block.
#[derive(Debug)]
pub(super) struct Draft {
    folders: Arc<Folders>,
    name: UniqueName,
    file: File,
    path: PathBuf,
    size: Size,
    kept: bool,
}

impl Draft {
    /// Creates a file in `tmp`.
    pub(super) fn create(folders: Arc<Folders>) -> Result<Self, MaildirError> {
        Self::named(UniqueName::new(), folders)
    }

    fn named(name: UniqueName, folders: Arc<Folders>) -> Result<Self, MaildirError> {
        let path = folders.tmp().join(name.of_draft());
        let file = folders.act("create", &path, || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
        })?;
        let draft = Self {
            folders,
            name,
            file,
            path,
            size: Size::default(),
            kept: false,
        };
        // A mode for `open` would be reduced by the umask.
        if let Some(mode) = draft.folders.file_mode() {
            let set = draft.file.set_permissions(Permissions::from_mode(mode));
            set.map_err(|error| draft.failed("set the mode of", error))?;
        }
        Ok(draft)
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), MaildirError> {
        self.size.add(bytes, self.folders.has_virtual_size());
        let written = self.file.write_all(bytes);
        written.map_err(|error| self.failed("write", error))
    }

    /// Writes the message to disk and moves it into `new`, if it is still wanted then. The move is not durable yet.
    pub(super) fn arrive(mut self, is_wanted: impl FnOnce() -> bool) -> Result<Self, MaildirError> {
        let synced = disk::sync_file(&self.file, &self.path);
        synced.map_err(|error| self.failed("sync", error))?;
        if !is_wanted() {
            return Err(self.failed("deliver", io::ErrorKind::Interrupted.into()));
        }
        let has_virtual_size = self.folders.has_virtual_size();
        let arrived = self.name.of_message(&self.size, has_virtual_size);
        let arrived = self.folders.arrived().join(arrived);
        // It overwrites nothing, because the name is unique.
        self.folders
            .act("rename", &self.path, || disk::rename(&self.path, &arrived))?;
        self.path = arrived;
        Ok(self)
    }

    /// Leaves the message where it is, and returns its short id.
    pub(super) fn keep(mut self) -> String {
        self.kept = true;
        self.name.id().to_owned()
    }

    /// Stores a message of a few bytes as a delivery does, under a name that readers of a maildir ignore, and removes it.
    pub(super) fn probe(folders: &Arc<Folders>) -> Result<(), MaildirError> {
        let mut draft = Self::named(UniqueName::hidden(), folders.clone())?;
        draft.write(b"This message is a probe.\r\n")?;
        let draft = draft.arrive(|| true)?;
        let synced = disk::sync_dir(folders.arrived());
        synced.map_err(|error| MaildirError::new("sync directory", folders.arrived(), error))?;
        fs::remove_file(&draft.path).map_err(|error| draft.failed("remove", error))
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
