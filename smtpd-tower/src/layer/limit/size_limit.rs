use std::{
    any::type_name,
    fmt,
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
use smtpd_core::{
    parameter::{Parameters, Size},
    reply::Reply,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::{Body, BodyError},
    layer::AnswerFuture,
    phase::{Data, Mail, Request},
};

/// Rejects messages larger than a limit, with 552 5.3.4.
///
/// It fits MAIL and DATA, and is for limits in addition to the server's own, which EHLO announces to all clients: a limit for one
/// service, listener or client.
///
/// At MAIL, it rejects a message that is declared to be larger (`SIZE=`, RFC 1870 section 6.1), before the client
/// names any recipients. That is not enough, because a client need not declare anything: put it around DATA as well. There, a
/// message that MAIL has declared to be larger is rejected before 354, without receiving a byte. Otherwise the service reads the
/// message up to the limit, and then [`BodyError::TooLarge`]; the client receives 552 regardless of the service's reply. An error
/// of the service stays an error.
///
/// Bytes are counted as in RFC 1870 section 5, which is what the body contains: with CRLF, and without the dots that were added
/// in transit. The declared size is not compared with the message: it may be an estimate (RFC 1870 section 6.3). Put layers that
/// add to the message inside of this one.
///
/// ```
/// use smtpd_tower::{
///     Body, BodyError, Data, Envelope, Reply, Request, Session, handler_fn,
///     layer::SizeLimitLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// async fn store(request: Request<Data>) -> Result<Reply, BodyError> {
///     let message = request.into_body().collect().await?;
///     Ok(Reply::ok(format!("{} bytes", message.len())))
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let data = ServiceBuilder::new()
///     .layer(SizeLimitLayer::new(10))
///     .service(handler_fn(store));
/// let ask = |text: &'static str| {
///     data.clone().oneshot(Request::new(
///         Session::local(),
///         Data::new(Envelope::default(), Body::from(text)),
///     ))
/// };
/// assert!(ask("12345678\r\n").await?.is_accepted());
/// assert_eq!(
///     ask("123456789\r\n").await?.merged().to_string(),
///     "552 5.3.4 Message exceeds the maximum size"
/// );
/// # Ok(()) }
/// ```
/// ```
/// use smtpd_tower::{
///     Mail, Reply, Request, Session, handler_fn, layer::SizeLimitLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mail = ServiceBuilder::new()
///     .layer(SizeLimitLayer::new(10))
///     .service(handler_fn(async |_: Request<Mail>| {}));
/// let payload = Mail::new("a@example.com".parse()?)
///     .with_parameters("SIZE=11".parse()?);
/// let reply = mail.oneshot(Request::new(Session::local(), payload)).await?;
/// assert_eq!(reply, Reply::too_large());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
pub struct SizeLimitLayer<L = FixedSize> {
    limit: L,
}

/// Returns the limit on a message, in bytes.
///
/// You need this trait only for bounds in generic code: [`SizeLimitLayer`] has a constructor for each of its implementations. It
/// is implemented by [`FixedSize`] for every phase, and by functions of a request for one phase.
pub trait SizeRule<P> {
    /// Returns the limit on the message that the request is about, or `None` if it has none.
    fn limit(&self, request: &Request<P>) -> Option<u64>;
}

impl<P, F> SizeRule<P> for F
where
    F: Fn(&Request<P>) -> Option<u64>,
{
    fn limit(&self, request: &Request<P>) -> Option<u64> {
        self(request)
    }
}

/// The same limit for every message.
#[derive(Clone, Copy, Debug)]
pub struct FixedSize(u64);

impl<P> SizeRule<P> for FixedSize {
    fn limit(&self, _: &Request<P>) -> Option<u64> {
        Some(self.0)
    }
}

impl SizeLimitLayer {
    /// Accepts messages of up to `bytes` bytes.
    pub const fn new(bytes: u64) -> Self {
        Self {
            limit: FixedSize(bytes),
        }
    }
}

impl<F> SizeLimitLayer<F> {
    /// Accepts messages of up to as many bytes as `limit` returns, or of any size if it returns `None`.
    ///
    /// A closure is for one phase. A function that is generic over the phase makes a layer for each:
    ///
    /// ```
    /// use smtpd_tower::{Data, Mail, Phase, Request, layer::SizeLimitLayer};
    ///
    /// fn small<P: Phase>(request: &Request<P>) -> Option<u64> {
    ///     match request.session().identity() {
    ///         Some(_) => None,
    ///         None => Some(1 << 20),
    ///     }
    /// }
    /// let at_mail = SizeLimitLayer::by(small::<Mail>);
    /// let at_data = SizeLimitLayer::by(small::<Data>);
    /// ```
    pub const fn by<P>(limit: F) -> Self
    where
        F: Fn(&Request<P>) -> Option<u64>,
    {
        Self { limit }
    }
}

// By hand: a closure has no Debug.
impl<L> fmt::Debug for SizeLimitLayer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SizeLimitLayer")
            .field("limit", &type_name::<L>())
            .finish()
    }
}

impl<S, L: Clone> Layer<S> for SizeLimitLayer<L> {
    type Service = SizeLimit<S, L>;

    fn layer(&self, inner: S) -> SizeLimit<S, L> {
        SizeLimit {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`SizeLimitLayer`].
#[derive(Clone, Debug)]
pub struct SizeLimit<S, L = FixedSize> {
    inner: S,
    layer: SizeLimitLayer<L>,
}

impl<S, L> Service<Request<Mail>> for SizeLimit<S, L>
where
    S: Service<Request<Mail>>,
    L: SizeRule<Mail>,
    S::Response: From<Reply>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = SizeLimitFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Mail>) -> Self::Future {
        let limit = self.layer.limit.limit(&request);
        if is_declared_over(request.parameters(), limit) {
            return SizeLimitFuture::refused();
        }
        SizeLimitFuture::passed(self.inner.call(request), None)
    }
}

/// Returns whether MAIL has declared more than the limit. RFC 1870 section 6.1 allows rejecting by that.
fn is_declared_over(parameters: &Parameters, limit: Option<u64>) -> bool {
    match (parameters.get::<Size>(), limit) {
        (Some(size), Some(limit)) => size.bytes() > limit,
        _ => false,
    }
}

impl<S, L> Service<Request<Data>> for SizeLimit<S, L>
where
    S: Service<Request<Data>>,
    L: SizeRule<Data>,
    S::Response: From<Reply>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = SizeLimitFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Data>) -> Self::Future {
        let limit = self.layer.limit.limit(&request);
        if is_declared_over(request.envelope().parameters(), limit) {
            return SizeLimitFuture::refused();
        }
        let Some(limit) = limit else {
            return SizeLimitFuture::passed(self.inner.call(request), None);
        };
        let passed = Arc::new(AtomicBool::new(false));
        let limited = request.map_body(|body| {
            body.wrapped(|body| Limited {
                body: Some(body),
                left: limit,
                passed: passed.clone(),
            })
        });
        SizeLimitFuture::passed(self.inner.call(limited), Some(passed))
    }
}

/// The future of [`SizeLimit`].
#[pin_project]
#[derive(Debug)]
pub struct SizeLimitFuture<F, R> {
    #[pin]
    answer: AnswerFuture<F, R>,
    /// Whether the message has exceeded the limit, if there is one.
    passed: Option<Arc<AtomicBool>>,
}

impl<F, R> SizeLimitFuture<F, R> {
    const fn passed(future: F, passed: Option<Arc<AtomicBool>>) -> Self {
        Self {
            answer: AnswerFuture::inner(future),
            passed,
        }
    }
}

impl<F, R: From<Reply>> SizeLimitFuture<F, R> {
    fn refused() -> Self {
        Self {
            answer: AnswerFuture::answer(too_large().into()),
            passed: None,
        }
    }
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
        // A service that mistakes the end of the chunks for the end of the message must not get half of it accepted.
        let passed = this.passed.as_ref();
        Poll::Ready(Ok(
            if passed.is_some_and(|passed| passed.load(Ordering::Relaxed)) {
                too_large().into()
            } else {
                response
            },
        ))
    }
}

fn too_large() -> Reply {
    Reply::too_large().with_origin("SizeLimitLayer")
}

/// A body that fails beyond a limit.
struct Limited {
    /// `None` after an error.
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
        let Some(chunk) = ready!(Pin::new(body).poll_next(cx)?) else {
            return Poll::Ready(None);
        };
        let len = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        let Some(left) = self.left.checked_sub(len) else {
            self.body = None;
            self.passed.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(BodyError::TooLarge)));
        };
        self.left = left;
        Poll::Ready(Some(Ok(chunk)))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use smtpd_core::{address::ReversePath, envelope::Envelope};
    use tokio_test::{assert_pending, assert_ready_ok};
    use tower::{BoxError, ServiceExt, service_fn};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{service::handler_fn, session::Session};

    fn data(declared: Option<&str>, body: Body) -> Request<Data> {
        let parameters = declared.map(|size| format!("SIZE={size}"));
        let parameters = parameters.unwrap_or_default().parse().unwrap();
        let envelope = Envelope::new(ReversePath::Null).with_parameters(parameters);
        Request::new(Session::local(), Data::new(envelope, body))
    }

    /// Accepts any body, and replies with its size.
    async fn careless(mut request: Request<Data>) -> Result<Reply, Infallible> {
        let mut len = 0;
        while let Some(Ok(chunk)) = request.body_mut().chunk().await {
            len += chunk.len();
        }
        assert!(request.body_mut().chunk().await.is_none());
        Ok(Reply::ok(len.to_string()))
    }

    #[tokio::test]
    async fn up_to_the_limit_and_not_one_byte_more() {
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
    async fn the_limit_is_a_function_of_the_request() {
        let layer = SizeLimitLayer::by(|request: &Request<Data>| {
            request.session().identity().is_none().then_some(2)
        });
        let service = layer.layer(service_fn(careless));
        let message = |session: Session, declared| {
            let (_, data) = data(declared, "123".into()).into_parts();
            service.clone().oneshot(Request::new(session, data))
        };
        let (stranger, user) = (Session::local(), Session::local().with_identity("alice"));
        for declared in [None, Some("3")] {
            let refused = message(stranger.clone(), declared).await.unwrap();
            assert_eq!(refused, Reply::too_large(), "{declared:?}");
            let accepted = message(user.clone(), declared).await.unwrap();
            assert_eq!(accepted, Reply::ok("3"), "{declared:?}");
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
    async fn a_client_that_declares_too_much_asks_for_every_recipient_in_vain() {
        let mail = |session: Session, parameters: &str| {
            let payload = Mail::new(ReversePath::Null);
            Request::new(
                session,
                payload.with_parameters(parameters.parse().unwrap()),
            )
        };
        let accepts = || handler_fn(async |_: Request<Mail>| {});
        let fixed = SizeLimitLayer::new(100).layer(accepts());
        for (parameters, code) in [("", 250), ("SIZE=100", 250), ("SIZE=101", 552)] {
            let asked = fixed.clone().oneshot(mail(Session::local(), parameters));
            assert_eq!(asked.await.unwrap().code().as_u16(), code, "{parameters}");
        }
        fn stranger<P>(request: &Request<P>) -> Option<u64> {
            request.session().identity().is_none().then_some(100)
        }
        let by = SizeLimitLayer::by(stranger::<Mail>).layer(accepts());
        let user = Session::local().with_identity("alice");
        for (session, code) in [(Session::local(), 552), (user, 250)] {
            let asked = by.clone().oneshot(mail(session, "SIZE=101"));
            assert_eq!(asked.await.unwrap().code().as_u16(), code);
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
