use std::{
    any::type_name,
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use smtpd_core::reply::{Code, Reply, Status};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    fault::quietly,
    layer::AnswerFuture,
    phase::{Phase, PhaseKind, Request},
    session::{Score, Session, Source},
};

/// Adds points to the [`Score`], computed by a function of the request.
///
/// It fits every phase. Points of connect, HELO and AUTH count for every message of the session, points of MAIL, RCPT and
/// DATA for one message. The points of a HELO replace those of an earlier one. They are added before the inner service is
/// called. This layer rejects nothing; a [`ScoreGateLayer`] does: at a later phase, or around this layer or within it.
///
/// ```
/// use smtpd_tower::{
///     Body, Data, Envelope, Helo, Reply, Request, Session,
///     address::ClientName,
///     handler_fn,
///     layer::{ScoreGateLayer, ScoreLayer},
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let no_dot = ScoreLayer::new(|request: &Request<Helo>| {
///     if request.name().as_str().contains('.') { 0 } else { 5 }
/// });
/// let helo = ServiceBuilder::new()
///     .layer(no_dot.reason("HELO without a dot"))
///     .service(handler_fn(async |_: Request<Helo>| {}));
/// let data = ServiceBuilder::new()
///     .layer(ScoreGateLayer::new(5))
///     .service(handler_fn(async |_: Request<Data>| Reply::ok("Dropped")));
///
/// for (name, code) in [("mx.example.org", 250), ("localhost", 550)] {
///     let session = Session::local();
///     let request = Request::new(session.clone(), Helo::new(name.parse()?));
///     assert_eq!(helo.clone().oneshot(request).await?.code().as_u16(), 250);
///     let message = Data::new(Envelope::default(), Body::from("Hello\r\n"));
///     let reply = data.clone().oneshot(Request::new(session, message)).await?;
///     assert_eq!(reply.merged().code().as_u16(), code);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ScoreLayer<F> {
    points: F,
    reason: Option<Cow<'static, str>>,
    source: Source,
}

impl<F> ScoreLayer<F> {
    /// Adds the points that `points` returns.
    pub fn new<P>(points: F) -> Self
    where
        F: Fn(&Request<P>) -> i32,
    {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            points,
            reason: None,
            source: Source::Layer(NEXT.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Sets the reason, which is logged when a [`ScoreGateLayer`] rejects. Default: the name of the phase.
    #[must_use]
    pub fn reason(self, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..self
        }
    }

    fn add_points<P: Phase>(&self, request: &Request<P>)
    where
        F: Fn(&Request<P>) -> i32,
    {
        let session = request.session();
        let map = if matches!(
            P::KIND,
            PhaseKind::Connect | PhaseKind::Helo | PhaseKind::Auth
        ) {
            session.state()
        } else {
            session.transaction()
        };
        // EHLO is repeated after STARTTLS (RFC 3207 section 4.2), and must not count twice.
        if P::KIND == PhaseKind::Helo {
            Score::take_back(map, self.source);
        }
        let reason = self
            .reason
            .clone()
            .unwrap_or(Cow::Borrowed(P::KIND.as_str()));
        Score::put(map, self.source, (self.points)(request), reason);
    }
}

// By hand: a closure has no Debug.
impl<F> fmt::Debug for ScoreLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScoreLayer")
            .field("points", &type_name::<F>())
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl<S, F: Clone> Layer<S> for ScoreLayer<F> {
    type Service = Scored<S, F>;

    fn layer(&self, inner: S) -> Scored<S, F> {
        Scored {
            inner,
            score: self.clone(),
        }
    }
}

/// The service of [`ScoreLayer`]. Its future is that of the inner service.
#[derive(Clone, Debug)]
pub struct Scored<S, F> {
    inner: S,
    score: ScoreLayer<F>,
}

impl<S, F, P> Service<Request<P>> for Scored<S, F>
where
    S: Service<Request<P>>,
    F: Fn(&Request<P>) -> i32,
    P: Phase,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        self.score.add_points(&request);
        self.inner.call(request)
    }
}

/// Rejects requests with too high a [`Score`], with 550 5.7.1.
///
/// It fits every phase, and is meant for DATA: all points have been added by then, and the message is rejected before a byte of
/// it has arrived. At RCPT, it counts the points so far. Each rejection is logged at level INFO, with its reasons, by
/// [`tracing`].
///
/// The gate looks at the score before it calls the inner service, and once more before it polls the future of the call, which it
/// drops if the score is too high. So it also sees the points of a [`ScoreLayer`] of its own phase around which it stands. It
/// does not see what is added while that future runs: by a handler, or by a `ScoreLayer` within an asynchronous layer such as
/// [`from_fn`](crate::layer::from_fn()) or `SpoolLayer`. Put a gate within that layer, too.
///
/// See [`ScoreLayer`] for an example.
///
/// ```
/// use smtpd_tower::{
///     Rcpt, Request, Session, handler_fn,
///     layer::{Score, ScoreGateLayer},
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new()
///     .layer(ScoreGateLayer::new(10))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let session = Session::local();
/// for (points, code) in [(9, 250), (1, 550)] {
///     Score::add_to_message(&session, points, "looks like spam");
///     let request =
///         Request::new(session.clone(), Rcpt::new("user@example.org".parse()?));
///     assert_eq!(rcpt.clone().oneshot(request).await?.code().as_u16(), code);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ScoreGateLayer {
    threshold: i32,
    reply: Arc<Reply>,
}

impl ScoreGateLayer {
    /// Rejects at `threshold` points or more.
    pub fn new(threshold: i32) -> Self {
        let reply = Reply::new(
            Code::MAILBOX_UNAVAILABLE,
            Status::DENIED,
            "Message refused by policy",
        );
        Self {
            threshold,
            reply: reply.into(),
        }
    }

    /// Sets the reply to a request that is rejected. Default: 550 5.7.1.
    #[must_use]
    pub fn reply(mut self, reply: Reply) -> Self {
        self.reply = reply.into();
        self
    }

    /// Returns the reply to a session with too high a score.
    fn refusal(&self, session: &Session) -> Option<Reply> {
        if Score::total_of(session) < self.threshold {
            return None;
        }
        let score = Score::of(session);
        quietly(|| {
            tracing::info!(
                session = session.id(),
                score = score.total(),
                reasons = ?score.reasons().collect::<Vec<_>>(),
                "refused by score"
            );
        });
        Some(Reply::clone(&self.reply).or_origin("ScoreGateLayer"))
    }
}

impl<S> Layer<S> for ScoreGateLayer {
    type Service = ScoreGate<S>;

    fn layer(&self, inner: S) -> ScoreGate<S> {
        ScoreGate {
            inner,
            gate: self.clone(),
        }
    }
}

/// The service of [`ScoreGateLayer`].
#[derive(Clone, Debug)]
pub struct ScoreGate<S> {
    inner: S,
    gate: ScoreGateLayer,
}

impl<S, P> Service<Request<P>> for ScoreGate<S>
where
    S: Service<Request<P>>,
    S::Response: From<Reply>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = AnswerFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        if let Some(reply) = self.gate.refusal(request.session()) {
            return AnswerFuture::answer(reply.into());
        }
        let session = request.session().clone();
        let answer = self.inner.call(request);
        // A `ScoreLayer` within has added its points, and the service itself has not run yet.
        match self.gate.refusal(&session) {
            None => AnswerFuture::inner(answer),
            Some(reply) => AnswerFuture::answer(reply.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use smtpd_core::{address::ReversePath, envelope::Envelope};
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok};
    use tower::ServiceExt;
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        body::Body,
        phase::{Connect, Data, Helo, Mail, Rcpt},
        session::Session,
    };

    /// Lets a request pass through the layer.
    async fn pass<P: Phase, F>(layer: &ScoreLayer<F>, session: &Session, payload: P)
    where
        F: Fn(&Request<P>) -> i32 + Clone,
    {
        let inner = tower::service_fn(|_: Request<P>| std::future::ready(Ok::<_, Infallible>(())));
        let request = Request::new(session.clone(), payload);
        layer.layer(inner).oneshot(request).await.unwrap();
    }

    fn rcpt() -> Rcpt {
        Rcpt::new("b@example.org".parse().unwrap())
    }

    fn helo(name: &str) -> Helo {
        Helo::new(name.parse().unwrap())
    }

    #[tokio::test]
    async fn points_of_the_connection_outlive_the_message() {
        let mut session = Session::local();
        pass(
            &ScoreLayer::new(|_: &Request<Connect>| 1),
            &session,
            Connect::new(),
        )
        .await;
        pass(&ScoreLayer::new(|_: &Request<Helo>| 2), &session, helo("c")).await;
        for message in 0..2 {
            let mail = Mail::new(ReversePath::Null);
            pass(&ScoreLayer::new(|_: &Request<Mail>| 10), &session, mail).await;
            let each = ScoreLayer::new(|_: &Request<Rcpt>| 20).reason("recipient");
            pass(&each, &session, rcpt()).await;
            pass(&each, &session, rcpt()).await;
            let score = Score::of(&session);
            assert_eq!(score.total(), 53, "{message}");
            let expected = [("connect", 1), ("helo", 2), ("mail", 10), ("recipient", 40)];
            assert!(score.reasons().eq(expected), "{score:?}");
            session.end_transaction();
            assert_eq!(Score::of(&session).total(), 3);
        }
    }

    #[tokio::test]
    async fn helo_after_starttls_counts_twice() {
        let session = Session::local();
        let dots = ScoreLayer::new(|request: &Request<Helo>| {
            if request.name().as_str().contains('.') {
                0
            } else {
                5
            }
        });
        let always = ScoreLayer::new(|_: &Request<Helo>| 1);
        Score::add(&session, 100, "helo");
        for (name, expected) in [("c", 106), ("c", 106), ("c.example", 101), ("c", 106)] {
            pass(&dots, &session, helo(name)).await;
            pass(&always, &session, helo(name)).await;
            assert_eq!(Score::of(&session).total(), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn the_gate_rejects_from_the_threshold_on() {
        for (points, passes) in [(4, true), (5, false), (6, false), (-5, true)] {
            let (mut service, mut handle) = spawn_layer::<_, Reply, _>(ScoreGateLayer::new(5));
            let session = Session::local();
            Score::add(&session, points, "test");
            assert_ready_ok!(service.poll_ready());
            let answer = service.call(Request::new(session, rcpt()));
            if passes {
                assert!(assert_ready!(handle.poll_request()).is_some(), "{points}");
            } else {
                let refused = answer.await.unwrap();
                assert_eq!(refused.to_string(), "550 5.7.1 Message refused by policy");
                assert_pending!(handle.poll_request());
            }
        }
    }

    #[tokio::test]
    async fn a_gate_around_what_scores_sees_no_points() {
        let five = ScoreLayer::new(|_: &Request<Rcpt>| 5);
        for (threshold, passes) in [(5, false), (6, true)] {
            let gate = ScoreGateLayer::new(threshold);
            let ran = Arc::new(AtomicU64::new(0));
            let inner = || {
                let ran = ran.clone();
                tower::service_fn(move |_: Request<Rcpt>| {
                    let ran = ran.clone();
                    async move {
                        ran.fetch_add(1, Ordering::Relaxed);
                        Ok::<_, tower::BoxError>(Reply::OK)
                    }
                })
            };
            let request = || Request::new(Session::local(), rcpt());
            let trace = crate::layer::TraceLayer::new();
            let outside = gate.layer(five.layer(inner()));
            let further = gate.layer(trace.layer(gate.layer(five.layer(inner()))));
            let within = five.layer(gate.layer(inner()));
            let expected = if passes { 250 } else { 550 };
            for reply in [
                outside.oneshot(request()).await,
                further.oneshot(request()).await,
                within.oneshot(request()).await,
            ] {
                assert_eq!(reply.unwrap().code().as_u16(), expected);
            }
            let ran = ran.load(Ordering::Relaxed);
            assert_eq!(
                ran,
                if passes { 3 } else { 0 },
                "it has run although it was refused"
            );
        }
    }

    #[tokio::test]
    async fn a_message_is_refused_before_any_of_it_is_read() {
        let session = Session::local();
        Score::add_to_message(&session, 1, "test");
        let read = tower::service_fn(async |request: Request<Data>| {
            request.into_body().collect().await.map(|_| Reply::OK)
        });
        // A body that never yields: a service that reads it would never reply.
        let (_feed, body) = crate::body::incoming();
        let request = Request::new(session, Data::new(Envelope::default(), body));
        let gate = ScoreGateLayer::new(1).reply(Reply::rejected("Spam"));
        let refused = gate.layer(read).oneshot(request).await.unwrap();
        assert_eq!(refused, Reply::rejected("Spam"));

        let request = Request::new(
            Session::local(),
            Data::new(Envelope::default(), Body::from("")),
        );
        assert_eq!(gate.layer(read).oneshot(request).await.unwrap(), Reply::OK);
    }
}
