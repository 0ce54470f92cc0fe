//! Whole sessions over a pipe: what the engine does between the protocol and the services.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::Engine as _;
use smtpd_tower::{
    Auth, BodyError, BoxError, Command, Connect, Data, Helo, Identity, Mail, Pipeline, Rcpt, Reply,
    Request, Session,
    extension::{Extension, SessionFacts},
    handler_fn,
    net::PeerAddr,
    parameter::{ParameterError, ParameterRule},
    sasl::Mechanisms,
    session::{EndReason, SessionError},
};
use support::*;
use tokio::{sync::Notify, time::Instant};
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer, timeout::TimeoutLayer};

const MESSAGE: &str = "Subject: hi\r\n\r\n..dot\r\nbody\r\n.\r\n";

#[tokio::test]
async fn a_group_of_commands_is_answered_in_one_write() {
    let (near, far) = tokio::io::duplex(64 << 10);
    let far = Counting::new(far);
    let writes = far.writes.clone();
    tokio::spawn(collecting().serve_connection(far, PeerAddr::Unknown));
    let mut client = Client::over(near);
    client.expect("220").await;
    client.cmd("EHLO c", "250-mx.test\n").await;
    let group = "MAIL FROM:<a@b.c>\r\nRCPT TO:<c@d.e>\r\nRCPT TO:<f@g.h>\r\nDATA\r\n";
    client.send(group).await;
    for start in ["250 2", "250 2", "250 2", "354 "] {
        client.expect(start).await;
    }
    assert_eq!(writes.load(Ordering::SeqCst), 3);
    // The end of a message and the next envelope.
    client.send(format!("{MESSAGE}{group}")).await;
    for start in ["250 2.0.0 27", "250 2", "250 2", "250 2", "354 "] {
        client.expect(start).await;
    }
    assert_eq!(writes.load(Ordering::SeqCst), 4);
    client.send(format!("{MESSAGE}QUIT\r\n")).await;
    client.expect("250 2.0.0 27").await;
    client.expect("221 2.0.0 mx.test smtpd ").await;
    client.expect_close().await;
    assert_eq!(writes.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn services_see_what_their_phase_knows() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = move |seen: &Arc<Mutex<Vec<String>>>, line: String| seen.lock().unwrap().push(line);
    let (a, b, c, d, e) = (
        seen.clone(),
        seen.clone(),
        seen.clone(),
        seen.clone(),
        seen.clone(),
    );
    let pipeline = Pipeline::new()
        .connect(handler_fn(move |r: Request<Connect>| {
            log(
                &a,
                format!(
                    "connect {} {:?}",
                    r.session().client_addr(),
                    r.session().helo()
                ),
            );
            async {}
        }))
        .helo(handler_fn(move |r: Request<Helo>| {
            log(&b, format!("helo {}", r.name()));
            async {}
        }))
        .mail(handler_fn(move |r: Request<Mail>| {
            let helo = r.session().helo().map(ToString::to_string);
            log(
                &c,
                format!("mail {} {:?} {helo:?}", r.sender(), r.parameters()),
            );
            async {}
        }))
        .rcpt(handler_fn(move |r: Request<Rcpt>| {
            log(
                &d,
                format!(
                    "rcpt {} of {} after {}",
                    r.recipient(),
                    r.sender(),
                    r.envelope().recipients().len()
                ),
            );
            async {}
        }))
        .data(handler_fn(move |r: Request<Data>| {
            let to: Vec<_> = r
                .envelope()
                .recipients()
                .iter()
                .map(|to| to.path().to_string())
                .collect();
            log(&e, format!("data {} {to:?}", r.envelope().sender()));
            async move { r.into_body().collect().await.map(drop) }
        }));
    let mut client = Client::greeted(&server(pipeline)).await;
    client.cmd("EHLO client.example", "250").await;
    client.cmd("MAIL FROM:<a@b.c> SIZE=10", "250").await;
    client.cmd("RCPT TO:<one@d.e>", "250").await;
    client.cmd("RCPT TO:<Postmaster>", "250").await;
    client.cmd("DATA", "354").await;
    client.send(MESSAGE).await;
    client.expect("250").await;
    let expected = [
        "connect 127.0.0.1:0 None",
        "helo client.example",
        "mail a@b.c {\"SIZE\": Some(\"10\")} Some(\"client.example\")",
        "rcpt one@d.e of a@b.c after 0",
        "rcpt Postmaster of a@b.c after 1",
        "data a@b.c [\"one@d.e\", \"Postmaster\"]",
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_pipeline_with_nothing_set_takes_no_mail() {
    let mut client = Client::greeted(&server(Pipeline::new())).await;
    let ehlo = client.cmd("EHLO c", "250").await;
    assert!(
        !ehlo.contains("AUTH") && !ehlo.contains("STARTTLS"),
        "{ehlo}"
    );
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    client.cmd("RCPT TO:<c@d.e>", "550 5.7.1").await;
    client.cmd("DATA", "503").await;
    client.cmd("AUTH PLAIN AGEAYg==", "500").await;
    let mut client = Client::greeted(&server(accept_rcpt())).await;
    client.cmd("EHLO c", "250").await;
    client.envelope().await;
    client.cmd("DATA", "451 4.3.0").await;
}

/// The classical way to lose mail: 250 first, the handler afterwards.
#[tokio::test(start_paused = true)]
async fn no_250_before_the_data_service_has_answered() {
    let done = Arc::new(Notify::new());
    let gate = done.clone();
    let server = server(pipeline(move |req: Request<Data>| {
        let gate = gate.clone();
        async move {
            let message = req.into_body().collect().await?;
            gate.notified().await;
            Ok::<_, BodyError>(Reply::ok(format!("{}", message.escape_ascii())))
        }
    }));
    let mut client = Client::greeted(&server).await;
    client.begin().await;
    client.send("exact\r\n.\r\n").await;
    assert!(
        tokio::time::timeout(SECOND * 60, client.reply())
            .await
            .is_err(),
        "nothing may be said yet"
    );
    done.notify_one();
    assert_eq!(client.reply().await, "250 2.0.0 exact\\r\\n");
}

#[tokio::test]
async fn a_reply_before_the_body_is_polled_replaces_354() {
    let server = server(pipeline(async |_: Request<Data>| {
        Reply::try_again("Over quota")
    }));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.envelope().await;
    client.cmd("DATA", "451 4.3.0 Over quota").await;
    client.envelope().await;
}

#[tokio::test]
async fn a_message_accepted_unseen_is_received_all_the_same() {
    let mut client = Client::greeted(&server(pipeline(async |_: Request<Data>| {}))).await;
    client.begin().await;
    client.send("RSET\r\nQUIT\r\n.\r\n").await;
    client.expect("250").await;
    client.cmd("NOOP", "250").await;
}

/// Refused in the middle, the rest of the message must never be run as commands.
#[tokio::test]
async fn a_refusal_in_the_middle_is_answered_after_the_final_dot() {
    async fn scan(mut req: Request<Data>) -> Result<(), Reply> {
        while let Some(Ok(chunk)) = req.body_mut().chunk().await {
            if chunk.windows(5).any(|w| w == b"virus") {
                return Err(Reply::rejected("Virus found"));
            }
        }
        Ok(())
    }
    let mut client = Client::greeted(&server(pipeline(scan))).await;
    client.begin().await;
    client.send("X: virus\r\n").await;
    settle().await;
    client
        .send("MAIL FROM:<evil@example.net>\r\nQUIT\r\n")
        .await;
    settle().await;
    client.send("\r\n.\r\nNOOP\r\n").await;
    assert_eq!(client.reply().await, "554 5.7.1 Virus found");
    client.expect("250").await;
    client.envelope().await;
}

#[tokio::test]
async fn the_size_limit_holds_while_receiving_and_the_session_goes_on() {
    let server = collecting().configure(|config| config.max_message_size(10));
    let mut client = Client::greeted(&server).await;
    client.begin().await;
    client.send("12345678\r\n.\r\n").await;
    assert_eq!(client.reply().await, "250 2.0.0 10");
    client.envelope().await;
    client.cmd("DATA", "354").await;
    client.send("123456789\r\nMAIL FROM:<a@b>\r\n.\r\n").await;
    client.expect("552 5.3.4").await;
    client.cmd("MAIL FROM:<a@b.c> SIZE=11", "552 5.3.4").await;
    client.cmd("MAIL FROM:<a@b.c> SIZE=10", "250").await;
}

#[tokio::test]
async fn every_octet_value_of_text_survives() {
    // NUL is refused unless a policy lets it pass.
    let all: Vec<u8> = (1..=255).filter(|b| !b"\r\n".contains(b)).collect();
    let sent = [&b"x"[..], &all, b"\r\n"].concat();
    let expected = sent.clone();
    let server = server(pipeline(move |req: Request<Data>| {
        let expected = expected.clone();
        async move {
            if req.into_body().collect().await? == expected {
                Ok(())
            } else {
                Err(BodyError::TooLarge)
            }
        }
    }));
    let mut client = Client::greeted(&server).await;
    client.begin().await;
    client.send([&sent[..], b".\r\n"].concat()).await;
    client.expect("250").await;
}

#[tokio::test(start_paused = true)]
async fn tower_errors_become_their_replies() {
    let slow = handler_fn(async |_: Request<Rcpt>| tokio::time::sleep(SECOND * 60).await);
    let timeout = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND * 5))
        .service(slow);
    let mut client = Client::greeted(&server(Pipeline::new().rcpt(timeout))).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    client.cmd("RCPT TO:<c@d.e>", "451 4.3.0").await;

    let full = ServiceBuilder::new()
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::new(0))
        .service(slow);
    let mut client = Client::greeted(&server(Pipeline::new().rcpt(full))).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    client.cmd("RCPT TO:<c@d.e>", "451 4.3.2").await;
}

#[tokio::test]
async fn an_error_of_a_service_never_reaches_the_client() {
    let failing = tower::service_fn(|_: Request<Rcpt>| async {
        Err::<Reply, _>(BoxError::from("password=secret"))
    });
    let errors = Arc::new(Mutex::new(Vec::new()));
    let log = errors.clone();
    let server =
        server(Pipeline::new().rcpt(failing)).on_error(move |_: &Session, error: &SessionError| {
            log.lock().unwrap().push(format!(
                "{error}: {}",
                std::error::Error::source(error).unwrap()
            ));
        });
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    assert_eq!(
        client.cmd("RCPT TO:<c@d.e>", "451").await,
        "451 4.3.0 Local error in processing"
    );
    assert_eq!(
        *errors.lock().unwrap(),
        ["rcpt service failed: password=secret"]
    );
}

#[tokio::test]
async fn a_panic_costs_its_session_a_421_and_nothing_else() {
    let server = server(Pipeline::new().rcpt(handler_fn(async |req: Request<Rcpt>| {
        assert!(req.recipient().as_str() != "boom@d.e", "boom");
    })));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    client.cmd("RCPT TO:<boom@d.e>", "421 4.3.0").await;
    client.expect_close().await;
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    client.cmd("RCPT TO:<fine@d.e>", "250").await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_becomes_ready_or_never_answers_is_answered_451() {
    let stuck = ServiceBuilder::new()
        .layer(GlobalConcurrencyLimitLayer::new(0))
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let never = handler_fn(async |_: Request<Mail>| std::future::pending::<()>().await);
    for (pipeline, line, start, limit) in [
        (
            Pipeline::new().rcpt(stuck),
            "RCPT TO:<c@d.e>",
            "451 4.3.2",
            30,
        ),
        (
            Pipeline::new().mail(never),
            "MAIL FROM:<a@b.c>",
            "451 4.3.0",
            240,
        ),
    ] {
        let mut client = Client::greeted(&server(pipeline)).await;
        client.cmd("EHLO c", "250").await;
        if line.starts_with("RCPT") {
            client.cmd("MAIL FROM:<a@b.c>", "250").await;
        }
        let begun = Instant::now();
        client.cmd(line, start).await;
        assert_eq!(begun.elapsed().as_secs(), limit);
        client.cmd("NOOP", "250").await;
    }
}

/// A clone kept by an idle session would be handed the freed permit, and starve all others.
#[tokio::test(start_paused = true)]
async fn an_idle_session_holds_no_permit() {
    let rcpt = ServiceBuilder::new()
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::new(1))
        .service(handler_fn(async |_: Request<Rcpt>| {
            tokio::time::sleep(SECOND).await
        }));
    let server = server(Pipeline::new().rcpt(rcpt));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::greeted(&server).await;
        client.cmd("EHLO c", "250").await;
        client.cmd("MAIL FROM:<a@b.c>", "250").await;
        clients.push(client);
    }
    clients[0].send("RCPT TO:<c@d.e>\r\n").await;
    settle().await;
    clients[1].cmd("RCPT TO:<c@d.e>", "451 4.3.2").await;
    clients[0].expect("250").await;
    clients[2].cmd("RCPT TO:<c@d.e>", "250").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_while_a_service_works_cancels_the_call() {
    struct Guard(Arc<AtomicBool>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = dropped.clone();
    let server = server(Pipeline::new().mail(handler_fn(move |_: Request<Mail>| {
        let guard = Guard(flag.clone());
        async move {
            tokio::time::sleep(SECOND * 100).await;
            drop(guard);
        }
    })));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.send("MAIL FROM:<a@b.c>\r\n").await;
    settle().await;
    let session = client.take_session();
    drop(client);
    let begun = Instant::now();
    session.await.unwrap();
    assert!(dropped.load(Ordering::SeqCst));
    assert!(begun.elapsed() < SECOND);
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_never_looks_like_the_end() {
    let outcome = Arc::new(Mutex::new(None));
    let kept = outcome.clone();
    let server = server(pipeline(move |req: Request<Data>| {
        let kept = kept.clone();
        async move {
            let result = req.into_body().collect().await;
            *kept.lock().unwrap() = Some(matches!(result, Err(BodyError::Incomplete)));
        }
    }));
    for half in ["half a mess", "whole\r\n", "whole\r\n.", "whole\r\n.\r"] {
        let mut client = Client::greeted(&server).await;
        client.begin().await;
        client.send(half).await;
        client.finish().await;
        client.take_session().await.unwrap();
        assert_eq!(outcome.lock().unwrap().take(), Some(true), "{half:?}");
    }
}

#[tokio::test]
async fn a_message_that_has_come_whole_is_delivered_even_if_nobody_waits() {
    let count = Arc::new(AtomicUsize::new(0));
    let delivered = count.clone();
    let server = server(pipeline(move |req: Request<Data>| {
        let delivered = delivered.clone();
        async move {
            let message = req.into_body().collect().await;
            settle().await;
            delivered.fetch_add(usize::from(message.is_ok()), Ordering::SeqCst);
        }
    }));
    let mut client = Client::greeted(&server).await;
    client.begin().await;
    client.send("x\r\n.\r\n").await;
    let session = client.take_session();
    drop(client);
    session.await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_half_closed_client_still_hears_every_reply() {
    let mut client = Client::greeted(&collecting()).await;
    client
        .send(format!(
            "EHLO c\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<c@d.e>\r\nDATA\r\n{MESSAGE}QUIT\r\n"
        ))
        .await;
    client.finish().await;
    for start in ["250", "250", "250", "354", "250", "221"] {
        client.expect(start).await;
    }
}

/// The sender is stopped by backpressure: what it could send is bounded by the pipe and one buffer.
#[tokio::test(start_paused = true)]
async fn a_service_that_never_polls_stops_the_client() {
    let server = server(pipeline(async |mut req: Request<Data>| {
        let _ = req.body_mut().chunk().await;
        tokio::time::sleep(SECOND * 100).await;
        Reply::OK
    }))
    .configure(|config| config.max_message_size(None));
    let mut client = Client::greeted(&server).await;
    client.begin().await;
    let block = [b"x".repeat(1022), b"\r\n".to_vec()].concat().repeat(64);
    let mut sent = 0_usize;
    while tokio::time::timeout(SECOND, client.send(&block))
        .await
        .is_ok()
    {
        sent += block.len();
        assert!(
            sent < 1 << 20,
            "the server goes on reading what nobody takes"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn slow_replies_do_not_hold_back_earlier_ones() {
    let server = server(Pipeline::new().rcpt(handler_fn(async |_: Request<Rcpt>| {
        tokio::time::sleep(SECOND * 10).await
    })));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    let begun = Instant::now();
    client
        .send("MAIL FROM:<a@b.c>\r\nRCPT TO:<c@d.e>\r\n")
        .await;
    client.expect("250").await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    client.expect("250").await;
    assert_eq!(begun.elapsed(), SECOND * 10);
}

#[tokio::test]
async fn a_refused_greeting_leaves_only_quit() {
    let refusing = |reply: Reply| {
        server(
            Pipeline::new().connect(handler_fn(move |_: Request<Connect>| {
                std::future::ready(reply.clone())
            })),
        )
    };
    let mut client = Client::connect(&refusing(Reply::rejected("Go away")));
    client.expect("554 5.7.1 Go away").await;
    client.cmd("EHLO c", "503").await;
    client.cmd("QUIT", "221").await;
    client.expect_close().await;
    let mut client = Client::connect(&refusing(Reply::busy()));
    client.expect("421 4.3.2").await;
    client.expect_close().await;
}

#[tokio::test]
async fn auth_makes_an_identity_that_later_phases_see() {
    let pipeline = Pipeline::new()
        .auth(handler_fn(async |req: Request<Auth>| {
            let credentials = req.credentials();
            if credentials.password() == Some("secret") {
                Ok(Identity::new(credentials.username()))
            } else {
                Err(Reply::auth_failed())
            }
        }))
        .mail(handler_fn(async |req: Request<Mail>| {
            Reply::ok(format!("Hello {}", req.session().identity().unwrap()))
        }));
    let server =
        server(pipeline).configure(|config| config.require_auth(true).allow_insecure_auth(true));
    let mut client = Client::greeted(&server).await;
    let ehlo = client.cmd("EHLO c", "250").await;
    assert!(ehlo.contains("AUTH PLAIN LOGIN"), "{ehlo}");
    client.cmd("MAIL FROM:<a@b.c>", "530 5.7.0").await;
    client.cmd("AUTH PLAIN AGFsaWNlAHdyb25n", "535 5.7.8").await;
    client
        .cmd("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.7.0")
        .await;
    client
        .cmd("MAIL FROM:<a@b.c>", "250 2.0.0 Hello alice")
        .await;
}

#[tokio::test]
async fn cram_md5_works_with_a_stored_secret() {
    let pipeline = Pipeline::new().auth(handler_fn(async |_: Request<Auth>| {
        smtpd_tower::Secret::password("secret")
    }));
    let server = server(pipeline)
        .configure(|c| c.mechanisms(Mechanisms::none().with(smtpd_tower::sasl::CramMd5)));
    let mut client = Client::greeted(&server).await;
    let ehlo = client.cmd("EHLO c", "250").await;
    assert!(ehlo.contains("AUTH CRAM-MD5"), "{ehlo}");
    client.cmd("AUTH CRAM-MD5", "334 ").await;
    client.cmd("*", "501").await;
    for (password, code) in [("secret", 235), ("Secret", 535)] {
        let mut client = smtpd_tower::test::Client::connect(&server);
        client.greeting().await.unwrap();
        client.ehlo("c").await.unwrap();
        let reply = client.auth_cram_md5("alice", password).await.unwrap();
        assert_eq!(reply.code().as_u16(), code, "{password}");
    }
}

/// Otherwise, the response to one challenge could be replayed by someone else.
#[tokio::test]
async fn challenges_cannot_be_foretold() {
    let mechanisms = Mechanisms::none()
        .with(smtpd_tower::sasl::CramMd5)
        .with(smtpd_tower::sasl::Scram::sha256());
    let pipeline = Pipeline::new().auth(handler_fn(async |_: Request<Auth>| {
        smtpd_tower::Secret::password("secret")
    }));
    let server = server(pipeline).configure(|config| config.mechanisms(mechanisms));
    // `n,,n=alice,r=fyko`
    for command in [
        "AUTH CRAM-MD5",
        "AUTH SCRAM-SHA-256 biwsbj1hbGljZSxyPWZ5a28=",
    ] {
        let mut challenges = HashSet::new();
        for _ in 0..8 {
            let mut client = Client::greeted(&server).await;
            client.cmd("EHLO c", "250").await;
            let reply = client.cmd(command, "334 ").await;
            let challenge = base64::engine::general_purpose::STANDARD
                .decode(reply.trim_start_matches("334 ").trim())
                .unwrap();
            let challenge = String::from_utf8(challenge).unwrap();
            // The random part alone: of CRAM-MD5 before the dot, of SCRAM what follows the client's part.
            let random = challenge
                .split(['.', ','])
                .next()
                .unwrap_or_default()
                .trim_start_matches("r=fyko")
                .to_owned();
            assert!(random.len() >= 16, "{challenge}");
            assert!(challenges.insert(random), "{challenge} came twice");
        }
    }
}

#[tokio::test]
async fn the_wire_log_shows_no_secret() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = lines.clone();
    let pipeline = accept_rcpt()
        .auth(handler_fn(async |req: Request<Auth>| {
            Identity::new(req.credentials().username())
        }))
        .data(handler_fn(async |req: Request<Data>| {
            req.into_body().collect().await.map(drop)
        }));
    let server = server(pipeline)
        .configure(|config| config.allow_insecure_auth(true))
        .on_wire(move |_: &Session, line| log.lock().unwrap().push(line.to_string()));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("AUTH PLAIN AGFsaWNlAHdyb25nAA==", "501").await;
    client.cmd("AUTH LOGIN", "334").await;
    client.cmd("YWxpY2U=", "334").await;
    client.cmd("c2VjcmV0", "235").await;
    client.envelope().await;
    client.cmd("DATA", "354").await;
    client.send("private words\r\n.\r\n").await;
    client.expect("250").await;
    client.cmd("QUIT", "221").await;
    client.expect_close().await;
    client.take_session().await.unwrap();
    let log = lines.lock().unwrap().join("\n");
    for secret in ["AGFs", "YWxp", "c2Vj", "secret", "private", "VXNlcm5hbWU6"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    for line in [
        "C: EHLO c",
        "C: AUTH PLAIN [redacted]",
        "C: [redacted]",
        "C: [message of 15 bytes]",
        "S: 250 2.0.0 OK",
        "C: QUIT",
    ] {
        assert!(log.contains(line), "{line} not in {log}");
    }
}

#[tokio::test]
async fn the_end_of_a_session_is_told_exactly_once_with_its_reason() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let log = ends.clone();
    let server = collecting().on_close(move |_: &Session, summary| {
        log.lock().unwrap().push((summary.reason, summary.messages))
    });
    let mut client = Client::greeted(&server).await;
    client.begin().await;
    client.send("x\r\n.\r\n").await;
    client.expect("250").await;
    client.cmd("QUIT", "221").await;
    client.take_session().await.unwrap();
    let mut client = Client::greeted(&server).await;
    let session = client.take_session();
    drop(client);
    session.await.unwrap();
    let quit = EndReason::Closed(smtpd_tower::session::CloseReason::Quit);
    assert_eq!(*ends.lock().unwrap(), [(quit, 1), (EndReason::Lost, 0)]);
}

#[tokio::test]
async fn state_of_a_transaction_ends_with_it() {
    #[derive(Clone, Copy, Debug, Default)]
    struct Seen(u32);
    let pipeline = Pipeline::new()
        .mail(handler_fn(async |req: Request<Mail>| {
            let (session, _) = req.into_parts();
            session.state().update(|seen: &mut Seen| seen.0 += 1);
            session.transaction().update(|seen: &mut Seen| seen.0 += 1);
        }))
        .rcpt(handler_fn(async |req: Request<Rcpt>| {
            let (session, _) = req.into_parts();
            let ours = session.get::<Seen>().map_or(0, |seen| seen.0);
            let transaction = session.transaction().get::<Seen>().map_or(0, |seen| seen.0);
            Reply::ok(format!("{ours} {transaction}"))
        }));
    let mut client = Client::greeted(&server(pipeline)).await;
    client.cmd("EHLO c", "250").await;
    for n in 1..4 {
        client.cmd("MAIL FROM:<a@b.c>", "250").await;
        client
            .cmd("RCPT TO:<c@d.e>", &format!("250 2.0.0 {n} 1"))
            .await;
        client.cmd("RSET", "250").await;
    }
}

#[tokio::test]
async fn verbs_keywords_and_parameters_of_ones_own() {
    #[derive(Debug)]
    struct Color;
    impl Extension for Color {
        fn keyword(&self) -> &str {
            "XCOLOR"
        }
        fn announcement(&self, _: SessionFacts<'_>) -> std::borrow::Cow<'_, str> {
            "RED GREEN".into()
        }
        fn mail_parameters(&self) -> &[ParameterRule] {
            &[
                const { ParameterRule::new("XCOLOR", |v| v.map(drop).ok_or(ParameterError::Malformed)) },
            ]
        }
    }
    let pipeline = Pipeline::new()
        .command(handler_fn(async |req: Request<Command>| {
            let (_, command) = req.into_parts();
            match (command.verb(), command.argument()) {
                ("XTIME", zone) => Reply::ok(format!("noon in {zone}")),
                ("VRFY", "alice") => Reply::ok("<alice@example.org>"),
                _ => command.default_reply().clone(),
            }
        }))
        .mail(handler_fn(async |req: Request<Mail>| {
            let color = req
                .parameters()
                .iter()
                .find(|(keyword, _)| *keyword == "XCOLOR")
                .and_then(|(_, value)| value);
            Reply::ok(color.unwrap_or("none").to_owned())
        }));
    let server = server(pipeline).configure(|config| {
        config.extensions(smtpd_tower::extension::Extensions::default().with(Color))
    });
    let mut client = Client::greeted(&server).await;
    assert!(
        client
            .cmd("EHLO c", "250")
            .await
            .contains("250-XCOLOR RED GREEN")
    );
    client.cmd("xtime UTC", "250 2.0.0 noon in UTC").await;
    client
        .cmd("VRFY alice", "250 2.0.0 <alice@example.org>")
        .await;
    client.cmd("VRFY bob", "252 2.0.0").await;
    client.cmd("XOTHER", "500 5.5.1").await;
    client.cmd("EXPN list", "502 5.5.1").await;
    client
        .cmd("MAIL FROM:<a@b.c> XCOLOR=red", "250 2.0.0 red")
        .await;
    client.cmd("RSET", "250").await;
    client.cmd("MAIL FROM:<a@b.c> XCOLOR", "501").await;
}

#[tokio::test]
async fn a_reset_is_told_with_the_envelope_that_is_given_up() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let server = server(accept_rcpt()).on_reset(move |_: &Session, envelope| {
        log.lock().unwrap().push(envelope.recipients().len())
    });
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("RSET", "250").await;
    client.envelope().await;
    client.cmd("RSET", "250").await;
    assert_eq!(*told.lock().unwrap(), [1]);
}

#[tokio::test]
async fn only_some_of_the_ways_to_abort_a_transaction_are_told() {
    let read = handler_fn(async |request: Request<Data>| {
        let _ = request.into_body().collect().await;
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let server = server(accept_rcpt().data(read)).on_reset(move |session: &Session, envelope| {
        assert!(session.helo().is_some());
        log.lock().unwrap().push(envelope.recipients().len());
    });
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    for command in ["RSET", "EHLO again", "HELO again"] {
        client.envelope().await;
        client.cmd(command, "250").await;
        client.envelope().await;
        client.cmd("BDAT 5\r\nabc", "250").await;
        client.cmd(command, "250").await;
        assert_eq!(told.lock().unwrap().drain(..).len(), 2, "{command}");
    }
}
