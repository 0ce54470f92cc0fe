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
        num::NonZero,
        path::PathBuf,
        sync::{Arc, Mutex, mpsc},
        time::{Duration, Instant},
    };

    use smtpd_core::{envelope::Envelope, reply::Reply};
    use tempfile::TempDir;
    use tokio::{runtime::Builder, sync::mpsc::unbounded_channel, time::timeout};
    use tokio_test::{assert_pending, task};
    use tower::ServiceExt;

    use super::*;
    use crate::{
        body::{Body, incoming},
        deliver::Maildir,
        disk::DiskPermits,
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

        fn permits(mut self, permits: &DiskPermits) -> Self {
            self.maildir = self.maildir.clone().disk_permits(permits.clone());
            self
        }

        fn deliver(&self) -> impl Future<Output = Option<Reply>> + 'static {
            self.deliver_body(Body::from("Hello\r\n"))
        }

        fn deliver_body(&self, body: Body) -> impl Future<Output = Option<Reply>> + 'static {
            let data = Data::new(Envelope::default(), body);
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

        fn count(&self, folder: &str) -> usize {
            let folder = self.dir.path().join("mail").join(folder);
            fs::read_dir(folder).map_or(0, Iterator::count)
        }

        fn stored(&self) -> usize {
            self.count("new")
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

    fn permits(jobs: usize) -> DiskPermits {
        DiskPermits::new(NonZero::new(jobs).unwrap())
    }

    /// Waits until that is so. Only a fault makes it wait for long.
    async fn until(is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < HANGS);
            tokio::task::yield_now().await;
        }
    }

    /// Makes calls hang until the sender is dropped, and tells of each.
    fn hanging(
        which: impl Fn(Call, &Path) -> bool + Send + Sync + 'static,
    ) -> (
        Watched,
        tokio::sync::mpsc::UnboundedReceiver<()>,
        mpsc::Sender<()>,
    ) {
        let (entered, enters) = unbounded_channel();
        let (end, ends) = mpsc::channel::<()>();
        let ends = Mutex::new(ends);
        let watched = Watched::with(move |call, path| {
            if which(call, path) {
                let _ = entered.send(());
                let _ = ends.lock().unwrap().recv();
            }
            Ok(())
        });
        (watched, enters, end)
    }

    #[test]
    fn logins_and_look_ups_do_not_wait_behind_deliveries_to_a_disk_that_hangs() {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(3)
            .build();
        runtime.unwrap().block_on(async {
            let (watched, mut enters, end) = hanging(|call, _| call == Call::SyncFile);
            let watched = watched.permits(&permits(2));
            let deliveries: Vec<_> = (0..20).map(|_| tokio::spawn(watched.deliver())).collect();
            enters.recv().await.unwrap();
            // Another one has its thread as well, or will soon.
            until(|| watched.count("tmp") == 2).await;
            let login = tokio::task::spawn_blocking(|| ());
            timeout(HANGS, login)
                .await
                .expect("a login waits for mail")
                .unwrap();
            let host = tokio::net::lookup_host("localhost:25");
            let host = timeout(HANGS, host).await;
            assert!(host.expect("a look-up waits for mail").unwrap().count() > 0);
            assert!(deliveries.iter().all(|delivery| !delivery.is_finished()));
            assert_eq!(
                watched.count("tmp"),
                2,
                "more at once than there are permits"
            );
            drop(end);
            for delivery in deliveries {
                assert!(delivery.await.unwrap().unwrap().is_positive());
            }
            assert_eq!(watched.stored(), 20);
        });
    }

    #[tokio::test]
    async fn deliveries_that_share_an_fsync_need_no_thread_meanwhile() {
        let permits = permits(2);
        let (slow, mut enters, end) =
            hanging(|call, path| call == Call::SyncDir && path.ends_with("new"));
        let (slow, other) = (slow.permits(&permits), Watched::new().permits(&permits));
        let deliveries: Vec<_> = (0..10).map(|_| tokio::spawn(slow.deliver())).collect();
        enters.recv().await.unwrap();
        until(|| slow.stored() == 10).await;
        assert!(
            timeout(HANGS, other.deliver())
                .await
                .unwrap()
                .unwrap()
                .is_positive()
        );
        assert!(deliveries.iter().all(|delivery| !delivery.is_finished()));
        drop(end);
        for delivery in deliveries {
            assert!(delivery.await.unwrap().unwrap().is_positive());
        }
        let calls = slow.calls().into_iter();
        // That of the first, and one for all the others.
        assert_eq!(calls.filter(|call| call == "SyncDir mail/new").count(), 2);
        until(|| permits.available() == 2).await;
    }

    #[tokio::test]
    async fn a_maildir_that_hangs_keeps_the_deliveries_to_another_waiting() {
        let permits = permits(4);
        let (slow, mut enters, end) = hanging(|call, _| call == Call::SyncFile);
        let (slow, other) = (slow.permits(&permits), Watched::new().permits(&permits));
        let deliveries: Vec<_> = (0..10).map(|_| tokio::spawn(slow.deliver())).collect();
        for _ in 0..3 {
            enters.recv().await.unwrap();
        }
        for _ in 0..5 {
            let delivered = timeout(HANGS, other.deliver()).await;
            assert!(delivered.unwrap().unwrap().is_positive());
        }
        assert!(deliveries.iter().all(|delivery| !delivery.is_finished()));
        drop(end);
        for delivery in deliveries {
            assert!(delivery.await.unwrap().unwrap().is_positive());
        }
        until(|| permits.available() == 4).await;
    }

    #[tokio::test]
    async fn a_delivery_that_is_dropped_while_it_waits_for_a_permit_leaves_nothing() {
        // Nothing of the message is written yet, or a part of it.
        for size in [10, 100 * 1024] {
            let permits = permits(1);
            let watched = Watched::new().permits(&permits);
            watched.maildir.create().await.unwrap();
            let (feed, body) = incoming();
            let mut delivery = task::spawn(watched.deliver_body(body));
            assert_pending!(delivery.poll());
            feed.push(vec![b'x'; size].into()).await;
            assert_pending!(delivery.poll());
            let is_large = size > 64 * 1024;
            until(|| permits.available() == 1).await;
            assert_eq!(watched.count("tmp"), usize::from(is_large));
            assert_pending!(delivery.poll());

            let (end, ends) = mpsc::channel::<()>();
            let mut other = task::spawn(permits.run(move || ends.recv()));
            assert_pending!(other.poll());
            feed.finish(Ok(()));
            assert_pending!(delivery.poll());
            assert_pending!(delivery.poll());
            drop(delivery);
            drop(end);
            other.await.unwrap().unwrap_err();
            until(|| permits.available() == 1 && watched.count("tmp") == 0).await;
            assert_eq!(watched.stored(), 0);
        }
    }

    #[tokio::test]
    async fn a_delivery_that_is_dropped_while_the_disk_works_leaves_nothing() {
        let permits = permits(1);
        let (watched, mut enters, end) = hanging(|call, _| call == Call::SyncFile);
        let watched = watched.permits(&permits);
        let delivery = tokio::spawn(watched.deliver());
        enters.recv().await.unwrap();
        delivery.abort();
        assert!(delivery.await.unwrap_err().is_cancelled());
        assert_eq!(permits.available(), 0, "the disk still works");
        drop(end);
        until(|| permits.available() == 1 && watched.count("tmp") == 0).await;
        assert_eq!(watched.stored(), 0);
    }

    #[tokio::test]
    async fn a_delivery_that_is_dropped_while_another_syncs_for_it_leaves_nothing() {
        let permits = permits(2);
        let (watched, mut enters, end) =
            hanging(|call, path| call == Call::SyncDir && path.ends_with("new"));
        let watched = watched.permits(&permits);
        let first = tokio::spawn(watched.deliver());
        enters.recv().await.unwrap();
        let second = tokio::spawn(watched.deliver());
        until(|| watched.stored() == 2).await;
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        until(|| watched.stored() == 1).await;
        drop(end);
        assert!(first.await.unwrap().unwrap().is_positive());
        until(|| permits.available() == 2).await;
        assert_eq!((watched.stored(), watched.count("tmp")), (1, 0));
    }

    #[tokio::test]
    async fn create_finds_out_that_no_message_could_be_stored() {
        const EXDEV: i32 = 18;
        for (failing, action) in [
            (Call::SyncFile, "sync"),
            (Call::Rename, "rename"),
            (Call::SyncDir, "sync directory"),
        ] {
            let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let failed = fails.clone();
            let watched = Watched::with(move |call, _| {
                match call == failing && failed.load(std::sync::atomic::Ordering::SeqCst) {
                    true => Err(io::Error::from_raw_os_error(EXDEV)),
                    false => Ok(()),
                }
            });
            watched.maildir.create().await.unwrap();
            let probe = watched.calls();
            let probe: Vec<_> = probe
                .iter()
                .filter_map(|call| call.split(' ').next())
                .collect();
            let expected = ["SyncDir", "SyncDir", "SyncFile", "Rename", "SyncDir"];
            assert_eq!(probe, expected);
            fails.store(true, std::sync::atomic::Ordering::SeqCst);
            let error = watched.maildir.create().await.unwrap_err();
            // The directories are there, and are synced again.
            assert!(
                error.to_string().starts_with(&format!("cannot {action} ")),
                "{error}"
            );
            assert_eq!((watched.stored(), watched.count("tmp")), (0, 0));
        }
    }

    #[tokio::test]
    async fn readers_of_a_maildir_do_not_see_the_probe() {
        let seen = Arc::<Mutex<Vec<PathBuf>>>::default();
        let paths = seen.clone();
        let watched = Watched::with(move |call, path| {
            if call != Call::SyncDir {
                paths.lock().unwrap().push(path.to_owned());
            }
            Ok(())
        });
        watched.maildir.create().await.unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 2);
        for path in &*seen {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with('.'), "{name}");
        }
    }
}
