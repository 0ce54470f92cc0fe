use std::{
    any::type_name,
    fmt, io,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::SinkFailure,
    phase::{Data, Request},
};

/// Writes a copy of each message to a sink while the service reads it: an archive, a journal, a scanner.
///
/// It fits DATA only. `open` is a function of the request that returns a future which opens a sink, or `None` for no copy. The
/// sink is opened when the message is first read, so a message that is refused unread leaves nothing behind. A slow sink holds
/// the client back. The sink is shut down only at the end of a whole message, see [`Body::tee`](crate::body::Body::tee). A copy
/// is not a delivery: the service may still refuse the message.
///
/// ```
/// use smtpd_tower::{Body, Data, Envelope, Request, Session, deliver::Inbox, layer::TeeLayer};
/// use tower::{ServiceBuilder, ServiceExt};
/// use tokio::fs::File;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("copy.eml");
/// let journal = path.clone();
/// let data = ServiceBuilder::new()
///     .layer(TeeLayer::new(move |request| {
///         let internal = request.envelope().sender().as_str().ends_with("@example.org");
///         let open = File::create(journal.clone());
///         (!internal).then_some(open)
///     }))
///     .service(Inbox::new());
///
/// let envelope = Envelope::new("someone@example.com".parse()?);
/// let message = Data::new(envelope, Body::from("Subject: hi\r\n\r\nHello\r\n"));
/// assert_eq!(data.oneshot(Request::new(Session::local(), message)).await?.code().as_u16(), 250);
/// assert_eq!(std::fs::read(path)?, b"Subject: hi\r\n\r\nHello\r\n");
/// # Ok(()) }
/// ```
///
/// If a copy cannot be opened or written, the message is deferred with 451, and the client may try again.
/// [`sink_failure`](Self::sink_failure) changes this.
///
/// ```
/// use std::io;
///
/// use smtpd_tower::{Body, Data, Envelope, Request, Session, SinkFailure, deliver::Inbox, layer::TeeLayer};
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
/// assert_eq!(data.oneshot(Request::new(Session::local(), message())).await?.code().as_u16(), 451);
/// let data = ServiceBuilder::new().layer(lenient).service(Inbox::new());
/// assert_eq!(data.oneshot(Request::new(Session::local(), message())).await?.code().as_u16(), 250);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
pub struct TeeLayer<F> {
    open: F,
    sink_failure: SinkFailure,
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
        }
    }

    /// Sets what happens when a sink fails. Default: [`SinkFailure::FailMessage`].
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
        let request = match (self.layer.open)(&request) {
            Some(open) => request.map_body(|body| body.tee_opening(open, self.layer.sink_failure)),
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

    use smtpd_core::{Envelope, Reply};
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

    #[tokio::test]
    async fn a_message_without_a_copy_passes() {
        let layer = TeeLayer::new(|_| None::<std::future::Ready<io::Result<Vec<u8>>>>);
        let inbox = Inbox::new();
        let data = layer.layer(inbox.clone());
        assert_eq!(data.oneshot(message("Hello")).await.unwrap(), Reply::OK);
        assert_eq!(inbox.next().await.message(), "Hello");
    }
}
