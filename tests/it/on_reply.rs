//! Every reply that refuses is seen by `Server::on_reply`, with who has produced it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use smtpd_tower::{
    BodyError, BoxError, Connect, Data, DataReply, Helo, Mail, Pipeline, Profile, Rcpt, Reply,
    Request, Server,
    addresses::Addresses,
    domains::Domains,
    handler_fn,
    layer::{
        AllowClientsLayer, CatchPanicLayer, ConcurrencyLayer, DenyClientsLayer, DenySendersLayer,
        DomainFilterLayer, Exempt, GreylistLayer, HeloCheckLayer, HopLimitLayer, MapReplyLayer,
        MaxRecipientsLayer, OwnSenderLayer, RateLimitLayer, RecipientsLayer, RequireAuthLayer,
        RequireTlsLayer, ScoreGateLayer, ScoreLayer, SessionsPerIpLayer, SizeLimitLayer,
        TarpitLayer, TraceLayer, from_fn,
    },
    limiter::Rate,
    net::CidrSet,
    phase::{Auth, PhaseKind},
    reply::{Code, Origin},
    router::Router,
    sasl::Secret,
    session::Answered,
};
use support::*;
use tower::{ServiceBuilder, service_fn};

const PEER: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);

/// What the hook has seen.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Answered>>>);

impl Seen {
    fn by(&self, server: Server) -> Server {
        let seen = self.clone();
        server.on_reply(move |_, answered| seen.0.lock().unwrap().push(answered.clone()))
    }

    fn take(&self) -> Vec<Answered> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// The phase and the origin of each.
    fn origins(&self) -> Vec<(Option<PhaseKind>, String)> {
        let show = |answered: Answered| (answered.phase(), answered.origin().to_string());
        self.take().into_iter().map(show).collect()
    }
}

/// A pipeline that accepts everything, with AUTH.
fn accepting() -> Pipeline {
    accept_rcpt()
        .auth(handler_fn(async |_: Request<Auth>| {
            Secret::password("secret")
        }))
        .data(handler_fn(read))
}

async fn read(request: Request<Data>) -> Result<(), BodyError> {
    request.into_body().collect().await.map(|_| ())
}

async fn yes<P>(_: Request<P>) {}

/// Plays a session until something is refused, and returns by whom.
async fn refused_by(pipeline: Pipeline) -> (PhaseKind, Origin) {
    let seen = Seen::default();
    let server = seen.by(server(pipeline).configure(|config| config.allow_insecure_auth(true)));
    let mut client = Client::from_peer(&server, PEER);
    let mut replies = vec![client.reply().await];
    let message = "Received: a\r\nReceived: b\r\n\r\nA message\r\n.";
    for line in [
        "EHLO localhost",
        "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
        "MAIL FROM:<a@example.com>",
        "RCPT TO:<b@example.net>",
        "RCPT TO:<c@example.net>",
        "DATA",
        message,
    ] {
        if replies.last().unwrap().starts_with(['4', '5']) {
            break;
        }
        client.send(format!("{line}\r\n")).await;
        replies.push(client.reply().await);
    }
    let all = seen.take();
    let [answered] = &all[..] else {
        panic!("{all:?} of {replies:?}")
    };
    let sent = replies.last().unwrap();
    let code = answered.reply().code().to_string();
    assert!(sent.starts_with(&code), "{answered:?}, {sent}");
    (answered.phase().unwrap(), answered.origin())
}

/// The service of a phase within a layer.
macro_rules! within {
    ($layer:expr, $service:expr) => {
        ServiceBuilder::new().layer($layer).service($service)
    };
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_layer_does_not_say_which() {
    let networks = |text| CidrSet::parse([text]).unwrap();
    let domains = || Domains::parse(["example.org"]).unwrap();
    let yes_connect = || handler_fn(yes::<Connect>);
    let yes_mail = || handler_fn(yes::<Mail>);
    let yes_rcpt = || handler_fn(yes::<Rcpt>);
    let all = accepting;
    let once = Rate::per_hour(1).unwrap();
    let points = ServiceBuilder::new()
        .layer(ScoreLayer::new(|_: &Request<Mail>| 9))
        .layer(ScoreGateLayer::new(1));
    use PhaseKind::{
        Connect as AtConnect, Data as AtData, Helo as AtHelo, Mail as AtMail, Rcpt as AtRcpt,
    };
    let cases = [
        (
            "AllowClientsLayer",
            AtConnect,
            all().connect(within!(
                AllowClientsLayer::new(networks("10.0.0.0/8")),
                yes_connect()
            )),
        ),
        (
            "DenyClientsLayer",
            AtConnect,
            all().connect(within!(
                DenyClientsLayer::new(networks("192.0.2.0/24")),
                yes_connect()
            )),
        ),
        (
            "SessionsPerIpLayer",
            AtConnect,
            all().connect(within!(SessionsPerIpLayer::new(0), yes_connect())),
        ),
        (
            "HeloCheckLayer",
            AtHelo,
            all().helo(within!(HeloCheckLayer::new(), handler_fn(yes::<Helo>))),
        ),
        (
            "RequireTlsLayer",
            AtMail,
            all().mail(within!(RequireTlsLayer::new(), yes_mail())),
        ),
        (
            "DenySendersLayer",
            AtMail,
            all().mail(within!(
                DenySendersLayer::new(Addresses::parse(["a@example.com"]).unwrap()),
                yes_mail()
            )),
        ),
        (
            "OwnSenderLayer",
            AtMail,
            all().mail(within!(OwnSenderLayer::in_domains(domains()), yes_mail())),
        ),
        (
            "ScoreGateLayer",
            AtMail,
            all().mail(within!(points, yes_mail())),
        ),
        (
            "ConcurrencyLayer",
            AtMail,
            all().mail(within!(ConcurrencyLayer::per_ip(0), yes_mail())),
        ),
        (
            "DomainFilterLayer",
            AtRcpt,
            all().rcpt(within!(DomainFilterLayer::new(domains()), yes_rcpt())),
        ),
        (
            "RecipientsLayer",
            AtRcpt,
            all().rcpt(within!(
                RecipientsLayer::new(Addresses::parse(["a@b"]).unwrap()),
                yes_rcpt()
            )),
        ),
        (
            "MaxRecipientsLayer",
            AtRcpt,
            all().rcpt(within!(MaxRecipientsLayer::new(1), yes_rcpt())),
        ),
        (
            "RateLimitLayer",
            AtRcpt,
            all().rcpt(within!(RateLimitLayer::per_ip(once), yes_rcpt())),
        ),
        (
            "GreylistLayer",
            AtRcpt,
            all().rcpt(within!(
                GreylistLayer::new().exempt(Exempt::new()),
                yes_rcpt()
            )),
        ),
        (
            "SizeLimitLayer",
            AtData,
            all().data(within!(SizeLimitLayer::new(10), handler_fn(read))),
        ),
        (
            "HopLimitLayer",
            AtData,
            all().data(within!(HopLimitLayer::new(1), handler_fn(read))),
        ),
    ];
    for (name, phase, pipeline) in cases {
        assert_eq!(
            refused_by(pipeline.clone()).await,
            (phase, Origin::Layer(name))
        );
        // What stands around it looks at the reply, and may change it.
        let around = pipeline
            .layer(MapReplyLayer::new(|reply: Reply| {
                if reply.is_positive() {
                    reply
                } else {
                    Reply::new(reply.code(), reply.status(), "No")
                }
            }))
            .layer(TarpitLayer::new(Duration::from_secs(1)))
            .layer(TraceLayer::new());
        assert_eq!(
            refused_by(around).await,
            (phase, Origin::Layer(name)),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_needs_auth_is_named() {
    let mail = within!(RequireAuthLayer::new(), handler_fn(yes::<Mail>));
    let seen = Seen::default();
    let server = seen.by(server(accept_rcpt().mail(mail)));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO client.example", "250").await;
    client.cmd("MAIL FROM:<a@example.com>", "530").await;
    let mail = Some(PhaseKind::Mail);
    assert_eq!(seen.origins(), [(mail, "RequireAuthLayer".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_layer_is_told_apart() {
    let mail = |result: fn() -> Result<Reply, BoxError>| {
        accepting().mail(service_fn(move |_: Request<Mail>| async move { result() }))
    };
    let own_filter = ServiceBuilder::new()
        .layer(from_fn(
            async |_: Request<Mail>, _| -> Result<Reply, BoxError> {
                Err(Reply::rejected("Spam").with_origin("my-filter").into())
            },
        ))
        .service(handler_fn(yes::<Mail>));
    let panics = || handler_fn(async |_: Request<Mail>| -> Reply { panic!("on purpose") });
    let sleeps = handler_fn(async |_: Request<Mail>| tokio::time::sleep(Duration::MAX).await);
    let caught = within!(CatchPanicLayer::new(), panics());
    for (pipeline, expected) in [
        (accepting().mail(own_filter), Origin::Layer("my-filter")),
        (mail(|| Ok(Reply::rejected("No"))), Origin::Service),
        (mail(|| Err(Reply::rejected("No").into())), Origin::Service),
        (
            mail(|| Err(Reply::busy().with_origin("thrown").into())),
            Origin::Layer("thrown"),
        ),
        (mail(|| Err("the database is down".into())), Origin::Fault),
        (
            mail(|| Ok(Reply::new(Code::START_MAIL, Reply::OK.status(), ""))),
            Origin::Fault,
        ),
        (accepting().mail(panics()), Origin::Fault),
        (accepting().mail(caught), Origin::Fault),
        (accepting().mail(sleeps), Origin::Timeout),
    ] {
        assert_eq!(refused_by(pipeline).await, (PhaseKind::Mail, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn the_reply_to_each_recipient_keeps_who_refuses() {
    let full = handler_fn(async |request: Request<Data>| {
        read(request).await?;
        Ok::<_, BodyError>(DataReply::from(Reply::mailbox_full().with_origin("quota")))
    });
    let route = Router::new()
        .domain("full.example".parse().unwrap(), full)
        .otherwise(handler_fn(read));
    let seen = Seen::default();
    let server = seen.by(server(accept_rcpt().data(route)));
    for lmtp in [true, false] {
        let server = server.clone().profile(match lmtp {
            true => Profile::Lmtp,
            false => Profile::Mx,
        });
        let server = server.domains(Domains::parse(["full.example", "b.example"]).unwrap());
        let mut client = Client::greeted(&server).await;
        let hello = if lmtp { "LHLO" } else { "EHLO" };
        client.cmd(&format!("{hello} client.example"), "250").await;
        client.cmd("MAIL FROM:<a@example.com>", "250").await;
        client.cmd("RCPT TO:<a@full.example>", "250").await;
        client.cmd("RCPT TO:<b@b.example>", "250").await;
        client.cmd("DATA", "354").await;
        client.send("A message\r\n.\r\n").await;
        client.expect("452").await;
        let [answered] = &seen.take()[..] else {
            panic!("one recipient is refused")
        };
        assert_eq!(answered.origin(), Origin::Layer("quota"));
        assert_eq!(
            (answered.phase(), answered.command()),
            (Some(PhaseKind::Data), Some("DATA"))
        );
        assert_eq!(answered.address(), lmtp.then_some("a@full.example"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_sessions_own_replies_are_seen() {
    let seen = Seen::default();
    let server = seen.by(server(accepting()).configure(|config| config.allow_insecure_auth(true)));
    let mut client = Client::greeted(&server).await;
    client.cmd("RCPT TO:<a@b>", "503").await;
    client.cmd("EHLO client.example", "250").await;
    client.cmd("FOO secret", "500").await;
    client.cmd("RSET x", "501").await;
    client.cmd("AUTH PLAIN AGFsaWNlAHdyb25n", "535").await;
    let all = seen.take();
    let shown: Vec<_> = all
        .iter()
        .map(|a| (a.phase(), a.argument(), a.user(), a.is_failed_login()))
        .collect();
    assert_eq!(
        shown,
        [
            (Some(PhaseKind::Rcpt), "TO:<a@b>", None, false),
            (Some(PhaseKind::Command), "", None, false),
            (None, "x", None, false),
            (Some(PhaseKind::Auth), "PLAIN", Some("alice"), true),
        ]
    );
    assert!(
        all.iter()
            .all(|answered| answered.origin() == Origin::Protocol),
        "{all:?}"
    );
    // The client says nothing more.
    client.expect("421").await;
    client.expect_close().await;
    assert_eq!(seen.origins(), [(None, "timeout".to_owned())]);

    let mut client = Client::greeted(&server).await;
    server.handle().shutdown(Duration::from_secs(1)).await;
    client.expect("421").await;
    assert_eq!(seen.origins(), [(None, "shutdown".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_panics_costs_neither_the_reply_nor_the_other_hooks() {
    let seen = Seen::default();
    let server = server(accepting()).on_reply(|_, _| panic!("on purpose"));
    let server = seen.by(server);
    let mut client = Client::greeted(&server).await;
    client.cmd("MAIL", "503").await;
    client.cmd("QUIT", "221").await;
    assert_eq!(seen.take().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_reports_how_much_it_has_refused() {
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let server = server(accepting()).on_close(move |_, summary| {
        let _ = ended.send(summary.refused);
    });
    let mut client = Client::greeted(&server).await;
    client.cmd("MAIL", "503").await;
    client.cmd("RSET x", "501").await;
    client.cmd("QUIT", "221").await;
    assert_eq!(ends.recv().await, Some(2));
}
