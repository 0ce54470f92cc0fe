use std::{
    any::type_name,
    fmt,
    task::{Context, Poll},
};

use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::Body,
    phase::{Data, Request},
};

/// Replaces the body: the new one can change, count or inspect what passes through it.
///
/// It fits DATA only. Nothing is read until the service reads.
///
/// ```
/// use smtpd_tower::{
///     Body, Data, Envelope, Request, Session, deliver::Inbox, layer::MapBodyLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = Inbox::new();
/// let data = ServiceBuilder::new()
///     .layer(MapBodyLayer::new(|body: Body| {
///         body.prepend_header("X-Scanned: yes\r\n")
///     }))
///     .service(inbox.clone());
/// let message = Data::new(Envelope::default(), Body::from("Subject: hi\r\n\r\n"));
/// data.oneshot(Request::new(Session::local(), message)).await?;
/// assert_eq!(
///     inbox.next().await.message(),
///     "X-Scanned: yes\r\nSubject: hi\r\n\r\n"
/// );
/// # Ok(()) }
/// ```
///
/// If several layers add header fields, those of the innermost come first. Put [`ReceivedLayer`](crate::layer::ReceivedLayer)
/// last, inside of this one, so that the trace header stays on top.
///
/// If the field depends on the session or the envelope, use [`from_fn`](crate::layer::from_fn):
///
/// ```
/// use smtpd_tower::{Data, Request, layer::{self, Next}};
///
/// let layer = layer::from_fn(async |request: Request<Data>, next: Next<Data>| {
///     let field = format!("X-Client: {}\r\n", request.session().client_addr());
///     next.run(request.map_body(|body| body.prepend_header(field))).await
/// });
/// # let _ = tower::Layer::layer(&layer, smtpd_tower::deliver::Discard);
/// ```
///
/// # A filter as a layer
///
/// A body that ends with [`BodyError::refused`](crate::body::BodyError::refused) is refused with that reply, whichever service
/// reads it: each service and layer of this crate returns it, and a service of your own does so by `?`. The server reads and
/// drops the rest of the message. A body that ends with [`BodyError::other`](crate::body::BodyError::other), for instance because
/// a scanner does not respond, is deferred with 451 and reported to [`Server::on_error`](crate::server::Server::on_error).
///
/// ```
/// use smtpd_tower::{
///     Body, BodyError, Data, Envelope, Reply, Request, Session, deliver::Inbox,
///     layer::MapBodyLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// /// Rejects a message that contains the word, even if two chunks share it.
/// fn without_casino(body: Body) -> Body {
///     const WORD: &[u8] = b"casino";
///     let mut tail = Vec::new();
///     body.try_inspect(move |chunk| {
///         tail.extend_from_slice(chunk);
///         if tail.windows(WORD.len()).any(|bytes| bytes == WORD) {
///             return Err(BodyError::refused(Reply::rejected(
///                 "No gambling, please",
///             )));
///         }
///         tail.drain(..tail.len().saturating_sub(WORD.len() - 1));
///         Ok(())
///     })
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let data = ServiceBuilder::new()
///     .layer(MapBodyLayer::new(without_casino))
///     .service(Inbox::new());
/// for (text, code) in [("Hello\r\n", 250), ("Win at the casino\r\n", 554)] {
///     let message = Data::new(Envelope::default(), Body::from(text));
///     let reply =
///         data.clone().oneshot(Request::new(Session::local(), message)).await?;
///     assert_eq!(reply.code().as_u16(), code);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
pub struct MapBodyLayer<F> {
    f: F,
}

impl<F: Fn(Body) -> Body> MapBodyLayer<F> {
    /// Replaces each body with the result of `f`.
    pub const fn new(f: F) -> Self {
        Self { f }
    }
}

// By hand: a closure has no Debug.
impl<F> fmt::Debug for MapBodyLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MapBodyLayer")
            .field(&type_name::<F>())
            .finish()
    }
}

impl<S, F: Clone> Layer<S> for MapBodyLayer<F> {
    type Service = MapBody<S, F>;

    fn layer(&self, inner: S) -> MapBody<S, F> {
        MapBody {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`MapBodyLayer`].
#[derive(Clone, Copy, Debug)]
pub struct MapBody<S, F> {
    inner: S,
    layer: MapBodyLayer<F>,
}

impl<S, F> Service<Request<Data>> for MapBody<S, F>
where
    S: Service<Request<Data>>,
    F: Fn(Body) -> Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Data>) -> S::Future {
        self.inner.call(request.map_body(&self.layer.f))
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::envelope::Envelope;
    use tower::ServiceExt;

    use super::*;
    use crate::{
        body::{BodyError, ByteCount, in_pieces},
        deliver::Inbox,
        session::Session,
    };

    #[tokio::test]
    async fn every_message_has_a_body_of_its_own_and_its_errors_pass() {
        let inbox = Inbox::new();
        let counts = std::sync::Mutex::new(Vec::<ByteCount>::new());
        let count = |body: Body| {
            let (body, count) = body.counted();
            counts.lock().unwrap().push(count);
            body
        };
        let data = MapBodyLayer::new(&count).layer(inbox.clone());
        let mut codes = Vec::new();
        for end in [Ok(()), Err(BodyError::TooLarge)] {
            let data_request = Data::new(Envelope::default(), in_pieces([b"four"], end));
            let request = Request::new(Session::local(), data_request);
            codes.push(data.clone().oneshot(request).await.unwrap().code().as_u16());
        }
        assert_eq!(codes, [250, 552]);
        assert_eq!(inbox.next().await.message(), "four");
        let counts = counts.lock().unwrap();
        assert!(counts.iter().map(ByteCount::bytes).eq([4, 4]));
    }
}
