//! Permits for work on disks: [`DiskPermits`].

mod pool;

#[cfg(feature = "spool")]
use std::pin::Pin;
use std::{
    io,
    num::NonZero,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

#[cfg(any(unix, feature = "spool"))]
use tokio::runtime::Handle;
use tokio::task;

use self::pool::{Permit, Pool, User};
use crate::meter::waits_for_disk;

/// A limit on how many jobs work on disks at a time, such as the fsyncs of deliveries. Clones share it.
///
/// Such a job blocks a thread. tokio has 512 of these by default, and also compares passwords and looks up host names there: if
/// deliveries to a slow disk could take all of them, every login would wait behind mail. A job that waits for its permit needs no
/// thread.
///
/// The default is [`shared`](Self::shared): all [`Maildir`](crate::deliver::Maildir)s and all messages that are spooled share 64
/// permits. Keep the sum of all limits below the runtime's
/// [`max_blocking_threads`](tokio::runtime::Builder::max_blocking_threads).
///
/// # Fairness
///
/// A disk that hangs must not stop the deliveries to others, so no user of the permits can have all of them. Each `Maildir` with
/// its clones is a user, so is what is spooled, and [`apart`](Self::apart) makes another one for deliveries of your own. A user
/// may have three times as many permits as are free: one that is alone has up to three quarters of them, a second one three
/// quarters of the rest, and so on. Users whose jobs wait take turns, and the jobs of one begin in the order in which they were
/// submitted. With fewer than four permits, one user can have all.
///
/// A limit of its own for a slow disk keeps it apart altogether.
///
/// ```
/// use std::num::NonZero;
///
/// use smtpd_tower::{deliver::Maildir, disk::DiskPermits};
///
/// let archive = DiskPermits::new(NonZero::new(16).unwrap());
/// let incoming = Maildir::new("/archive/in").disk_permits(archive.clone());
/// let outgoing = Maildir::new("/archive/out").disk_permits(archive);
/// ```
///
/// A delivery of your own uses it in place of `spawn_blocking`:
///
/// ```
/// use smtpd_tower::disk::DiskPermits;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("message");
/// DiskPermits::shared().run(move || std::fs::write(path, "Hello\r\n")).await??;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DiskPermits {
    pool: Arc<Pool>,
    user: User,
}

/// One of the permits, until it is dropped.
#[derive(Debug)]
pub(crate) struct DiskPermit {
    _permit: Permit,
}

/// A job whose result is awaited by a future that is polled by hand.
#[cfg(feature = "spool")]
pub(crate) type Job<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl DiskPermits {
    /// The number of permits that the process shares.
    const SHARED: usize = 64;

    /// Creates a limit of so many jobs at a time.
    pub fn new(jobs: NonZero<usize>) -> Self {
        Self {
            pool: Pool::new(jobs.get()),
            user: User(0),
        }
    }

    /// Returns the limit that all disk work of this process shares by default: 64 jobs at a time.
    pub fn shared() -> Self {
        static SHARED: LazyLock<Arc<Pool>> = LazyLock::new(|| Pool::new(DiskPermits::SHARED));
        Self {
            pool: SHARED.clone(),
            user: User(0),
        }
    }

    /// Returns the same permits for another user, such as a directory that may be on another disk: they have the same limit, but
    /// neither of them can [have all](Self#fairness). Clones of the result are the same user.
    #[must_use]
    pub fn apart(&self) -> Self {
        static USERS: AtomicU64 = AtomicU64::new(1);
        Self {
            pool: self.pool.clone(),
            user: User(USERS.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Returns how many permits are free.
    pub fn available(&self) -> usize {
        self.pool.free()
    }

    /// Waits for a permit, and runs a job that blocks in another thread.
    ///
    /// Dropping the future cancels the job, unless it has begun. A job that has begun holds its permit until it ends.
    ///
    /// # Errors
    ///
    /// Returns an error if the job panics, or the runtime is shutting down.
    ///
    /// # Panics
    ///
    /// The future panics outside of a tokio runtime.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.run_holding(|permit| {
            let result = job();
            drop(permit);
            result
        })
        .await
    }

    /// Like [`run`](Self::run), but leaves the permit to the job, which may go on with it in another one.
    pub(crate) async fn run_holding<T: Send + 'static>(
        &self,
        job: impl FnOnce(DiskPermit) -> T + Send + 'static,
    ) -> io::Result<T> {
        let permit = match self.pool.acquire(self.user) {
            Ok(permit) => Some(permit),
            Err(waiting) => {
                let _waits = waits_for_disk();
                waiting.granted().await
            }
        };
        // There always is one.
        let permit = permit.ok_or_else(|| io::Error::other("no permit for the disk"))?;
        let permit = DiskPermit { _permit: permit };
        let done = task::spawn_blocking(move || job(permit)).await;
        done.map_err(io::Error::other)
    }

    /// Drops a value as a job of its own if there is a runtime for that, otherwise at once.
    #[cfg(any(unix, feature = "spool"))]
    fn dispose<T: Send + 'static>(&self, value: T) {
        if let Ok(runtime) = Handle::try_current() {
            let permits = self.clone();
            // A runtime that shuts down drops the task, and the value with it.
            runtime.spawn(async move { permits.run(move || drop(value)).await });
        }
    }
}

impl Default for DiskPermits {
    /// Calls [`shared`](Self::shared).
    fn default() -> Self {
        Self::shared()
    }
}

/// A value that works on a disk when it is dropped, such as a temporary file. It is dropped as a job: a slow disk must not hold
/// up a thread of the runtime.
#[cfg(any(unix, feature = "spool"))]
#[derive(Debug)]
pub(crate) struct OnDisk<T: Send + 'static> {
    /// Taken only by what consumes this.
    value: Option<T>,
    permits: DiskPermits,
}

#[cfg(any(unix, feature = "spool"))]
impl<T: Send + 'static> OnDisk<T> {
    pub(crate) const fn new(value: T, permits: DiskPermits) -> Self {
        Self {
            value: Some(value),
            permits,
        }
    }

    /// Takes the value out, for a job that works on it. There always is one.
    pub(crate) fn into_inner(mut self) -> Option<T> {
        self.value.take()
    }

    #[cfg(feature = "spool")]
    pub(crate) const fn get_mut(&mut self) -> Option<&mut T> {
        self.value.as_mut()
    }
}

#[cfg(any(unix, feature = "spool"))]
impl<T: Send + 'static> Drop for OnDisk<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            self.permits.dispose(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        thread::{self, ThreadId},
    };

    use tokio::sync::oneshot;
    use tokio_test::{assert_pending, task::spawn};

    use super::*;

    fn permits(jobs: usize) -> DiskPermits {
        DiskPermits::new(NonZero::new(jobs).unwrap())
    }

    #[tokio::test]
    async fn jobs_wait_in_order_and_give_their_permits_back() {
        let permits = permits(1);
        let (end, ends) = mpsc::channel::<()>();
        let running = tokio::spawn({
            let permits = permits.clone();
            async move { permits.run(move || ends.recv()).await }
        });
        while permits.available() > 0 {
            tokio::task::yield_now().await;
        }
        let (order, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let mut waiting: Vec<_> = (0..3)
            .map(|number| {
                let (permits, order) = (permits.clone(), order.clone());
                spawn(async move { permits.run(move || order.send(number)).await })
            })
            .collect();
        waiting
            .iter_mut()
            .for_each(|job| assert_pending!(job.poll()));
        // One that gives up is not in the way of the others.
        drop(waiting.remove(1));
        drop(end);
        running.await.unwrap().unwrap().unwrap_err();
        for job in waiting {
            job.await.unwrap().unwrap();
        }
        drop(order);
        assert_eq!((begun.recv().await, begun.recv().await), (Some(0), Some(2)));
        assert_eq!(begun.recv().await, None);
        assert_eq!(permits.available(), 1);
    }

    #[tokio::test]
    async fn a_job_that_panics_costs_no_permit() {
        let permits = permits(1);
        for _ in 0..2 {
            let done: io::Result<()> = permits.run(|| panic!("on purpose")).await;
            done.unwrap_err();
        }
        assert_eq!(permits.run(|| 1).await.unwrap(), 1);
    }

    /// A job cannot be cancelled once it has begun: until it ends, it counts.
    #[tokio::test]
    async fn a_job_whose_caller_has_gone_holds_its_permit_until_it_ends() {
        let permits = permits(1);
        let (end, ends) = mpsc::channel::<()>();
        let mut job = spawn(permits.run(move || ends.recv()));
        assert_pending!(job.poll());
        drop(job);
        for _ in 0..100 {
            tokio::task::yield_now().await;
            assert_eq!(permits.available(), 0);
        }
        drop(end);
        assert_eq!(permits.run(|| 1).await.unwrap(), 1);
    }

    struct Witness(Option<oneshot::Sender<ThreadId>>);

    impl Drop for Witness {
        fn drop(&mut self) {
            let sender = self.0.take().unwrap();
            let _ = sender.send(thread::current().id());
        }
    }

    #[tokio::test]
    async fn a_slow_disk_holds_up_no_thread_of_the_runtime_when_a_file_is_dropped() {
        let (sender, dropped) = oneshot::channel();
        drop(OnDisk::new(Witness(Some(sender)), permits(1)));
        assert_ne!(dropped.await.unwrap(), thread::current().id());
    }

    #[test]
    fn without_a_runtime_a_value_is_dropped_at_once() {
        let (sender, dropped) = oneshot::channel();
        drop(OnDisk::new(Witness(Some(sender)), permits(1)));
        assert_eq!(dropped.blocking_recv().unwrap(), thread::current().id());
        // Nor is it forgotten if the runtime ends before the job.
        let (sender, dropped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async { drop(OnDisk::new(Witness(Some(sender)), permits(1))) });
        drop(runtime);
        assert!(dropped.blocking_recv().is_ok());
    }
}
