use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

/// An error of storing a message or creating a maildir. Its text names a path: it is for the log only.
#[derive(Debug)]
pub struct MaildirError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl MaildirError {
    pub(super) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Returns the file or directory at fault.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        self.source.kind() == io::ErrorKind::StorageFull
    }

    /// Returns whether the quota of the maildir's owner is used up.
    pub fn is_over_quota(&self) -> bool {
        self.source.kind() == io::ErrorKind::QuotaExceeded
    }
}

impl fmt::Display for MaildirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.action, self.path.display())
    }
}

impl Error for MaildirError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}
