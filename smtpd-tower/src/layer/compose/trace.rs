use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use smtpd_core::{config::Protocol, reply::Reply};
use tokio::time::Instant;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Level, Span, field};

use super::session_span::SessionSpan;
use crate::{
    body::thrown_reply,
    fault::{QuietSpan, caught, quietly},
    phase::{Phase, PhaseKind, Request},
    reply::Answer,
    session::Session,
};

/// Logs every request by [`tracing`]: a span around the service, and one event with the reply and its latency.
///
/// It fits every phase. The span `smtp` has the fields `phase`, `session`, `peer`, `helo` and `identity`. Its level is INFO for
/// DATA and DEBUG for all other phases, as is that of the event `answered` with `code`, `status` and `latency_ms`. An AUTH that
/// is not refused has no code yet, because the engine completes it later. If a message has a reply for each recipient, the event
/// has the number of recipients that are `accepted` and `refused`, and the `codes` with the number of each, such as
/// `codes="250 x2, 452 x1"`; `code` and `status` are those of the single reply that SMTP sends, and LMTP has none.
///
/// These spans are within one for the session, `smtp.session`, of the level INFO. Its fields have the names that OpenTelemetry uses:
/// `client.address`, `client.port`, `server.address`, `server.port`, `network.transport`, `network.protocol.name`,
/// `tls.protocol.version` and `tls.cipher`, which are recorded once they are known, and `smtp.session.id`. It ends with the
/// session; XCLIENT begins another one.
///
/// A refusal that the service throws as an error is an answer like any other. The event is a WARN if the service fails or panics
/// (`failed`, with the `error`), and if the engine or a layer outside gives up before the reply (`cancelled`); it then includes
/// phase, session and peer itself, because the span may be disabled.
///
/// It never logs addresses of an envelope and credentials, and text that the client chose is escaped, so that it cannot look like a
/// line of the log. A level that no subscriber enables costs a comparison, and nothing is allocated for it. If a
/// subscriber panics, its event is lost, but the reply is not.
///
/// [The guide](crate::guide::logs_and_metrics) lists all events and spans.
///
/// ```
/// use smtpd_tower::{
///     Mail, Reply, Request, Session, address::ReversePath, handler_fn,
///     layer::TraceLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), smtpd_tower::BoxError> {
/// async fn mail(request: Request<Mail>) -> Result<(), Reply> {
///     match request.session().identity() {
///         Some(_) => Ok(()),
///         None => Err(Reply::auth_required()),
///     }
/// }
/// let mail = ServiceBuilder::new()
///     .layer(TraceLayer::new())
///     .service(handler_fn(mail));
/// let ask = |session| {
///     mail.clone()
///         .oneshot(Request::new(session, Mail::new(ReversePath::Null)))
/// };
///
/// // DEBUG smtp{phase="mail" session=1 peer=127.0.0.1:0 identity=alice}:
/// //     answered code=250 status=2.0.0 latency_ms=0.02
/// assert_eq!(
///     ask(Session::local().with_identity("alice")).await?.code().as_u16(),
///     250
/// );
/// // DEBUG smtp{phase="mail" session=2 peer=127.0.0.1:0}:
/// //     answered code=530 status=5.7.0 latency_ms=0.01
/// assert_eq!(ask(Session::local()).await?.code().as_u16(), 530);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TraceLayer;

impl TraceLayer {
    /// Logs to the subscriber that is current when a request arrives.
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner }
    }
}

/// The service of [`TraceLayer`].
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
}

impl<S, P> Service<Request<P>> for Trace<S>
where
    P: Phase,
    S: Service<Request<P>>,
    S::Response: Answer,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let mut record = Record::begin(P::KIND, request.session());
        let inner = match &mut record {
            Some(record) => record.run(|| self.inner.call(request)),
            None => self.inner.call(request),
        };
        TraceFuture { record, inner }
    }
}

/// The future of [`Trace`].
#[pin_project]
#[derive(Debug)]
pub struct TraceFuture<F> {
    record: Option<Record>,
    #[pin]
    inner: F,
}

impl<F, R, E> Future for TraceFuture<F>
where
    R: Answer,
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match this.record {
            Some(record) => ready!(record.run(|| this.inner.poll(cx))),
            None => return this.inner.poll(cx).map_err(Into::into),
        };
        let result = result.map_err(Into::into);
        if let Some(record) = this.record.take() {
            quietly(|| record.end(&result));
        }
        Poll::Ready(result)
    }
}

/// A request in flight, if a subscriber is interested in its end.
#[derive(Debug)]
struct Record {
    span: QuietSpan,
    phase: PhaseKind,
    session: Session,
    start: Instant,
    progress: Progress,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The service waits for something.
    Waiting,
    /// The service runs. It has panicked if it is dropped meanwhile.
    Running,
    /// Its event was logged.
    Ended,
}

/// `tracing` fixes the level of an event at compile time.
macro_rules! span {
    ($level:expr, $phase:expr, $session:expr) => {
        tracing::span!(
            $level,
            "smtp",
            phase = $phase.as_str(),
            session = $session.id(),
            peer = %$session.client_addr(),
            helo = $session.helo().map(|name| field::display(name.as_str().escape_debug())),
            identity = $session.identity().map(|name| field::display(name.as_str().escape_debug())),
        )
    };
}

macro_rules! answered {
    ($record:expr, $level:expr, $replies:expr) => {
        tracing::event!(
            parent: $record.span.get(),
            $level,
            code = $replies.sent.map(|reply| reply.code().as_u16()),
            status = $replies.sent.map(|reply| field::display(status(reply))),
            accepted = $replies.several().map(accepted),
            refused = $replies.several().map(|each| each.len() - accepted(each)),
            codes = $replies.several().map(codes),
            latency_ms = $record.latency_ms(),
            "answered"
        )
    };
}

/// The replies to a request.
#[derive(Clone, Copy)]
struct Replies<'a> {
    /// The one that the client receives, if there is a single one.
    sent: Option<&'a Reply>,
    each: &'a [Reply],
}

impl<'a> Replies<'a> {
    fn of<R: Answer>(response: &'a R, protocol: Protocol) -> Self {
        let each = response.replies();
        let is_single = each.len() < 2 || protocol != Protocol::Lmtp;
        Self {
            sent: response.reply().filter(|_| is_single),
            each,
        }
    }

    const fn one(reply: &'a Reply) -> Self {
        Self {
            sent: Some(reply),
            each: &[],
        }
    }

    /// Returns the replies, if each recipient has its own.
    fn several(&self) -> Option<&'a [Reply]> {
        Some(self.each).filter(|each| each.len() > 1)
    }
}

fn accepted(each: &[Reply]) -> usize {
    each.iter().filter(|reply| reply.is_positive()).count()
}

/// Returns the codes in the order in which they occur first, each with its number.
fn codes(each: &[Reply]) -> String {
    let mut counts: Vec<(u16, usize)> = Vec::new();
    for reply in each {
        let code = reply.code().as_u16();
        match counts.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += 1,
            None => counts.push((code, 1)),
        }
    }
    let counts = counts
        .iter()
        .map(|(code, count)| format!("{code} x{count}"));
    counts.collect::<Vec<_>>().join(", ")
}

impl Record {
    /// Returns `None` if no subscriber enables even warnings, and if the subscriber panics.
    fn begin(phase: PhaseKind, session: &Session) -> Option<Self> {
        let span = caught(|| SessionSpan::in_scope(session, || Self::span(phase, session)));
        let span = span.ok().flatten()?;
        Some(Self {
            span: QuietSpan::new(span),
            phase,
            session: session.clone(),
            start: Instant::now(),
            progress: Progress::Waiting,
        })
    }

    /// Runs the service within the span.
    fn run<T>(&mut self, service: impl FnOnce() -> T) -> T {
        self.progress = Progress::Running;
        let result = self.span.in_scope(service);
        self.progress = Progress::Waiting;
        result
    }

    fn span(phase: PhaseKind, session: &Session) -> Option<Span> {
        tracing::enabled!(Level::WARN).then(|| {
            if phase == PhaseKind::Data {
                span!(Level::INFO, phase, session)
            } else {
                span!(Level::DEBUG, phase, session)
            }
        })
    }

    fn end<R: Answer>(self, result: &Result<R, BoxError>) {
        match result {
            Ok(response) => {
                let replies = Replies::of(response, self.session.protocol());
                self.answered(replies);
            }
            Err(error) => match thrown_reply(&**error) {
                Some(reply) => self.answered(Replies::one(&reply)),
                None => self.failed(&error.to_string()),
            },
        }
    }

    fn answered(mut self, replies: Replies<'_>) {
        self.progress = Progress::Ended;
        if self.phase == PhaseKind::Data {
            answered!(self, Level::INFO, replies);
        } else {
            answered!(self, Level::DEBUG, replies);
        }
    }

    fn failed(mut self, error: &str) {
        self.progress = Progress::Ended;
        self.log_failed(error);
    }

    fn log_failed(&self, error: &str) {
        tracing::warn!(
            parent: self.span.get(),
            phase = self.phase.as_str(),
            session = self.session.id(),
            peer = %self.session.client_addr(),
            error = %error.escape_debug(),
            latency_ms = self.latency_ms(),
            "failed"
        );
    }

    fn latency_ms(&self) -> f64 {
        self.start.elapsed().as_secs_f64() * 1_000.0
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        quietly(|| match self.progress {
            Progress::Ended => {}
            Progress::Running => self.log_failed("the service panicked"),
            Progress::Waiting => tracing::warn!(
                parent: self.span.get(),
                phase = self.phase.as_str(),
                session = self.session.id(),
                peer = %self.session.client_addr(),
                latency_ms = self.latency_ms(),
                "cancelled"
            ),
        });
    }
}

/// Returns the enhanced status code in full, with the class of the reply (RFC 2034 section 4).
fn status(reply: &Reply) -> String {
    format!("{}.{}", reply.code().as_u16() / 100, reply.status())
}

#[cfg(test)]
mod tests {
    use std::{future::Ready, sync::Arc, time::Duration};

    use smtpd_core::{
        address::ReversePath,
        connection::{AuthOutcome, Greeting},
        envelope::Envelope,
        reply::DataReply,
        sasl::{Credentials, MechanismName},
    };
    use tokio_test::{assert_pending, assert_ready_ok, task};
    use tower::{ServiceExt, service_fn, timeout::error::Elapsed};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        body::{Body, BodyError},
        fault::{
            self,
            test::{Log, Panicking},
        },
        net::PeerAddr,
        phase::{Auth, Data, Mail},
        session::{TlsInfo, TlsVersion},
    };

    /// The span of a session, as the log shows it before that of a request.
    fn within(id: u64, client: &str, port: u16) -> String {
        format!(
            r#"smtp.session{{smtp.session.id={id} network.protocol.name="smtp" network.transport="tcp" client.address={client} client.port={port} server.address=127.0.0.1 server.port=25}}:"#
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_span_of_a_session_stays_open_while_something_has_the_session() {
        let (log, _guard) = Log::listen(Level::INFO);
        let tls = TlsInfo::new(TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256");
        let data = || Data::new(Envelope::default(), Body::from(""));
        let session = Session::local();
        ask(Request::new(session.clone(), data()), Ok(Reply::OK.into())).await;
        // Both are the same session, which TLS has begun for meanwhile.
        let secured = session.clone().with_tls(tls);
        ask(Request::new(secured.clone(), data()), Ok(Reply::OK.into())).await;
        let lines = log.lines();
        assert!(!lines[1].contains("tls"), "{lines:?}");
        let facts = r#" tls.protocol.version="1.3" tls.cipher="TLS_AES_128_GCM_SHA256"}"#;
        assert!(lines[3].contains(facts), "{lines:?}");
        session.end();
        ask(Request::new(secured, data()), Ok(Reply::OK.into())).await;
        let lines = log.lines();
        assert!(
            lines.iter().all(|line| !line.contains("smtp.session")),
            "{lines:?}"
        );
    }

    fn mail(session: Session) -> Request<Mail> {
        Request::new(session, Mail::new(ReversePath::Null))
    }

    async fn ask<P: Phase>(request: Request<P>, result: Result<P::Response, BoxError>) {
        let mut result = Some(result);
        let inner = service_fn(move |_: Request<P>| {
            let result = result.take().unwrap();
            async move {
                tokio::time::sleep(Duration::from_millis(250)).await;
                tracing::warn!("within");
                result
            }
        });
        let _ = TraceLayer::new().layer(inner).oneshot(request).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_span_around_the_service_and_an_event_with_the_answer() {
        let (log, _guard) = Log::listen(Level::DEBUG);
        let session = Session::from_peer(([192, 0, 2, 1], 4711))
            .with_helo("a.example".parse().unwrap(), Greeting::Ehlo)
            .with_identity("alice");
        let id = session.id();
        ask(mail(session), Ok(Reply::relay_denied())).await;
        let span = format!(
            r#"{}smtp{{phase="mail" session={id} peer=192.0.2.1:4711 helo=a.example identity=alice}}"#,
            within(id, "192.0.2.1", 4711)
        );
        assert_eq!(
            log.lines(),
            [
                format!("WARN {span}: within"),
                format!("DEBUG {span}: answered code=550 status=5.7.1 latency_ms=250.0"),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_of_level_info() {
        let (log, _guard) = Log::listen(Level::INFO);
        let session = Session::local();
        let id = session.id();
        ask(mail(session.clone()), Ok(Reply::OK)).await;
        assert_eq!(log.lines(), ["WARN within"]);
        let data = Data::new(Envelope::default(), Body::from(""));
        ask(Request::new(session, data), Ok(Reply::OK.into())).await;
        let session = within(id, "127.0.0.1", 0);
        let span = format!(r#"{session}smtp{{phase="data" session={id} peer=127.0.0.1:0}}"#);
        assert_eq!(
            log.lines(),
            [
                format!("WARN {span}: within"),
                format!("INFO {span}: answered code=250 status=2.0.0 latency_ms=250.0"),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_most_recipients_have_looks_refused() {
        let (log, _guard) = Log::listen(Level::INFO);
        let reply = || DataReply::each([Reply::OK, Reply::mailbox_full(), Reply::OK]);
        for (protocol, code) in [
            (Protocol::Lmtp, ""),
            (Protocol::Smtp, "code=452 status=4.2.2 "),
        ] {
            let addr = || PeerAddr::from(([127, 0, 0, 1], 0));
            let session = Session::new(addr(), addr(), Arc::default(), protocol);
            let data = Data::new(Envelope::default(), Body::from(""));
            ask(Request::new(session, data), Ok(reply())).await;
            let line = log.lines().pop().unwrap();
            let expected = format!(
                r#": answered {code}accepted=2 refused=1 codes="250 x2, 452 x1" latency_ms=250.0"#
            );
            assert!(line.ends_with(&expected), "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_is_thrown_is_a_failure_in_the_log() {
        let (log, _guard) = Log::listen(Level::DEBUG);
        let deep = BodyError::other(BodyError::refused(Reply::rejected("spam")));
        for error in [BoxError::from(Reply::rejected("spam")), deep.into()] {
            ask(mail(Session::local()), Err(error)).await;
            let line = log.lines().pop().unwrap();
            assert!(line.starts_with("DEBUG "), "{line}");
            let expected = ": answered code=554 status=5.7.1 latency_ms=250.0";
            assert!(line.ends_with(expected), "{line}");
        }
        // A time limit is no decision.
        ask(mail(Session::local()), Err(Elapsed::new().into())).await;
        let line = log.lines().pop().unwrap();
        assert!(line.starts_with("WARN "), "{line}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_accepted_auth_has_no_code_and_shows_no_password() {
        let (log, _guard) = Log::listen(Level::TRACE);
        let auth = || {
            let credentials = Credentials::plain("alice", "hunter2").unwrap();
            Request::new(
                Session::local(),
                Auth::new(MechanismName::from_static("PLAIN"), credentials),
            )
        };
        ask(auth(), Ok(AuthOutcome::Accept("alice".into()))).await;
        ask(auth(), Ok(AuthOutcome::Refuse(Reply::auth_failed()))).await;
        let lines = log.lines();
        assert!(
            lines[1].ends_with(": answered latency_ms=250.0"),
            "{lines:?}"
        );
        assert!(
            lines[3].ends_with(": answered code=535 status=5.7.8 latency_ms=250.0"),
            "{lines:?}"
        );
        assert!(!lines.concat().contains("hunter2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_a_warning_without_its_span() {
        let (log, _guard) = Log::listen(Level::WARN);
        let session = Session::local();
        let id = session.id();
        ask(mail(session), Err("db\ndown".into())).await;
        assert_eq!(
            log.lines(),
            [
                "WARN within".to_owned(),
                format!(
                    r#"WARN failed phase="mail" session={id} peer=127.0.0.1:0 error=db\ndown latency_ms=250.0"#
                ),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_panics_looks_cancelled() {
        let (log, _guard) = Log::listen(Level::WARN);
        let at_once = |_| -> Ready<Result<Reply, BoxError>> { panic!("at once") };
        let mut called = TraceLayer::new().layer(service_fn(at_once));
        let (first, second) = (Session::local(), Session::local());
        let ids = [first.id(), second.id()];
        caught(|| drop(called.call(mail(first)))).unwrap_err();
        let later = async |_| -> Result<Reply, BoxError> { panic!("later") };
        let mut polled = TraceLayer::new().layer(service_fn(later));
        let mut answer = tokio_test::task::spawn(polled.call(mail(second)));
        caught(|| drop(answer.poll())).unwrap_err();
        drop(answer);
        let expected = ids.map(|id| {
            format!(
                r#"WARN failed phase="mail" session={id} peer=127.0.0.1:0 error=the service panicked latency_ms=0.0"#
            )
        });
        let lines = log.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        for (line, end) in lines.iter().zip(expected) {
            assert!(line.ends_with(end.trim_start_matches("WARN ")), "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_dropped_is_a_warning() {
        let (log, _guard) = Log::listen(Level::WARN);
        let (mut service, _handle) = spawn_layer::<_, Reply, _>(TraceLayer::new());
        for polled in [true, false] {
            assert_ready_ok!(service.poll_ready());
            let session = Session::local();
            let id = session.id();
            let mut asked = task::spawn(service.call(mail(session)));
            if polled {
                assert_pending!(asked.poll());
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(log.lines(), [""; 0]);
            drop(asked);
            assert_eq!(
                log.lines(),
                [format!(
                    r#"WARN cancelled phase="mail" session={id} peer=127.0.0.1:0 latency_ms=1000.0"#
                )]
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_client_chose_cannot_look_like_the_log() {
        let (log, _guard) = Log::listen(Level::DEBUG);
        let session = Session::from_peer(PeerAddr::unix(Some("/run/a\nb")))
            .with_helo("a\"\\b".parse().unwrap(), Greeting::Ehlo)
            .with_identity("é\u{202e}\u{2028}\"");
        ask(mail(session), Err("a\nb".into())).await;
        let lines = log.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        let fields = r#"peer=unix:/run/a\nb helo=a\"\\b identity=é\u{202e}\u{2028}\"}: "#;
        assert!(lines[0].contains(fields), "{lines:?}");
    }

    #[tokio::test]
    async fn a_subscriber_that_panics_costs_no_reply() {
        let inner = service_fn(async |_: Request<Data>| Ok::<_, BoxError>(Reply::ok("Stored")));
        for at in fault::test::ALL {
            let _guard = Panicking::listen(at);
            let data = Data::new(Envelope::default(), Body::from(""));
            let request = Request::new(Session::local(), data);
            let answer = TraceLayer::new().layer(inner).oneshot(request).await;
            assert_eq!(answer.unwrap(), Reply::ok("Stored"), "{at:?}");
            // A failure, and a request that is dropped.
            let failing = service_fn(async |_: Request<Mail>| Err::<Reply, _>("db down"));
            let failed = TraceLayer::new()
                .layer(failing)
                .oneshot(mail(Session::local()));
            assert_eq!(failed.await.unwrap_err().to_string(), "db down", "{at:?}");
            let (mut service, _handle) = spawn_layer::<_, Reply, _>(TraceLayer::new());
            assert_ready_ok!(service.poll_ready());
            drop(service.call(mail(Session::local())));
        }
    }

    #[tokio::test]
    async fn without_a_subscriber_nothing_is_recorded() {
        assert!(Record::begin(PhaseKind::Data, &Session::local()).is_none());
        let (_log, _guard) = Log::listen(Level::WARN);
        let record = Record::begin(PhaseKind::Data, &Session::local()).unwrap();
        assert!(record.span.get().is_none());
    }
}
