//! Layers in whole sessions: what shows only between the engine and a layer.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use smtpd_tower::{
    BodyError, Connect, Data, Mail, Pipeline, Profile, Rcpt, Reply, Request, Server, Session,
    deliver::{Discard, Inbox},
    domains::Domains,
    handler_fn,
    layer::{
        CatchPanicLayer, ConcurrencyLayer, Counted, DenyClientsLayer, Exempt, HopLimitLayer,
        MapReplyLayer, RateLimitLayer, ReceivedLayer, RequireTlsLayer, SessionsPerIpLayer,
        SizeLimitLayer, SubmissionFieldsLayer,
    },
    limiter::{ClientKey, Rate},
    net::{CidrSet, PeerAddr, TrustedPeers},
    phase::PhaseKind,
    test::{ChaosLayer, Recorder},
};
use support::*;
use tower::ServiceBuilder;

/// A client from that address, the greeting not yet read.
fn connect_from(server: &Server, peer: impl Into<PeerAddr>) -> Client {
    Client::from_peer(server, peer)
}

const ALICE: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);
const BOB: ([u8; 4], u16) = ([192, 0, 2, 2], 4711);

#[tokio::test(start_paused = true)]
async fn a_session_counts_from_its_greeting_to_its_end_however_it_ends() {
    let connect = ServiceBuilder::new()
        .layer(SessionsPerIpLayer::new(1))
        .service(handler_fn(async |_: Request<Connect>| {}));
    let pipeline = accept_rcpt()
        .data(handler_fn(async |req: Request<Data>| {
            req.into_body().collect().await.map(|_| Reply::OK)
        }))
        .connect(connect);
    let server = server(pipeline);
    // How a session ends: by QUIT, by a client that goes away when idle or within a message, by a timeout.
    for end in ["quit", "leave", "leave in data", "say nothing"] {
        let mut first = connect_from(&server, ALICE);
        first.expect("220").await;
        // Long after connect has been answered, through a whole transaction.
        first.begin().await;
        first.send("Subject: hi\r\n").await;
        settle().await;
        let mut second = connect_from(&server, ALICE);
        second
            .expect("421 4.7.0 Too many connections from your address")
            .await;
        second.expect_close().await;
        let mut other = connect_from(&server, BOB);
        other.expect("220").await;
        other.cmd("QUIT", "221").await;
        let session = other.take_session();
        session.await.unwrap();

        let session = first.take_session();
        if end != "leave in data" {
            first.send(".\r\n").await;
            first.expect("250").await;
        }
        match end {
            "quit" => {
                first.cmd("QUIT", "221").await;
            }
            "say nothing" => {
                first.expect("421").await;
            }
            _ => drop(first),
        }
        session.await.unwrap();
    }
    let mut last = connect_from(&server, ALICE);
    last.expect("220").await;
}

/// Allows each client one session.
fn one_session(pipeline: Pipeline) -> Pipeline {
    limited(pipeline, SessionsPerIpLayer::new(1))
}

fn limited(pipeline: Pipeline, layer: SessionsPerIpLayer) -> Pipeline {
    let connect = ServiceBuilder::new()
        .layer(layer)
        .service(handler_fn(async |_: Request<Connect>| {}));
    pipeline.connect(connect)
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_sessions_are_kept_is_locked_out_after_the_first() {
    let (inbox, recorder) = (Inbox::new(), Recorder::new());
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeps = {
        let kept = kept.clone();
        handler_fn(move |request: Request<Data>| {
            let session = request.session().clone();
            kept.lock().unwrap().push(session.clone());
            // A task that outlives the session.
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(session);
            });
            async move { request.into_body().discard().await }
        })
    };
    for pipeline in [
        accept_rcpt().data(inbox.clone()),
        recorder.pipeline(),
        accept_rcpt().data(keeps),
    ] {
        let hook = |kept: &Arc<Mutex<Vec<_>>>| {
            let kept = kept.clone();
            move |session: &Session| kept.lock().unwrap().push(session.clone())
        };
        let (close, wire) = (hook(&kept), hook(&kept));
        let server = server(one_session(pipeline))
            .on_close(move |session, _| close(session))
            .on_wire(move |session, _| wire(session));
        for _ in 0..3 {
            let mut client = connect_from(&server, ALICE);
            client.expect("220").await;
            let mut second = connect_from(&server, ALICE);
            second.expect("421 4.7.0 Too many").await;
            client.begin().await;
            client.send("Hello\r\n.\r\n").await;
            client.expect("250").await;
            let mut second = connect_from(&server, ALICE);
            second.expect("421 4.7.0 Too many").await;
            let session = client.take_session();
            client.cmd("QUIT", "221").await;
            drop(client);
            session.await.unwrap();
        }
    }
    let recorded = recorder.take();
    let messages = recorded.iter().filter(|asked| asked.message().is_some());
    assert_eq!((inbox.len(), messages.count()), (3, 3));
    assert!(kept.lock().unwrap().len() > 18);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_in_an_odd_way_keeps_its_permit() {
    let panics = handler_fn(async |_: Request<Mail>| -> Reply { panic!("within MAIL") });
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let layer = SessionsPerIpLayer::new(1);
    let pipeline = limited(accept_rcpt().mail(panics), layer.clone());
    let keeping =
        server(pipeline).on_wire(move |session, _| keep.lock().unwrap().push(session.clone()));
    for end in [
        "panic",
        "lose",
        "abort",
        "drop before the first poll",
        "drop",
        "shut down",
    ] {
        let (near, far) = tokio::io::duplex(1024);
        let session = keeping.serve_connection(far, PeerAddr::from(ALICE));
        let mut client = smtpd_tower::test::Client::over(near);
        if end == "drop before the first poll" {
            drop(session);
            continue;
        }
        let mut session = Box::pin(session);
        tokio::select! {
            () = &mut session => panic!("{end}"),
            greeting = client.greeting() => assert!(greeting.unwrap().is_positive(), "{end}"),
        }
        let mut refused = connect_from(&keeping, ALICE);
        refused.expect("421").await;
        match end {
            "panic" => {
                client
                    .raw("EHLO a.example\r\nMAIL FROM:<a@b.c>\r\n")
                    .await
                    .unwrap();
                session.await;
            }
            "lose" => {
                drop(client);
                session.await;
            }
            "abort" => {
                let task = tokio::spawn(session);
                settle().await;
                task.abort();
                assert!(task.await.unwrap_err().is_cancelled());
            }
            "shut down" => {
                let handle = keeping.handle();
                tokio::join!(session, handle.shutdown(Duration::ZERO));
            }
            _ => drop(session),
        }
    }
    assert!(kept.lock().unwrap().len() > 5);
    // No session of that server begins after its shutdown.
    let mut last = connect_from(&server(limited(accept_rcpt(), layer)), ALICE);
    last.expect("220").await;
}

#[tokio::test(start_paused = true)]
async fn the_permit_of_a_proxy_is_kept_when_it_names_its_client() {
    let inbox = Inbox::new();
    let proxies = TrustedPeers::parse(["192.0.2.1"]).unwrap();
    let server = server(one_session(accept_rcpt().data(inbox.clone()))).xclient_from(proxies);
    let mut through = connect_from(&server, ALICE);
    through.expect("220").await;
    // The inbox keeps the session of the proxy, too.
    through.begin().await;
    through.send("Hello\r\n.\r\n").await;
    through.expect("250").await;
    through.cmd("XCLIENT ADDR=192.0.2.2", "220").await;
    let mut refused = connect_from(&server, BOB);
    refused.expect("421 4.7.0 Too many").await;
    let mut proxy = connect_from(&server, ALICE);
    proxy.expect("220").await;
    let session = through.take_session();
    through.cmd("QUIT", "221").await;
    drop(through);
    session.await.unwrap();
    let mut client = connect_from(&server, BOB);
    client.expect("220").await;
    assert_eq!(inbox.len(), 1);
}

#[tokio::test]
async fn hosts_on_the_list_hear_554_in_place_of_the_greeting() {
    let connect = ServiceBuilder::new()
        .layer(DenyClientsLayer::parse(["192.0.2.0/31"]).unwrap())
        .service(handler_fn(async |_: Request<Connect>| {}));
    let server = server(accept_rcpt().connect(connect));
    let mut client = connect_from(&server, ALICE);
    client.expect("554 5.7.1 Access denied").await;
    connect_from(&server, BOB).expect("220").await;
}

#[tokio::test(start_paused = true)]
async fn a_denied_client_that_stays_holds_a_session_for_minutes() {
    let connect = ServiceBuilder::new()
        .layer(DenyClientsLayer::parse(["192.0.2.1"]).unwrap())
        .service(handler_fn(async |_: Request<Connect>| {}));
    let server = server(accept_rcpt().connect(connect)).max_sessions(1);
    for every in [1, 4, 1000] {
        let begun = tokio::time::Instant::now();
        let mut denied = connect_from(&server, ALICE);
        denied.expect("554 5.7.1").await;
        let mut other = connect_from(&server, BOB);
        other.expect("421 4.3.2").await;
        let session = denied.take_session();
        // It sends a command now and then, and never QUIT.
        let stays = async {
            while denied.try_send("NOOP\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(every)).await;
            }
        };
        tokio::select! {
            () = stays => {}
            ended = session => ended.unwrap(),
        }
        settle().await;
        let held = begun.elapsed();
        assert!(held < Duration::from_secs(12), "{every}: {held:?}");
        let mut other = connect_from(&server, BOB);
        other.expect("220").await;
        other.cmd("QUIT", "221").await;
        other.take_session().await.unwrap();
    }
}

#[tokio::test]
async fn a_message_over_the_limit_of_a_layer_is_refused_and_the_session_goes_on() {
    async fn careless(mut request: Request<Data>) -> Result<Reply, BodyError> {
        while let Some(Ok(_)) = request.body_mut().chunk().await {}
        Ok(Reply::OK)
    }
    let data = ServiceBuilder::new()
        .layer(SizeLimitLayer::new(20))
        .service(handler_fn(careless));
    let mut client = Client::greeted(&server(accept_rcpt().data(data))).await;
    client.begin().await;
    client.send("0123456789\r\n0123456789\r\n.\r\n").await;
    client.expect("552 5.3.4").await;
    client.envelope().await;
    client.cmd("DATA", "354").await;
    // Two dots are one byte.
    client.send("..23456789\r\n1234567\r\n.\r\n").await;
    client.expect("250").await;
    client.cmd("MAIL FROM:<a@example.net> SIZE=21", "250").await;
    client.cmd("RCPT TO:<b@example.org>", "250").await;
    client.cmd("DATA", "552 5.3.4").await;
    client.cmd("QUIT", "221").await;
}

#[tokio::test]
async fn a_panic_that_is_caught_costs_one_recipient_and_not_the_session() {
    let rcpt = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .service(handler_fn(async |request: Request<Rcpt>| {
            assert!(!request.recipient().as_str().starts_with("bug@"));
        }));
    let mut client = Client::greeted(&server(Pipeline::new().rcpt(rcpt))).await;
    client.cmd("EHLO client.example", "250").await;
    client.cmd("MAIL FROM:<a@example.net>", "250").await;
    client.cmd("RCPT TO:<bug@example.org>", "451 4.3.0").await;
    client.cmd("RCPT TO:<user@example.org>", "250").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_is_no_longer_in_flight() {
    let rcpt = ServiceBuilder::new()
        .layer(ConcurrencyLayer::per_ip(1))
        .service(handler_fn(async |_: Request<Rcpt>| {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }));
    let server = server(Pipeline::new().rcpt(rcpt));
    let mut first = connect_from(&server, ALICE);
    let mut second = connect_from(&server, ALICE);
    for client in [&mut first, &mut second] {
        client.expect("220").await;
        client.cmd("EHLO client.example", "250").await;
        client.cmd("MAIL FROM:<a@example.net>", "250").await;
    }
    first.send("RCPT TO:<b@example.org>\r\n").await;
    settle().await;
    second.cmd("RCPT TO:<b@example.org>", "451 4.7.1").await;
    let session = first.take_session();
    drop(first);
    session.await.unwrap();
    second.cmd("RCPT TO:<b@example.org>", "250").await;
}

#[tokio::test(start_paused = true)]
async fn what_the_client_or_the_disk_has_cut_short_uses_up_a_quota() {
    let quota = RateLimitLayer::per_ip(Rate::per_day(1).unwrap().strict())
        .count(Counted::Accepted)
        .weigh_recipients();
    let data = ServiceBuilder::new()
        .layer(quota.clone())
        .service(handler_fn(async |request: Request<Data>| {
            let message = request.into_body().collect().await?;
            match &message[..] {
                b"full\r\n" => Err(BodyError::other("the disk is full")),
                b"panic\r\n" => panic!("on purpose"),
                b"slow\r\n" => std::future::pending().await,
                _ => Ok(Reply::OK),
            }
        }));
    let server = server(accept_rcpt().data(data));
    let alice = ClientKey::new(ALICE.0.into());
    let message = async |text: &str, reply: &str| {
        let mut client = connect_from(&server, ALICE);
        client.expect("220").await;
        client.begin().await;
        client.send(text).await;
        settle().await;
        if !reply.is_empty() {
            client.expect(reply).await;
        }
        let session = client.take_session();
        drop(client);
        session.await.unwrap();
        assert_eq!(quota.usage(alice).reserved(), 0, "{text}");
    };
    for (text, reply) in [
        ("full\r\n.\r\n", "451 4.3.0"),
        ("panic\r\n.\r\n", "4"),
        ("gone in the middle", ""),
        ("slow\r\n.\r\n", "451 4.3.0"),
        ("slow\r\n.\r\n", ""),
    ] {
        message(text, reply).await;
        assert_eq!(quota.usage(alice).counted(), 0, "{text}");
    }
    message("good\r\n.\r\n", "250").await;
    assert_eq!(quota.usage(alice).counted(), 1);

    let mut client = connect_from(&server, ALICE);
    client.expect("220").await;
    client.cmd("EHLO client.example", "250").await;
    client.envelope().await;
    client.cmd("DATA", "451 4.7.1").await;
}

#[tokio::test(start_paused = true)]
async fn one_list_of_own_networks_serves_all_limits() {
    let own = Exempt::local().parse_networks(["192.0.2.1"]).unwrap();
    let connect = ServiceBuilder::new()
        .layer(SessionsPerIpLayer::new(1).exempt(own.clone()))
        .service(handler_fn(async |_: Request<Connect>| {}));
    let pipeline = accept_rcpt()
        .connect(connect)
        .layer(RateLimitLayer::per_ip(Rate::per_hour(3).unwrap()).exempt(own));
    let server = server(pipeline);
    let mut kept = Vec::new();
    for _ in 0..5 {
        let mut client = connect_from(&server, ALICE);
        client.expect("220").await;
        client.cmd("EHLO client.example", "250").await;
        kept.push(client);
    }
    let mut bob = connect_from(&server, BOB);
    bob.expect("220").await;
    let mut second = connect_from(&server, BOB);
    second.expect("421").await;
}

#[tokio::test]
async fn layers_for_any_phase_go_around_all_of_them_at_once() {
    let hide = |reply: Reply| match reply.is_positive() {
        true => reply,
        false => reply.with_text("No"),
    };
    let all = Pipeline::new()
        .layer(ConcurrencyLayer::per_ip(1))
        .layer(ConcurrencyLayer::per_identity(1))
        .layer(DenyClientsLayer::new(CidrSet::default()))
        .layer(CatchPanicLayer::new())
        .layer(MapReplyLayer::new(hide));
    let mut client = Client::greeted(&server(all)).await;
    client.cmd("EHLO client.example", "250").await;
    client.cmd("MAIL FROM:<a@example.net>", "250").await;
    client.cmd("RCPT TO:<b@example.org>", "550 5.7.1 No").await;
}

#[tokio::test(start_paused = true)]
async fn a_message_costs_five_of_a_limit_for_messages() {
    let limit = |events| RateLimitLayer::per_ip(Rate::per_hour(events).unwrap());
    let services = || Pipeline::new().rcpt(handler_fn(async |_: Request<Rcpt>| {}));
    // Around all phases, it counts commands; around MAIL, messages.
    let commands = services().data(Discard).layer(limit(5));
    let messages = services().data(Discard);
    let messages = messages.layer_on([PhaseKind::Mail], limit(2));
    for (pipeline, expected) in [(commands, ["250", "451"]), (messages, ["250", "250"])] {
        let mut client = connect_from(&server(pipeline), ALICE);
        client.expect("220").await;
        client.cmd("EHLO client.example", "250").await;
        for reply in expected {
            client.cmd("MAIL FROM:<a@example.net>", reply).await;
            if reply == "250" {
                client.cmd("RCPT TO:<b@example.org>", "250").await;
                client.cmd("DATA", "354").await;
                client.cmd("Hello\r\n.", "250").await;
            }
        }
        client.cmd("MAIL FROM:<a@example.net>", "451").await;
    }
}

#[tokio::test]
async fn a_pipeline_that_begins_with_its_layers_takes_mail_in_plaintext() {
    let inbox = Inbox::new();
    let services = |all: Pipeline| {
        all.mail(handler_fn(async |_: Request<Mail>| {}))
            .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
            .data(inbox.clone())
    };
    let phases = [PhaseKind::Mail, PhaseKind::Rcpt, PhaseKind::Data];
    let guarded = |all: Pipeline| all.layer_on(phases, RequireTlsLayer::new());
    let chaotic = |all: Pipeline| all.layer(ChaosLayer::new().on(phases).fail_every(1));
    let empty = Pipeline::new;
    for (pipeline, refusal) in [
        (guarded(services(empty())), "530 5.7.0"),
        (services(guarded(empty())), "530 5.7.0"),
        (chaotic(services(empty())), "451 4.3.0"),
        (services(chaotic(empty())), "451 4.3.0"),
        // The one that was added last is the outermost.
        (services(guarded(chaotic(empty()))), "530 5.7.0"),
        (services(chaotic(guarded(empty()))), "451 4.3.0"),
    ] {
        let mut client = Client::greeted(&server(pipeline)).await;
        client.cmd("EHLO client.example", "250").await;
        client.cmd("MAIL FROM:<a@b.c>", refusal).await;
        client.cmd("QUIT", "221").await;
    }
    let everything = services(empty().layer(RequireTlsLayer::new()));
    let mut client = connect_from(&server(everything), ALICE);
    client.expect("530 5.7.0").await;
    assert_eq!(inbox.len(), 0);
}

/// The text of the message stays its text, however many layers add to its header, and however it comes.
#[tokio::test]
async fn text_without_a_header_does_not_become_one_in_data_and_bdat() {
    let inbox = Inbox::new();
    let data = ServiceBuilder::new()
        .layer(SubmissionFieldsLayer::new())
        .layer(ReceivedLayer::new())
        .service(inbox.clone());
    let mut client = Client::greeted(&server(accept_rcpt().data(data))).await;
    client.begin().await;
    client.send("Hello: it is me\r\n.\r\n").await;
    client.expect("250").await;
    assert_eq!(text_of(&inbox).await, "Hello: it is me\r\n");
    client.envelope().await;
    client.cmd("DATA", "354").await;
    client.send("Hello, it is me\r\nDate: today\r\n.\r\n").await;
    client.expect("250").await;
    assert_eq!(
        text_of(&inbox).await,
        "\r\nHello, it is me\r\nDate: today\r\n"
    );
    for chunks in [&["From a@b\r\n"][..], &["F", "", "rom", " ", "a@b\r", "\n"]] {
        client.envelope().await;
        for chunk in chunks {
            client
                .send(format!("BDAT {}\r\n{chunk}", chunk.len()))
                .await;
            client.expect("250").await;
        }
        client.cmd("BDAT 0 LAST", "250").await;
        assert_eq!(text_of(&inbox).await, "\r\nFrom a@b\r\n");
    }
}

/// Returns what follows the last field that was added.
async fn text_of(inbox: &Inbox) -> String {
    let delivery = inbox.next().await;
    let message = String::from_utf8(delivery.message().to_vec()).unwrap();
    let (_, rest) = message.split_once("Message-ID: <").unwrap();
    let (_, text) = rest.split_once("\r\n").unwrap();
    assert_eq!(
        message.matches("\nDate: ").count(),
        1 + text.matches("\nDate: ").count()
    );
    text.to_owned()
}

#[tokio::test]
async fn a_message_that_loops_is_rejected_and_the_session_goes_on() {
    let data = || {
        handler_fn(async |request: Request<Data>| {
            request.into_body().collect().await.map(|_| Reply::OK)
        })
    };
    let layered = ServiceBuilder::new()
        .layer(HopLimitLayer::new(100))
        .service(data());
    let plain = accept_rcpt().data(data());
    let with_profile = server(plain.clone())
        .domains(Domains::parse(["example.org"]).unwrap())
        .profile(Profile::Mx);
    for (server, limit) in [
        (server(accept_rcpt().data(layered)), 100),
        (with_profile.clone(), 100),
        (with_profile.clone().max_hops(3), 3),
        (with_profile.max_hops(None), 1_000),
        (server(plain.clone()).max_hops(7), 7),
        (server(plain), 1_000),
    ] {
        let mut client = Client::greeted(&server).await;
        client.cmd("EHLO client.example", "250").await;
        for (hops, code) in [(limit, "250"), (limit + 1, "554 5.4.6"), (0, "250")] {
            let code = if hops > 1_000 { "250" } else { code };
            client.envelope().await;
            client.cmd("DATA", "354").await;
            client
                .send("Received: from a\r\n\tby b\r\n".repeat(hops))
                .await;
            client.send("\r\nReceived: not me\r\n.\r\n").await;
            client.expect(code).await;
        }
    }
}
