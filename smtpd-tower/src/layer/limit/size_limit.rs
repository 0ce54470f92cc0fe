use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use pin_project::pin_project;
use smtpd_core::{Reply, parameter::Size};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::{Body, BodyError},
    layer::AnswerFuture,
    phase::{Data, Request},
};

/// Refuses messages of more octets than that, with 552 5.3.4.
///
/// It fits DATA only, and is for limits beside the server's own, which is announced by EHLO and holds for all: one for the
/// messages of some service, listener or client. What MAIL has declared by `SIZE=` to be larger is refused before 354,
/// without an octet received. Otherwise the service reads the message up to the limit, and then
/// [`BodyError::TooLarge`]; whatever it answers then, the client receives 552. An error of the service stays one.
///
/// Octets are counted as RFC 1870 section 5 says, which is how the body has them: with CRLF, and without the dots that were
/// added on the way. A declared size is not held against the message: it may be an estimate (RFC 1870 section 6.3). Layers
/// that add to the message belong inside of this one.
///
/// ```
/// use smtpd_tower::{Body, BodyError, Data, Envelope, Reply, Request, Session, handler_fn, layer::SizeLimitLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// async fn store(request: Request<Data>) -> Result<Reply, BodyError> {
///     let message = request.into_body().collect().await?;
///     Ok(Reply::ok(format!("{} octets", message.len())))
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let data = ServiceBuilder::new().layer(SizeLimitLayer::new(10)).service(handler_fn(store));
/// let ask = |text: &'static str| {
///     data.clone().oneshot(Request::new(Session::local(), Data::new(Envelope::default(), Body::from(text))))
/// };
/// assert!(ask("12345678\r\n").await?.is_taken());
/// assert_eq!(ask("123456789\r\n").await?.merged().to_string(), "552 5.3.4 Message exceeds the maximum size");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SizeLimitLayer {
    octets: u64,
}

impl SizeLimitLayer {
    /// Lets messages of up to that many octets pass.
    pub const fn new(octets: u64) -> Self {
        Self { octets }
    }
}

impl<S> Layer<S> for SizeLimitLayer {
    type Service = SizeLimit<S>;

    fn layer(&self, inner: S) -> SizeLimit<S> {
        SizeLimit {
            inner,
            octets: self.octets,
        }
    }
}

/// The service of [`SizeLimitLayer`].
#[derive(Clone, Debug)]
pub struct SizeLimit<S> {
    inner: S,
    octets: u64,
}

impl<S> Service<Request<Data>> for SizeLimit<S>
where
    S: Service<Request<Data>>,
    S::Response: From<Reply>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = SizeLimitFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Data>) -> Self::Future {
        let passed = Arc::new(AtomicBool::new(false));
        let declared = request.envelope().parameters().get::<Size>();
        let answer = if declared.is_some_and(|size| size.bytes() > self.octets) {
            // RFC 1870 section 6.1: the declared size is reason enough.
            AnswerFuture::answer(Reply::too_large().into())
        } else {
            let limited = request.map_body(|body| {
                Body::new(Limited {
                    body: Some(body),
                    left: self.octets,
                    passed: passed.clone(),
                })
            });
            AnswerFuture::inner(self.inner.call(limited))
        };
        SizeLimitFuture { answer, passed }
    }
}

/// The future of [`SizeLimit`].
#[pin_project]
#[derive(Debug)]
pub struct SizeLimitFuture<F, R> {
    #[pin]
    answer: AnswerFuture<F, R>,
    /// Whether the message has passed the limit.
    passed: Arc<AtomicBool>,
}

impl<F, R, E> Future for SizeLimitFuture<F, R>
where
    F: Future<Output = Result<R, E>>,
    R: From<Reply>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let response = ready!(this.answer.poll(cx))?;
        // A service that takes the end of the pieces for the end of the message must not get half of it accepted.
        Poll::Ready(Ok(if this.passed.load(Ordering::Relaxed) {
            Reply::too_large().into()
        } else {
            response
        }))
    }
}

/// A body up to a limit.
struct Limited {
    /// Nothing after an error.
    body: Option<Body>,
    left: u64,
    passed: Arc<AtomicBool>,
}

impl Stream for Limited {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let Some(piece) = ready!(Pin::new(body).poll_next(cx)?) else {
            return Poll::Ready(None);
        };
        let octets = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        let Some(left) = self.left.checked_sub(octets) else {
            self.body = None;
            self.passed.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(BodyError::TooLarge)));
        };
        self.left = left;
        Poll::Ready(Some(Ok(piece)))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use smtpd_core::{Envelope, ReversePath};
    use tokio_test::{assert_pending, assert_ready_ok};
    use tower::{BoxError, ServiceExt, service_fn};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::session::Session;

    fn data(declared: Option<&str>, body: Body) -> Request<Data> {
        let parameters = declared.map(|size| format!("SIZE={size}"));
        let parameters = parameters.unwrap_or_default().parse().unwrap();
        let envelope = Envelope::new(ReversePath::Null).with_parameters(parameters);
        Request::new(Session::local(), Data::new(envelope, body))
    }

    /// Accepts whatever comes, and how much it was.
    async fn careless(mut request: Request<Data>) -> Result<Reply, Infallible> {
        let mut octets = 0;
        while let Some(Ok(piece)) = request.body_mut().chunk().await {
            octets += piece.len();
        }
        assert!(request.body_mut().chunk().await.is_none());
        Ok(Reply::ok(octets.to_string()))
    }

    #[tokio::test]
    async fn up_to_the_limit_and_not_one_octet_more() {
        let service = SizeLimitLayer::new(9).layer(service_fn(careless));
        let table = [
            (Body::from(""), "250 2.0.0 0"),
            (Body::from("123456789"), "250 2.0.0 9"),
            (Body::from("56789").prepend("1234"), "250 2.0.0 9"),
            (
                Body::from("1234567890"),
                "552 5.3.4 Message exceeds the maximum size",
            ),
            (
                Body::from("567890").prepend("1234"),
                "552 5.3.4 Message exceeds the maximum size",
            ),
        ];
        for (body, expected) in table {
            let reply = service.clone().oneshot(data(None, body)).await.unwrap();
            assert_eq!(reply.to_string(), expected);
        }
    }

    #[tokio::test]
    async fn a_declared_size_is_refused_before_the_message() {
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(SizeLimitLayer::new(1000));
        for declared in ["1001", "99999999999999999999"] {
            assert_ready_ok!(service.poll_ready());
            let refused = service.call(data(Some(declared), "".into())).await.unwrap();
            assert_eq!(refused, Reply::too_large(), "{declared}");
            assert_pending!(handle.poll_request());
        }
        let service = SizeLimitLayer::new(1000).layer(service_fn(careless));
        for declared in [None, Some("0"), Some("1000")] {
            let reply = service.clone().oneshot(data(declared, "12".into())).await;
            assert_eq!(reply.unwrap(), Reply::ok("2"), "{declared:?}");
        }
    }

    #[tokio::test]
    async fn errors_of_the_body_and_of_the_service_stay_what_they_are() {
        let broken = Body::new(Broken(Some(BodyError::Incomplete)));
        let collect = service_fn(async |request: Request<Data>| {
            request.into_body().collect().await?;
            Ok::<_, BoxError>(Reply::OK)
        });
        let service = SizeLimitLayer::new(2).layer(collect);
        for (body, expected) in [
            (broken, BodyError::Incomplete.to_string()),
            (Body::from("123"), BodyError::TooLarge.to_string()),
        ] {
            let error = service.clone().oneshot(data(None, body)).await.unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    struct Broken(Option<BodyError>);

    impl Stream for Broken {
        type Item = Result<Bytes, BodyError>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.take().map(Err))
        }
    }
}
