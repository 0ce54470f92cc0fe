//! The layers themselves, put around a service.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use smtpd_tower::{
    BoxError, Connect, Data, Helo, Mail, Phase, Pipeline, Rcpt, Reply, Request,
    domains::Domains,
    layer::{
        self, Admit, AllowClientsLayer, CatchPanicLayer, ConcurrencyLayer, CondLayer,
        DenyClientsLayer, DenySendersLayer, DistinctRecipientsLayer, DomainFilterLayer, Exempt,
        FreeSpaceLayer, Gate, GreylistLayer, HeloCheckLayer, HopLimitLayer, MapBodyLayer,
        MapReplyLayer, MaxRecipientsLayer, MetricsLayer, Next, OwnSenderLayer, RateLimitLayer,
        ReceivedLayer, RecipientsLayer, RequireAuthLayer, RequireTlsLayer, ReverseDnsLayer,
        ScoreGateLayer, ScoreLayer, SessionsPerIpLayer, SizeLimitLayer, SpoolLayer,
        SubmissionFieldsLayer, TarpitLayer, TeeLayer, TraceLayer,
    },
    limiter::Rate,
    phase::PhaseKind,
    reply::Verdict,
    router::{RoutePhase, Router},
    service::BoxPhaseService,
    test::ChaosLayer,
};
use tokio::sync::Semaphore;
use tower::{
    Layer, ServiceBuilder,
    buffer::BufferLayer,
    limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer},
    load_shed::LoadShedLayer,
    retry::RetryLayer,
    timeout::TimeoutLayer,
};

use crate::{
    leaf::{Leaf, Reading},
    plan::{Condition, Core, Function, Kind, Spec, Stack, Step},
    probe::Probe,
    scene::Scene,
    station::{Again, Station, boxed},
};

/// The pipeline of a case, by the calls of its plan.
pub fn pipeline(scene: &Scene) -> Pipeline {
    let steps = scene.plan.steps.iter();
    steps.fold(Pipeline::new(), |pipeline, step| match step {
        Step::Layer(spec) => pipeline.layer(Chain::new(scene, std::slice::from_ref(spec))),
        Step::LayerOn(phases, spec) => {
            let chain = Chain::new(scene, std::slice::from_ref(spec));
            pipeline.layer_on(phases.iter().copied(), chain)
        }
        Step::Set(phase, stack) => match phase {
            PhaseKind::Connect => set::<Connect>(pipeline, scene, stack),
            PhaseKind::Helo => set::<Helo>(pipeline, scene, stack),
            PhaseKind::Auth => set::<smtpd_tower::Auth>(pipeline, scene, stack),
            PhaseKind::Mail => set::<Mail>(pipeline, scene, stack),
            PhaseKind::Rcpt => set::<Rcpt>(pipeline, scene, stack),
            PhaseKind::Data => set::<Data>(pipeline, scene, stack),
            _ => set::<smtpd_tower::Command>(pipeline, scene, stack),
        },
    })
}

fn set<P: Station>(pipeline: Pipeline, scene: &Scene, stack: &Stack) -> Pipeline {
    P::set(pipeline, build::<P>(scene, stack))
}

/// A service within its layers.
fn build<P: Station>(scene: &Scene, stack: &Stack) -> BoxPhaseService<P> {
    let core = P::core(scene, stack.slot, &stack.core);
    let core = Probe::put(scene, stack.slot, core);
    Chain::new(scene, &stack.layers).layer(core)
}

/// Layers, the outermost first, each behind a probe.
#[derive(Clone)]
struct Chain {
    scene: Scene,
    specs: Vec<Spec>,
}

impl Chain {
    fn new(scene: &Scene, specs: &[Spec]) -> Self {
        Self {
            scene: scene.clone(),
            specs: specs.to_vec(),
        }
    }
}

impl<P: Station> Layer<BoxPhaseService<P>> for Chain {
    type Service = BoxPhaseService<P>;

    fn layer(&self, inner: BoxPhaseService<P>) -> BoxPhaseService<P> {
        let scene = &self.scene;
        self.specs.iter().rev().fold(inner, |inner, spec| {
            let layered = wrap(scene, spec.slot, &spec.kind, inner);
            Probe::put(scene, spec.slot, layered)
        })
    }
}

fn wrap<P: Station>(
    scene: &Scene,
    slot: usize,
    kind: &Kind,
    inner: BoxPhaseService<P>,
) -> BoxPhaseService<P> {
    match *kind {
        Kind::RequireAuth => boxed(RequireAuthLayer::new(), inner),
        Kind::RequireTls => boxed(RequireTlsLayer::new(), inner),
        Kind::AllowClients(networks) => boxed(AllowClientsLayer::parse(networks).unwrap(), inner),
        Kind::DenyClients(networks) => boxed(DenyClientsLayer::parse(networks).unwrap(), inner),
        Kind::Score(points) => boxed(ScoreLayer::new(move |_: &Request<P>| points), inner),
        Kind::ScoreGate(points) => boxed(ScoreGateLayer::new(points), inner),
        Kind::CatchPanic => boxed(CatchPanicLayer::new(), inner),
        Kind::MapReply => boxed(MapReplyLayer::new(marked), inner),
        Kind::Metrics => boxed(MetricsLayer::new(), inner),
        Kind::Trace => boxed(TraceLayer::new(), inner),
        Kind::Gate => BoxPhaseService::new(Gate::new(inner, Rule)),
        Kind::ConcurrencyPerIp(n) => boxed(
            scene.layer(slot, || ConcurrencyLayer::per_ip(n).exempt(exempt(slot))),
            inner,
        ),
        Kind::ConcurrencyPerIdentity(n) => boxed(
            scene.layer(slot, || {
                ConcurrencyLayer::per_identity(n).exempt(exempt(slot))
            }),
            inner,
        ),
        Kind::RatePerIp(n) => boxed(
            scene.layer(slot, || {
                RateLimitLayer::per_ip(rate(n)).exempt(exempt(slot))
            }),
            inner,
        ),
        Kind::RatePerIdentity(n) => boxed(
            scene.layer(slot, || {
                RateLimitLayer::per_identity(rate(n)).exempt(exempt(slot))
            }),
            inner,
        ),
        Kind::Tarpit(seconds) => boxed(
            TarpitLayer::new(Duration::from_secs(seconds)).max_delay(LONGEST),
            inner,
        ),
        Kind::Chaos => boxed(ChaosLayer::new().fail_every(3), inner),
        Kind::Cond(condition, ref inside) => conditional(scene, condition, inside, inner),
        Kind::FromFn(function) => {
            let scene = scene.clone();
            let run = move |request, next| call::<P>(scene.clone(), function, request, next);
            boxed(layer::from_fn(run), inner)
        }
        Kind::FromFnWith(function) => {
            let run = move |scene, request, next| call::<P>(scene, function, request, next);
            boxed(layer::from_fn_with(scene.clone(), run), inner)
        }
        _ => of_tower(scene, slot, kind, inner),
    }
}

const LONGEST: Duration = Duration::from_secs(600);

fn of_tower<P: Station>(
    scene: &Scene,
    slot: usize,
    kind: &Kind,
    inner: BoxPhaseService<P>,
) -> BoxPhaseService<P> {
    let builder = ServiceBuilder::new();
    match *kind {
        Kind::Timeout(seconds) => boxed(TimeoutLayer::new(Duration::from_secs(seconds)), inner),
        Kind::ConcurrencyLimit(n) => boxed(ConcurrencyLimitLayer::new(n), inner),
        Kind::GlobalLimit(n) => {
            let permits = scene.layer(slot, || Arc::new(Semaphore::new(n)));
            boxed(GlobalConcurrencyLimitLayer::with_semaphore(permits), inner)
        }
        Kind::LoadShed => boxed(LoadShedLayer::new(), inner),
        Kind::Buffer(n) => boxed(BufferLayer::<Request<P>>::new(n), inner),
        Kind::MapResponse => boxed(
            builder
                .map_response(|response: P::Response| response)
                .into_inner(),
            inner,
        ),
        Kind::MapRequest => boxed(
            builder
                .map_request(|request: Request<P>| request)
                .into_inner(),
            inner,
        ),
        Kind::MapErr => boxed(
            builder
                .map_err(|error: BoxError| error_to_reply(error))
                .into_inner(),
            inner,
        ),
        Kind::Filter => boxed(builder.filter(even::<P>).into_inner(), inner),
        Kind::FilterAsync => boxed(
            builder
                .filter_async(async |request| even::<P>(request))
                .into_inner(),
            inner,
        ),
        Kind::Then => boxed(
            builder
                .then(std::future::ready::<Result<P::Response, BoxError>>)
                .into_inner(),
            inner,
        ),
        Kind::AndThen => boxed(
            builder
                .and_then(|response: P::Response| std::future::ready(Ok::<_, BoxError>(response)))
                .into_inner(),
            inner,
        ),
        _ => P::own(scene, slot, kind, inner),
    }
}

fn exempt(slot: usize) -> Exempt {
    match Spec::exempts_local(slot) {
        true => Exempt::local(),
        false => Exempt::new(),
    }
}

fn rate(n: u32) -> Rate {
    Rate::per_minute(n).unwrap()
}

fn marked(reply: Reply) -> Reply {
    let text = format!("{} (m)", reply.lines().next().unwrap_or_default());
    reply.with_text(text)
}

/// Accepts clients that use TLS or come from far away.
#[derive(Clone, Copy)]
struct Rule;

impl<P> Admit<P> for Rule {
    fn admit(&self, request: &Request<P>) -> Result<(), Reply> {
        let session = request.session();
        match session.tls().is_some() || !session.client_addr().is_local() {
            true => Ok(()),
            false => Err(Reply::try_again("Not from here")),
        }
    }
}

fn error_to_reply(error: BoxError) -> BoxError {
    let result: Result<Reply, BoxError> = Err(error);
    let is_fault = Verdict::of(&result) == Verdict::Failed;
    match result {
        Err(error) if !is_fault => error,
        _ => Reply::mailbox_full().into(),
    }
}

/// Refuses the sessions of clients without an address.
fn even<P: Phase>(request: Request<P>) -> Result<Request<P>, BoxError> {
    match request.session().client_addr().ip() {
        Some(_) => Ok(request),
        None => Err(Reply::rejected("Filtered").into()),
    }
}

pub fn holds<P>(condition: Condition, request: &Request<P>) -> bool {
    let session = request.session();
    match condition {
        Condition::Always => true,
        Condition::Never => false,
        Condition::Stranger => session.identity().is_none(),
        Condition::InTheClear => session.tls().is_none(),
        Condition::FromLoopback => session.client_addr().is_local(),
    }
}

fn conditional<P: Station>(
    scene: &Scene,
    condition: Condition,
    inside: &[Spec],
    inner: BoxPhaseService<P>,
) -> BoxPhaseService<P> {
    let predicate = move |request: &Request<P>| holds(condition, request);
    boxed(CondLayer::new(predicate, Chain::new(scene, inside)), inner)
}

async fn call<P: Station>(
    scene: Scene,
    function: Function,
    request: Request<P>,
    next: Next<P>,
) -> Result<P::Response, BoxError> {
    use smtpd_tower::reply::Answer;
    match function {
        Function::Pass => next.run(request).await,
        Function::Defer => Ok(Reply::auth_unavailable().into()),
        Function::Reject => Ok(Reply::rejected("By a function").into()),
        Function::ThrowDefer => Err(Reply::auth_unavailable().into()),
        Function::ThrowReject => Err(Reply::rejected("By a function").into()),
        Function::Fail => Err(scene.fault().into()),
        Function::Panic => panic!("{}", scene.fault()),
        Function::Delay(seconds) => {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            next.run(request).await
        }
        Function::Throws => {
            let response = next.run(request).await?;
            match response.reply() {
                Some(reply) if response.verdict().is_refused() => Err(reply.clone().into()),
                _ => Ok(response),
            }
        }
    }
}

pub fn leaf<P: Reading>(scene: &Scene, slot: usize, _: &Core) -> BoxPhaseService<P> {
    BoxPhaseService::new(Leaf::<P>::new(scene, slot))
}

fn router<P: Reading + RoutePhase>(
    scene: &Scene,
    routes: &[(&'static str, Stack)],
    otherwise: Option<&Stack>,
) -> Router<P> {
    let routes = routes
        .iter()
        .fold(Router::new(), |router, (domain, stack)| {
            router.domain(domain.parse().unwrap(), build::<P>(scene, stack))
        });
    match otherwise {
        Some(stack) => routes.otherwise(build::<P>(scene, stack)),
        None => routes,
    }
}

pub fn routes_of_rcpt(scene: &Scene, slot: usize, core: &Core) -> BoxPhaseService<Rcpt> {
    match core {
        Core::Leaf => leaf(scene, slot, core),
        Core::Router { routes, otherwise } => {
            BoxPhaseService::new(router::<Rcpt>(scene, routes, otherwise.as_deref()))
        }
    }
}

pub fn routes_of_data(scene: &Scene, slot: usize, core: &Core) -> BoxPhaseService<Data> {
    match core {
        Core::Leaf => leaf(scene, slot, core),
        Core::Router { routes, otherwise } => {
            BoxPhaseService::new(router::<Data>(scene, routes, otherwise.as_deref()))
        }
    }
}

pub fn again<P: Station + Clone>(
    _: &Scene,
    _: usize,
    kind: &Kind,
    inner: BoxPhaseService<P>,
) -> BoxPhaseService<P> {
    match *kind {
        Kind::Retry(times) => boxed(RetryLayer::new(Again(times)), inner),
        ref other => panic!("{other:?} at {}", P::KIND),
    }
}

pub fn at_connect(
    scene: &Scene,
    slot: usize,
    kind: &Kind,
    inner: BoxPhaseService<Connect>,
) -> BoxPhaseService<Connect> {
    match *kind {
        Kind::ReverseDns => boxed(ReverseDnsLayer::new(resolve), inner),
        Kind::SessionsPerIp(n) => boxed(
            scene.layer(slot, || SessionsPerIpLayer::new(n).exempt(exempt(slot))),
            inner,
        ),
        _ => again(scene, slot, kind, inner),
    }
}

async fn resolve(ip: IpAddr) -> Option<String> {
    tokio::time::sleep(Duration::from_millis(30)).await;
    ip.is_ipv4().then(|| "client.example".to_owned())
}

fn helo_check() -> HeloCheckLayer {
    HeloCheckLayer::new().own_names(Domains::parse(["mx.test"]).unwrap())
}

pub fn at_helo(
    scene: &Scene,
    slot: usize,
    kind: &Kind,
    inner: BoxPhaseService<Helo>,
) -> BoxPhaseService<Helo> {
    match *kind {
        Kind::HeloCheck => boxed(helo_check(), inner),
        _ => again(scene, slot, kind, inner),
    }
}

pub fn at_mail(
    scene: &Scene,
    slot: usize,
    kind: &Kind,
    inner: BoxPhaseService<Mail>,
) -> BoxPhaseService<Mail> {
    match *kind {
        Kind::HeloCheck => boxed(helo_check(), inner),
        Kind::DenySenders => boxed(
            DenySendersLayer::parse(["carol@example.net"]).unwrap(),
            inner,
        ),
        Kind::SizeLimit(bytes) => boxed(SizeLimitLayer::new(bytes), inner),
        Kind::FreeSpace => boxed(free_space(), inner),
        Kind::OwnSender => boxed(OwnSenderLayer::in_any_domain(), inner),
        _ => again(scene, slot, kind, inner),
    }
}

pub fn at_rcpt(
    scene: &Scene,
    slot: usize,
    kind: &Kind,
    inner: BoxPhaseService<Rcpt>,
) -> BoxPhaseService<Rcpt> {
    match *kind {
        Kind::DomainFilter => boxed(DomainFilterLayer::parse(OURS).unwrap(), inner),
        Kind::Greylist => boxed(scene.layer(slot, GreylistLayer::new), inner),
        Kind::MaxRecipients(n) => boxed(MaxRecipientsLayer::new(n).exempt(exempt(slot)), inner),
        Kind::Recipients => boxed(
            RecipientsLayer::parse(OURS.map(|domain| format!("*@{domain}"))).unwrap(),
            inner,
        ),
        _ => again(scene, slot, kind, inner),
    }
}

/// The disk is never full: when it is measured, in another thread, is not the simulation's choice.
fn free_space() -> FreeSpaceLayer {
    FreeSpaceLayer::new(|| Ok(u64::MAX))
}

/// What the domain filter accepts.
pub const OURS: [&str; 3] = ["a.example", "b.example", "c.example"];

pub fn at_data(
    _: &Scene,
    _: usize,
    kind: &Kind,
    inner: BoxPhaseService<Data>,
) -> BoxPhaseService<Data> {
    match *kind {
        Kind::SizeLimit(bytes) => boxed(SizeLimitLayer::new(bytes), inner),
        Kind::FreeSpace => boxed(free_space(), inner),
        Kind::GreylistData => boxed(GreylistLayer::new().into_rcpt_and_data().1, inner),
        Kind::DistinctRecipients => boxed(DistinctRecipientsLayer::new(), inner),
        Kind::HopLimit(hops) => boxed(HopLimitLayer::new(hops), inner),
        Kind::MapBody => boxed(MapBodyLayer::new(|body| body), inner),
        Kind::Received => boxed(ReceivedLayer::new(), inner),
        Kind::SubmissionFields => boxed(SubmissionFieldsLayer::new(), inner),
        Kind::Spool(limit) => boxed(SpoolLayer::new(limit), inner),
        Kind::Tee => boxed(
            TeeLayer::new(|_: &Request<Data>| Some(async { io::Result::Ok(tokio::io::sink()) })),
            inner,
        ),
        ref other => panic!("{other:?} at data"),
    }
}
