//! The traps of tower, one test for each sentence of the page about them.

use std::{
    panic::catch_unwind,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use smtpd_tower::{
    Auth, BoxError, Connect, Data, Identity, Mail, Phase, Pipeline, Rcpt, Reply, Request, Session,
    handler_fn,
    service::{BoxPhaseService, PhaseService},
};
use support::{Client, SECOND, accept_rcpt, server as server_of, settle};
use tokio::time::Instant;
use tower::{
    Service, ServiceBuilder, ServiceExt,
    layer::layer_fn,
    limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer},
    load_shed::error::Overloaded,
    retry::Policy,
    service_fn,
    timeout::{Timeout, TimeoutLayer},
};

use super::station::{Leaf, Station, ask, measure, next_outcome, server};

const MINUTE: Duration = Duration::from_secs(60);

/// A RCPT of which one at a time is served, each for a second; the others are shed.
fn one_at_a_time() -> BoxPhaseService<Rcpt> {
    let stack = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .service(Leaf::TakesIn(SECOND));
    BoxPhaseService::new(stack)
}

#[tokio::test(start_paused = true)]
async fn a_clone_that_is_kept_is_handed_the_freed_permit_and_starves_the_others() {
    let service = one_at_a_time();
    let (mut busy, mut kept, fresh) = (service.clone(), service.clone(), service);
    let answer = tokio::spawn(busy.ready().await.unwrap().call(rcpt()));
    settle().await;
    assert!(is_overloaded(
        kept.ready().await.unwrap().call(rcpt()).await
    ));
    assert!(answer.await.unwrap().is_ok());
    // Nobody is served, and yet there is no place: `kept` waits for it still, and gets it.
    assert!(is_overloaded(fresh.clone().oneshot(rcpt()).await));
    drop(kept);
    assert!(fresh.oneshot(rcpt()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_clone_for_each_command_starves_nobody() {
    let server = server(one_at_a_time());
    let mut busy = ask::<Rcpt>(&server).await;
    let mut shed = ask::<Rcpt>(&server).await;
    assert_eq!(next_outcome::<Rcpt>(&mut shed).await, "451 4.3.2");
    assert_eq!(next_outcome::<Rcpt>(&mut busy).await, "accepted");
    // Both sessions are idle now, and neither holds the place.
    let mut fresh = ask::<Rcpt>(&server).await;
    assert_eq!(next_outcome::<Rcpt>(&mut fresh).await, "accepted");
}

#[tokio::test(start_paused = true)]
async fn load_shed_within_the_limit_sheds_nobody() {
    fn inside_out<P: Station>() -> impl PhaseService<P> {
        ServiceBuilder::new()
            .concurrency_limit(1)
            .load_shed()
            .service(Leaf::TakesIn(20 * SECOND))
    }
    let outcome = measure::<Rcpt>(inside_out(), 2).await;
    assert_eq!((outcome.reply.as_str(), outcome.after), ("accepted", 40));
    let outcome = measure::<Rcpt>(inside_out(), 3).await;
    assert_eq!((outcome.reply.as_str(), outcome.after), ("451 4.3.2", 30));
}

#[tokio::test(start_paused = true)]
async fn timeout_does_not_cover_readiness() {
    let stuck = Timeout::new(Leaf::NeverReady, SECOND);
    let call = stuck.oneshot(rcpt());
    assert!(tokio::time::timeout(60 * MINUTE, call).await.is_err());
    // The engine has a limit of its own.
    let outcome = measure::<Rcpt>(Timeout::new(Leaf::NeverReady, SECOND), 1).await;
    assert_eq!((outcome.reply.as_str(), outcome.after), ("451 4.3.2", 30));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_around_data_covers_the_time_that_the_client_takes() {
    let mut client = ask::<Data>(&server::<Data>(Timeout::new(Leaf::Takes, 5 * SECOND))).await;
    client.expect("354").await;
    client.send("half of the mess").await;
    tokio::time::sleep(6 * SECOND).await;
    client.send("age\r\n.\r\n").await;
    client.expect("451 4.3.0").await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_around_every_phase_does_not_cover_a_command_that_trickles_in() {
    let server = server_of(accept_rcpt().layer(TimeoutLayer::new(SECOND)));
    let mut client = Client::greeted(&server).await;
    client.send("EHLO").await;
    tokio::time::sleep(30 * SECOND).await;
    client.cmd(" client.example", "250").await;
    let begun = Instant::now();
    client.send("MAIL FROM:<").await;
    client.expect("421 4.4.2").await;
    assert_eq!(begun.elapsed(), MINUTE);
}

#[tokio::test(start_paused = true)]
async fn one_readiness_error_ends_a_buffer_for_every_session() {
    let buffered = ServiceBuilder::new()
        .buffer(8)
        .service(FailsOnce::default());
    let server = server::<Rcpt>(buffered);
    for _ in 0..3 {
        let mut client = ask::<Rcpt>(&server).await;
        assert_eq!(next_outcome::<Rcpt>(&mut client).await, "451 4.3.0");
    }
}

#[tokio::test(start_paused = true)]
async fn one_readiness_error_without_a_buffer_costs_one_command() {
    let server = server::<Rcpt>(FailsOnce::default());
    let mut client = ask::<Rcpt>(&server).await;
    assert_eq!(next_outcome::<Rcpt>(&mut client).await, "451 4.3.0");
    client.cmd("RCPT TO:<b@example.org>", "250").await;
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_layer_counts_each_phase_by_itself() {
    let server = server_of(slow_mail().layer(ConcurrencyLimitLayer::new(1)));
    let _busy = ask::<Mail>(&server).await;
    // The other phases have places of their own; MAIL has none.
    let mut other = ask::<Mail>(&server).await;
    assert_eq!(next_outcome::<Mail>(&mut other).await, "451 4.3.2");
}

#[tokio::test(start_paused = true)]
async fn a_global_limit_layer_counts_all_phases_together() {
    let server = server_of(slow_mail().layer(GlobalConcurrencyLimitLayer::new(1)));
    let _busy = ask::<Mail>(&server).await;
    let mut other = ask::<Connect>(&server).await;
    assert_eq!(next_outcome::<Connect>(&mut other).await, "421 4.3.2");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_trickles_in_holds_the_permit_of_every_phase() {
    let pipeline = accept_rcpt()
        .data(Leaf::Takes)
        .layer(GlobalConcurrencyLimitLayer::new(1));
    let server = server_of(pipeline);
    let mut slow = ask::<Data>(&server).await;
    slow.expect("354").await;
    let mut other = ask::<Connect>(&server).await;
    assert_eq!(next_outcome::<Connect>(&mut other).await, "421 4.3.2");
}

#[tokio::test(start_paused = true)]
async fn a_limit_around_connect_ends_with_the_greeting() {
    let connect = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .service(handler_fn(async |_: Request<Connect>| {}));
    let server = server::<Connect>(connect);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let mut client = ask::<Connect>(&server).await;
        assert_eq!(next_outcome::<Connect>(&mut client).await, "accepted");
        sessions.push(client);
    }
}

#[tokio::test(start_paused = true)]
async fn rate_limit_delays_until_the_time_for_a_call_is_over() {
    fn one_an_hour<P: Station>() -> impl PhaseService<P> {
        ServiceBuilder::new()
            .buffer(8)
            .rate_limit(1, 60 * MINUTE)
            .service(Leaf::Takes)
    }
    // `Timeouts::call`, and at DATA what a client waits for 354.
    let outcome = measure::<Rcpt>(one_an_hour(), 2).await;
    assert_eq!((outcome.reply.as_str(), outcome.after), ("451 4.3.0", 240));
    let outcome = measure::<Data>(one_an_hour(), 2).await;
    assert_eq!((outcome.reply.as_str(), outcome.after), ("451 4.3.0", 85));
}

#[tokio::test(start_paused = true)]
async fn rate_limit_counts_all_clients_together() {
    let stack = ServiceBuilder::new()
        .buffer(8)
        .rate_limit(1, MINUTE)
        .service(Leaf::Takes);
    let server = server::<Rcpt>(stack);
    let begun = Instant::now();
    for (port, seconds) in [(1, 0), (2, 60), (3, 120)] {
        let (near, far) = tokio::io::duplex(4096);
        let peer = ([192, 0, 2, port], 1000).into();
        tokio::spawn(server.serve_connection(far, peer));
        let mut client = Client::over(near);
        client.expect("220").await;
        client.cmd("EHLO c", "250").await;
        client.cmd("MAIL FROM:<a@example.net>", "250").await;
        client.cmd("RCPT TO:<b@example.org>", "250").await;
        assert_eq!(begun.elapsed().as_secs(), seconds);
    }
}

#[test]
fn buffer_and_rate_limit_panic_where_they_are_built_outside_of_a_runtime() {
    let buffer = catch_unwind(|| drop(buffered()));
    let rate_limit = catch_unwind(|| {
        drop(
            ServiceBuilder::new()
                .rate_limit(1, SECOND)
                .service(Leaf::Takes),
        );
    });
    assert!(buffer.is_err() && rate_limit.is_err());
    // These need it only when they are called.
    let _ = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .timeout(SECOND)
        .service(Leaf::Takes);
}

#[tokio::test]
async fn a_call_of_a_clone_that_is_not_ready_panics() {
    let stack = ServiceBuilder::new()
        .layer(layer_fn(CallsAClone))
        .concurrency_limit(1)
        .service(Leaf::Takes);
    let mut client = ask::<Rcpt>(&server::<Rcpt>(stack)).await;
    assert_eq!(next_outcome::<Rcpt>(&mut client).await, "421 4.3.0");
    let stack = ServiceBuilder::new()
        .layer(layer_fn(CallsItself))
        .concurrency_limit(1)
        .service(Leaf::Takes);
    let mut client = ask::<Rcpt>(&server::<Rcpt>(stack)).await;
    assert_eq!(next_outcome::<Rcpt>(&mut client).await, "accepted");
}

#[tokio::test]
async fn a_reply_returned_as_an_error_passes_through_every_layer() {
    let stack = ServiceBuilder::new()
        .load_shed()
        .buffer(8)
        .concurrency_limit(8)
        .timeout(SECOND)
        .filter(|_: Request<Rcpt>| Err::<Request<Rcpt>, _>(Reply::relay_denied()))
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let mut client = ask::<Rcpt>(&server::<Rcpt>(stack)).await;
    assert_eq!(next_outcome::<Rcpt>(&mut client).await, "550 5.7.1");
}

fn rcpt() -> Request<Rcpt> {
    Request::new(
        Session::local(),
        Rcpt::new("b@example.org".parse().unwrap()),
    )
}

fn is_overloaded<T>(result: Result<T, BoxError>) -> bool {
    result.is_err_and(|error| error.is::<Overloaded>())
}

/// Of MAIL no end is seen.
fn slow_mail() -> Pipeline {
    accept_rcpt().mail(Leaf::TakesIn(60 * MINUTE))
}

fn buffered() -> impl PhaseService<Rcpt> {
    ServiceBuilder::new().buffer(8).service(Leaf::Takes)
}

/// Not ready once, for a reason of that one time.
#[derive(Clone, Debug, Default)]
struct FailsOnce(Arc<AtomicBool>);

impl Service<Request<Rcpt>> for FailsOnce {
    type Response = Reply;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Reply, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.0.swap(true, Ordering::SeqCst) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err("connection reset".into()))
        }
    }

    fn call(&mut self, _: Request<Rcpt>) -> Self::Future {
        std::future::ready(Ok(Reply::OK))
    }
}

type BoxFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// The common way to get wrong a service that has to own another in its future.
#[derive(Clone, Debug)]
struct CallsAClone<S>(S);

impl<S, R> Service<R> for CallsAClone<S>
where
    R: Send + 'static,
    S: Service<R, Future: Send> + Clone + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let mut inner = self.0.clone();
        Box::pin(async move { inner.call(request).await })
    }
}

/// The same right: the instance that is ready is the one that is called.
#[derive(Clone, Debug)]
struct CallsItself<S>(S);

impl<S, R> Service<R> for CallsItself<S>
where
    R: Send + 'static,
    S: Service<R, Future: Send> + Clone + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let clone = self.0.clone();
        let mut inner = std::mem::replace(&mut self.0, clone);
        Box::pin(async move { inner.call(request).await })
    }
}

/// Calls the service again a few times, as long as it fails.
#[derive(Clone)]
struct Again(usize);

impl<P: Phase + Clone, R> Policy<Request<P>, R, BoxError> for Again {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<P>,
        result: &mut Result<R, BoxError>,
    ) -> Option<Self::Future> {
        self.0 = self.0.checked_sub(1)?;
        result.is_err().then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<P>) -> Option<Request<P>> {
        Some(request.clone())
    }
}

/// Fails when called the first time, and replies the second time.
fn fails_once<P: Phase<Response = Reply> + Clone>(answer: Reply) -> impl PhaseService<P> {
    let calls = Arc::new(AtomicUsize::new(0));
    let service = service_fn(move |_: Request<P>| {
        let is_first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        std::future::ready(match is_first {
            true => Err(BoxError::from("the database is gone")),
            false => Ok(answer.clone()),
        })
    });
    ServiceBuilder::new().retry(Again(1)).service(service)
}

#[tokio::test]
async fn retry_calls_the_service_again_in_every_phase_but_data() {
    let auth = Arc::new(AtomicUsize::new(0));
    let calls = auth.clone();
    let login = service_fn(move |request: Request<Auth>| {
        let is_first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        std::future::ready(match is_first {
            true => Err(BoxError::from("the database is gone")),
            false => Ok(Identity::new(request.credentials().username())),
        })
    });
    let login = ServiceBuilder::new().retry(Again(1)).service(login);
    let pipeline = Pipeline::new()
        .connect(fails_once(Reply::OK))
        .helo(fails_once(Reply::OK))
        .auth(login)
        .mail(fails_once(Reply::OK))
        .rcpt(fails_once(Reply::OK))
        .command(fails_once(Reply::ok("pong")));
    let server = server_of(pipeline).configure(|config| config.allow_insecure_auth(true));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO client.example", "250").await;
    client.cmd("XPING", "250").await;
    client
        .cmd("AUTH PLAIN AGFsaWNlAHdvbmRlcmxhbmQ=", "235")
        .await;
    client.cmd("MAIL FROM:<a@example.net>", "250").await;
    client.cmd("RCPT TO:<b@example.org>", "250").await;
    assert_eq!(auth.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn retry_gives_up_where_its_policy_does() {
    for (failures, reply) in [(0, "250"), (2, "250"), (3, "451 4.3.0")] {
        let left = Arc::new(AtomicUsize::new(failures));
        let lookup = service_fn(move |request: Request<Rcpt>| {
            assert_eq!(request.recipient().as_str(), "b@example.org");
            let fails = left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                })
                .is_ok();
            std::future::ready(match fails {
                true => Err(BoxError::from("the database is gone")),
                false => Ok(Reply::OK),
            })
        });
        let rcpt = ServiceBuilder::new().retry(Again(2)).service(lookup);
        let mut client = Client::greeted(&server_of(Pipeline::new().rcpt(rcpt))).await;
        client.cmd("EHLO client.example", "250").await;
        client.cmd("MAIL FROM:<a@example.net>", "250").await;
        client.cmd("RCPT TO:<b@example.org>", reply).await;
    }
}
