use std::{
    any::{Any, type_name},
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    layer::Exempt,
    phase::{Auth, Deadline, Request},
    reload::Reloadable,
    reply::{Answer, Verdict},
    session::Session,
};

/// Delays rejections, each longer than the last, which slows down the guessing of addresses and passwords.
///
/// It fits every phase, and counts the replies of the whole session that it delays, at every tarpit that they pass. The first is
/// delayed by one `delay`, the second by two, and so on up to [`max_delay`](Self::max_delay). These are replies of 5yz, whether
/// the service returns them or throws them as an error; [`when`](Self::when) selects others. A message that any recipient accepts
/// is not rejected.
///
/// An AUTH whose secret the session has yet to compare cannot be judged by a layer: it is delayed by the attempts that have
/// failed before it. So a correct password waits as well after wrong ones, but a client that guesses is slowed down by every
/// mechanism.
///
/// Clients on the same machine are not delayed: an MTA that delivers by LMTP is not guessing. [`exempt`](Self::exempt) names
/// others.
///
/// # What it costs
///
/// A client that waits holds its connection, its session's permit under the server's limit, and its task, for up to the maximum
/// with each refusal; it costs no thread and hardly any further memory. An attacker who opens many connections and has them all
/// refused reaches that limit sooner: keep the maximum small, and limit the connections per address.
///
/// A delay never changes the reply. It ends before the session would reply by itself, at nine tenths of what [`Timeouts::call`],
/// [`Timeouts::data_start`] or [`Timeouts::delivery`] leave of it, and at once when the server shuts down.
///
/// The service has completed before the delay: a `concurrency_limit` inside of this layer is free meanwhile, one outside is not.
/// So put it outermost, and only once: `Pipeline::layer` puts it around every phase.
///
/// [`Timeouts::call`]: smtpd_core::Timeouts::call
/// [`Timeouts::data_start`]: smtpd_core::Timeouts::data_start
/// [`Timeouts::delivery`]: smtpd_core::Timeouts::delivery
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_tower::{
///     Rcpt, Request, Session, handler_fn,
///     layer::{DomainFilterLayer, TarpitLayer},
/// };
/// use tokio::time::Instant;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), smtpd_tower::BoxError> {
/// let rcpt = ServiceBuilder::new()
///     .layer(TarpitLayer::new(Duration::from_secs(2)))
///     .layer(DomainFilterLayer::parse(["example.org"])?)
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let session = Session::from_peer(([192, 0, 2, 1], 4711));
/// let ask =
///     |path| rcpt.clone().oneshot(Request::new(session.clone(), Rcpt::new(path)));
///
/// let start = Instant::now();
/// assert_eq!(ask("user@example.org".parse()?).await?.code().as_u16(), 250);
/// assert_eq!(start.elapsed().as_secs(), 0);
/// assert_eq!(ask("a@example.com".parse()?).await?.code().as_u16(), 550);
/// assert_eq!(start.elapsed().as_secs(), 2);
/// assert_eq!(ask("b@example.com".parse()?).await?.code().as_u16(), 550);
/// assert_eq!(start.elapsed().as_secs(), 2 + 4);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TarpitLayer<W = fn(&Session, Verdict) -> bool> {
    rules: Rules<W>,
    exempt: Reloadable<Exempt>,
}

#[derive(Clone, Copy)]
struct Rules<W> {
    delay: Duration,
    max_delay: Duration,
    when: W,
}

impl TarpitLayer {
    /// Delays the first rejection by `delay`, and each further one by `delay` more.
    pub fn new(delay: Duration) -> Self {
        Self {
            rules: Rules {
                delay,
                max_delay: Duration::from_secs(30),
                when: is_rejected,
            },
            exempt: Exempt::local().into(),
        }
    }
}

fn is_rejected(_: &Session, verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Rejected | Verdict::Undecided)
}

impl<W> TarpitLayer<W> {
    /// Sets the longest delay. Default: 30 seconds.
    #[must_use]
    pub fn max_delay(mut self, max_delay: Duration) -> Self {
        self.rules.max_delay = max_delay;
        self
    }

    /// Sets the clients that are not delayed. Default: those of [this machine](Exempt::local).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use smtpd_tower::layer::{Exempt, TarpitLayer};
    ///
    /// let own = Exempt::local().parse_networks(["192.0.2.0/24"])?.authenticated();
    /// let tarpit = TarpitLayer::new(Duration::from_secs(1)).exempt(own);
    /// # Ok::<(), smtpd_tower::net::CidrError>(())
    /// ```
    #[must_use]
    pub fn exempt(self, exempt: impl Into<Reloadable<Exempt>>) -> Self {
        Self {
            exempt: exempt.into(),
            ..self
        }
    }

    /// Sets which results are delayed, by the session and what the service has decided. Default: those that are rejected, and
    /// those that are undecided, which are delayed by the failures before them.
    ///
    /// Deferring is slow enough by itself: a client whose message is greylisted, and that is delayed as well, pays twice.
    ///
    /// `when` is called for every result, also for those of [exempt](Self::exempt) clients, so let it count nothing.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use smtpd_tower::{Session, layer::TarpitLayer, reply::Verdict};
    ///
    /// // Also deferred ones, but only for clients that have not authenticated.
    /// let tarpit = TarpitLayer::new(Duration::from_secs(1)).when(
    ///     |session: &Session, verdict: Verdict| {
    ///         verdict.is_refused() && session.identity().is_none()
    ///     },
    /// );
    /// ```
    #[must_use]
    pub fn when<V>(self, when: V) -> TarpitLayer<V>
    where
        V: Fn(&Session, Verdict) -> bool,
    {
        let Rules {
            delay, max_delay, ..
        } = self.rules;
        TarpitLayer {
            rules: Rules {
                delay,
                max_delay,
                when,
            },
            exempt: self.exempt,
        }
    }
}

// By hand: a closure has no Debug.
impl<W> fmt::Debug for TarpitLayer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TarpitLayer")
            .field("delay", &self.rules.delay)
            .field("max_delay", &self.rules.max_delay)
            .field("when", &type_name::<W>())
            .field("exempt", &self.exempt)
            .finish()
    }
}

/// The number of results that were delayed in the session.
#[derive(Default)]
struct Delayed(u32);

impl<S, W: Clone> Layer<S> for TarpitLayer<W> {
    type Service = Tarpit<S, W>;

    fn layer(&self, inner: S) -> Tarpit<S, W> {
        Tarpit {
            inner,
            layer: Arc::new(self.clone()),
        }
    }
}

/// The service of [`TarpitLayer`].
#[derive(Clone, Debug)]
pub struct Tarpit<S, W = fn(&Session, Verdict) -> bool> {
    inner: S,
    layer: Arc<TarpitLayer<W>>,
}

impl<S, P, W> Service<Request<P>> for Tarpit<S, W>
where
    P: 'static,
    S: Service<Request<P>, Response: Answer, Error: Into<BoxError>>,
    W: Fn(&Session, Verdict) -> bool + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = TarpitFuture<S::Future, S::Response, W>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let watch = Watch {
            layer: self.layer.clone(),
            session: request.session().clone(),
            deadline: request.deadline().clone(),
            failures: failures(request.payload()),
        };
        TarpitFuture {
            watch,
            state: State::Inner(self.inner.call(request)),
        }
    }
}

/// Returns how many attempts to authenticate have failed before this request, if it is one.
fn failures(payload: &dyn Any) -> u32 {
    payload.downcast_ref::<Auth>().map_or(0, Auth::failures)
}

/// A request that may be delayed.
struct Watch<W> {
    layer: Arc<TarpitLayer<W>>,
    session: Session,
    deadline: Deadline,
    failures: u32,
}

impl<W: Fn(&Session, Verdict) -> bool> Watch<W> {
    /// Counts a result that is to be delayed, and returns for how long.
    fn delay(&self, verdict: Verdict) -> Option<Duration> {
        let TarpitLayer { rules, exempt } = &*self.layer;
        // Most requests are accepted, and nobody asks then who is exempt.
        if !(rules.when)(&self.session, verdict)
            || exempt.with(|exempt| exempt.contains(&self.session))
            || self.session.is_shutting_down()
        {
            return None;
        }
        let count = match verdict {
            Verdict::Undecided => self.failures,
            _ => self.session.state().update(|delayed: &mut Delayed| {
                delayed.0 = delayed.0.saturating_add(1);
                delayed.0
            }),
        };
        let delay = rules.delay.saturating_mul(count);
        Some(delay.min(rules.max_delay)).filter(|delay| !delay.is_zero())
    }
}

impl<W> Watch<W> {
    /// Ends the delay before the session answers by itself, and when the server shuts down.
    fn cut(&self, sleep: Pin<&mut Sleep>) {
        let now = Instant::now();
        if self.session.is_shutting_down() {
            return sleep.reset(now);
        }
        let Some(deadline) = self.deadline.instant() else {
            return;
        };
        let left = deadline.saturating_duration_since(now);
        let latest = now + left - left / 10;
        if latest < sleep.deadline() {
            sleep.reset(latest);
        }
    }
}

/// The future of [`Tarpit`]: waits for the service, then for the delay.
#[pin_project]
pub struct TarpitFuture<F, R, W = fn(&Session, Verdict) -> bool> {
    watch: Watch<W>,
    #[pin]
    state: State<F, R>,
}

impl<F, R, W> fmt::Debug for TarpitFuture<F, R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_waiting = matches!(self.state, State::Wait { .. });
        f.debug_struct("TarpitFuture")
            .field("is_waiting", &is_waiting)
            .finish_non_exhaustive()
    }
}

#[pin_project(project = StateProj)]
enum State<F, R> {
    Inner(#[pin] F),
    Wait {
        // In a box, because few requests wait, and all would move it.
        sleep: Pin<Box<Sleep>>,
        result: Option<Result<R, BoxError>>,
    },
}

impl<F, R, E, W> Future for TarpitFuture<F, R, W>
where
    F: Future<Output = Result<R, E>>,
    R: Answer,
    E: Into<BoxError>,
    W: Fn(&Session, Verdict) -> bool,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let (result, delay) = match this.state.as_mut().project() {
                StateProj::Inner(inner) => {
                    let result = ready!(inner.poll(cx)).map_err(Into::into);
                    match this.watch.delay(Verdict::of(&result)) {
                        Some(delay) => (result, delay),
                        None => return Poll::Ready(result),
                    }
                }
                StateProj::Wait { sleep, result } => {
                    this.watch.cut(sleep.as_mut());
                    ready!(sleep.as_mut().poll(cx));
                    // Polled after completion, it stays pending like a fused future.
                    return result.take().map_or(Poll::Pending, Poll::Ready);
                }
            };
            this.state.set(State::Wait {
                sleep: Box::pin(sleep(delay)),
                result: Some(result),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::{
        connection::AuthOutcome,
        envelope::Envelope,
        reply::{DataReply, Reply},
        sasl::{Credentials, MechanismName, Secret},
    };
    use tokio_test::{assert_pending, assert_ready_ok};
    use tower::{ServiceExt, service_fn};
    use tower_test::mock::spawn_layer;

    use super::*;
    use crate::{
        body::{Body, BodyError},
        net::PeerAddr,
        phase::{Connect, Data},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn stranger() -> Session {
        Session::from_peer(([192, 0, 2, 1], 4711))
    }

    /// Calls the service, and returns how many milliseconds its reply took.
    async fn time<P, R, W>(
        layer: &TarpitLayer<W>,
        request: Request<P>,
        answer: Result<R, BoxError>,
    ) -> u128
    where
        P: Send + 'static,
        R: Answer,
        W: Fn(&Session, Verdict) -> bool + Clone,
    {
        let start = Instant::now();
        let verdict = Verdict::of(&answer);
        let mut answer = Some(answer);
        let inner = service_fn(move |_: Request<P>| std::future::ready(answer.take().unwrap()));
        let received = layer.layer(inner).oneshot(request).await;
        assert_eq!(Verdict::of(&received), verdict);
        start.elapsed().as_millis()
    }

    fn connect(session: &Session) -> Request<Connect> {
        Request::new(session.clone(), Connect::new())
    }

    #[tokio::test(start_paused = true)]
    async fn each_rejection_waits_longer_up_to_the_maximum() {
        let session = stranger();
        let layer = TarpitLayer::new(SECOND).max_delay(Duration::from_millis(2500));
        let table: [(Result<_, BoxError>, _); 8] = [
            (Ok(Reply::OK), 0),
            (Ok(Reply::no_such_user()), 1000),
            (Ok(Reply::OK), 0),
            (Err("db down".into()), 0),
            (Ok(Reply::relay_denied()), 2000),
            (Ok(Reply::no_such_user()), 2500),
            (Ok(Reply::no_such_user()), 2500),
            (Ok(Reply::OK), 0),
        ];
        for (answer, expected) in table {
            let shown = format!("{answer:?}");
            let waited = time(&layer, connect(&session), answer).await;
            assert_eq!(waited, expected, "{shown}");
        }
        let (other, long) = (stranger(), TarpitLayer::new(Duration::from_secs(3600)));
        let refused = || Ok(Reply::no_such_user());
        assert_eq!(time(&layer, connect(&other), refused()).await, 1000);
        assert_eq!(time(&long, connect(&other), refused()).await, 30_000);
    }

    #[tokio::test(start_paused = true)]
    async fn an_honest_client_that_is_greylisted_waits_for_its_deferral_too() {
        let session = stranger();
        let layer = TarpitLayer::new(SECOND);
        for reply in [Reply::busy(), Reply::closing("Bye"), Reply::mailbox_full()] {
            assert_eq!(time(&layer, connect(&session), Ok(reply)).await, 0);
        }
        let layer = layer.when(|_: &Session, verdict: Verdict| verdict.is_refused());
        assert_eq!(
            time(&layer, connect(&session), Ok(Reply::busy())).await,
            1000
        );
        let known = session.clone().with_identity("alice");
        let layer = layer.when(|session: &Session, verdict: Verdict| {
            verdict.is_refused() && session.identity().is_none()
        });
        assert_eq!(time(&layer, connect(&known), Ok(Reply::busy())).await, 0);
        assert_eq!(
            time(&layer, connect(&session), Ok(Reply::busy())).await,
            2000
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_mailbox_that_is_full_delays_the_whole_queue_of_the_own_mta() {
        let message = |session: Session| {
            Request::new(session, Data::new(Envelope::default(), Body::from("")))
        };
        let layer = TarpitLayer::new(SECOND);
        let partly = || DataReply::each([Reply::OK, Reply::mailbox_full()]);
        assert_eq!(time(&layer, message(stranger()), Ok(partly())).await, 0);
        let partly = DataReply::each([Reply::no_such_user(), Reply::OK]);
        assert_eq!(time(&layer, message(stranger()), Ok(partly)).await, 0);
        let refused = || DataReply::each([Reply::no_such_user(), Reply::no_such_user()]);
        assert_eq!(time(&layer, message(stranger()), Ok(refused())).await, 1000);

        let local = [
            PeerAddr::unix(Some("/run/lmtp")),
            PeerAddr::Unix(None),
            ([127, 0, 0, 1], 4711).into(),
            "[::1]:4711".parse::<std::net::SocketAddr>().unwrap().into(),
        ];
        for peer in local {
            let shown = peer.to_string();
            let session = Session::from_peer(peer);
            let waited = time(&layer, message(session), Ok(refused())).await;
            assert_eq!(waited, 0, "{shown}");
        }
        let own = Exempt::new().parse_networks(["192.0.2.0/24"]).unwrap();
        let layer = layer.exempt(own);
        assert_eq!(time(&layer, message(stranger()), Ok(refused())).await, 0);
        let local = message(Session::local());
        assert_eq!(time(&layer, local, Ok(refused())).await, 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejection_that_is_thrown_is_not_delayed() {
        let session = stranger();
        let layer = TarpitLayer::new(SECOND);
        let deep = BodyError::other(BodyError::refused(Reply::no_such_user()));
        let table: [(BoxError, _); 5] = [
            (Reply::no_such_user().into(), 1000),
            (deep.into(), 2000),
            (Reply::busy().into(), 0),
            (BodyError::Incomplete.into(), 0),
            ("db down".into(), 0),
        ];
        for (error, expected) in table {
            let shown = error.to_string();
            let waited = time(&layer, connect(&session), Err::<Reply, _>(error)).await;
            assert_eq!(waited, expected, "{shown}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_password_that_the_session_compares_is_guessed_without_delay() {
        let session = stranger();
        let auth = |failures| {
            let credentials = Credentials::plain("alice", "hunter2").unwrap();
            let auth = Auth::new(MechanismName::from_static("PLAIN"), credentials);
            Request::new(session.clone(), auth.with_failures(failures))
        };
        let layer = TarpitLayer::new(SECOND).max_delay(SECOND * 3);
        let verify = || Ok(AuthOutcome::Verify(Secret::password("other")));
        for (failures, expected) in [(0, 0), (1, 1000), (2, 2000), (7, 3000)] {
            assert_eq!(time(&layer, auth(failures), verify()).await, expected);
        }
        let refuse = AuthOutcome::Refuse(Reply::auth_failed());
        assert_eq!(time(&layer, auth(7), Ok(refuse)).await, 1000);
        let accept = AuthOutcome::Accept("alice".into());
        assert_eq!(time(&layer, auth(7), Ok(accept)).await, 0);
        let later = AuthOutcome::Refuse(Reply::auth_unavailable());
        assert_eq!(time(&layer, auth(7), Ok(later)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_delay_ends_before_the_deadline() {
        let layer = TarpitLayer::new(SECOND * 20);
        for (left, expected) in [
            (SECOND * 10, 9000),
            (SECOND * 60, 20_000),
            (Duration::ZERO, 0),
        ] {
            let deadline = Deadline::at(Instant::now() + left);
            let request = connect(&stranger()).with_deadline(deadline);
            assert_eq!(
                time(&layer, request, Ok(Reply::no_such_user())).await,
                expected
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_keeps_the_service_from_others() {
        let limit = tower::limit::ConcurrencyLimitLayer::new(1);
        let stack = tower::ServiceBuilder::new()
            .layer(TarpitLayer::new(SECOND))
            .layer(limit)
            .into_inner();
        let (mut service, mut handle) = spawn_layer::<_, Reply, _>(stack);
        assert_ready_ok!(service.poll_ready());
        let refused = tokio::spawn(service.call(connect(&stranger())));
        let (_, respond) = handle.next_request().await.unwrap();
        assert_pending!(service.poll_ready());
        respond.send_response(Reply::relay_denied());
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert!(!refused.is_finished());
        assert_ready_ok!(service.poll_ready());
        assert_eq!(refused.await.unwrap().unwrap(), Reply::relay_denied());
    }
}

#[cfg(test)]
#[cfg(feature = "test")]
mod sessions {
    use smtpd_core::{
        reply::{DataReply, Reply},
        sasl::{Mechanisms, Secret},
    };
    use tokio::task;

    use super::*;
    use crate::{
        phase::{Command, Connect, Data, Helo, Mail, Phase, PhaseKind, Rcpt},
        server::Server,
        service::{BoxPhaseService, PhaseService, Pipeline, handler_fn},
        test::{Client, ClientError},
    };

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    /// Returns a service that refuses at that phase, within a tarpit.
    fn refusing<P: Phase>(at: PhaseKind) -> impl PhaseService<P> {
        let service = tower::service_fn(move |_: Request<P>| {
            let refuses = P::KIND == at;
            let reply = if refuses {
                Reply::rejected("No")
            } else {
                Reply::OK
            };
            std::future::ready(Ok::<P::Response, BoxError>(reply.into()))
        });
        TarpitLayer::new(HOUR)
            .max_delay(HOUR)
            .layer(BoxPhaseService::<P>::new(service))
    }

    fn server(at: PhaseKind) -> Server {
        let pipeline = Pipeline::new()
            .connect(refusing::<Connect>(at))
            .helo(refusing::<Helo>(at))
            .auth(refusing::<Auth>(PhaseKind::Auth))
            .mail(refusing::<Mail>(at))
            .rcpt(refusing::<Rcpt>(at))
            .data(refusing::<Data>(at))
            .command(refusing::<Command>(at));
        limited(Server::new("mx.test", pipeline))
    }

    fn limited(server: Server) -> Server {
        server.configure(|config| {
            config.allow_insecure_auth(true).timeouts(|timeouts| {
                timeouts.call = SECOND * 20;
                timeouts.data_start = SECOND * 30;
                timeouts.delivery = SECOND * 40;
            })
        })
    }

    /// Plays a session up to the phase. Returns the code of the reply to it.
    async fn code_at(client: &mut Client, phase: PhaseKind) -> Result<u16, ClientError> {
        let greeting = client.greeting().await?;
        if phase == PhaseKind::Connect {
            return Ok(greeting.code().as_u16());
        }
        let reply = client.ehlo("client.test").await?;
        let reply = match phase {
            PhaseKind::Helo => reply,
            PhaseKind::Auth => client.auth_plain("alice", "hunter2").await?,
            PhaseKind::Command => client.command("VRFY alice").await?,
            _ => {
                let mail = client.mail("a@example.com").await?;
                if phase == PhaseKind::Mail {
                    return Ok(mail.code().as_u16());
                }
                let rcpt = client.rcpt("b@example.org").await?;
                if phase == PhaseKind::Rcpt {
                    return Ok(rcpt.code().as_u16());
                }
                client.data("Hello").await?
            }
        };
        Ok(reply.code().as_u16())
    }

    fn stranger(server: &Server) -> Client {
        Client::from_peer(server, ([192, 0, 2, 1], 4711))
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_over_the_limit_of_a_call_turns_a_rejection_into_a_deferral() {
        for phase in PhaseKind::ALL {
            let mut client = stranger(&server(phase));
            let start = Instant::now();
            let code = code_at(&mut client, phase).await.unwrap();
            assert!((500..600).contains(&code), "{phase} {code}");
            let expected = if phase == PhaseKind::Data { 27 } else { 18 };
            assert_eq!(start.elapsed().as_secs(), expected, "{phase}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_during_a_delay_turns_a_rejection_into_a_deferral() {
        for phase in PhaseKind::ALL {
            let server = server(phase);
            let mut client = stranger(&server);
            let start = Instant::now();
            let asked = task::spawn(async move {
                let code = code_at(&mut client, phase).await;
                (code, start.elapsed().as_secs(), client.reply().await)
            });
            tokio::time::sleep(SECOND * 5).await;
            assert!(!asked.is_finished(), "{phase}");
            server.handle().shutdown(SECOND).await;
            let (code, waited, last) = asked.await.unwrap();
            let code = code.unwrap();
            assert_eq!(waited, 5, "{phase}");
            assert!((500..600).contains(&code), "{phase} {code}");
            // A rejection at connect ends the session only after QUIT.
            let last = last.unwrap().code().as_u16();
            assert_eq!(last, 421, "{phase}");
        }
    }

    /// Returns a server that rejects messages in this way.
    fn rejecting<F>(read: impl Fn(Request<Data>) -> F + Clone + Send + Sync + 'static) -> Server
    where
        F: Future<Output = DataReply> + Send + 'static,
    {
        let data = TarpitLayer::new(HOUR)
            .max_delay(HOUR)
            .layer(handler_fn(read));
        let rcpt = handler_fn(async |_: Request<Rcpt>| {});
        limited(Server::new(
            "mx.test",
            Pipeline::new().rcpt(rcpt).data(data),
        ))
    }

    async fn message(client: &mut Client, message: &str) -> Result<u16, ClientError> {
        let reply = client
            .send("a@example.com", ["b@example.org"], message)
            .await?;
        Ok(reply.code().as_u16())
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_rejected_after_it_has_arrived_however_long_the_delay() {
        let server = rejecting(async |request: Request<Data>| {
            let read = request.into_body().collect().await;
            assert!(read.is_ok());
            Reply::rejected("No").into()
        });
        let start = Instant::now();
        let code = message(&mut stranger(&server), "Hello").await.unwrap();
        assert_eq!((code, start.elapsed().as_secs()), (554, 36));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_rejected_at_its_first_chunk_however_long_the_delay() {
        let server = rejecting(async |mut request: Request<Data>| {
            let first = request.body_mut().chunk().await;
            assert!(first.is_some());
            // The rest is not read, so it does not fit into the session.
            Reply::rejected("No").into()
        });
        let start = Instant::now();
        let long = "Hello, world\r\n".repeat(20_000);
        let code = message(&mut stranger(&server), &long).await.unwrap();
        assert_eq!((code, start.elapsed().as_secs()), (554, 36));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_was_not_ready_has_its_whole_time() {
        let busy = tower::limit::ConcurrencyLimitLayer::new(1);
        let rcpt = tower::ServiceBuilder::new()
            .layer(TarpitLayer::new(HOUR).max_delay(HOUR))
            .layer(busy)
            .service(handler_fn(async |_: Request<Rcpt>| {
                tokio::time::sleep(SECOND * 4).await;
                Reply::no_such_user()
            }));
        let server = limited(Server::new("mx.test", Pipeline::new().rcpt(rcpt)));
        let mut clients = [stranger(&server), stranger(&server)];
        for client in &mut clients {
            client.greeting().await.unwrap();
            client.ehlo("c.test").await.unwrap();
            client.mail("a@example.com").await.unwrap();
        }
        let start = Instant::now();
        let asked = clients.map(|mut client| {
            task::spawn(async move {
                let reply = client.rcpt("b@example.org").await.unwrap();
                (reply.code().as_u16(), Instant::now())
            })
        });
        let mut waited = Vec::new();
        for asked in asked {
            let (code, at) = asked.await.unwrap();
            waited.push((code, (at - start).as_millis()));
        }
        // Nine tenths of the 16 seconds that are left after the service; the second waits 4 seconds more for it.
        assert_eq!(waited, [(550, 18_400), (550, 22_400)]);
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_of_every_mechanism_are_slowed_down() {
        let auth = handler_fn(async |_: Request<Auth>| Secret::password("right"));
        let tarpit = TarpitLayer::new(SECOND);
        let server =
            Server::new("mx.test", Pipeline::new().auth(tarpit.layer(auth))).configure(|config| {
                config
                    .allow_insecure_auth(true)
                    .mechanisms(Mechanisms::default())
            });
        let mut client = stranger(&server);
        client.greeting().await.unwrap();
        client.ehlo("c.test").await.unwrap();
        let start = Instant::now();
        for (password, code, total) in [("wrong", 535, 0), ("again", 535, 1), ("right", 235, 3)] {
            let reply = client.auth_plain("alice", password).await.unwrap();
            assert_eq!(reply.code().as_u16(), code);
            assert_eq!(start.elapsed().as_secs(), total, "{password}");
        }
    }
}
