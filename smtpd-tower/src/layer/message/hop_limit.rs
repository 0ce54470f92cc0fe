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
use memchr::memchr;
use pin_project::pin_project;
use smtpd_core::reply::{Code, Reply, Status};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::{Beginning, Begins, Body, BodyError},
    phase::{Data, Request},
};

/// Rejects messages that have passed too many servers, with 554 5.4.6: they are in a loop (RFC 5321 section 6.3).
///
/// Each server adds a `Received` field to a message, as [`ReceivedLayer`](crate::layer::ReceivedLayer) does. A message that has
/// more than the limit when it arrives is rejected. [`Server::profile`](crate::server::Server::profile) counts without this
/// layer; see [`Server::max_hops`](crate::server::Server::max_hops).
///
/// It fits DATA only. The service reads the message up to the first field over the limit, and then an error whose reply is 554.
/// The client receives 554 regardless of the service's reply. An error of the service stays an error. Only the header section is
/// inspected as it passes, and nothing of it is kept. Put `ReceivedLayer` inside of this one, so that its field is not counted.
///
/// ```
/// use smtpd_tower::{
///     Body, BodyError, Data, Envelope, Reply, Request, Session, handler_fn,
///     layer::HopLimitLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// async fn store(request: Request<Data>) -> Result<Reply, BodyError> {
///     request.into_body().collect().await.map(|_| Reply::ok("Stored"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let data = ServiceBuilder::new()
///     .layer(HopLimitLayer::new(2))
///     .service(handler_fn(store));
/// let after = |hops: usize| {
///     let message =
///         "Received: from here\r\n".repeat(hops) + "Subject: hi\r\n\r\nHello\r\n";
///     data.clone().oneshot(Request::new(
///         Session::local(),
///         Data::new(Envelope::default(), Body::from(message.into_bytes())),
///     ))
/// };
/// assert!(after(2).await?.is_accepted());
/// assert_eq!(
///     after(3).await?.merged().to_string(),
///     "554 5.4.6 Too many hops, the message is in a loop"
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HopLimitLayer {
    hops: u32,
}

impl HopLimitLayer {
    /// The default limit. RFC 5321 section 6.3 asks for a large one, normally at least 100.
    pub const DEFAULT: u32 = 100;

    /// Accepts messages with up to `hops` `Received` fields.
    pub const fn new(hops: u32) -> Self {
        Self { hops }
    }
}

impl Default for HopLimitLayer {
    /// Accepts messages with up to [`DEFAULT`](Self::DEFAULT) `Received` fields.
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

impl<S> Layer<S> for HopLimitLayer {
    type Service = HopLimit<S>;

    fn layer(&self, inner: S) -> HopLimit<S> {
        HopLimit {
            inner,
            hops: self.hops,
        }
    }
}

/// The service of [`HopLimitLayer`].
#[derive(Clone, Debug)]
pub struct HopLimit<S> {
    inner: S,
    hops: u32,
}

impl<S> Service<Request<Data>> for HopLimit<S>
where
    S: Service<Request<Data>>,
    S::Response: From<Reply>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = HopLimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Data>) -> Self::Future {
        let passed = Arc::new(AtomicBool::new(false));
        let limited = request.map_body(|body| {
            body.wrapped(|body| Limited {
                body: Some(body),
                counter: Counter::new(),
                limit: self.hops,
                passed: passed.clone(),
            })
        });
        HopLimitFuture {
            inner: self.inner.call(limited),
            passed,
        }
    }
}

/// The future of [`HopLimit`].
#[pin_project]
#[derive(Debug)]
pub struct HopLimitFuture<F> {
    #[pin]
    inner: F,
    /// Whether the message has exceeded the limit.
    passed: Arc<AtomicBool>,
}

impl<F, R, E> Future for HopLimitFuture<F>
where
    F: Future<Output = Result<R, E>>,
    R: From<Reply>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        // A service that mistakes the end of the chunks for the end of the message must not get half of it accepted.
        Poll::Ready(Ok(if this.passed.load(Ordering::Relaxed) {
            too_many_hops().into()
        } else {
            response
        }))
    }
}

fn too_many_hops() -> Reply {
    Reply::new(
        Code::TRANSACTION_FAILED,
        Status::ROUTING_LOOP,
        "Too many hops, the message is in a loop",
    )
    .with_origin("HopLimitLayer")
}

/// A body that counts its `Received` fields as they pass.
struct Limited {
    /// `None` after an error.
    body: Option<Body>,
    counter: Counter,
    limit: u32,
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
        if self.counter.count(&chunk) > self.limit {
            self.body = None;
            self.passed.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(BodyError::refused(too_many_hops()))));
        }
        Poll::Ready(Some(Ok(chunk)))
    }
}

const NAME: &[u8] = b"received";

/// Counts the `Received` fields of a header section that comes in chunks.
struct Counter {
    hops: u32,
    at: Place,
    /// How the message begins, until it is known whether there is a header section.
    beginning: Option<Beginning>,
    #[cfg(test)]
    steps: usize,
}

/// Where in the header section the next byte is.
#[derive(Clone, Copy)]
enum Place {
    /// How much of a line has matched the name; after the whole name, white space may follow (RFC 5322 section 4.5).
    Name(usize),
    /// After a CR at the beginning of a line.
    EmptyLine,
    Rest,
    /// After a CR in a line.
    LineEnd,
    /// After the header section.
    Body,
}

impl Counter {
    fn new() -> Self {
        Self {
            hops: 0,
            at: Place::Name(0),
            beginning: Some(Beginning::default()),
            #[cfg(test)]
            steps: 0,
        }
    }

    /// Counts in the next chunk, and returns how many fields have begun so far.
    fn count(&mut self, chunk: &[u8]) -> u32 {
        self.inspect_beginning(chunk);
        let mut rest = chunk;
        while let (Some((&byte, after)), false) = (rest.split_first(), self.is_over()) {
            self.step(byte);
            rest = match self.at {
                // Only the end of the line matters.
                Place::Rest => memchr(b'\r', after).map_or(&[], |end| after.split_at(end).1),
                _ => after,
            };
        }
        self.hops
    }

    const fn is_over(&self) -> bool {
        matches!(self.at, Place::Body)
    }

    /// A message that does not begin with a field has no header section, whatever its text looks like. The mbox line before the
    /// first field does not count.
    fn inspect_beginning(&mut self, chunk: &[u8]) {
        let Some(known) = self.beginning.as_mut().and_then(|b| b.look(chunk)) else {
            return;
        };
        self.beginning = None;
        if known == Begins::Text {
            self.at = Place::Body;
        }
    }

    fn step(&mut self, byte: u8) {
        #[cfg(test)]
        {
            self.steps += 1;
        }
        self.at = match (self.at, byte) {
            (Place::Body, _) | (Place::EmptyLine, b'\n') => Place::Body,
            (Place::LineEnd, b'\n') => Place::Name(0),
            (Place::Name(0), b'\r') => Place::EmptyLine,
            (_, b'\r') => Place::LineEnd,
            (Place::Name(len), b' ' | b'\t') if len == NAME.len() => self.at,
            (Place::Name(len), b':') if len == NAME.len() => {
                self.hops = self.hops.saturating_add(1);
                Place::Rest
            }
            (Place::Name(len), byte) if NAME.get(len) == Some(&byte.to_ascii_lowercase()) => {
                Place::Name(len + 1)
            }
            _ => Place::Rest,
        };
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::envelope::Envelope;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{body::in_pieces, session::Session};

    /// Messages, and their number of hops.
    const MESSAGES: [(&str, u32); 17] = [
        ("", 0),
        ("Received: a\r\n\r\n", 1),
        ("RECEIVED:\r\nreceived : b\r\nReceived\t:c\r\n", 3),
        ("Subject: hi\r\nReceived: a\r\n\r\nReceived: b\r\n", 1),
        ("Received: a\r\n Received: b\r\n\tReceived: c\r\n", 1),
        (
            "Subject: Received: a\r\nX-Received: b\r\nReceived-SPF: c\r\n",
            0,
        ),
        ("A: 1\r\nReceive: a\r\nReceivedd: b\r\nRe ceived: c\r\n", 0),
        ("A: 1\r\nReceived\r\n: a\r\n", 0),
        ("\r\nReceived: a\r\n", 0),
        ("Hello\r\nReceived: a\r\n", 0),
        ("From a@b\r\nReceived: a\r\n", 1),
        (">From a@b 07:58:14\r\nReceived: a\r\nreceived: b\r\n", 2),
        ("From a@b\r\n\r\nReceived: a\r\n", 0),
        ("From a@b\r\nHello\r\nReceived: a\r\n", 0),
        (" \r\nReceived: a\r\n", 0),
        // A line in the middle that is not a field does not hide those below it, and only CRLF ends a line.
        ("A: 1\r\nHello\r\nReceived: a\r\n", 1),
        (
            "A: 1\nReceived: a\r\r\nReceived: b\r\n\n\r\nReceived: c\r\n",
            2,
        ),
    ];

    #[test]
    fn fields_are_counted_wherever_a_message_is_split() {
        for (message, hops) in MESSAGES {
            for cut in 0..=message.len() {
                let mut counter = Counter::new();
                let (first, second) = message.as_bytes().split_at(cut);
                counter.count(first);
                assert_eq!(counter.count(second), hops, "{message:?} cut at {cut}");
            }
            let mut counter = Counter::new();
            let counted = message.bytes().fold(0, |_, byte| counter.count(&[byte]));
            assert_eq!(counted, hops, "{message:?}");
        }
    }

    #[test]
    fn a_line_is_not_stepped_through_to_its_end() {
        let long = "x".repeat(5000);
        for message in [
            long.clone(),
            " ".repeat(5000),
            format!("A{}", " ".repeat(5000)),
            format!("Subject: {long}"),
            format!("Received: {long}"),
            format!("A: 1\r\n {long}\r\n\r\n{long}"),
        ] {
            let mut counter = Counter::new();
            counter.count(message.as_bytes());
            assert!(counter.steps <= 20, "{}: {message}", counter.steps);
        }
    }

    #[test]
    fn the_first_line_is_inspected_once_wherever_it_is_split() {
        let message = ["x".repeat(998), "y".repeat(5000)].concat();
        for size in [1, 7, 998, 5000] {
            let mut counter = Counter::new();
            for chunk in message.as_bytes().chunks(size) {
                counter.count(chunk);
            }
            assert!(counter.is_over() && counter.steps <= 998, "{size}");
        }
    }

    async fn answer(message: String, careless: bool) -> Reply {
        let service = service_fn(move |request: Request<Data>| async move {
            let mut body = request.into_body();
            while let Some(chunk) = body.chunk().await {
                match chunk {
                    Err(error) if !careless => return Ok::<_, BodyError>(error.reply()),
                    _ => {}
                }
            }
            Ok(Reply::ok("Stored"))
        });
        let body = in_pieces(message.as_bytes().chunks(700), Ok(()));
        let request = Request::new(Session::local(), Data::new(Envelope::default(), body));
        let answer = HopLimitLayer::default()
            .layer(service)
            .oneshot(request)
            .await;
        answer.unwrap()
    }

    #[tokio::test]
    async fn a_message_in_a_loop_is_rejected_whatever_the_service_says() {
        for careless in [false, true] {
            for (hops, code) in [(0, 250), (100, 250), (101, 554), (200, 554)] {
                let header = "Received: from a\r\n\tby b;\r\n\tSun, 22 Nov 2026\r\n".repeat(hops);
                let answer = answer(header + "\r\nHello\r\n", careless).await;
                assert_eq!(answer.code().as_u16(), code, "{hops}");
            }
        }
    }

    #[tokio::test]
    async fn a_loop_that_adds_a_line_of_an_mbox_each_round_ends() {
        use crate::layer::ReceivedLayer;

        for line in [
            "From loop@a.test Mon Nov 30 07:58:14 2026\r\n",
            ">From x\r\n",
        ] {
            let inbox = crate::deliver::Inbox::new();
            let inner = ReceivedLayer::new().layer(inbox.clone());
            let service = HopLimitLayer::new(25).layer(inner);
            let mut message = Bytes::from("Subject: hi\r\n\r\nHello\r\n");
            let mut rounds = 0;
            while rounds < 30 {
                let body = Body::from([line.as_bytes(), &*message].concat());
                let request = Request::new(Session::local(), Data::new(Envelope::default(), body));
                if !service
                    .clone()
                    .oneshot(request)
                    .await
                    .unwrap()
                    .is_positive()
                {
                    break;
                }
                message = inbox.next().await.message().clone();
                rounds += 1;
            }
            assert_eq!(rounds, 26, "{}", message.escape_ascii());
        }
    }
}
