use std::{
    any::type_name,
    fmt, io,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::AsyncWrite;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::{SINK_TIMEOUT, SinkFailure},
    phase::{Data, Request},
};

/// Writes a copy of each message to a sink while the service reads it: an archive, a journal, a scanner.
///
/// It fits DATA only. `open` is a function of the request that returns a future which opens a sink, or `None` for no copy. The
/// sink is opened when the message is first read, so a message that is refused unread leaves nothing behind. The sink is shut
/// down only at the end of a whole message, see [`Body::tee`](crate::body::Body::tee). A copy is not a delivery: the service may
/// still refuse the message.
///
/// # Backpressure
///
/// Every chunk is written to the sink before the service receives it, so a slow sink holds the client back, and nothing is
/// buffered. A message waits for its sink for at most [`sink_timeout`](Self::sink_timeout) in total: for opening it, for each
/// write, and for shutting it down. Time that the client or the service takes does not count. After that, the sink has failed.
///
/// ```
/// use smtpd_tower::{
///     Body, Data, Envelope, Request, Session, deliver::Inbox, layer::TeeLayer,
/// };
/// use tokio::fs::File;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("copy.eml");
/// let journal = path.clone();
/// let data = ServiceBuilder::new()
///     .layer(TeeLayer::new(move |request| {
///         let internal =
///             request.envelope().sender().as_str().ends_with("@example.org");
///         let open = File::create(journal.clone());
///         (!internal).then_some(open)
///     }))
///     .service(Inbox::new());
///
/// let envelope = Envelope::new("someone@example.com".parse()?);
/// let message = Data::new(envelope, Body::from("Subject: hi\r\n\r\nHello\r\n"));
/// assert_eq!(
///     data.oneshot(Request::new(Session::local(), message))
///         .await?
///         .code()
///         .as_u16(),
///     250
/// );
/// assert_eq!(std::fs::read(path)?, b"Subject: hi\r\n\r\nHello\r\n");
/// # Ok(()) }
/// ```
///
/// If a copy cannot be opened or written, the message is deferred, and the client may try again: with 452 if the disk is full,
/// and with 451 otherwise. [`sink_failure`](Self::sink_failure) changes this.
///
/// ```
/// use std::io;
///
/// use smtpd_tower::{
///     Body, Data, Envelope, Request, Session, body::SinkFailure, deliver::Inbox,
///     layer::TeeLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// async fn full() -> io::Result<tokio::fs::File> {
///     Err(io::ErrorKind::StorageFull.into())
/// }
/// let message = || Data::new(Envelope::default(), Body::from("Hello\r\n"));
/// let strict = TeeLayer::new(|_| Some(full()));
/// let lenient = strict.clone().sink_failure(SinkFailure::GiveUp);
///
/// let data = ServiceBuilder::new().layer(strict).service(Inbox::new());
/// assert_eq!(
///     data.oneshot(Request::new(Session::local(), message()))
///         .await?
///         .code()
///         .as_u16(),
///     452
/// );
/// let data = ServiceBuilder::new().layer(lenient).service(Inbox::new());
/// assert_eq!(
///     data.oneshot(Request::new(Session::local(), message()))
///         .await?
///         .code()
///         .as_u16(),
///     250
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
pub struct TeeLayer<F> {
    open: F,
    sink_failure: SinkFailure,
    sink_timeout: Duration,
}

impl<F> TeeLayer<F> {
    /// Writes each message to the sink that `open` opens for it, if any.
    pub const fn new<O, W>(open: F) -> Self
    where
        F: Fn(&Request<Data>) -> Option<O>,
        O: Future<Output = io::Result<W>> + Send + 'static,
        W: AsyncWrite + Send + 'static,
    {
        Self {
            open,
            sink_failure: SinkFailure::FailMessage,
            sink_timeout: SINK_TIMEOUT,
        }
    }

    /// Sets how long a message waits for its sink in total. Default: one minute.
    ///
    /// Keep it below [`Timeouts::delivery`](smtpd_core::Timeouts::delivery), after which the session defers the message, whatever
    /// [`sink_failure`](Self::sink_failure) says.
    #[must_use]
    pub fn sink_timeout(self, sink_timeout: Duration) -> Self {
        Self {
            sink_timeout,
            ..self
        }
    }

    /// Sets what happens when a sink fails or takes too long. Default: [`SinkFailure::FailMessage`].
    #[must_use]
    pub fn sink_failure(self, sink_failure: SinkFailure) -> Self {
        Self {
            sink_failure,
            ..self
        }
    }
}

// By hand: a closure has no Debug.
impl<F> fmt::Debug for TeeLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TeeLayer")
            .field("open", &type_name::<F>())
            .field("sink_failure", &self.sink_failure)
            .field("sink_timeout", &self.sink_timeout)
            .finish()
    }
}

impl<S, F: Clone> Layer<S> for TeeLayer<F> {
    type Service = Tee<S, F>;

    fn layer(&self, inner: S) -> Tee<S, F> {
        Tee {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`TeeLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Tee<S, F> {
    inner: S,
    layer: TeeLayer<F>,
}

impl<S, F, O, W> Service<Request<Data>> for Tee<S, F>
where
    S: Service<Request<Data>>,
    F: Fn(&Request<Data>) -> Option<O>,
    O: Future<Output = io::Result<W>> + Send + 'static,
    W: AsyncWrite + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Data>) -> S::Future {
        let TeeLayer {
            open,
            sink_failure,
            sink_timeout,
        } = &self.layer;
        let request = match open(&request) {
            Some(open) => {
                request.map_body(|body| body.tee_opening(open, *sink_failure, *sink_timeout))
            }
            None => request,
        };
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use smtpd_core::{envelope::Envelope, reply::Reply};
    use tokio::io::{AsyncReadExt, duplex};
    use tower::ServiceExt;

    use super::*;
    use crate::{body::Body, deliver::Inbox, service::handler_fn, session::Session};

    fn message(body: &'static str) -> Request<Data> {
        let data = Data::new(Envelope::default(), Body::from(body));
        Request::new(Session::local(), data)
    }

    #[tokio::test]
    async fn a_copy_is_opened_when_the_message_is_read_and_not_before() {
        let opened = Arc::new(AtomicUsize::new(0));
        let (sink, mut copy) = duplex(100);
        let sink = std::sync::Mutex::new(Some(sink));
        let layer = TeeLayer::new(|_| {
            let opened = opened.clone();
            let sink = sink.lock().unwrap().take()?;
            Some(async move {
                opened.fetch_add(1, Ordering::Relaxed);
                Ok(sink)
            })
        });
        let data = layer.layer(handler_fn(async |mut request: Request<Data>| {
            let before = opened.load(Ordering::Relaxed);
            while let Some(chunk) = request.body_mut().chunk().await {
                chunk?;
            }
            let after = opened.load(Ordering::Relaxed);
            assert_eq!((before, after), (0, 1));
            Ok::<_, crate::body::BodyError>(Reply::OK)
        }));
        assert_eq!(data.oneshot(message("Hello")).await.unwrap(), Reply::OK);
        let mut copied = String::new();
        copy.read_to_string(&mut copied).await.unwrap();
        assert_eq!(copied, "Hello");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_hangs_is_never_given_up() {
        let hangs = || TeeLayer::new(|_| Some(std::future::pending::<io::Result<Vec<u8>>>()));
        let inbox = Inbox::new();
        let lenient = hangs()
            .sink_failure(SinkFailure::GiveUp)
            .sink_timeout(Duration::from_secs(3));
        let start = tokio::time::Instant::now();
        let reply = lenient.layer(inbox.clone()).oneshot(message("Hello")).await;
        assert_eq!(reply.unwrap(), Reply::OK);
        assert_eq!(start.elapsed().as_secs(), 3);
        assert_eq!(inbox.next().await.message(), "Hello");
        let reply = hangs().layer(inbox.clone()).oneshot(message("Hello")).await;
        assert_eq!(reply.unwrap().code().as_u16(), 451);
        assert_eq!(start.elapsed().as_secs(), 63);
        assert_eq!(inbox.len(), 1);
    }

    #[tokio::test]
    async fn a_message_without_a_copy_passes() {
        let layer = TeeLayer::new(|_| None::<std::future::Ready<io::Result<Vec<u8>>>>);
        let inbox = Inbox::new();
        let data = layer.layer(inbox.clone());
        assert_eq!(data.oneshot(message("Hello")).await.unwrap(), Reply::OK);
        assert_eq!(inbox.next().await.message(), "Hello");
    }
}
