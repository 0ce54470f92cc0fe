//! A custom layer that logs what becomes of each message.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use futures_core::Stream;
use smtpd_tower::{Body, BodyError, BoxError, Data, Request, recover, reply::Answer};
use tower::{Layer, Service};

use crate::log;

/// Logs each message that passes through, with its size and the reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageLogLayer;

impl<S> Layer<S> for MessageLogLayer {
    type Service = MessageLog<S>;

    fn layer(&self, inner: S) -> MessageLog<S> {
        MessageLog { inner }
    }
}

/// The service of [`MessageLogLayer`].
#[derive(Clone, Debug)]
pub(crate) struct MessageLog<S> {
    inner: S,
}

impl<S> Service<Request<Data>> for MessageLog<S>
where
    S: Service<Request<Data>, Response: Answer, Error = BoxError, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Data>) -> Self::Future {
        let began = Instant::now();
        let session = request.session().clone();
        let envelope = request.envelope().clone();
        let size = Arc::new(AtomicU64::new(0));
        let counted = size.clone();
        let reply = self.inner.call(request.map_body(|body| {
            Body::new(Counted {
                body,
                size: counted,
            })
        }));
        Box::pin(async move {
            let result = reply.await;
            let size = size.load(Ordering::Relaxed);
            match &result {
                Ok(answer) => log::message(&session, &envelope, size, began, answer.reply()),
                Err(error) => log::message(&session, &envelope, size, began, Some(&recover(error))),
            }
            result
        })
    }
}

/// A body whose bytes are counted as they pass.
struct Counted {
    body: Body,
    size: Arc<AtomicU64>,
}

impl Stream for Counted {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = ready!(Pin::new(&mut self.body).poll_next(cx));
        if let Some(Ok(bytes)) = &piece {
            self.size.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(piece)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use smtpd_tower::{Envelope, Reply, Session, handler_fn, service::BoxPhaseService};
    use tower::ServiceExt;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// Sends a message through the layer around a service that stores it.
    async fn stored() -> Reply {
        let store = handler_fn(async |request: Request<Data>| {
            request
                .into_body()
                .collect()
                .await
                .map(|_| Reply::ok("Stored"))
        });
        let service = MessageLogLayer.layer(BoxPhaseService::new(store));
        let envelope = Envelope::new("a@a.test".parse().unwrap())
            .with_recipient("b@b.test".parse().unwrap())
            .with_recipient("c@c.test".parse().unwrap());
        let data = Data::new(envelope, Body::from("Hello\r\n"));
        let request = Request::new(Session::local(), data);
        service.oneshot(request).await.unwrap().merged().clone()
    }

    #[tokio::test]
    async fn a_log_that_panics_does_not_cost_the_reply_to_a_stored_message() {
        let subscriber = tracing_subscriber::fmt()
            .with_writer(|| -> std::io::Sink { panic!("the log") })
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        assert_eq!(stored().await, Reply::ok("Stored"));
    }

    #[tokio::test]
    async fn a_message_is_told_of_in_one_line() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_writer(lines.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        stored().await;
        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.lines().count(), 1);
        for part in [
            r#"from="a@a.test" to="b@b.test,c@c.test" size=7"#,
            "reply=250 2.0.0 Stored",
        ] {
            assert!(lines.contains(part), "{lines}");
        }
    }
}
