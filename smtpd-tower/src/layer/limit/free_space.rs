use std::{
    fmt, io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use smtpd_core::{
    parameter::{Parameters, Size},
    reply::Reply,
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, timeout},
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    disk::DiskPermits,
    fault::quietly,
    layer::{Admit, AnswerFuture},
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
/// seconds. Only the first requests wait for it, for up to 5 seconds: until the disk was measured once, the services are not ready.
/// [Measure](Self::measure) it when the server starts, and nobody waits. If the function fails, messages are accepted; the services
/// behind reply 452 themselves if the disk is full. A warning is logged when messages begin to be deferred, and one line when that is
/// over, which takes a quarter more space.
///
/// Clones share what was measured, and each compares it with what it [keeps](Self::keep) itself. Keep a clone when you
/// [replace](crate::server::ReloadableServer::replace) a server, so that the new one knows what the old one has known.
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
    /// Messages are deferred: less was free than is kept, and since then not a quarter more. Of clones that keep the same.
    short: Arc<AtomicBool>,
    permits: DiskPermits,
}

struct Disk {
    measure: Box<dyn Fn() -> io::Result<u64> + Send + Sync>,
    state: Mutex<State>,
    /// A measurement has ended, well or not.
    tried: AtomicBool,
    first: Notify,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// What the last measurement found, unless it failed.
    free: Option<u64>,
    measured: Option<Instant>,
    /// There is a [`Measuring`].
    measuring: bool,
    fails: bool,
}

/// A measurement that a request has begun. There is one at a time, and however it ends, the next one can begin.
struct Measuring(FreeSpaceLayer);

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
                tried: AtomicBool::new(false),
                first: Notify::new(),
                refused: AtomicU64::new(0),
            }),
            keep: Self::DEFAULT_KEEP,
            short: Arc::default(),
            permits: DiskPermits::shared(),
        }
    }

    /// Sets how many bytes stay free. Default: 64 MiB, which is room for 64 messages of 1 MiB that arrive between two
    /// measurements, as many as write at a time.
    #[must_use]
    pub fn keep(mut self, bytes: u64) -> Self {
        self.keep = bytes;
        self.short = Arc::default();
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
        self.is_too_little(self.free())
    }

    /// Returns how many requests were deferred.
    pub fn refused(&self) -> u64 {
        self.disk.refused.load(Ordering::Relaxed)
    }

    fn note(&self, measured: &io::Result<u64>) {
        let mut state = self.disk.lock();
        let has_failed = state.fails;
        state.measured = Some(Instant::now());
        state.fails = measured.is_err();
        state.free = measured.as_ref().ok().copied();
        let free = state.free;
        drop(state);
        self.disk.tried();
        self.judge(free);
        if let Err(error) = measured
            && !has_failed
        {
            quietly(|| {
                let error = error.to_string();
                tracing::warn!(error = %error.escape_debug(), "free space cannot be measured");
            });
        }
    }

    /// Whether so many free bytes are too few. A shortage ends with a quarter more than is kept.
    fn is_too_little(&self, free: Option<u64>) -> bool {
        let enough = match self.short.load(Ordering::Relaxed) {
            true => self.keep.saturating_add(self.keep / 4),
            false => self.keep,
        };
        free.is_some_and(|free| free < enough)
    }

    /// Returns whether the disk is short of space, and logs when that begins and ends. Each clone judges for itself what any of them
    /// has measured.
    fn judge(&self, free: Option<u64>) -> bool {
        let (is_short, keep) = (self.is_too_little(free), self.keep);
        let was_short = self.short.swap(is_short, Ordering::Relaxed);
        match free {
            Some(free) if is_short && !was_short => quietly(|| {
                tracing::warn!(free, keep, "the disk is nearly full, messages are deferred");
            }),
            Some(free) if was_short && !is_short => quietly(|| {
                tracing::info!(
                    free,
                    keep,
                    "the disk has space again, messages are accepted"
                );
            }),
            _ => {}
        }
        is_short
    }

    /// Decides about a message that declares this size, and measures anew if the last measurement is old.
    fn decide(&self, declared: Option<&Parameters>) -> Result<(), Reply> {
        let mut state = self.disk.lock();
        let is_due = state.begin_if_due();
        let free = state.free;
        drop(state);
        if is_due {
            Measuring(self.clone()).spawn();
        }
        let size = declared.and_then(|all| all.get::<Size>());
        let needed = size
            .map_or(0, |size| size.bytes())
            .saturating_add(self.keep);
        if !self.judge(free) && free.is_none_or(|free| free >= needed) {
            return Ok(());
        }
        self.disk.refused.fetch_add(1, Ordering::Relaxed);
        Err(Reply::storage_full())
    }

    /// Returns when the disk was measured once, or when that has failed or takes too long. Without a runtime, it cannot be measured.
    fn first(&self) -> First {
        if self.disk.lock().begin_if_due() {
            Measuring(self.clone()).spawn();
        }
        let disk = self.disk.clone();
        Box::pin(async move {
            let mut measured = pin!(disk.first.notified());
            measured.as_mut().enable();
            let waits = !disk.is_tried() && Handle::try_current().is_ok();
            if waits && timeout(FRESH, measured).await.is_err() {
                // A disk that hangs delays only those that came first.
                disk.tried();
            }
        })
    }
}

impl State {
    /// Returns whether the last measurement is old, and nobody has begun another one. The caller begins it.
    fn begin_if_due(&mut self) -> bool {
        let is_fresh = self.measured.is_some_and(|then| then.elapsed() < FRESH);
        let is_due = !is_fresh && !self.measuring;
        self.measuring |= is_due;
        is_due
    }
}

impl Measuring {
    /// Measures in a task. Without a runtime, nothing is measured.
    fn spawn(self) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(self.run());
        }
    }

    async fn run(self) {
        // The error was logged.
        let _ = self.0.measure().await;
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        let disk = &self.0.disk;
        disk.lock().measuring = false;
        // If it was dropped before its end, nobody waits in vain.
        disk.tried();
    }
}

impl Disk {
    fn is_tried(&self) -> bool {
        self.tried.load(Ordering::Acquire)
    }

    /// Lets those go on that wait for the first measurement.
    fn tried(&self) {
        if !self.tried.swap(true, Ordering::AcqRel) {
            self.first.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for FreeSpaceLayer {
    type Service = FreeSpace<S>;

    fn layer(&self, inner: S) -> FreeSpace<S> {
        FreeSpace {
            inner,
            rule: self.clone(),
            first: None,
        }
    }
}

/// The service of [`FreeSpaceLayer`].
pub struct FreeSpace<S> {
    inner: S,
    rule: FreeSpaceLayer,
    /// It waits for the first measurement.
    first: Option<First>,
}

type First = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl<S> FreeSpace<S> {
    /// Ready when the disk was measured once.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rule.disk.is_tried() {
            return Poll::Ready(());
        }
        let rule = &self.rule;
        let first = self.first.get_or_insert_with(|| rule.first());
        ready!(first.as_mut().poll(cx));
        self.first = None;
        Poll::Ready(())
    }
}

impl<S, P> Service<Request<P>> for FreeSpace<S>
where
    S: Service<Request<P>>,
    S::Response: From<Reply>,
    FreeSpaceLayer: Admit<P>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = AnswerFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        ready!(self.poll_first(cx));
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        match self.rule.admit(&request) {
            Ok(()) => AnswerFuture::inner(self.inner.call(request)),
            Err(reply) => AnswerFuture::answer(reply.or_origin(self.rule.name()).into()),
        }
    }
}

impl<S: Clone> Clone for FreeSpace<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            rule: self.rule.clone(),
            first: None,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for FreeSpace<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FreeSpace")
            .field("inner", &self.inner)
            .field("rule", &self.rule)
            .finish_non_exhaustive()
    }
}

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
    use std::{
        convert::Infallible,
        num::NonZero,
        sync::{atomic::AtomicUsize, mpsc},
    };

    use smtpd_core::address::ReversePath;
    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready, task};
    use tower::{ServiceExt, service_fn};

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

    fn space(
        layer: &FreeSpaceLayer,
    ) -> FreeSpace<impl Service<Request<Mail>, Response = Reply, Error = Infallible>> {
        layer.layer(service_fn(async |_| Ok::<_, Infallible>(Reply::OK)))
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
    async fn a_clone_that_keeps_less_ends_the_shortage_of_another() {
        let model = Model::default();
        let layer = model.layer();
        let modest = layer.clone().keep(10);
        model.set(500);
        layer.measure().await.unwrap();
        assert!(layer.is_short() && !modest.is_short());
        modest.measure().await.unwrap();
        for _ in 0..2 {
            assert!(layer.admit(&mail(None)).is_err() && modest.admit(&mail(None)).is_ok());
        }
        // Nor does it begin anew with each measurement: a quarter more than 1000 is needed, and 12 bytes are enough here.
        model.set(1100);
        modest.measure().await.unwrap();
        assert!(layer.admit(&mail(None)).is_err() && layer.clone().is_short());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_delays_every_message() {
        let (release, hang) = mpsc::channel::<()>();
        let hang = Mutex::new(hang);
        let hanging = FreeSpaceLayer::new(move || {
            let _ = hang.lock().unwrap().recv();
            Ok(0)
        });
        let mut first = task::spawn(space(&hanging).oneshot(mail(None)));
        assert_pending!(first.poll());
        advance(FRESH).await;
        assert_eq!(assert_ready!(first.poll()).unwrap(), Reply::OK);
        let mut second = task::spawn(space(&hanging).oneshot(mail(None)));
        assert_eq!(assert_ready!(second.poll()).unwrap(), Reply::OK);
        drop(release);
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
        let mut waiting = layer.layer(());
        assert_ready!(task::spawn(()).enter(|cx, _| waiting.poll_first(cx)));
        assert!(layer.admit(&mail(None)).is_ok());
        assert!(!layer.disk.lock().measuring);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_message_is_accepted_by_a_disk_that_is_full() {
        let model = Model::default();
        let layer = model.layer();
        let reply = space(&layer).oneshot(mail(None)).await.unwrap();
        assert_eq!(reply.code().as_u16(), 452);
        assert_eq!(model.measured.load(Ordering::Relaxed), 1);
        // A disk that hangs does not stop the mail, nor does one that cannot be measured.
        let (release, hang) = mpsc::channel::<()>();
        let hang = Mutex::new(hang);
        let hanging = FreeSpaceLayer::new(move || {
            let _ = hang.lock().unwrap().recv();
            Ok(0)
        });
        let mut asking = task::spawn(space(&hanging).oneshot(mail(None)));
        assert_pending!(asking.poll());
        advance(FRESH).await;
        assert_eq!(assert_ready!(asking.poll()).unwrap(), Reply::OK);
        drop(release);
        let broken = FreeSpaceLayer::new(|| panic!("on purpose"));
        let reply = space(&broken).oneshot(mail(None)).await.unwrap();
        assert_eq!(reply, Reply::OK);
    }

    /// Wherever a measurement is dropped, as when its runtime ends.
    #[tokio::test(start_paused = true)]
    async fn a_measurement_that_is_dropped_is_the_last_one() {
        let permits = DiskPermits::new(NonZero::<usize>::MIN);
        let (release, hang) = mpsc::channel::<()>();
        let hang = Mutex::new(hang);
        let layer = FreeSpaceLayer::new(move || {
            let _ = hang.lock().unwrap().recv();
            Ok(1 << 30)
        })
        .disk_permits(permits.clone());
        let begin = || {
            assert!(layer.disk.lock().begin_if_due(), "none is in progress");
            assert!(!layer.disk.lock().begin_if_due());
            task::spawn(Measuring(layer.clone()).run())
        };
        drop(begin());
        // It waits for its permit.
        let (holds, held) = mpsc::channel::<()>();
        let other = tokio::spawn(async move { permits.run(move || held.recv()).await });
        tokio::task::yield_now().await;
        let mut waits = begin();
        assert_pending!(waits.poll());
        drop(waits);
        drop(holds);
        other.await.unwrap().unwrap().unwrap_err();
        // It waits for the disk.
        let mut measures = begin();
        assert_pending!(measures.poll());
        drop(measures);
        drop(release);
        begin().await;
        assert_eq!(layer.free(), Some(1 << 30));
        assert!(!layer.disk.lock().measuring);
        assert!(!layer.disk.lock().begin_if_due(), "it is fresh");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_the_first_measurement_waits_for_one_that_was_dropped() {
        let layer = Model::default().layer();
        assert!(layer.disk.lock().begin_if_due());
        let measuring = Measuring(layer.clone());
        let mut waiting: Vec<_> = (0..3)
            .map(|_| task::spawn(space(&layer).oneshot(mail(None))))
            .collect();
        for asking in &mut waiting {
            assert_pending!(asking.poll());
        }
        // One that gives up does not take anything from the others.
        drop(waiting.pop());
        drop(measuring);
        for mut asking in waiting {
            assert!(asking.is_woken());
            assert_eq!(assert_ready!(asking.poll()).unwrap(), Reply::OK);
        }
        settle(&layer).await;
        assert!(is_deferred(&layer).await, "the next one is judged");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clone_that_keeps_more_begins_anew() {
        let model = Model::default();
        model.set(1500);
        let layer = model.layer();
        layer.measure().await.unwrap();
        let stricter = layer.clone().keep(2000);
        assert_eq!(stricter.free(), Some(1500), "it knows what the other knew");
        assert!(is_deferred(&stricter).await && !layer.is_short());
        model.fails.store(1, Ordering::Relaxed);
        for _ in 0..3 {
            assert!(layer.measure().await.is_err());
            assert!(layer.disk.lock().fails);
        }
        model.fails.store(0, Ordering::Relaxed);
        layer.measure().await.unwrap();
        assert!(!layer.disk.lock().fails);
    }
}
