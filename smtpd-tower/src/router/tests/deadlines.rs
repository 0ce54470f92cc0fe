//! Routes and the deadlines around them: what is there has to be answered before another replies for all.

use std::{
    future::{pending, ready},
    sync::{Arc, Mutex},
    time::Duration,
};

use smtpd_core::{envelope::Envelope, reply::Reply};
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt};

use crate::{
    body::{Body, BodyError},
    layer::{Next, TarpitLayer, from_fn},
    phase::{Data, Deadline, Request},
    router::Router,
    service::{PhaseService, handler_fn},
    session::Session,
};

const SERVER: Duration = Duration::from_secs(540);

fn replies_with(reply: Reply) -> Router<Data> {
    only(handler_fn(move |request: Request<Data>| {
        let reply = reply.clone();
        async move {
            request.into_body().collect().await?;
            Ok::<_, BodyError>(reply)
        }
    }))
}

fn hangs() -> Router<Data> {
    only(handler_fn(async |request: Request<Data>| {
        request.into_body().collect().await?;
        pending::<Result<Reply, BodyError>>().await
    }))
}

fn router(routes: impl IntoIterator<Item = (&'static str, Router<Data>)>) -> Router<Data> {
    routes
        .into_iter()
        .fold(Router::new(), |router, (domain, route)| {
            router.domain(domain.parse().unwrap(), route)
        })
}

fn only(service: impl PhaseService<Data>) -> Router<Data> {
    Router::new().otherwise(service)
}

/// What is around the router takes its time, so it begins to count later than the outer one.
fn begins_late(late: Duration, router: Router<Data>) -> Router<Data> {
    let wait = from_fn(move |request: Request<Data>, next: Next<Data>| async move {
        sleep(late).await;
        next.run(request).await
    });
    only(ServiceBuilder::new().layer(wait).service(router))
}

/// Returns the code of the reply to each recipient, and how long it took.
async fn deliver(router: Router<Data>, recipients: &[&str]) -> (Vec<u16>, Duration) {
    deliver_by(Deadline::at(Instant::now() + SERVER), router, recipients).await
}

async fn deliver_by(
    deadline: Deadline,
    router: Router<Data>,
    recipients: &[&str],
) -> (Vec<u16>, Duration) {
    let envelope = recipients.iter().fold(Envelope::default(), |all, one| {
        all.with_recipient(one.parse().unwrap())
    });
    let session = Session::from_peer(([192, 0, 2, 1], 4711));
    let request = Request::new(session, Data::new(envelope, Body::from("text")));
    let begun = Instant::now();
    let request = request.with_deadline(deadline);
    let reply = router.oneshot(request).await.unwrap();
    let codes = (0..recipients.len()).map(|number| reply.for_recipient(number).code().as_u16());
    (codes.collect(), begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_router_in_a_route_is_given_up_with_the_answers_that_it_has() {
    for late in [0, 3, 100] {
        let inner = router([
            ("b.example", replies_with(Reply::OK)),
            ("c.example", hangs()),
        ]);
        let inner = begins_late(Duration::from_secs(late), inner);
        let outer = router([("a.example", replies_with(Reply::OK))]).otherwise(inner);
        let (codes, _) = deliver(outer, &["1@a.example", "2@b.example", "3@c.example"]).await;
        assert_eq!(codes, [250, 250, 451], "{late} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_timeout_that_is_longer_than_the_servers_loses_answers() {
    let router = router([
        ("a.example", replies_with(Reply::OK)),
        ("b.example", hangs()),
    ]);
    let router = router.route_timeout(SERVER * 2);
    let (codes, time) = deliver(router, &["1@a.example", "2@b.example"]).await;
    assert_eq!(codes, [250, 451]);
    assert!(time < SERVER, "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tarpit_in_a_route_turns_a_rejection_into_a_deferral() {
    let hour = Duration::from_secs(3600);
    let tarpit = ServiceBuilder::new()
        .layer(TarpitLayer::new(hour).max_delay(hour))
        .service(replies_with(Reply::rejected("spam")));
    let router = router([("a.example", replies_with(Reply::OK))]).otherwise(tarpit);
    for limit in [10, 100, 1000] {
        let router = router.clone().route_timeout(Duration::from_secs(limit));
        let (codes, time) = deliver(router.clone(), &["1@a.example", "2@b.example"]).await;
        assert_eq!(codes, [250, 554], "{limit} s");
        assert!(time < SERVER, "{time:?}");
        let (codes, _) = deliver(router, &["2@b.example"]).await;
        assert_eq!(codes, [554], "{limit} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_in_a_route_gives_up_a_reader_that_only_waits_for_another_route() {
    let stuck = only(handler_fn(async |request: Request<Data>| {
        let _unread = request.into_body();
        pending::<Reply>().await
    }));
    let inner = router([
        (
            "b.example",
            only(handler_fn(|_: Request<Data>| ready(Reply::OK))),
        ),
        ("c.example", replies_with(Reply::OK)),
    ]);
    let outer = router([("a.example", stuck)])
        .otherwise(inner)
        .read_ahead(1);
    let (codes, _) = deliver(outer, &["1@a.example", "2@b.example", "3@c.example"]).await;
    assert_eq!(codes, [451, 250, 250]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_comes_while_a_route_reads_in_another_task_is_not_seen() {
    let hour = Duration::from_secs(3600);
    // The server waits for the answers once it has sent the whole message.
    let due = Arc::<Mutex<Option<Instant>>>::default();
    let set = due.clone();
    let apart = only(handler_fn(move |request: Request<Data>| {
        let set = set.clone();
        tokio::spawn(async move {
            sleep(hour).await;
            request.into_body().collect().await.unwrap();
            *set.lock().unwrap() = Some(Instant::now() + SERVER);
            pending::<()>().await;
        });
        pending::<Reply>()
    }));
    let at_once = only(handler_fn(|_: Request<Data>| ready(Reply::OK)));
    let router = router([("a.example", at_once), ("b.example", apart)]).route_timeout(hour * 10);
    let deadline = Deadline::of_part(move || *due.lock().unwrap());
    let (codes, time) = deliver_by(deadline, router, &["1@a.example", "2@b.example"]).await;
    assert_eq!(codes, [250, 451]);
    assert!(time < hour + SERVER, "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_router_in_a_route_with_a_long_limit_is_given_up_with_the_answers_that_it_has() {
    for late in [0, 3, 100] {
        let inner = router([
            ("b.example", replies_with(Reply::OK)),
            ("c.example", hangs()),
        ]);
        let inner = begins_late(Duration::from_secs(late), inner);
        let outer = router([("a.example", replies_with(Reply::OK))]).otherwise(inner);
        let outer = outer.route_timeout(SERVER * 2);
        let (codes, time) = deliver(outer, &["1@a.example", "2@b.example", "3@c.example"]).await;
        assert_eq!(codes, [250, 250, 451], "{late} s");
        assert!(time < SERVER, "{time:?}");
    }
}
