//! The metrics: what is counted, as what, and that no client adds to what there is.

#[path = "../../../examples/metrics_layer.rs"]
#[allow(dead_code, reason = "`main` is not called here")]
mod example;

use std::{collections::BTreeSet, future::pending, time::Duration};

use axum::Router;
use example::MetricsLayer;
use smtpd_tower::{
    Auth, Command, Data, Mail, Pipeline, Rcpt, Reply, Request, Secret, Server, Session, handler_fn,
    sasl::{Credentials, MechanismName},
    test::Client,
};
use tokio::time::{sleep, timeout};
use tower::{BoxError, ServiceExt, service_fn};

use super::{
    Example, send,
    web::{ask, fetch},
};

/// The page of a server with the layer around its pipeline.
fn measured(pipeline: Pipeline) -> (Pipeline, Server, Router) {
    let metrics = MetricsLayer::default();
    let pipeline = pipeline.layer(metrics.clone());
    let server = Server::new("mx.test", pipeline.clone());
    let routes = example::routes(metrics, server.handle());
    (pipeline, server, routes)
}

/// The lines of the page that have a value, by the name and the labels before it.
async fn page(routes: &Router) -> Vec<(String, String)> {
    let (status, page) = ask(routes, "GET", "/metrics").await;
    assert_eq!(status, 200);
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let parts = lines.map(|line| line.rsplit_once(' ').unwrap());
    parts
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

async fn assert_on_page(routes: &Router, lines: &[&str]) {
    let page = page(routes).await;
    for line in lines {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let line = (name.to_owned(), value.to_owned());
        assert!(page.contains(&line), "{line:?} is not in {page:#?}");
    }
}

fn mail(sender: &str) -> Request<Mail> {
    Request::new(Session::local(), Mail::new(sender.parse().unwrap()))
}

#[tokio::test]
async fn by_its_command_line() {
    let example = Example::start("metrics_layer", &["127.0.0.1:0"]);
    let line = example.line_with("metrics at ");
    let url = line.strip_prefix("metrics at ").unwrap();
    let mut client = example.client().await;
    send(&mut client, "Hello", "250").await;
    let (status, page) = fetch("GET", url).await;
    assert_eq!(status, 200);
    for line in [
        r#"smtp_replies_total{phase="connect",class="2yz"} 1"#,
        r#"smtp_replies_total{phase="data",class="2yz"} 1"#,
        r#"smtp_latency_seconds_count{phase="data"} 1"#,
        "smtp_sessions 1",
        "# EOF",
    ] {
        assert!(page.lines().any(|of| of == line), "{line}: {page}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_counted_by_its_phase_and_class_and_with_its_time() {
    let answer = async |request: Request<Mail>| {
        sleep(Duration::from_secs(2)).await;
        match request.sender().as_str() {
            "a@later.example" => Ok(Reply::try_again("Later")),
            "a@never.example" => Ok(Reply::rejected("Never")),
            "a@broken.example" => Err(BoxError::from("broken")),
            _ => Ok(Reply::OK),
        }
    };
    let login = handler_fn(async |_: Request<Auth>| Secret::password("secret"));
    let pipeline = Pipeline::new().mail(service_fn(answer)).auth(login);
    let (pipeline, _, routes) = measured(pipeline);
    for domain in ["now", "later", "later", "never", "broken"] {
        let request = mail(&format!("a@{domain}.example"));
        let _ = pipeline.clone().oneshot(request).await;
    }
    let credentials = Credentials::plain("alice", "secret").unwrap();
    let auth = Auth::new(MechanismName::from_static("PLAIN"), credentials);
    let auth = Request::new(Session::local(), auth);
    pipeline.oneshot(auth).await.unwrap();
    assert_on_page(
        &routes,
        &[
            r#"smtp_replies_total{phase="mail",class="2yz"} 1"#,
            r#"smtp_replies_total{phase="mail",class="4yz"} 2"#,
            r#"smtp_replies_total{phase="mail",class="5yz"} 1"#,
            r#"smtp_replies_total{phase="mail",class="error"} 1"#,
            r#"smtp_replies_total{phase="auth",class="pending"} 1"#,
            r#"smtp_latency_seconds_sum{phase="mail"} 10.0"#,
            r#"smtp_latency_seconds_count{phase="mail"} 5"#,
            r#"smtp_latency_seconds_bucket{le="1.024",phase="mail"} 0"#,
            r#"smtp_latency_seconds_bucket{le="4.096",phase="mail"} 5"#,
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_client_has_gone_is_counted_as_cancelled() {
    let pipeline = Pipeline::new().mail(handler_fn(async |_: Request<Mail>| pending::<()>().await));
    let (pipeline, _, routes) = measured(pipeline);
    let call = pipeline.oneshot(mail("a@example.com"));
    timeout(Duration::from_secs(3), call).await.unwrap_err();
    assert_on_page(
        &routes,
        &[
            r#"smtp_replies_total{phase="mail",class="cancelled"} 1"#,
            r#"smtp_latency_seconds_sum{phase="mail"} 3.0"#,
        ],
    )
    .await;
}

#[tokio::test]
async fn no_client_adds_a_time_series() {
    let pipeline = Pipeline::new()
        .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
        .data(handler_fn(async |request: Request<Data>| {
            request.into_body().discard().await
        }))
        .command(handler_fn(async |_: Request<Command>| {}));
    let (_, server, routes) = measured(pipeline);
    let mut names = BTreeSet::new();
    for round in 0..20 {
        let mut client = Client::connect(&server);
        client.greeting().await.unwrap();
        client
            .ehlo(&format!("client{round}.example"))
            .await
            .unwrap();
        client.command(&format!("XVERB{round}")).await.unwrap();
        let (from, to) = (
            format!("a{round}@example.com"),
            format!("b{round}@example.org"),
        );
        let sent = client.send(&from, [&to], "Hello\r\n").await.unwrap();
        sent.expect_code(250).unwrap();
        let page = page(&routes).await.into_iter();
        let now: BTreeSet<_> = page.map(|(name, _)| name).collect();
        assert!(now.iter().any(|name| name.contains(r#"phase="command""#)));
        assert!(round == 0 || now == names, "{now:#?}");
        names = now;
    }
}
