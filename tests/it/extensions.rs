//! The extensions of SMTP through whole sessions: what a listener offers, and what its services see and say of it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use smtpd_tower::{
    Command, Data, DataReply, Mail, Pipeline, Rcpt, Reply, Request,
    extension::{DeliverBy, Etrn, Extensions, FutureRelease, MtPriority, Prdr, Rrvs, Standard},
    handler_fn,
    layer::DomainFilterLayer,
    parameter::{By, HoldFor, HoldUntil, NoSupport, Priority, ValidSince},
    reply::{Code, Status},
};
use support::*;
use tower::ServiceBuilder;

#[tokio::test]
async fn each_listener_of_a_server_offers_its_own_extensions() {
    let mx = collecting();
    let submission = mx.clone().configure(|config| {
        let latest = "2030-01-01T00:00:00Z".parse().unwrap();
        let extensions = Extensions::default()
            .without(Standard::Chunking)
            .with(FutureRelease::new(HoldFor::new(60).unwrap(), latest));
        config.extensions(extensions)
    });
    let (mut outer, mut inner) = (
        Client::greeted(&mx).await,
        Client::greeted(&submission).await,
    );
    let outer_ehlo = outer.cmd("EHLO c", "250").await;
    let inner_ehlo = inner.cmd("EHLO c", "250").await;
    for (keyword, offered) in [
        ("CHUNKING", [true, false]),
        ("BINARYMIME", [true, false]),
        ("FUTURERELEASE 60 2030-01-01T00:00:00Z", [false, true]),
        ("DSN", [true, true]),
        ("LIMITS MAILMAX=10000 RCPTMAX=100", [true, true]),
    ] {
        let shows = |ehlo: &str| ehlo.lines().any(|line| line.get(4..) == Some(keyword));
        let shown = [&outer_ehlo, &inner_ehlo].map(|ehlo| shows(ehlo));
        assert_eq!(shown, offered, "{keyword}");
    }
    outer.cmd("MAIL FROM:<a@b.c> HOLDFOR=60", "555 5.5.4").await;
    inner.cmd("MAIL FROM:<a@b.c> HOLDFOR=60", "250").await;
    outer.cmd("BDAT 0 LAST", "503").await;
    inner.cmd("BDAT 0 LAST", "502").await;
    // Both are sessions of one server.
    assert_eq!(mx.handle().sessions(), 2);
    assert_eq!(submission.handle().sessions(), 2);
}

#[tokio::test]
async fn what_a_client_asks_for_is_handed_to_the_data_service() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let pipeline = pipeline(move |request: Request<Data>| {
        let (parameters, to) = (
            request.envelope().parameters(),
            &request.envelope().recipients()[0],
        );
        log.lock().unwrap().push((
            parameters.get::<By>().map(By::seconds),
            parameters.get::<Priority>().map(Priority::value),
            to.parameters().get().map(ValidSince::no_support),
        ));
        async move { request.into_body().collect().await.map(drop) }
    });
    let server = server(pipeline).configure(|config| {
        let extensions = Extensions::default()
            .with(DeliverBy::new())
            .with(MtPriority::new())
            .with(Rrvs);
        config.extensions(extensions)
    });
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    client
        .cmd("MAIL FROM:<a@b.c> BY=60;R MT-PRIORITY=-2", "250")
        .await;
    client
        .cmd("RCPT TO:<c@d.e> RRVS=2014-04-03T23:01:00Z;C", "250")
        .await;
    client.cmd("DATA", "354").await;
    client.cmd("text\r\n.", "250").await;
    let expected = (Some(60), Some(-2), Some(NoSupport::Continue));
    assert_eq!(*seen.lock().unwrap(), [expected]);
}

/// The connection has no clock; the service of MAIL has.
#[tokio::test]
async fn a_service_holds_a_message_against_its_clock() {
    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_893_456_000) // 2030-01-01
    }
    let pipeline = Pipeline::new().mail(handler_fn(async |request: Request<Mail>| {
        let hold = HoldUntil::resolve(request.parameters(), now())?;
        let text = hold.map_or("now".to_owned(), |hold| hold.time().to_string());
        Ok::<_, Reply>(Reply::ok(text))
    }));
    let server = server(pipeline).configure(|config| {
        let latest = "2031-01-01T00:00:00Z".parse().unwrap();
        let extensions = Extensions::default()
            .with(DeliverBy::new())
            .with(FutureRelease::new(HoldFor::new(3600).unwrap(), latest));
        config.extensions(extensions)
    });
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    for (parameters, reply) in [
        ("", "250 2.0.0 now"),
        (" HOLDFOR=60", "250 2.0.0 2030-01-01T00:01:00Z"),
        (
            " HOLDUNTIL=2030-06-01T00:00:00Z",
            "250 2.0.0 2030-06-01T00:00:00Z",
        ),
        (" HOLDUNTIL=2029-12-31T23:59:59Z", "501 5.5.4"),
        (" HOLDUNTIL=2031-01-01T00:00:01Z", "501 5.5.4"),
        (" HOLDUNTIL=2030-01-01T00:01:01Z BY=60;R", "501 5.5.4"),
    ] {
        client
            .cmd(&format!("MAIL FROM:<a@b.c>{parameters}"), reply)
            .await;
        client.cmd("RSET", "250").await;
    }
}

#[tokio::test]
async fn a_client_that_asks_for_it_hears_of_each_recipient() {
    let pipeline = pipeline(async |request: Request<Data>| {
        let to = request.envelope().recipients().to_vec();
        request.into_body().collect().await?;
        let replies = to.iter().map(|to| match to.path().as_str() {
            "full@d.e" => Reply::mailbox_full(),
            path => Reply::ok(format!("{path} takes it")),
        });
        Ok::<_, smtpd_tower::BodyError>(DataReply::each(replies))
    });
    let server =
        server(pipeline).configure(|config| config.extensions(Extensions::default().with(Prdr)));
    let mut client = Client::greeted(&server).await;
    client.cmd("EHLO c", "250").await;
    for (parameter, replies) in [
        (
            " PRDR",
            &[
                "353 ",
                "250 2.0.0 one@d.e takes it",
                "452 4.2.2",
                "250 2.0.0 Taken for some",
            ][..],
        ),
        ("", &["452 4.2.2"]),
    ] {
        client
            .cmd(&format!("MAIL FROM:<a@b.c>{parameter}"), "250")
            .await;
        client.cmd("RCPT TO:<one@d.e>", "250").await;
        client.cmd("RCPT TO:<full@d.e>", "250").await;
        client.cmd("DATA", "354").await;
        client.send("text\r\n.\r\n").await;
        for reply in replies {
            client.expect(reply).await;
        }
    }
    client.cmd("NOOP", "250 2.0.0 OK").await;
}

#[tokio::test]
async fn etrn_is_served_as_a_command() {
    let pipeline = Pipeline::new().command(handler_fn(async |request: Request<Command>| {
        let (_, command) = request.into_parts();
        match (command.verb(), command.argument()) {
            ("ETRN", "example.org") => Reply::new(
                Code::new(253).unwrap(),
                Status::UNDEFINED,
                "OK, 14 pending messages for node example.org started",
            ),
            _ => command.default_reply().clone(),
        }
    }));
    let on =
        server(pipeline).configure(|config| config.extensions(Extensions::default().with(Etrn)));
    let off = on
        .clone()
        .configure(|config| config.extensions(Extensions::default()));
    let mut client = Client::greeted(&on).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("etrn example.org", "253 2.0.0 OK, 14").await;
    client.cmd("ETRN example.net", "458 4.3.0").await;
    client.cmd("ETRN localname", "501").await;
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    client.cmd("ETRN example.org", "503").await;
    let mut client = Client::greeted(&off).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("ETRN example.net", "502 5.5.1").await;
}

#[tokio::test]
async fn vrfy_expn_and_help_have_their_own_answers() {
    let mut client = Client::greeted(&server(Pipeline::new())).await;
    client.cmd("VRFY alice", "252 2.0.0").await;
    client.cmd("EXPN list", "502 5.5.1").await;
    client.cmd("HELP", "214 2.0.0").await;
}

#[tokio::test]
async fn a_recipient_is_known_by_both_kinds_of_labels() {
    let rcpt = ServiceBuilder::new()
        .layer(DomainFilterLayer::parse(["grå.example"]).unwrap())
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let mut client = Client::greeted(&server(Pipeline::new().rcpt(rcpt))).await;
    client.cmd("EHLO c", "250").await;
    client.cmd("MAIL FROM:<a@b.c> SMTPUTF8", "250").await;
    client.cmd("RCPT TO:<c@grå.example>", "250").await;
    client.cmd("RCPT TO:<c@GRÅ.example>", "250").await;
    client.cmd("RCPT TO:<c@XN--GR-ZIA.example>", "250").await;
    client.cmd("RCPT TO:<c@gra.example>", "550").await;
    client.cmd("RSET", "250").await;
    client.cmd("MAIL FROM:<a@b.c>", "250").await;
    client.cmd("RCPT TO:<c@xn--gr-zia.example>", "250").await;
}
