//! The replies to what is refused for now, whatever has refused it.

use std::{
    io,
    sync::{Arc, Mutex},
};

use smtpd_tower::{
    Auth, BoxError, Connect, Data, Mail, Pipeline, Profile, Rcpt, Reply, Request, Server,
    handler_fn,
    layer::{CatchPanicLayer, ConcurrencyLayer, RateLimitLayer, TeeLayer},
    limiter::Rate,
    phase::PhaseKind,
    reply::{Code, Status},
    service::{BoxPhaseService, PhaseService},
    test::ChaosLayer,
};
use support::*;
use tokio_test::io::Builder;
use tower::{Layer, ServiceBuilder, service_fn};

fn fails<P: smtpd_tower::Phase>(
    error: impl Fn() -> BoxError + Clone + Send + Sync + 'static,
) -> impl PhaseService<P> {
    service_fn(move |_: Request<P>| std::future::ready(Err::<P::Response, _>(error())))
}

fn refuses(reply: Reply) -> BoxPhaseService<Auth> {
    BoxPhaseService::new(handler_fn(move |_: Request<Auth>| {
        std::future::ready(reply.clone())
    }))
}

/// Never answers.
fn never() -> BoxPhaseService<Auth> {
    BoxPhaseService::new(handler_fn(async |_: Request<Auth>| {
        std::future::pending::<Reply>().await
    }))
}

fn reply(code: Code, status: Status) -> Reply {
    Reply::new(code, status, "Not now")
}

/// Services that refuse AUTH for now, each in its own way.
fn refused_for_now() -> Vec<(&'static str, BoxPhaseService<Auth>)> {
    let wrong = || refuses(Reply::auth_failed());
    let seldom = RateLimitLayer::per_ip(Rate::per_day(1).unwrap());
    let one = ConcurrencyLayer::per_ip(0);
    let chaos = ChaosLayer::new().fail_every(1);
    let panics = CatchPanicLayer::new().layer(service_fn(async |_: Request<Auth>| {
        if true {
            panic!("caught")
        }
        Ok::<Reply, BoxError>(Reply::auth_failed())
    }));
    let shed = ServiceBuilder::new().load_shed().concurrency_limit(0);
    let busy = ServiceBuilder::new().concurrency_limit(0);
    let late = ServiceBuilder::new().timeout(SECOND);
    let full = || io::Error::from(io::ErrorKind::StorageFull).into();
    vec![
        ("rate limit", BoxPhaseService::new(seldom.layer(wrong()))),
        (
            "concurrency limit",
            BoxPhaseService::new(one.layer(wrong())),
        ),
        ("chaos", BoxPhaseService::new(chaos.layer(wrong()))),
        ("caught panic", BoxPhaseService::new(panics)),
        ("load shed", BoxPhaseService::new(shed.service(wrong()))),
        ("never ready", BoxPhaseService::new(busy.service(wrong()))),
        (
            "tower's timeout",
            BoxPhaseService::new(late.service(never())),
        ),
        ("never answered", never()),
        (
            "an error",
            BoxPhaseService::new(fails(|| "the directory is down".into())),
        ),
        ("a full disk", BoxPhaseService::new(fails(full))),
        (
            "a thrown reply",
            BoxPhaseService::new(fails(|| Reply::busy().into())),
        ),
        (
            "450",
            refuses(reply(Code::MAILBOX_BUSY, Status::MAILBOX_DISABLED)),
        ),
        ("451", refuses(reply(Code::LOCAL_ERROR, Status::DENIED))),
        ("452", refuses(Reply::mailbox_full())),
        ("454", refuses(Reply::auth_unavailable())),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_client_that_auth_refuses_for_now_asks_its_user_for_another_password() {
    let wrong = "AUTH PLAIN AGFsaWNlAHdyb25n";
    for (name, auth) in refused_for_now() {
        let server = server(Pipeline::new().auth(auth));
        let server = server.configure(|config| config.allow_insecure_auth(true));
        let mut client = Client::greeted(&server).await;
        client.cmd("EHLO client.example", "250").await;
        if name == "rate limit" {
            client.cmd(wrong, "535").await;
        }
        client.send(format!("{wrong}\r\n")).await;
        let reply = client.reply().await;
        assert!(reply.starts_with("454 4.7.0 "), "{name}: {reply}");
        client.cmd("NOOP", "250").await;
    }
}

#[tokio::test]
async fn what_auth_may_say_beside_454_is_changed_to_it() {
    for (code, status, expected) in [
        (432, Status::POLICY, "432 4.7.0 Not now"),
        (421, Status::SYSTEM_BUSY, "421 4.3.2 Not now"),
        (535, Status::POLICY, "535 5.7.0 Not now"),
    ] {
        let auth = refuses(reply(Code::try_from(code).unwrap(), status));
        let server = server(Pipeline::new().auth(auth));
        let server = server.configure(|config| config.allow_insecure_auth(true));
        let mut client = Client::greeted(&server).await;
        client.cmd("EHLO client.example", "250").await;
        client.cmd("AUTH PLAIN AGFsaWNlAHdyb25n", expected).await;
    }
}

/// A server each of whose services fails with this error, and what its `on_error` is called with.
fn failing(kind: io::ErrorKind, phase: PhaseKind) -> (Server, Arc<Mutex<Vec<String>>>) {
    let error = move || BoxError::from(io::Error::other(io::Error::from(kind)));
    let pipeline = accept_rcpt();
    let pipeline = match phase {
        PhaseKind::Connect => pipeline.connect(fails::<Connect>(error)),
        PhaseKind::Mail => pipeline.mail(fails::<Mail>(error)),
        PhaseKind::Rcpt => pipeline.rcpt(fails::<Rcpt>(error)),
        _ => pipeline.data(fails::<Data>(error)),
    };
    let reported = Arc::new(Mutex::new(Vec::new()));
    let report = reported.clone();
    let server =
        server(pipeline).on_error(move |_, error| report.lock().unwrap().push(error.to_string()));
    (server, reported)
}

#[tokio::test]
async fn a_full_disk_is_any_fault_to_the_client() {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    for (kind, expected) in [(StorageFull, "452 4.3.1 "), (QuotaExceeded, "452 4.2.2 ")] {
        for phase in [
            PhaseKind::Connect,
            PhaseKind::Mail,
            PhaseKind::Rcpt,
            PhaseKind::Data,
        ] {
            let (server, reported) = failing(kind, phase);
            let mut client = Client::connect(&server);
            if phase == PhaseKind::Connect {
                client.expect(&expected.replace("452", "421")).await;
            } else {
                client.expect("220").await;
                client.cmd("EHLO client.example", "250").await;
                let mut commands = ["MAIL FROM:<a@b.c>", "RCPT TO:<d@e.f>", "DATA"].into_iter();
                let kinds = [PhaseKind::Mail, PhaseKind::Rcpt, PhaseKind::Data];
                for (kind, command) in kinds.into_iter().zip(&mut commands) {
                    if kind == phase {
                        client.cmd(command, expected).await;
                        break;
                    }
                    client.cmd(command, "250").await;
                }
            }
            assert_eq!(reported.lock().unwrap().len(), 1, "{phase}: it is a fault");
        }
    }
}

#[tokio::test]
async fn a_copy_whose_disk_is_full_defers_every_recipient_for_no_reason() {
    let full = || io::Error::from(io::ErrorKind::StorageFull);
    let open = move |_: &Request<Data>| {
        let sink = Builder::new().write_error(full()).build();
        Some(async { Ok::<_, io::Error>(sink) })
    };
    let data = ServiceBuilder::new()
        .layer(TeeLayer::new(open))
        .service(handler_fn(async |request: Request<Data>| {
            request.into_body().discard().await
        }));
    let server = server(accept_rcpt().data(data)).profile(Profile::Lmtp);
    let mut client = Client::greeted(&server).await;
    client.cmd("LHLO client.example", "250").await;
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    client.cmd("RCPT TO:<d@e.f>", "250").await;
    client.cmd("RCPT TO:<g@e.f>", "250").await;
    client.cmd("DATA", "354").await;
    client.send("Hello\r\n.\r\n").await;
    for _ in 0..2 {
        client.expect("452 4.3.1 ").await;
    }
}
