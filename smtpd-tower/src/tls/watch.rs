//! Detects changes of files.

use std::{
    fs::Metadata,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{task, time};

use super::{TlsConfig, TlsError};

impl TlsConfig {
    /// Checks the files at an interval, [reloads](Self::reload) them when one of them has changed, and calls `notify` with this
    /// configuration and the result. It ends when the last other clone of this configuration is dropped, so `notify` must not
    /// keep a clone.
    ///
    /// A file has changed if its time, its length or the file behind its name has, which includes a link to another file. If
    /// reading fails, as between a new certificate and its new key, the old ones stay in use, and the files are read again at
    /// their next change. For a configuration without files, it ends at once.
    ///
    /// ```no_run
    /// use smtpd_tower::tls::{TlsConfig, TlsError};
    /// use std::time::Duration;
    ///
    /// # async fn start() -> Result<(), TlsError> {
    /// let tls =
    ///     TlsConfig::from_pem_files("/etc/smtpd/cert.pem", "/etc/smtpd/key.pem")?;
    /// tokio::spawn(tls.watch(Duration::from_secs(60), |tls, result| match result {
    ///     Ok(()) => println!("new certificates; warnings: {:?}", tls.warnings()),
    ///     Err(error) => eprintln!("the old certificates stay: {error}"),
    /// }));
    /// # Ok(()) }
    /// ```
    pub fn watch<F>(
        &self,
        interval: Duration,
        mut notify: F,
    ) -> impl Future<Output = ()> + Send + use<F>
    where
        F: FnMut(&Self, Result<(), TlsError>) + Send,
    {
        let mut seen = self.current().stamps().to_vec();
        let shared = Arc::downgrade(&self.0);
        async move {
            while !seen.is_empty() {
                time::sleep(interval).await;
                let Some(tls) = shared.upgrade().map(Self) else {
                    return;
                };
                let before = seen.clone();
                let looking = tls.clone();
                let looked = task::spawn_blocking(move || looking.reload_changed(&before)).await;
                let Ok((stamps, result)) = looked else {
                    return; // the runtime ends
                };
                seen = stamps;
                if let Some(result) = result {
                    notify(&tls, result);
                }
            }
        }
    }

    /// Reloads the files if they have changed since `seen`, and returns their current state.
    fn reload_changed(&self, seen: &[Stamp]) -> (Vec<Stamp>, Option<Result<(), TlsError>>) {
        // Taken before the files are read, so that changes in between are noticed the next time.
        let current = self.current();
        let stamps = current.look();
        let changed = stamps != seen && stamps != current.stamps();
        (stamps, changed.then(|| self.reload()))
    }
}

/// Identifies the state of a file; `None` if its metadata cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<(SystemTime, u64, u64)>);

impl Stamp {
    pub(super) fn of(path: &Path) -> Self {
        let facts = |file: Metadata| Some((file.modified().ok()?, file.len(), number(&file)));
        Self(path.metadata().ok().and_then(facts))
    }
}

#[cfg(unix)]
fn number(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(file)
}

#[cfg(not(unix))]
fn number(_: &Metadata) -> u64 {
    0
}
