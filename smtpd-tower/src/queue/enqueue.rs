use std::{
    fmt,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use smtpd_core::reply::{Code, Reply, Status};
use tower_service::Service;

use super::{
    Durability, DurabilityError, Job, QueueError, Store, hops::received_fields, terms::Terms,
};
use crate::{
    body::{BodyError, Spooled},
    phase::{Data, Request},
    session::{Hook, QueueId, Session, SessionFacts},
};

/// How large a message may be to wait in memory until it is written.
const IN_MEMORY: usize = 64 * 1024;

/// How many Received fields a message may have: RFC 5321 section 6.3 recommends at least 100.
const MAX_RECEIVED: usize = 100;

/// Puts each message into a [`Store`], and replies 250 with its id once it is as durable as the store says.
///
/// The message is received whole first: in memory, or above 64 KiB in a temporary file. The id is that of
/// [`ReceivedLayer`](crate::layer::ReceivedLayer) if there is one, so that the reply, the log and the trace header agree. If a
/// [`Router`](crate::router::Router) splits a transaction, only the first of its messages has that id.
///
/// | failure | reply |
/// |---|---|
/// | the message itself, see [`BodyError`] | its [reply](BodyError::reply) |
/// | the message has [more than 100](Self::max_received) Received fields | 554 5.4.6 |
/// | the disk of the store is full | 452 4.3.1 |
/// | anything else | 451 4.3.0 |
///
/// Each [`QueueError`] is a fault, so its text goes to the log and to [`Server::on_error`](crate::server::Server::on_error).
///
/// A message with `HOLDFOR=` or `HOLDUNTIL=` (RFC 4865) is due only then, and one with `MT-PRIORITY=` (RFC 6710) is delivered before
/// others that are less urgent. A [`Worker`](super::Worker) follows what `BY=` (RFC 2852) says.
///
/// [The module](super) has an example.
#[derive(Clone)]
pub struct Enqueue<S> {
    on_queued: Hook<Queued>,
    directory: Option<Arc<PathBuf>>,
    max_received: usize,
    store: S,
}

/// A message that was put into the queue, for [`Enqueue::on_queued`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queued {
    /// Its id.
    pub id: QueueId,
    /// Its size in bytes.
    pub bytes: u64,
    /// The number of its recipients.
    pub recipients: usize,
}

/// Whether the id of a transaction is used.
#[derive(Debug, Default)]
struct Used(bool);

impl<S: Store + Clone> Enqueue<S> {
    /// Creates a service for a store, whose clones share their messages: a [`FileStore`](super::FileStore), or an `Arc` of a store.
    pub fn new(store: S) -> Self {
        Self {
            on_queued: Hook::default(),
            directory: None,
            max_received: MAX_RECEIVED,
            store,
        }
    }

    /// Returns the service only if the store is at least as durable.
    ///
    /// # Errors
    ///
    /// Returns an error that names both if the store is less durable.
    pub fn require(self, required: Durability) -> Result<Self, DurabilityError> {
        let found = self.store.durability();
        match found >= required {
            true => Ok(self),
            false => Err(DurabilityError::new(required, found)),
        }
    }

    /// Sets the directory for the temporary files of large messages. Default: the system's directory for temporary files.
    #[must_use]
    pub fn spool_directory(self, directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: Some(Arc::new(directory.into())),
            ..self
        }
    }

    /// Sets how many Received fields a message may have. One with more goes in a circle (RFC 5321 section 6.3). Default: 100.
    #[must_use]
    pub fn max_received(self, fields: usize) -> Self {
        Self {
            max_received: fields,
            ..self
        }
    }

    /// Adds a function that is called with each message that was put into the queue, before the client receives 250.
    #[must_use]
    pub fn on_queued(mut self, hook: impl Fn(&Session, &Queued) + Send + Sync + 'static) -> Self {
        self.on_queued.add(hook);
        self
    }

    /// Returns the store.
    pub const fn store(&self) -> &S {
        &self.store
    }

    async fn receive(&self, request: Request<Data>) -> Result<Reply, QueueError> {
        let (session, data) = request.into_parts();
        let (envelope, body) = data.into_parts();
        let mut spooling = body.spool(IN_MEMORY);
        if let Some(directory) = &self.directory {
            spooling = spooling.in_directory(&**directory);
        }
        let message: Result<Spooled, BodyError> = spooling.await;
        let message = match message {
            Ok(message) => message,
            Err(error) => return Ok(session.reply_to(error)),
        };
        match received_fields(message.body(), self.max_received.saturating_add(1)).await {
            Ok(fields) if fields > self.max_received => return Ok(loops()),
            Ok(_) => {}
            Err(error) => return Ok(session.reply_to(error)),
        }
        let mut job = Job::new(SessionFacts::from(&session), envelope);
        if let Some(id) = unused_id(&session) {
            job = job.with_id(id);
        }
        let released = Terms::of(&job).released;
        job = job.with_due(released);
        let (bytes, recipients) = (message.len(), job.envelope().recipients().len());
        let id = self.store.put(job, message).await?;
        let reply = Reply::queued(&id);
        let queued = Queued {
            id,
            bytes,
            recipients,
        };
        self.on_queued.call("on_queued", &session, &queued);
        Ok(reply)
    }
}

fn loops() -> Reply {
    let status = Status::new(4, 6).unwrap_or_default();
    Reply::new(Code::TRANSACTION_FAILED, status, "Too many hops")
}

/// The id of the transaction, for the first who asks.
fn unused_id(session: &Session) -> Option<QueueId> {
    let transaction = session.transaction();
    let id = transaction.get::<QueueId>()?;
    let was_used = transaction.update(|used: &mut Used| std::mem::replace(&mut used.0, true));
    (!was_used).then_some(id)
}

impl<S: Store + Clone> Service<Request<Data>> for Enqueue<S> {
    type Response = Reply;
    type Error = QueueError;
    type Future = EnqueueFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), QueueError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Data>) -> EnqueueFuture {
        let service = self.clone();
        EnqueueFuture {
            inner: Box::pin(async move { service.receive(request).await }),
        }
    }
}

impl<S> fmt::Debug for Enqueue<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enqueue").finish_non_exhaustive()
    }
}

/// The future of [`Enqueue`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct EnqueueFuture {
    inner: Pin<Box<dyn Future<Output = Result<Reply, QueueError>> + Send>>,
}

impl Future for EnqueueFuture {
    type Output = Result<Reply, QueueError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

impl fmt::Debug for EnqueueFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnqueueFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Mutex, time::SystemTime};

    use smtpd_core::envelope::Envelope;
    use tower::ServiceExt;

    use super::*;
    use crate::{
        body::Body,
        queue::{Leased, Outcome, StoreFuture},
        reply::recover,
    };

    /// Keeps messages in memory, or fails.
    #[derive(Default)]
    struct Fake {
        failure: Option<io::ErrorKind>,
        jobs: Mutex<Vec<(Job, Spooled)>>,
    }

    impl Store for Fake {
        fn durability(&self) -> Durability {
            Durability::Process
        }

        fn put(&self, job: Job, message: Spooled) -> StoreFuture<QueueId> {
            let id = job.id().clone();
            self.jobs.lock().unwrap().push((job, message));
            let put = self
                .failure
                .map(|kind| QueueError::io("write", kind.into()));
            Box::pin(async move { put.map_or(Ok(id), Err) })
        }

        fn lease(&self, _: SystemTime, _: usize, _: SystemTime) -> StoreFuture<Vec<Leased>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn renew(&self, leased: &Leased, _: SystemTime) -> StoreFuture<()> {
            let id = leased.job().id().clone();
            Box::pin(async { Err(QueueError::LeaseLost(id)) })
        }

        fn settle(&self, leased: Leased, _: Vec<(usize, Outcome)>) -> StoreFuture<()> {
            self.renew(&leased, SystemTime::now())
        }

        fn next_due(&self) -> StoreFuture<Option<SystemTime>> {
            Box::pin(async { Ok(None) })
        }

        fn changed(&self) -> StoreFuture<()> {
            Box::pin(std::future::pending())
        }
    }

    fn request(session: &Session, body: Body) -> Request<Data> {
        let envelope = Envelope::default().with_recipient("b@example.org".parse().unwrap());
        Request::new(session.clone(), Data::new(envelope, body))
    }

    #[tokio::test]
    async fn the_id_of_a_transaction_is_that_of_one_message() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let hook = seen.clone();
        let store: Arc<dyn Store> = Arc::new(Fake::default());
        let enqueue = Enqueue::new(store)
            .on_queued(move |_, queued| hook.lock().unwrap().push(queued.clone()));
        let session = Session::local();
        let id = QueueId::unique();
        session.transaction().insert(id.clone());
        for _ in 0..2 {
            let reply = enqueue
                .clone()
                .oneshot(request(&session, Body::from("Hello\r\n")));
            let reply = reply.await.unwrap();
            let queued = seen.lock().unwrap().last().unwrap().clone();
            assert_eq!(reply, Reply::queued(&queued.id));
            assert_eq!((queued.bytes, queued.recipients), (7, 1));
        }
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0].id, id);
        assert_ne!(seen[1].id, id);
    }

    #[tokio::test]
    async fn a_message_that_is_not_stored_is_not_accepted() {
        use io::ErrorKind::{PermissionDenied, StorageFull};
        for (failure, code) in [(StorageFull, 452), (PermissionDenied, 451)] {
            let store = Arc::new(Fake {
                failure: Some(failure),
                ..Fake::default()
            });
            let called = Arc::new(Mutex::new(0));
            let count = called.clone();
            let enqueue = Enqueue::new(store).on_queued(move |_, _| *count.lock().unwrap() += 1);
            let request = request(&Session::local(), Body::from("Hello\r\n"));
            let error = enqueue.oneshot(request).await.unwrap_err();
            assert_eq!(recover(&error.into()).code().as_u16(), code);
            assert_eq!(*called.lock().unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn a_message_that_is_incomplete_is_not_put_into_the_store() {
        struct Broken;
        impl futures_core::Stream for Broken {
            type Item = Result<bytes::Bytes, BodyError>;

            fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
                Poll::Ready(Some(Err(BodyError::Incomplete)))
            }
        }
        let enqueue = Enqueue::new(Arc::new(Fake::default()));
        let store = enqueue.store().clone();
        let reply = enqueue.oneshot(request(&Session::local(), Body::new(Broken)));
        assert_eq!(reply.await.unwrap(), BodyError::Incomplete.reply());
        assert!(store.jobs.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_message_that_goes_in_a_circle_is_not_put_into_the_store() {
        let enqueue = Enqueue::new(Arc::new(Fake::default())).max_received(2);
        let store = enqueue.store().clone();
        for (fields, code) in [(2, 250), (3, 554)] {
            let message = "Received: x\r\n".repeat(fields) + "\r\nReceived: x\r\n";
            let request = request(&Session::local(), Body::from(message.into_bytes()));
            let reply = enqueue.clone().oneshot(request).await.unwrap();
            assert_eq!(reply.code().as_u16(), code);
        }
        assert_eq!(store.jobs.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_message_that_is_to_be_held_is_not_due_before() {
        let enqueue = Enqueue::new(Arc::new(Fake::default()));
        let store = enqueue.store().clone();
        let envelope = Envelope::default()
            .with_parameters("HOLDFOR=3600".parse().unwrap())
            .with_recipient("b@example.org".parse().unwrap());
        let data = Data::new(envelope, Body::from("Hello\r\n"));
        let reply = enqueue.oneshot(Request::new(Session::local(), data));
        assert!(reply.await.unwrap().is_positive());
        let jobs = store.jobs.lock().unwrap();
        let (job, _) = &jobs[0];
        let (_, _, state) = job.pending().next().unwrap();
        let held = state.due().duration_since(job.created()).unwrap();
        assert_eq!(held.as_secs(), 3600);
    }

    #[test]
    fn a_store_that_is_less_durable_is_refused() {
        let synced = Durability::Machine { synced: true };
        let error = Enqueue::new(Arc::new(Fake::default()))
            .require(synced)
            .unwrap_err();
        assert_eq!(error.required(), synced);
        assert_eq!(error.found(), Durability::Process);
        assert!(
            Enqueue::new(Arc::new(Fake::default()))
                .require(Durability::Process)
                .is_ok()
        );
    }
}
