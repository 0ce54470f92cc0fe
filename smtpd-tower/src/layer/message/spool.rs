use std::{
    fmt, io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use smtpd_core::reply::Reply;
use tower::util::Oneshot;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::{Spooling, check_spool},
    disk::DiskPermits,
    phase::{Data, Request},
};

/// Receives the whole message before it calls the service: in memory, or above a limit in a temporary file.
///
/// So a slow client never holds what the service needs, such as a concurrency permit or a connection to a database, and a slow
/// service never makes the client wait in the middle of its message. It fits DATA only, and needs the feature `spool`.
///
/// The client receives 354 and sends its message before the service is even polled for readiness. Layers that refuse at DATA, or
/// limit how many messages are spooled at a time, belong outside of this one; those that limit how many are delivered, inside.
/// While the service is not ready the message waits, within the engine's timeout for a delivery.
///
/// A message that is incomplete or invalid never reaches the service: the client receives the reply of its
/// [`BodyError`](crate::body::BodyError), which is 452 4.3.1 if the disk is full, and 451 4.3.0 if the file fails otherwise.
/// [`check`](SpoolLayer::check) finds out at the start of a server whether the directory can be used.
///
/// A slow disk slows down only messages that go to a file: no more of them use a thread at a time than there are [`DiskPermits`].
///
/// [The guide](crate::guide::bodies#a-message-that-is-read-more-than-once) says when to use it.
///
/// ```
/// use smtpd_tower::{
///     Body, BodyError, Data, Envelope, Request, Session, deliver::Inbox,
///     layer::SpoolLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = Inbox::new();
/// let data = ServiceBuilder::new()
///     .concurrency_limit(1000) // messages that come in
///     .layer(SpoolLayer::new(64 * 1024))
///     .concurrency_limit(8) // messages that are delivered
///     .service(inbox.clone());
/// let send = |body| {
///     data.clone().oneshot(Request::new(
///         Session::local(),
///         Data::new(Envelope::default(), body),
///     ))
/// };
///
/// let large = "x".repeat(100_000).into_bytes();
/// assert_eq!(send(Body::from(large)).await?.code().as_u16(), 250);
/// assert_eq!(inbox.next().await.message().len(), 100_000);
///
/// // A message that fails on its way is refused before the service is called.
/// let broken = Body::new(Broken);
/// assert_eq!(send(broken).await?.code().as_u16(), 451);
/// assert_eq!(inbox.len(), 1);
/// # Ok(()) }
/// # struct Broken;
/// # impl futures_core::Stream for Broken {
/// #     type Item = Result<bytes::Bytes, smtpd_tower::BodyError>;
/// #     fn poll_next(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
/// #         std::task::Poll::Ready(Some(Err(smtpd_tower::BodyError::Incomplete)))
/// #     }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SpoolLayer {
    limit: usize,
    directory: Option<Arc<PathBuf>>,
    /// `None`: those of the process.
    permits: Option<DiskPermits>,
}

impl SpoolLayer {
    /// Keeps messages of up to `limit` bytes in memory, and larger ones in a file.
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            directory: None,
            permits: None,
        }
    }

    /// Sets the directory for the files. Default: the directory of the system for temporary files.
    #[must_use]
    pub fn directory(self, directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: Some(Arc::new(directory.into())),
            ..self
        }
    }

    /// Sets the limit on how many jobs work on the disk at a time. Default: [`DiskPermits::shared`].
    #[must_use]
    pub fn disk_permits(self, permits: DiskPermits) -> Self {
        Self {
            permits: Some(permits),
            ..self
        }
    }

    /// Creates a file as a large message would, writes and reads a few bytes: for a server that wants to detect a directory that
    /// is missing, that it may not write to, or whose disk is full when it starts, not when the first large message arrives.
    ///
    /// # Errors
    ///
    /// Returns an error if the file fails. Its text names the directory, so it is for the log only.
    ///
    /// ```
    /// use smtpd_tower::layer::SpoolLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// # let directory = tempfile::tempdir()?;
    /// # let directory = directory.path();
    /// let spool = SpoolLayer::new(64 * 1024).directory(directory);
    /// spool.check().await?;
    ///
    /// let nowhere = SpoolLayer::new(64 * 1024).directory(directory.join("missing"));
    /// assert!(nowhere.check().await.is_err());
    /// # Ok(()) }
    /// ```
    pub async fn check(&self) -> io::Result<()> {
        let permits = self.permits.clone().unwrap_or_default();
        check_spool(self.directory.as_deref().cloned(), &permits).await
    }
}

impl<S> Layer<S> for SpoolLayer {
    type Service = Spool<S>;

    fn layer(&self, inner: S) -> Spool<S> {
        Spool {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`SpoolLayer`].
#[derive(Clone, Debug)]
pub struct Spool<S> {
    inner: S,
    layer: SpoolLayer,
}

impl<S> Service<Request<Data>> for Spool<S>
where
    S: Service<Request<Data>> + Clone,
    S::Response: From<Reply>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = SpoolFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // The inner service is polled for readiness once the message is there; earlier, what it reserves would be held for
        // nothing.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Data>) -> SpoolFuture<S> {
        let body = std::mem::take(request.body_mut());
        let mut spooling = body.spool(self.layer.limit);
        if let Some(directory) = &self.layer.directory {
            spooling = spooling.in_directory(&**directory);
        }
        if let Some(permits) = &self.layer.permits {
            spooling = spooling.disk_permits(permits.clone());
        }
        SpoolFuture {
            state: State::Spooling {
                spooling: Box::new(spooling),
                then: Some((self.inner.clone(), request)),
            },
        }
    }
}

/// The future of [`Spool`]: waits for the whole message, then for the service.
#[pin_project]
pub struct SpoolFuture<S: Service<Request<Data>>> {
    #[pin]
    state: State<S>,
}

#[pin_project(project = StateProj)]
enum State<S: Service<Request<Data>>> {
    Spooling {
        spooling: Box<Spooling>,
        then: Option<(S, Request<Data>)>,
    },
    Inner(#[pin] Oneshot<S, Request<Data>>),
}

impl<S: Service<Request<Data>>> fmt::Debug for SpoolFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Spooling { .. } => "spooling",
            State::Inner(_) => "inner",
        };
        f.debug_tuple("SpoolFuture").field(&state).finish()
    }
}

impl<S> Future for SpoolFuture<S>
where
    S: Service<Request<Data>>,
    S::Response: From<Reply>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let (spooled, then) = match state.as_mut().project() {
                StateProj::Inner(inner) => return inner.poll(cx),
                StateProj::Spooling { spooling, then } => {
                    (ready!(Pin::new(spooling).poll(cx)), then.take())
                }
            };
            match (spooled, then) {
                (Ok(spooled), Some((service, request))) => {
                    let request = request.map_body(|_| spooled.into_body());
                    state.set(State::Inner(Oneshot::new(service, request)));
                }
                (Err(error), Some((_, request))) => {
                    return Poll::Ready(Ok(request.session().reply_to(error).into()));
                }
                // Polled after completion, it stays pending like a fused future.
                (_, None) => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use smtpd_core::envelope::Envelope;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        body::{Body, BodyError, in_pieces, incoming},
        deliver::Inbox,
        net::PeerAddr,
        phase::Rcpt,
        server::Server,
        service::{Pipeline, handler_fn},
        session::Session,
    };

    fn message(body: Body) -> Request<Data> {
        Request::new(Session::local(), Data::new(Envelope::default(), body))
    }

    #[tokio::test]
    async fn the_service_is_neither_polled_nor_called_before_the_whole_message_is_there() {
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(SpoolLayer::new(100));
        handle.allow(0);
        assert_ready_ok!(service.poll_ready());
        let (feed, body) = incoming();
        let mut answer = task::spawn(service.call(message(body)));
        assert_pending!(answer.poll());
        feed.push("one".into()).await;
        assert_pending!(answer.poll());
        feed.push("two".into()).await;
        feed.finish(Ok(()));
        // The message is there, and the service is not ready.
        assert_pending!(answer.poll());
        assert_pending!(handle.poll_request());
        handle.allow(1);
        assert!(answer.is_woken());
        assert_pending!(answer.poll());
        let (request, respond) = assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(request.into_body().collect().await.unwrap(), "onetwo");
        respond.send_response(Reply::busy());
        assert_eq!(assert_ready_ok!(answer.poll()), Reply::busy());
    }

    #[tokio::test]
    async fn a_message_that_is_incomplete_never_reaches_the_service() {
        let nowhere = tempfile::tempdir().unwrap().path().join("nowhere");
        let table = [
            (Err(BodyError::Incomplete), 100, 451),
            (Err(BodyError::TooLarge), 100, 552),
            (Err(BodyError::BareNewline), 100, 550),
            (Err(BodyError::refused(Reply::rejected("No"))), 100, 554),
            // The file cannot be created.
            (Ok(()), 0, 451),
        ];
        for (end, limit, code) in table {
            let layer = SpoolLayer::new(limit).directory(&nowhere);
            let (mut service, mut handle) = spawn_layer::<_, Reply, _>(layer);
            assert_ready_ok!(service.poll_ready());
            let reply = service.call(message(in_pieces([b"half"], end))).await;
            assert_eq!(reply.unwrap().code().as_u16(), code);
            assert_pending!(handle.poll_request());
        }
    }

    #[tokio::test]
    async fn the_first_large_message_finds_out_that_its_directory_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let spool = SpoolLayer::new(100);
        for (directory, expected) in [
            (dir.path().to_owned(), None),
            (dir.path().join("missing"), Some(io::ErrorKind::NotFound)),
            (file.clone(), Some(io::ErrorKind::NotADirectory)),
        ] {
            let checked = spool.clone().directory(&directory).check().await;
            let error = checked.err();
            assert_eq!(error.as_ref().map(io::Error::kind), expected, "{error:?}");
            let named = directory.display().to_string();
            assert!(error.is_none_or(|error| error.to_string().contains(&named)));
        }
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(left, [file], "the probe is removed");
    }

    #[tokio::test]
    async fn a_check_uses_the_disk_without_a_permit() {
        let permits = DiskPermits::new(NonZeroUsize::MIN);
        let (free, taken) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let busy = permits.clone();
        let job = tokio::spawn(async move {
            busy.run(move || {
                begun.send(()).unwrap();
                taken.recv()
            })
            .await
        });
        begins.await.unwrap();
        let spool = SpoolLayer::new(100).disk_permits(permits);
        let mut check = task::spawn(spool.check());
        assert_pending!(check.poll());
        drop(free);
        assert!(job.await.unwrap().unwrap().is_err());
        check.await.unwrap();
    }

    #[tokio::test]
    async fn a_session_goes_on_while_messages_pass_through_files() {
        let inbox = Inbox::new();
        let pipeline = Pipeline::new()
            .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
            .data(SpoolLayer::new(10).layer(inbox.clone()));
        let text = "0123456789\r\n".repeat(50_000);
        let message = format!(
            "MAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nBDAT {} LAST\r\n{text}",
            text.len()
        );
        let input = format!("EHLO a.example\r\n{message}{message}QUIT\r\n");

        let (mut client, io) = tokio::io::duplex(1024);
        let server = Server::new("localhost", pipeline);
        let session = tokio::spawn(server.serve_connection(io, PeerAddr::Unknown));
        client.write_all(input.as_bytes()).await.unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        session.await.unwrap();
        assert!(output.contains("\r\n221 "), "{output}");
        let messages = inbox.take();
        assert_eq!(messages.len(), 2, "{output}");
        assert!(messages.iter().all(|message| message.message() == &text));
    }

    #[tokio::test]
    async fn a_large_message_reaches_the_service_through_a_file() {
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(SpoolLayer::new(10));
        assert_ready_ok!(service.poll_ready());
        let text = "0123456789".repeat(50_000);
        let body = Body::from(text.clone().into_bytes());
        let answer = tokio::spawn(service.call(message(body)));
        let (request, respond) = handle.next_request().await.unwrap();
        assert!(request.into_body().collect().await.unwrap() == text);
        respond.send_response(Reply::OK);
        assert_eq!(answer.await.unwrap().unwrap(), Reply::OK);
    }
}
