//! What each layer adds to a request that it lets pass, alone around a service that accepts at once, called as the engine does.
//!
//! `layers LAYER CALLS` runs one; `.ci/layers` counts the instructions and the allocations of a call. Without arguments it prints
//! the time of a call of each, less that of the service alone.

use std::{
    future::Ready,
    hint::black_box,
    io,
    net::IpAddr,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use smtpd_tower::{
    Body, BoxError, Connect, Data, Envelope, Mail, Phase, Rcpt, Reply, Request, Session,
    address::ForwardPath,
    deliver::Discard,
    domains::Domains,
    handler_fn,
    layer::{
        self, Admit, AllowClientsLayer, CatchPanicLayer, ConcurrencyLayer, CondLayer,
        DenyClientsLayer, DenySendersLayer, DistinctRecipientsLayer, DomainFilterLayer,
        FreeSpaceLayer, Gate, GreylistLayer, GreylistPolicy, HeloCheckLayer, HopLimitLayer,
        MapBodyLayer, MapReplyLayer, MaxRecipientsLayer, MetricsLayer, Next, OwnSenderLayer,
        RateLimitLayer, ReceivedLayer, RecipientsLayer, RequireAuthLayer, RequireTlsLayer,
        ReverseDnsLayer, ScoreGateLayer, ScoreLayer, SessionsPerIpLayer, SizeLimitLayer,
        SpoolLayer, SubmissionFieldsLayer, TarpitLayer, TeeLayer, TraceLayer,
    },
    limiter::Rate,
    router::Router,
    service::PhaseService,
    session::{TlsInfo, TlsVersion},
};
use tower::{
    Layer, layer::util::Identity, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer,
    timeout::TimeoutLayer,
};

/// One call of a layer.
type Call = Box<dyn FnMut()>;

/// The name of a layer, the phase at which it is measured, and how it is made.
type Case = (&'static str, &'static str, fn() -> Call);

const CASES: [Case; 45] = [
    ("none", "connect", || at_connect(Identity::new())),
    ("none", "mail", || at_mail(Identity::new())),
    ("none", "rcpt", || at_rcpt(Identity::new())),
    ("none", "data", || at_data(Identity::new())),
    ("AllowClientsLayer", "connect", || {
        at_connect(AllowClientsLayer::parse(["192.0.2.0/24"]).unwrap())
    }),
    ("DenyClientsLayer", "connect", || {
        at_connect(DenyClientsLayer::parse(["198.51.100.0/24"]).unwrap())
    }),
    ("ReverseDnsLayer", "connect", || {
        at_connect(ReverseDnsLayer::new(resolve))
    }),
    ("SessionsPerIpLayer", "connect", || {
        at_connect(SessionsPerIpLayer::new(1000))
    }),
    ("DenySendersLayer", "mail", || {
        at_mail(DenySendersLayer::parse(["eve@example.net"]).unwrap())
    }),
    ("HeloCheckLayer", "mail", || at_mail(HeloCheckLayer::new())),
    ("OwnSenderLayer", "mail", || {
        at_mail(OwnSenderLayer::in_domains(
            Domains::parse(["example.com"]).unwrap(),
        ))
    }),
    (
        "CatchPanicLayer",
        "rcpt",
        || at_rcpt(CatchPanicLayer::new()),
    ),
    ("ConcurrencyLayer", "rcpt", || {
        at_rcpt(ConcurrencyLayer::per_ip(1000))
    }),
    ("CondLayer", "rcpt", || {
        at_rcpt(CondLayer::new(
            |_: &Request<Rcpt>| true,
            RequireTlsLayer::new(),
        ))
    }),
    ("DomainFilterLayer", "rcpt", || {
        at_rcpt(DomainFilterLayer::parse(["example.org"]).unwrap())
    }),
    ("FromFnLayer", "rcpt", || at_rcpt(layer::from_fn(pass))),
    ("FromFnWithLayer", "rcpt", || {
        at_rcpt(layer::from_fn_with((), |(), request, next| {
            pass(request, next)
        }))
    }),
    ("Gate", "rcpt", || {
        at_rcpt(tower::layer::layer_fn(|inner| Gate::new(inner, Open)))
    }),
    ("GreylistLayer", "rcpt", || {
        at_rcpt(GreylistLayer::new().policy(GreylistPolicy::new().with_delay(Duration::ZERO)))
    }),
    ("MapReplyLayer", "rcpt", || {
        at_rcpt(MapReplyLayer::new(|reply| reply))
    }),
    ("MaxRecipientsLayer", "rcpt", || {
        at_rcpt(MaxRecipientsLayer::new(100))
    }),
    ("RateLimitLayer", "rcpt", || {
        at_rcpt(RateLimitLayer::per_ip(Rate::per_second(u32::MAX).unwrap()))
    }),
    ("RecipientsLayer", "rcpt", || {
        at_rcpt(RecipientsLayer::parse(["b@example.org"]).unwrap())
    }),
    ("RequireAuthLayer", "rcpt", || {
        at_rcpt(RequireAuthLayer::new())
    }),
    (
        "RequireTlsLayer",
        "rcpt",
        || at_rcpt(RequireTlsLayer::new()),
    ),
    ("Router", "rcpt", || call(router(), rcpt())),
    ("Router of 1,000 addresses", "rcpt", || {
        call(router_of_addresses(1000), rcpt())
    }),
    ("ScoreGateLayer", "rcpt", || {
        at_rcpt(ScoreGateLayer::new(100))
    }),
    ("ScoreLayer", "mail", || {
        at_mail(ScoreLayer::new(|_: &Request<Mail>| 0))
    }),
    ("TarpitLayer", "rcpt", || {
        at_rcpt(TarpitLayer::new(Duration::from_secs(5)))
    }),
    ("TraceLayer", "rcpt", || at_rcpt(TraceLayer::new())),
    ("DistinctRecipientsLayer", "data", || {
        at_data(DistinctRecipientsLayer::new())
    }),
    ("GreylistDataLayer", "data", || {
        at_data(GreylistLayer::new().into_rcpt_and_data().1)
    }),
    ("FreeSpaceLayer", "data", || {
        let space = FreeSpaceLayer::new(|| Ok(u64::MAX));
        // Until then it is not ready.
        let measured = tokio::runtime::Handle::current().block_on(space.measure());
        measured.expect("it was measured");
        at_data(space)
    }),
    (
        "HopLimitLayer",
        "data",
        || at_data(HopLimitLayer::default()),
    ),
    ("MapBodyLayer", "data", || {
        at_data(MapBodyLayer::new(|body| body))
    }),
    ("MetricsLayer", "rcpt", || at_rcpt(MetricsLayer::new())),
    ("ReceivedLayer", "data", || at_data(ReceivedLayer::new())),
    ("SizeLimitLayer", "data", || {
        at_data(SizeLimitLayer::new(1 << 20))
    }),
    ("SpoolLayer", "data", || at_data(SpoolLayer::new(1 << 20))),
    ("SubmissionFieldsLayer", "data", || {
        at_data(SubmissionFieldsLayer::new())
    }),
    ("TeeLayer", "data", || at_data(TeeLayer::new(sink))),
    ("tower's timeout", "rcpt", || {
        at_rcpt(TimeoutLayer::new(Duration::from_secs(5)))
    }),
    ("tower's concurrency_limit", "rcpt", || {
        at_rcpt(ConcurrencyLimitLayer::new(64))
    }),
    (
        "tower's load_shed",
        "rcpt",
        || at_rcpt(LoadShedLayer::new()),
    ),
];

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let _context = runtime.enter();
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(name), Some(phase), Some(calls)) => {
            let calls = calls.parse().expect("CALLS is a number");
            let mut call = case(&name, &phase)();
            (0..calls).for_each(|_| call());
        }
        (Some(list), None, None) if list == "list" => {
            CASES
                .iter()
                .for_each(|(name, phase, _)| println!("{phase} {name}"));
        }
        _ => print_times(),
    }
}

fn case(name: &str, phase: &str) -> fn() -> Call {
    let mut cases = CASES
        .iter()
        .filter(|case| (case.0, case.1) == (name, phase));
    cases
        .next()
        .unwrap_or_else(|| panic!("no layer {name:?} at {phase}"))
        .2
}

fn print_times() {
    println!(
        "{:<26} {:<8} ns of a call, less those of the service",
        "layer", "phase"
    );
    for (name, phase, make) in CASES {
        let alone = if name == "none" {
            0.0
        } else {
            time(case("none", phase))
        };
        println!("{name:<26} {phase:<8} {:>6.0}", time(make) - alone);
    }
}

/// The time of a call, in nanoseconds: the shortest mean of many short rounds, which what else
/// the machine does leaves alone.
fn time(make: fn() -> Call) -> f64 {
    const CALLS: u32 = 400;
    let mut call = make();
    let mut round = || {
        let begun = Instant::now();
        (0..CALLS).for_each(|_| call());
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..400).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// A call as the engine makes it: a clone, asked whether it is ready, called, its future in a box.
fn call<P: Phase>(service: impl PhaseService<P>, make: impl Fn() -> Request<P> + 'static) -> Call {
    Box::new(move || {
        let request = make();
        let mut service = service.clone();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        let mut answer = black_box(Box::pin(service.call(request)));
        while answer.as_mut().poll(&mut cx).is_pending() {}
    })
}

type Handler<P> = smtpd_tower::service::HandlerFn<fn(Request<P>) -> Ready<Reply>>;

fn accepting<P: Phase<Response = Reply>>() -> Handler<P> {
    handler_fn(|_| std::future::ready(Reply::OK))
}

fn at_connect<L>(layer: L) -> Call
where
    L: Layer<Handler<Connect>, Service: PhaseService<Connect>>,
{
    // A permit lasts as long as its session.
    let request = || Request::new(Session::from_peer(([192, 0, 2, 1], 4711)), Connect::new());
    call(layer.layer(accepting()), request)
}

fn at_mail<L>(layer: L) -> Call
where
    L: Layer<Handler<Mail>, Service: PhaseService<Mail>>,
{
    let (session, mail) = (session(), Mail::new("alice@example.com".parse().unwrap()));
    call(layer.layer(accepting()), move || {
        Request::new(session.clone(), mail.clone())
    })
}

fn at_rcpt<L>(layer: L) -> Call
where
    L: Layer<Handler<Rcpt>, Service: PhaseService<Rcpt>>,
{
    call(layer.layer(accepting()), rcpt())
}

fn rcpt() -> impl Fn() -> Request<Rcpt> {
    let recipient: ForwardPath = "b@example.org".parse().unwrap();
    let session = session();
    move || Request::new(session.clone(), Rcpt::new(recipient.clone()))
}

fn at_data<L>(layer: L) -> Call
where
    L: Layer<Discard, Service: PhaseService<Data>>,
{
    let session = session();
    let envelope = std::sync::Arc::new(Envelope::default());
    call(layer.layer(Discard), move || {
        let body =
            Body::from("Subject: hi\r\nDate: Sat, 28 Nov 2026 10:00:00 +0000\r\n\r\nHello\r\n");
        Request::new(session.clone(), Data::new(envelope.clone(), body))
    })
}

/// A client that every layer here lets pass.
fn session() -> Session {
    let tls = TlsInfo::new(TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256");
    Session::from_peer(([192, 0, 2, 1], 4711))
        .with_identity("alice")
        .with_tls(tls)
}

async fn resolve(_: IpAddr) -> Option<String> {
    Some("mx.example.com".to_owned())
}

async fn pass(request: Request<Rcpt>, next: Next<Rcpt>) -> Result<Reply, BoxError> {
    next.run(request).await
}

#[derive(Clone, Copy)]
struct Open;

impl<P> Admit<P> for Open {
    fn admit(&self, _: &Request<P>) -> Result<(), Reply> {
        Ok(())
    }
}

fn router() -> Router<Rcpt> {
    Router::new().domain("example.org".parse().unwrap(), accepting())
}

/// The recipient is that of the last route.
fn router_of_addresses(number: usize) -> Router<Rcpt> {
    let others = (1..number).map(|n| format!("user{n}@example.org"));
    let addresses = others.chain(["b@example.org".to_owned()]);
    addresses.fold(Router::new(), |router, address| {
        router.address(address.parse().unwrap(), accepting())
    })
}

fn sink(_: &Request<Data>) -> Option<Ready<io::Result<tokio::io::Sink>>> {
    Some(std::future::ready(Ok(tokio::io::sink())))
}
