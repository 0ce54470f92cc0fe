mod attempt;
mod conclude;
mod engine;
mod settings;
mod settle;
mod site;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use smtpd_core::{envelope::Recipient, reply::DataReply};
use tower::{BoxError, Service};

pub use self::attempt::Disposition;
use self::{
    engine::{Clock, Engine, GracefulShutdown},
    settings::{Settings, at_least_one},
};
use super::{QueueError, QueueEvent, Schedule, Store};
use crate::{
    limiter::Rate,
    phase::{Data, Request},
};

/// Delivers what is due in a [`Store`] by a data service, again and again until it is delivered or given up.
///
/// The service is any that a [`Pipeline`](crate::Pipeline) could have for its messages. It is called once for each message and
/// destination, with a [stored session](crate::Session::stored), and its reply decides:
///
/// | reply for a recipient | what follows |
/// |---|---|
/// | 2yz | the recipient is done |
/// | 4yz, an error, a panic, the [timeout](Self::delivery_timeout) | the message is tried again, as the [`Schedule`] says |
/// | 5yz | the recipient is done, and the sender is told |
///
/// The state is kept for each recipient. The sender is told by a delivery status notification (RFC 3464) in the same store, as far
/// as he wants to know (RFC 3461), and never if it is the null sender. It is in the store before the result is recorded: a crash may
/// double it, but not lose it.
///
/// # Destinations
///
/// The recipients of a message are grouped by their [destination](Self::destination), by default the domain. Each destination has at
/// most [five deliveries](Self::destination_concurrency) at a time, and if [three](Self::destination_faults) of them in a row cannot
/// reach it (421, X.4.z, or an error), it is left alone for a while: one delivery a time finds out whether it is back. Messages to
/// others pass those that wait.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_tower::{
///     Body, Envelope, Session,
///     deliver::Inbox,
///     queue::{FileStore, Job, Schedule, Store, Worker},
///     session::SessionFacts,
/// };
/// use tokio::sync::oneshot;
///
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("queue");
/// let store = FileStore::open(&path).await?;
/// let inbox = Inbox::new();
/// let worker = Worker::new(store.clone(), inbox.clone())
///     .schedule(Schedule::default().lifetime(Duration::from_secs(86_400)))
///     .concurrency(20)
///     .on_event(|event| println!("{event:?}"));
/// let (stop, stopped) = oneshot::channel::<()>();
/// let running = tokio::spawn(
///     worker
///         .run()
///         .with_graceful_shutdown(stopped, Duration::from_secs(30)),
/// );
///
/// let envelope = Envelope::new("a@example.com".parse()?)
///     .with_recipient("b@example.org".parse()?);
/// let job = Job::new(SessionFacts::from(&Session::local()), envelope);
/// let message = Body::from("Subject: hi\r\n\r\nHello\r\n").spool(1024).await?;
/// store.put(job, message).await?;
/// while store.stats().messages > 0 {
///     tokio::time::sleep(Duration::from_millis(1)).await;
/// }
/// assert_eq!(inbox.len(), 1);
///
/// drop(stop);
/// running.await??;
/// # Ok(()) }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
#[must_use = "a worker does nothing unless it runs"]
pub struct Worker<T, S> {
    store: T,
    service: S,
    settings: Settings,
    clock: Clock,
}

impl<T, S> Worker<T, S> {
    /// Creates a worker for a store, whose clones share their messages, and a data service, a clone of which is called for each
    /// delivery.
    pub fn new(store: T, service: S) -> Self {
        Self {
            store,
            service,
            settings: Settings::default(),
            clock: Arc::new(SystemTime::now),
        }
    }

    /// Sets when messages are tried again. Default: [`Schedule::default`].
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.settings.schedule = schedule;
        self
    }

    /// Sets how many deliveries there may be at a time; 0 counts as 1. Four times as many messages are leased. Default: 100.
    pub fn concurrency(mut self, deliveries: usize) -> Self {
        self.settings.concurrency = at_least_one(deliveries);
        self
    }

    /// Sets how many deliveries there may be at a time to one destination; 0 counts as 1. Default: 5.
    pub fn destination_concurrency(mut self, deliveries: usize) -> Self {
        self.settings.limits.concurrency = at_least_one(deliveries);
        self
    }

    /// Sets how often deliveries to one destination may begin. A [strict](Rate::strict) rate counts as any other. Default: as
    /// often as the concurrency allows.
    pub fn destination_rate(mut self, rate: Rate) -> Self {
        self.settings.limits.rate = Some(rate);
        self
    }

    /// Sets after how many connection faults in a row a destination is left alone; 0 counts as 1. Default: 3.
    pub fn destination_faults(mut self, faults: u32) -> Self {
        self.settings.limits.faults = faults.max(1);
        self
    }

    /// Sets for how long a destination that cannot be reached is left alone: first for `first`, and twice as long each time, up to
    /// `longest`. Default: 1 minute, and 30 minutes.
    pub fn destination_backoff(mut self, first: Duration, longest: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        self.settings.limits.backoff = first;
        self.settings.limits.longest_backoff = longest;
        self
    }

    /// Sets what the destination of a recipient is: a function that returns the same text for those that are delivered together,
    /// such as the name of the server that all mail is sent through. Default: the domain, with A-labels in lower case.
    pub fn destination(
        mut self,
        destination: impl Fn(&Recipient) -> String + Send + Sync + 'static,
    ) -> Self {
        self.settings.key = Arc::new(destination);
        self
    }

    /// Sets how long a delivery may take. If it takes longer, it is given up, and the message is tried again. Default: 30 minutes.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// Sets for how long a message is leased. Leases are renewed as long as the worker runs; if it ends without giving them back,
    /// this is how long its messages wait, unless the store is opened again. Default: 10 minutes.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(Duration::from_millis(3));
        self
    }

    /// Sets the name of this server in notifications. Default: the name of the server that has received the message.
    pub fn hostname(mut self, hostname: impl Into<Arc<str>>) -> Self {
        self.settings.hostname = Some(hostname.into());
        self
    }

    /// Sets how large a message may be, in bytes, to be returned with a notification of a failure. Of a larger one, only the header
    /// section is returned, as far as it is within the limit. Default: 64 KiB.
    pub fn return_limit(mut self, bytes: usize) -> Self {
        self.settings.return_limit = bytes;
        self
    }

    /// Adds a function that is called with each event, in the task of the worker or of a delivery.
    pub fn on_event(mut self, hook: impl Fn(&QueueEvent) + Send + Sync + 'static) -> Self {
        self.settings.events.add(hook);
        self
    }

    /// Records metrics by the facade `metrics`: [the guide](crate::guide::metrics#a-queue) lists them. They are registered now, so
    /// install the recorder before.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self) -> Self {
        self.settings.meters = crate::meter::WorkerMeters::new();
        self
    }

    #[cfg(test)]
    fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

impl<T, S> Worker<T, S>
where
    T: Store + Clone,
    S: Service<Request<Data>> + Clone + Send + 'static,
    S::Response: Into<DataReply> + Send,
    S::Error: Into<BoxError> + Send,
    S::Future: Send,
{
    /// Returns the future that delivers messages while it is polled.
    pub fn run(self) -> RunWorker {
        let start = move |shutdown| {
            let Self {
                store,
                service,
                settings,
                clock,
            } = self;
            // Within the future: the timers need the runtime that polls it.
            let running = async move {
                let engine = Engine::new(store, service, settings, clock);
                engine.run(shutdown).await
            };
            Box::pin(running) as Running
        };
        RunWorker {
            start: Some(Box::new(start)),
            shutdown: None,
            running: None,
        }
    }
}

impl<T, S> fmt::Debug for Worker<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

type Running = Pin<Box<dyn Future<Output = Result<(), QueueError>> + Send>>;
type Start = Box<dyn FnOnce(Option<GracefulShutdown>) -> Running + Send>;

/// The future of [`Worker::run`]. It ends after a [graceful shutdown](Self::with_graceful_shutdown).
///
/// If it is dropped, its deliveries are dropped, too, and the leases end at their deadlines.
///
/// # Errors
///
/// [`QueueError::Closed`] if the store is closed. Other errors of the store are logged, and it is asked again.
#[must_use = "messages are delivered while this future is polled"]
pub struct RunWorker {
    /// `None` from the first poll on.
    start: Option<Start>,
    shutdown: Option<GracefulShutdown>,
    running: Option<Running>,
}

impl RunWorker {
    /// Stops once `signal` completes: nothing is leased any more, deliveries have `grace` to end, and what is left is given back to
    /// the store. The output of `signal` is ignored.
    pub fn with_graceful_shutdown<F>(mut self, signal: F, grace: Duration) -> Self
    where
        F: Future + Send + 'static,
    {
        let signal = Box::pin(async move { drop(signal.await) });
        self.shutdown = Some(GracefulShutdown { signal, grace });
        self
    }
}

impl Future for RunWorker {
    type Output = Result<(), QueueError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(start) = self.start.take() {
            let shutdown = self.shutdown.take();
            self.running = Some(start(shutdown));
        }
        let Some(running) = &mut self.running else {
            // It was polled again after its end.
            return Poll::Pending;
        };
        let polled = running.as_mut().poll(cx);
        if polled.is_ready() {
            self.running = None;
        }
        polled
    }
}

impl fmt::Debug for RunWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunWorker").finish_non_exhaustive()
    }
}
