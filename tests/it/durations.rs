//! Settings with the longest duration, which means no limit.

use std::{convert::Infallible, fmt, time::Duration};

use smtpd_tower::{
    BoxError, Connect, Rcpt, Reply, Request, Session, handler_fn,
    layer::{
        GreylistKey, GreylistLayer, GreylistPolicy, GreylistVerdict, RateLimitLayer,
        ReverseDnsLayer, ReverseName, TarpitLayer,
    },
    limiter::Rate,
    net::{PeerAddr, TrustedPeers},
    proxy::ProxyProtocol,
    test::{ChaosLayer, ChaosStream, StreamChaos},
};
use support::*;
use tokio::{
    io::AsyncReadExt,
    time::{sleep, timeout},
};
use tower::{Service, ServiceBuilder, ServiceExt};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn rcpt() -> Request<Rcpt> {
    let path = "b@example.org".parse().unwrap();
    Request::new(Session::from_peer(([192, 0, 2, 1], 25)), Rcpt::new(path))
}

async fn code<S>(service: &S) -> u16
where
    S: Service<Request<Rcpt>, Response = Reply> + Clone,
    S::Error: fmt::Debug,
{
    let reply = service.clone().oneshot(rcpt()).await.unwrap();
    reply.code().as_u16()
}

fn accepts() -> impl Service<Request<Rcpt>, Response = Reply, Error = Infallible> + Clone {
    handler_fn(async |_: Request<Rcpt>| Reply::OK)
}

#[tokio::test(start_paused = true)]
async fn a_proxy_header_without_limit_panics() {
    let peers = TrustedPeers::parse(["192.0.2.0/24"]).unwrap();
    let protocol = ProxyProtocol::from_trusted(peers).timeout(Duration::MAX);
    let server = collecting().proxy_protocol(protocol);
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(server.serve_connection(far, PeerAddr::from(([192, 0, 2, 1], 25))));
    let mut client = Client::over(near);
    sleep(YEAR).await;
    client.send("PROXY UNKNOWN\r\n").await;
    client.expect("220").await;
}

#[tokio::test(start_paused = true)]
async fn a_look_up_without_limit_panics() {
    let reverse = ReverseDnsLayer::new(async |_| {
        sleep(YEAR).await;
        Some("mx.example.org".to_owned())
    });
    let connect = ServiceBuilder::new()
        .layer(reverse.timeout(Duration::MAX))
        .service(handler_fn(async |request: Request<Connect>| {
            assert!(request.session().get::<ReverseName>().is_some());
        }));
    let request = Request::new(Session::local(), Connect::new());
    assert_eq!(connect.oneshot(request).await.unwrap(), Reply::OK);
}

#[tokio::test(start_paused = true)]
async fn a_greylist_store_without_limit_panics() {
    let store = async |_: GreylistKey, _: GreylistPolicy| {
        sleep(YEAR).await;
        let retry_after = Duration::MAX;
        Ok::<_, BoxError>(GreylistVerdict::Wait { retry_after })
    };
    let layer = GreylistLayer::with_store(store).timeout(Duration::MAX);
    assert_eq!(
        code(&ServiceBuilder::new().layer(layer).service(accepts())).await,
        450
    );
}

#[tokio::test(start_paused = true)]
async fn a_greylist_that_waits_or_remembers_for_ever_panics() {
    let policy = GreylistPolicy::new()
        .with_window(Duration::MAX)
        .with_lifetime(Duration::MAX);
    for (policy, codes) in [
        (policy, [450, 250, 250]),
        (policy.with_delay(Duration::MAX), [450, 450, 450]),
    ] {
        let layer = GreylistLayer::new().policy(policy);
        let service = ServiceBuilder::new().layer(layer).service(accepts());
        for expected in codes {
            assert_eq!(code(&service).await, expected, "{policy:?}");
            sleep(YEAR).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_the_longest_period_panics() {
    let rate = Rate::new(1, Duration::MAX).unwrap();
    for rate in [rate, rate.strict()] {
        let layer = RateLimitLayer::per_ip(rate);
        let service = ServiceBuilder::new().layer(layer).service(accepts());
        for expected in [250, 451, 451] {
            assert_eq!(code(&service).await, expected);
            sleep(YEAR).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_without_end_panics() {
    let tarpit = TarpitLayer::new(Duration::MAX).max_delay(Duration::MAX);
    let refuses = handler_fn(async |_: Request<Rcpt>| Reply::no_such_user());
    let tarpit = ServiceBuilder::new().layer(tarpit).service(refuses);
    assert!(timeout(YEAR, code(&tarpit)).await.is_err());

    let chaos = ChaosLayer::new()
        .delay(Duration::MAX)
        .slow_banner(Duration::MAX);
    let chaos = ServiceBuilder::new().layer(chaos).service(accepts());
    assert!(timeout(YEAR, code(&chaos)).await.is_err());

    let (_near, far) = tokio::io::duplex(64);
    let mut far = ChaosStream::new(far, StreamChaos::new().delay_reads(Duration::MAX));
    assert!(timeout(YEAR, far.read_u8()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_without_limit_panics() {
    let server = collecting();
    let mut client = Client::greeted(&server).await;
    client.begin().await;
    let handle = server.handle();
    let shutdown = tokio::spawn(async move { handle.shutdown(Duration::MAX).await });
    settle().await;
    client.send("x\r\n.\r\n").await;
    client.expect("250").await;
    shutdown.await.unwrap();
}
