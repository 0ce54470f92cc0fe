//! The calls that decide whether a message survives a crash. All of them are here, so that the tests can see their order and make
//! them fail.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Writes the content of a file to disk.
pub(super) fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    called(Call::SyncFile, path)?;
    file.sync_all()
}

/// Moves a file. After a crash it may have either name, unless the directory was synced.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    called(Call::Rename, to)?;
    fs::rename(from, to)
}

/// Writes the entries of a directory to disk.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    called(Call::SyncDir, path)?;
    File::open(path)?.sync_all()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    SyncFile,
    Rename,
    SyncDir,
}

#[cfg(not(test))]
#[allow(clippy::unnecessary_wraps, reason = "in tests it can fail")]
const fn called(_: Call, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use tests::called;

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        sync::{Arc, Mutex, mpsc},
        time::Duration,
    };

    use smtpd_core::{Envelope, Reply};
    use tempfile::TempDir;
    use tokio_test::{assert_pending, task};
    use tower::ServiceExt;

    use super::*;
    use crate::{
        body::Body,
        deliver::Maildir,
        phase::{Data, Request},
        session::Session,
    };

    /// Far longer than any call takes.
    const HANGS: Duration = Duration::from_secs(30);

    /// A hook for each call below a directory.
    type Hook = Arc<dyn Fn(Call, &Path) -> io::Result<()> + Send + Sync>;

    static HOOKS: Mutex<Vec<(PathBuf, Hook)>> = Mutex::new(Vec::new());

    pub(super) fn called(call: Call, path: &Path) -> io::Result<()> {
        let hooks = HOOKS.lock().unwrap();
        let hook = hooks.iter().find(|(root, _)| path.starts_with(root));
        let hook = hook.map(|(_, hook)| hook.clone());
        drop(hooks);
        hook.map_or(Ok(()), |hook| hook(call, path))
    }

    /// A maildir `mail` that does not exist yet, and its calls.
    struct Watched {
        dir: TempDir,
        maildir: Maildir,
        calls: Arc<Mutex<Vec<String>>>,
    }

    impl Watched {
        fn new() -> Self {
            Self::with(|_, _| Ok(()))
        }

        fn with(hook: impl Fn(Call, &Path) -> io::Result<()> + Send + Sync + 'static) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let calls = Arc::<Mutex<Vec<String>>>::default();
            let (noted, root) = (calls.clone(), dir.path().to_owned());
            let noting = move |call, path: &Path| {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                noted.lock().unwrap().push(format!("{call:?} {name}"));
                hook(call, path)
            };
            let hook = (dir.path().to_owned(), Arc::new(noting) as Hook);
            HOOKS.lock().unwrap().push(hook);
            let maildir = Maildir::new(dir.path().join("mail"));
            Self {
                dir,
                maildir,
                calls,
            }
        }

        fn deliver(&self) -> impl Future<Output = Option<Reply>> + 'static {
            let data = Data::new(Envelope::default(), Body::from("Hello\r\n"));
            let request = Request::new(Session::local(), data);
            let answer = self.maildir.clone().oneshot(request);
            async { answer.await.ok() }
        }

        /// Returns the calls since the last time, with the unique name of the message removed.
        fn calls(&self) -> Vec<String> {
            let calls = std::mem::take(&mut *self.calls.lock().unwrap());
            let is_unique = |name: &str| name.starts_with(|c: char| c.is_ascii_digit());
            let shorten = |call: String| match call.rsplit_once('/') {
                Some((folder, name)) if is_unique(name) => format!("{folder}/*"),
                _ => call,
            };
            calls.into_iter().map(shorten).collect()
        }

        fn stored(&self) -> usize {
            fs::read_dir(self.dir.path().join("mail/new")).map_or(0, Iterator::count)
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            let mut hooks = HOOKS.lock().unwrap();
            hooks.retain(|(root, _)| root != self.dir.path());
        }
    }

    const DELIVERY: [&str; 3] = [
        "SyncFile mail/tmp/*",
        "Rename mail/new/*",
        "SyncDir mail/new",
    ];

    #[tokio::test]
    async fn a_message_is_on_the_disk_before_its_reply() {
        let watched = Watched::new();
        assert!(watched.deliver().await.unwrap().is_positive());
        // The directory above holds the maildir, and the maildir its folders.
        let made = ["SyncDir ", "SyncDir mail"];
        assert_eq!(watched.calls(), [&made[..], &DELIVERY].concat());
        assert!(watched.deliver().await.unwrap().is_positive());
        assert_eq!(watched.calls(), DELIVERY);
    }

    #[tokio::test]
    async fn no_reply_comes_before_the_last_sync_has_ended() {
        let (entered, enters) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let ends = Mutex::new(ends);
        let watched = Watched::with(move |call, path| {
            if call == Call::SyncDir && path.ends_with("new") {
                entered.send(()).unwrap();
                let _ = ends.lock().unwrap().recv();
            }
            Ok(())
        });
        let mut delivery = task::spawn(watched.deliver());
        assert_pending!(delivery.poll());
        let waiting = tokio::task::spawn_blocking(move || enters.recv_timeout(HANGS));
        waiting.await.unwrap().unwrap();
        for _ in 0..100 {
            assert_pending!(delivery.poll());
            tokio::task::yield_now().await;
        }
        drop(end);
        assert!(delivery.await.unwrap().is_positive());
    }

    #[tokio::test]
    async fn nothing_is_acknowledged_after_a_call_that_failed() {
        for failing in 0..5 {
            let count = Mutex::new(0);
            let watched = Watched::with(move |_, _| {
                let mut count = count.lock().unwrap();
                *count += 1;
                match *count - 1 == failing {
                    true => Err(io::Error::from_raw_os_error(5)),
                    false => Ok(()),
                }
            });
            let reply = watched.deliver().await;
            assert!(reply.is_none(), "{failing}: {reply:?}");
            assert_eq!(watched.calls().len(), failing + 1);
            assert_eq!(watched.stored(), 0, "{failing}");
        }
    }
}
