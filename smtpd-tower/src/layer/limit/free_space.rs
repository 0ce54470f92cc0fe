use std::{
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use smtpd_core::{
    parameter::{Parameters, Size},
    reply::Reply,
};
use tokio::{runtime::Handle, time::Instant};

use crate::{
    disk::DiskPermits,
    fault::quietly,
    layer::{Admit, compose::rule_layer},
    phase::{Data, Mail, Request},
};

/// Defers messages with 452 4.3.1 while a disk has less free space than it should keep, before anything of them is written.
///
/// A disk that is full to its last byte is in nobody's interest: the log, the index of the IMAP server and messages that users
/// move between folders need space too. At MAIL, the layer also compares the size that the client declares (RFC 1870). At DATA and
/// the first BDAT, the message is not received. Put it around both services, so that a client that declares nothing is deferred
/// as well.
///
/// The disk is measured by a function of yours, in another thread, when a request comes and the last measurement is older than 5
/// seconds. Requests do not wait for it. Before the first one has ended, and if the function fails, messages are accepted; the
/// services behind reply 452 themselves if the disk is full. A warning is logged when messages begin to be deferred, and one line
/// when that is over, which takes a quarter more space.
///
/// ```
/// use smtpd_tower::{Data, Pipeline, Request, handler_fn, layer::FreeSpaceLayer};
/// use tower::ServiceBuilder;
///
/// /// With rustix: `statvfs(path).map(|disk| disk.f_bavail * disk.f_frsize)`.
/// fn free() -> std::io::Result<u64> {
/// #   Ok(1 << 30)
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let space = FreeSpaceLayer::new(free).keep(256 << 20);
/// assert_eq!(space.measure().await?, 1 << 30);
///
/// let data = ServiceBuilder::new().layer(space.clone()).service(handler_fn(
///     async |request: Request<Data>| request.into_body().discard().await,
/// ));
/// let pipeline = Pipeline::new().data(data);
/// assert!(!space.is_short());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FreeSpaceLayer {
    disk: Arc<Disk>,
    keep: u64,
    permits: DiskPermits,
}

struct Disk {
    measure: Box<dyn Fn() -> io::Result<u64> + Send + Sync>,
    state: Mutex<State>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// What the last measurement found, unless it failed.
    free: Option<u64>,
    measured: Option<Instant>,
    measuring: bool,
    short: bool,
}

/// How long a measurement is used.
const FRESH: Duration = Duration::from_secs(5);

impl FreeSpaceLayer {
    /// The default of [`keep`](Self::keep): 64 MiB.
    pub const DEFAULT_KEEP: u64 = 64 << 20;

    /// Creates the layer for the disk whose free bytes `measure` returns. The function may block.
    pub fn new(measure: impl Fn() -> io::Result<u64> + Send + Sync + 'static) -> Self {
        Self {
            disk: Arc::new(Disk {
                measure: Box::new(measure),
                state: Mutex::default(),
                refused: AtomicU64::new(0),
            }),
            keep: Self::DEFAULT_KEEP,
            permits: DiskPermits::shared(),
        }
    }

    /// Sets how many bytes stay free. Default: 64 MiB, which is room for 64 messages of 1 MiB that arrive between two
    /// measurements, as many as write at a time.
    #[must_use]
    pub fn keep(mut self, bytes: u64) -> Self {
        self.keep = bytes;
        self
    }

    /// Sets the limit on how many jobs work on the disk at a time; measuring is one. Default: [`DiskPermits::shared`].
    #[must_use]
    pub fn disk_permits(mut self, permits: DiskPermits) -> Self {
        self.permits = permits;
        self
    }

    /// Measures now, and returns the number of free bytes: for a server that wants to know when it starts.
    ///
    /// # Errors
    ///
    /// Returns the error of the function, or an error if it panics.
    pub async fn measure(&self) -> io::Result<u64> {
        let disk = self.disk.clone();
        let measured = self.permits.run(move || (disk.measure)()).await;
        let measured = measured.and_then(|done| done);
        self.note(&measured);
        measured
    }

    /// Returns what the last measurement found. `None` if there was none, or if it failed.
    pub fn free(&self) -> Option<u64> {
        self.disk.lock().free
    }

    /// Returns whether messages are deferred now, whatever their size.
    pub fn is_short(&self) -> bool {
        self.disk.lock().short
    }

    /// Returns how many requests were deferred.
    pub fn refused(&self) -> u64 {
        self.disk.refused.load(Ordering::Relaxed)
    }

    fn note(&self, measured: &io::Result<u64>) {
        let mut state = self.disk.lock();
        let was_short = state.short;
        state.measuring = false;
        state.measured = Some(Instant::now());
        state.free = measured.as_ref().ok().copied();
        let enough = match was_short {
            true => self.keep.saturating_add(self.keep / 4),
            false => self.keep,
        };
        state.short = state.free.is_some_and(|free| free < enough);
        let is_short = state.short;
        drop(state);
        let keep = self.keep;
        quietly(|| match (measured, was_short, is_short) {
            (Err(error), ..) => {
                let error = error.to_string();
                tracing::warn!(error = %error.escape_debug(), "free space cannot be measured");
            }
            (Ok(free), false, true) => {
                tracing::warn!(free, keep, "the disk is nearly full, messages are deferred");
            }
            (Ok(free), true, false) => {
                tracing::info!(
                    free,
                    keep,
                    "the disk has space again, messages are accepted"
                );
            }
            _ => {}
        });
    }

    /// Decides about a message that declares this size, and measures anew if the last measurement is old.
    fn decide(&self, declared: Option<&Parameters>) -> Result<(), Reply> {
        let mut state = self.disk.lock();
        let is_fresh = state.measured.is_some_and(|then| then.elapsed() < FRESH);
        let is_due = !is_fresh && !state.measuring;
        state.measuring |= is_due;
        let (free, short) = (state.free, state.short);
        drop(state);
        if is_due {
            self.measure_again();
        }
        let size = declared.and_then(|all| all.get::<Size>());
        let needed = size
            .map_or(0, |size| size.bytes())
            .saturating_add(self.keep);
        if !short && free.is_none_or(|free| free >= needed) {
            return Ok(());
        }
        self.disk.refused.fetch_add(1, Ordering::Relaxed);
        Err(Reply::storage_full())
    }

    fn measure_again(&self) {
        match Handle::try_current() {
            Ok(runtime) => {
                let layer = self.clone();
                runtime.spawn(async move { layer.measure().await });
            }
            Err(_) => self.disk.lock().measuring = false,
        }
    }
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

rule_layer!(FreeSpaceLayer);

impl Admit<Mail> for FreeSpaceLayer {
    fn admit(&self, request: &Request<Mail>) -> Result<(), Reply> {
        self.decide(Some(request.parameters()))
    }
}

impl Admit<Data> for FreeSpaceLayer {
    fn admit(&self, request: &Request<Data>) -> Result<(), Reply> {
        self.decide(Some(request.envelope().parameters()))
    }
}

impl fmt::Debug for FreeSpaceLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FreeSpaceLayer")
            .field("keep", &self.keep)
            .field("free", &self.free())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use smtpd_core::address::ReversePath;
    use tokio::time::advance;

    use super::*;
    use crate::session::Session;

    /// A disk with that many free bytes, and how often it was measured.
    #[derive(Clone, Default)]
    struct Model {
        free: Arc<AtomicU64>,
        fails: Arc<AtomicU64>,
        measured: Arc<AtomicUsize>,
    }

    impl Model {
        fn layer(&self) -> FreeSpaceLayer {
            let model = self.clone();
            FreeSpaceLayer::new(move || {
                model.measured.fetch_add(1, Ordering::Relaxed);
                match model.fails.load(Ordering::Relaxed) {
                    0 => Ok(model.free.load(Ordering::Relaxed)),
                    _ => Err(io::ErrorKind::NotFound.into()),
                }
            })
            .keep(1000)
        }

        fn set(&self, free: u64) {
            self.free.store(free, Ordering::Relaxed);
        }
    }

    fn mail(size: Option<&str>) -> Request<Mail> {
        let mut mail = Mail::new(ReversePath::Null);
        if let Some(size) = size {
            mail = mail.with_parameters(size.parse().unwrap());
        }
        Request::new(Session::local(), mail)
    }

    /// Lets a measurement that was begun end.
    async fn settle(layer: &FreeSpaceLayer) {
        while layer.disk.lock().measuring {
            tokio::task::yield_now().await;
        }
    }

    async fn is_deferred(layer: &FreeSpaceLayer) -> bool {
        advance(FRESH).await;
        let _ = layer.admit(&mail(None));
        settle(layer).await;
        layer.admit(&mail(None)).is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn mail_is_accepted_until_the_disk_is_full_to_its_last_byte() {
        let model = Model::default();
        let layer = model.layer();
        model.set(1000);
        assert_eq!(layer.measure().await.unwrap(), 1000);
        assert!(!is_deferred(&layer).await);
        // What was declared would not fit in, but others do.
        assert!(layer.admit(&mail(Some("SIZE=1"))).is_err());
        assert_eq!(layer.refused(), 1);
        model.set(999);
        assert!(is_deferred(&layer).await);
        assert!(layer.is_short());
        // Neither a byte more nor less decides from one moment to the next.
        model.set(1249);
        assert!(is_deferred(&layer).await);
        model.set(1250);
        assert!(!is_deferred(&layer).await);
        model.set(1000);
        assert!(!is_deferred(&layer).await);
    }

    #[tokio::test(start_paused = true)]
    async fn every_message_asks_the_disk() {
        let model = Model::default();
        model.set(5000);
        let layer = model.layer();
        for _ in 0..100 {
            layer.admit(&mail(None)).unwrap();
        }
        settle(&layer).await;
        for _ in 0..100 {
            layer.clone().admit(&mail(None)).unwrap();
        }
        assert_eq!(model.measured.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_cannot_be_measured_stops_the_mail() {
        let model = Model::default();
        let layer = model.layer();
        assert!(is_deferred(&layer).await);
        model.fails.store(1, Ordering::Relaxed);
        assert!(!is_deferred(&layer).await);
        assert_eq!(layer.free(), None);
        let broken = FreeSpaceLayer::new(|| panic!("on purpose"));
        broken.measure().await.unwrap_err();
        assert!(broken.admit(&mail(None)).is_ok());
    }

    #[test]
    fn without_a_runtime_a_message_is_accepted() {
        let layer = Model::default().layer();
        assert!(layer.admit(&mail(None)).is_ok());
        assert!(!layer.disk.lock().measuring);
    }
}
