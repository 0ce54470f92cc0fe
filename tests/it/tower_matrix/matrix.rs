//! Each of tower's layers around each phase.

use smtpd_tower::{
    Auth, BoxError, Command, Connect, Data, Helo, Mail, Rcpt, Reply, Request, service::PhaseService,
};
use support::SECOND;
use tower::{
    Service, ServiceBuilder,
    layer::layer_fn,
    limit::GlobalConcurrencyLimitLayer,
    timeout::{Timeout, TimeoutLayer},
    util::{BoxCloneSyncService, BoxService, Either, option_layer},
};

use super::{
    page,
    station::{Leaf, Mark, Outcome, Station, measure},
};

/// Generates a test for each row: all phases are compared with the row and with the page.
///
/// `name: "layer", "case" => "reply", after n s, of n clients; the stack`
macro_rules! matrix {
    ($($name:ident: $layer:literal, $case:literal => $reply:literal, $after:literal s, of $clients:literal; $stack:expr;)*) => {
        /// Layer and case of every row, in order.
        pub const ROWS: &[(&str, &str)] = &[$(($layer, $case)),*];

        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                fn stack<P: Station>() -> impl PhaseService<P> {
                    $stack
                }
                let outcome = [
                    measure::<Connect>(stack(), $clients).await,
                    measure::<Helo>(stack(), $clients).await,
                    measure::<Auth>(stack(), $clients).await,
                    measure::<Mail>(stack(), $clients).await,
                    measure::<Rcpt>(stack(), $clients).await,
                    measure::<Data>(stack(), $clients).await,
                    measure::<Command>(stack(), $clients).await,
                ];
                check(outcome, $reply, $after);
                check_page($layer, $case, $reply);
            }
        )*
    };
}

matrix! {
    // What every layer goes around.
    none_taken: "(none)", "the service accepts it" => "accepted", 0 s, of 1;
        Leaf::Takes;
    none_refused: "(none)", "the service refuses" => "550 5.1.1", 0 s, of 1;
        Leaf::Refuses;
    none_failed: "(none)", "the service fails" => "451 4.3.0", 0 s, of 1;
        Leaf::Fails;
    none_not_ready: "(none)", "the service is not ready for 30 s" => "451 4.3.2", 30 s, of 1;
        Leaf::NeverReady;

    // Time.
    timeout_kept: "timeout", "the service replies in time" => "accepted", 4 s, of 1;
        ServiceBuilder::new().timeout(5 * SECOND).service(Leaf::TakesIn(4 * SECOND));
    timeout_passed: "timeout", "the service takes longer" => "451 4.3.0", 5 s, of 1;
        ServiceBuilder::new().timeout(5 * SECOND).service(Leaf::TakesIn(60 * SECOND));
    timeout_not_ready: "timeout", "the service is not ready for 30 s" => "451 4.3.2", 30 s, of 1;
        ServiceBuilder::new().timeout(5 * SECOND).service(Leaf::NeverReady);

    // Load.
    concurrency_limit_waits: "concurrency_limit", "a permit becomes free within 30 s" => "accepted", 40 s, of 2;
        ServiceBuilder::new().concurrency_limit(1).service(Leaf::TakesIn(20 * SECOND));
    concurrency_limit_full: "concurrency_limit", "no permit becomes free within 30 s" => "451 4.3.2", 30 s, of 2;
        ServiceBuilder::new().concurrency_limit(1).service(Leaf::TakesIn(60 * SECOND));
    global_limit_waits: "GlobalConcurrencyLimitLayer", "a permit becomes free within 30 s" => "accepted", 40 s, of 2;
        ServiceBuilder::new().layer(GlobalConcurrencyLimitLayer::new(1)).service(Leaf::TakesIn(20 * SECOND));
    global_limit_full: "GlobalConcurrencyLimitLayer", "no permit becomes free within 30 s" => "451 4.3.2", 30 s, of 2;
        ServiceBuilder::new().layer(GlobalConcurrencyLimitLayer::new(1)).service(Leaf::TakesIn(60 * SECOND));
    load_shed_idle: "load_shed", "the service is ready" => "accepted", 0 s, of 1;
        ServiceBuilder::new().load_shed().service(Leaf::Takes);
    load_shed_busy: "load_shed", "the service is not ready" => "451 4.3.2", 0 s, of 1;
        ServiceBuilder::new().load_shed().service(Leaf::NeverReady);
    shed_limit_idle: "load_shed, concurrency_limit", "a permit is free" => "accepted", 20 s, of 2;
        ServiceBuilder::new().load_shed().concurrency_limit(2).service(Leaf::TakesIn(20 * SECOND));
    shed_limit_full: "load_shed, concurrency_limit", "no permit is free" => "451 4.3.2", 0 s, of 2;
        ServiceBuilder::new().load_shed().concurrency_limit(1).service(Leaf::TakesIn(20 * SECOND));
    rate_kept: "buffer, rate_limit", "within the rate" => "accepted", 0 s, of 2;
        ServiceBuilder::new().buffer(8).rate_limit(2, 60 * SECOND).service(Leaf::Takes);
    rate_passed: "buffer, rate_limit", "beyond the rate: it waits" => "accepted", 60 s, of 2;
        ServiceBuilder::new().buffer(8).rate_limit(1, 60 * SECOND).service(Leaf::Takes);
    // One was served, one waits in the buffer's task, one in its queue.
    rate_shed: "load_shed, buffer, rate_limit", "beyond the rate, and the buffer is full" => "451 4.3.2", 0 s, of 4;
        ServiceBuilder::new().load_shed().buffer(1).rate_limit(1, 60 * SECOND).service(Leaf::Takes);

    // Predicates.
    filter_passes: "filter", "the predicate passes it" => "accepted", 0 s, of 1;
        ServiceBuilder::new().filter(Ok::<Request<P>, BoxError>).service(Leaf::Takes);
    filter_throws_reply: "filter", "the predicate fails with a `Reply`" => "554 5.7.1", 0 s, of 1;
        ServiceBuilder::new().filter(|_: Request<P>| thrown::<P>(Reply::rejected("No"))).service(Leaf::Takes);
    filter_throws_error: "filter", "the predicate fails with another error" => "451 4.3.0", 0 s, of 1;
        ServiceBuilder::new().filter(|_: Request<P>| thrown::<P>("No")).service(Leaf::Takes);
    filter_async_passes: "filter_async", "the predicate passes it" => "accepted", 0 s, of 1;
        ServiceBuilder::new().filter_async(async |request: Request<P>| Ok::<_, BoxError>(request)).service(Leaf::Takes);
    filter_async_throws_reply: "filter_async", "the predicate fails with a `Reply`" => "554 5.7.1", 0 s, of 1;
        ServiceBuilder::new().filter_async(async |_: Request<P>| thrown::<P>(Reply::rejected("No"))).service(Leaf::Takes);
    filter_async_throws_error: "filter_async", "the predicate fails with another error" => "451 4.3.0", 0 s, of 1;
        ServiceBuilder::new().filter_async(async |_: Request<P>| thrown::<P>("No")).service(Leaf::Takes);

    // Requests, responses, errors.
    map_request: "map_request", "the service sees the other request" => "accepted", 0 s, of 1;
        ServiceBuilder::new().map_request(marked::<P>).service(Leaf::TakesMarked);
    map_response: "map_response", "another reply" => "452 4.2.2", 0 s, of 1;
        ServiceBuilder::new().map_response(|_| full::<P>()).service(Leaf::Takes);
    map_err: "map_err", "the error becomes a `Reply`" => "452 4.2.2", 0 s, of 1;
        ServiceBuilder::new().map_err(|_: BoxError| Reply::mailbox_full()).service(Leaf::Fails);
    map_result: "map_result", "a reply instead of the error" => "452 4.2.2", 0 s, of 1;
        ServiceBuilder::new().map_result(rescued::<P>).service(Leaf::Fails);
    then: "then", "a reply instead of the error" => "452 4.2.2", 0 s, of 1;
        ServiceBuilder::new().then(async |result| rescued::<P>(result)).service(Leaf::Fails);
    and_then_answers: "and_then", "another reply" => "452 4.2.2", 0 s, of 1;
        ServiceBuilder::new().and_then(async |_| Ok::<_, BoxError>(full::<P>())).service(Leaf::Takes);
    and_then_fails: "and_then", "the service fails: it is not called" => "451 4.3.0", 0 s, of 1;
        ServiceBuilder::new().and_then(async |_| Ok::<_, BoxError>(P::taken())).service(Leaf::Fails);
    map_future: "map_future", "the other future replies" => "452 4.2.2", 3 s, of 1;
        ServiceBuilder::new().map_future(|future| late::<P, _>(future)).service(Leaf::Fails);

    // Shapes.
    option_layer_some: "option_layer", "`Some`: as the layer" => "451 4.3.0", 5 s, of 1;
        ServiceBuilder::new().layer(option_layer(Some(TimeoutLayer::new(5 * SECOND)))).map_err(BoxError::from).service(Leaf::TakesIn(60 * SECOND));
    option_layer_none: "option_layer", "`None`: as without it" => "accepted", 60 s, of 1;
        ServiceBuilder::new().layer(option_layer(None::<TimeoutLayer>)).map_err(BoxError::from).service(Leaf::TakesIn(60 * SECOND));
    either_left: "Either", "`Left`: as the first" => "451 4.3.0", 5 s, of 1;
        Either::<_, Leaf>::Left(Timeout::new(Leaf::TakesIn(60 * SECOND), 5 * SECOND));
    either_right: "Either", "`Right`: as the second" => "550 5.1.1", 0 s, of 1;
        Either::<Timeout<Leaf>, _>::Right(Leaf::Refuses);
    layer_fn_timeout: "layer_fn", "as the service that it makes" => "451 4.3.0", 5 s, of 1;
        ServiceBuilder::new().layer(layer_fn(|inner| Timeout::new(inner, 5 * SECOND))).service(Leaf::TakesIn(60 * SECOND));
    boxed: "buffer, boxed", "as the service in the box" => "550 5.1.1", 0 s, of 1;
        ServiceBuilder::new().buffer(8).layer(layer_fn(BoxService::new)).service(fixed::<P>(Leaf::Refuses));
    boxed_clone_sync: "boxed_clone_sync", "as the service in the box" => "550 5.1.1", 0 s, of 1;
        BoxCloneSyncService::new(fixed::<P>(Leaf::Refuses));
}

/// Compares what was received at the phases with the reply that the row states.
fn check(outcome: [Outcome; 7], reply: &str, after: u64) {
    let [greeting, commands @ ..] = outcome;
    let expected = |reply: &str| Outcome {
        reply: reply.to_owned(),
        after,
    };
    assert_eq!(greeting, expected(&at_connect(reply)), "at connect");
    for (outcome, phase) in commands
        .iter()
        .zip(["helo", "auth", "mail", "rcpt", "data", "command"])
    {
        let reply = if phase == "auth" {
            at_auth(reply)
        } else {
            reply
        };
        assert_eq!(*outcome, expected(reply), "at {phase}");
    }
}

/// RFC 4954 section 6: what is refused for now is 454 to AUTH.
fn at_auth(reply: &str) -> &str {
    if reply.starts_with('4') && !reply.starts_with("421") {
        "454 4.7.0"
    } else {
        reply
    }
}

/// RFC 5321 section 3.8: what is refused for now at connect is closed with 421.
fn at_connect(reply: &str) -> String {
    match reply.strip_prefix('4') {
        Some(rest) => format!("421{}", &rest[2..]),
        None => reply.to_owned(),
    }
}

fn check_page(layer: &str, case: &str, reply: &str) {
    let stated = page::row(layer, case);
    assert_eq!(
        (stated.reply, stated.greeting),
        (reply, at_connect(reply).as_str()),
        "the page on {layer}, {case}"
    );
}

fn thrown<P>(error: impl Into<BoxError>) -> Result<Request<P>, BoxError> {
    Err(error.into())
}

fn marked<P: Station>(request: Request<P>) -> Request<P> {
    request.session().insert(Mark);
    request
}

fn full<P: Station>() -> P::Response {
    Reply::mailbox_full().into()
}

fn rescued<P: Station>(result: Result<P::Response, BoxError>) -> Result<P::Response, BoxError> {
    result.or_else(|_| Ok(full::<P>()))
}

async fn late<P: Station, F>(future: F) -> Result<P::Response, BoxError>
where
    F: Future<Output = Result<P::Response, BoxError>>,
{
    tokio::time::sleep(3 * SECOND).await;
    rescued::<P>(future.await)
}

/// The leaf as a service of this phase alone.
fn fixed<P: Station>(
    leaf: Leaf,
) -> impl Service<Request<P>, Response = P::Response, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    leaf
}
