use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use super::kept_layer::{AnyLayer, KeptLayer, WrapPhase};
use crate::{
    phase::{Auth, Command, Connect, Data, Helo, Mail, Phase, Rcpt, Request},
    phase_kind::PhaseKind,
    service::{BoxPhaseService, PhaseFuture, PhaseService},
};

/// The services of a server, one for each phase.
///
/// The defaults are safe: connect, HELO and MAIL are accepted, AUTH is not offered, every recipient is rejected (550 5.7.1), and
/// every message is deferred (451 4.3.0). It takes a line of code to make an open relay.
///
/// A service is cloned for each command, made ready, called once, and dropped. Wrap what its clones have to share in an `Arc`;
/// the layers of this crate do so.
///
/// [The guide](crate::guide::start) begins with a first one, and explains [what goes into it](crate::guide::pipelines) and [the
/// order of layers](crate::guide::order_of_layers).
///
/// ```
/// use smtpd_tower::{
///     Data, Pipeline, Rcpt, Request, handler_fn,
///     layer::{DomainFilterLayer, TraceLayer},
/// };
/// use tower::ServiceBuilder;
///
/// let rcpt = ServiceBuilder::new()
///     .layer(DomainFilterLayer::parse(["example.org"])?)
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let pipeline = Pipeline::new()
///     .rcpt(rcpt)
///     .data(handler_fn(async |request: Request<Data>| {
///         request.into_body().discard().await
///     }))
///     .layer(TraceLayer::new()); // around every phase
/// # Ok::<(), smtpd_tower::domains::DomainsError>(())
/// ```
///
/// # As a service
///
/// A pipeline is itself a service of every phase. It passes a request to the service of its phase, and answers a phase without a
/// service with its [default](Phase::default_response). So you can test a whole pipeline, with all layers in place, by
/// [`oneshot`](tower::ServiceExt::oneshot):
///
/// ```
/// use smtpd_tower::{
///     Mail, Pipeline, Rcpt, Reply, Request, Session, handler_fn,
///     layer::RequireAuthLayer,
/// };
/// use tower::{Layer, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), smtpd_tower::BoxError> {
/// let pipeline = Pipeline::new().rcpt(
///     RequireAuthLayer::new().layer(handler_fn(async |_: Request<Rcpt>| {})),
/// );
///
/// let mail =
///     Request::new(Session::local(), Mail::new("alice@example.org".parse()?));
/// assert_eq!(pipeline.clone().oneshot(mail).await?, Reply::OK); // the default
///
/// let rcpt =
///     Request::new(Session::local(), Rcpt::new("bob@example.org".parse()?));
/// assert_eq!(pipeline.oneshot(rcpt).await?, Reply::auth_required());
/// # Ok(()) }
/// ```
///
/// The server's part is not included: the protocol with its limits and timeouts, and what a [`Profile`](crate::session::Profile)
/// refuses.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    pub(crate) connect: Option<BoxPhaseService<Connect>>,
    pub(crate) helo: Option<BoxPhaseService<Helo>>,
    pub(crate) auth: Option<BoxPhaseService<Auth>>,
    pub(crate) mail: Option<BoxPhaseService<Mail>>,
    pub(crate) rcpt: Option<BoxPhaseService<Rcpt>>,
    pub(crate) data: Option<BoxPhaseService<Data>>,
    pub(crate) command: Option<BoxPhaseService<Command>>,
    /// The first one is the innermost.
    layers: Vec<KeptLayer>,
}

impl Pipeline {
    /// Creates a pipeline with no services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the service that decides whether to greet a client. Default: accepts every client.
    #[must_use]
    pub fn connect(self, service: impl PhaseService<Connect>) -> Self {
        Self {
            connect: self.wrapped(service),
            ..self
        }
    }

    /// Sets the service for HELO, EHLO and LHLO. Default: accepts every name.
    #[must_use]
    pub fn helo(self, service: impl PhaseService<Helo>) -> Self {
        Self {
            helo: self.wrapped(service),
            ..self
        }
    }

    /// Sets the service for AUTH. Default: none, and AUTH is not offered.
    #[must_use]
    pub fn auth(self, service: impl PhaseService<Auth>) -> Self {
        Self {
            auth: self.wrapped(service),
            ..self
        }
    }

    /// Sets the service for MAIL. Default: accepts every sender.
    #[must_use]
    pub fn mail(self, service: impl PhaseService<Mail>) -> Self {
        Self {
            mail: self.wrapped(service),
            ..self
        }
    }

    /// Sets the service for RCPT. Default: rejects every recipient.
    #[must_use]
    pub fn rcpt(self, service: impl PhaseService<Rcpt>) -> Self {
        Self {
            rcpt: self.wrapped(service),
            ..self
        }
    }

    /// Sets the service for messages: 250 is sent when it accepts, never before. Default: defers every message.
    #[must_use]
    pub fn data(self, service: impl PhaseService<Data>) -> Self {
        Self {
            data: self.wrapped(service),
            ..self
        }
    }

    /// Sets the service for VRFY, EXPN, HELP, ETRN if it is on, and unknown verbs. Default: replies with 252, 502, 214, 458, and
    /// 500 or 502.
    ///
    /// Verbs that are disabled count as unknown ones, except that AUTH is never passed to this service. Still, do not log
    /// commands for which [`Command::may_be_shown`] returns `false`: a client with a mistake, such as a mistyped AUTH, may send a
    /// password in them.
    ///
    /// ```
    /// use smtpd_tower::{Command, Pipeline, Reply, Request, handler_fn};
    ///
    /// let pipeline =
    ///     Pipeline::new().command(handler_fn(async |request: Request<Command>| {
    ///         match request.verb() {
    ///             "XTIME" => Reply::ok("It is late"),
    ///             _ => request.default_reply().clone(),
    ///         }
    ///     }));
    /// ```
    #[must_use]
    pub fn command(self, service: impl PhaseService<Command>) -> Self {
        Self {
            command: self.wrapped(service),
            ..self
        }
    }

    /// Wraps every phase, including those without a service, except AUTH and commands of your own if they have none.
    ///
    /// The order of the calls does not matter for a service: the pipeline keeps the layer, and also wraps services that are set
    /// later. As in [`ServiceBuilder`](tower::ServiceBuilder), the outermost layer sees a request first; a later call wraps an
    /// earlier one.
    ///
    /// The layer is used for each phase, and the requests of all phases pass through it. Some layers must not be around every
    /// phase: [`RequireTlsLayer`](crate::layer::RequireTlsLayer) around connect refuses every client before STARTTLS, and a
    /// [`RateLimitLayer`](crate::layer::RateLimitLayer) around all phases counts each command. Use
    /// [`layer_on`](Self::layer_on) for them.
    ///
    /// ```
    /// use smtpd_tower::{
    ///     Mail, Pipeline, Request, Session, address::ReversePath, handler_fn,
    ///     layer::RequireAuthLayer,
    /// };
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), smtpd_tower::BoxError> {
    /// let service = handler_fn(async |_: Request<Mail>| {});
    /// for pipeline in [
    ///     Pipeline::new().mail(service.clone()).layer(RequireAuthLayer::new()),
    ///     Pipeline::new().layer(RequireAuthLayer::new()).mail(service),
    /// ] {
    ///     let mail = Request::new(Session::local(), Mail::new(ReversePath::Null));
    ///     assert_eq!(pipeline.oneshot(mail).await?.code().as_u16(), 530);
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn layer<L>(self, layer: L) -> Self
    where
        L: Layer<BoxPhaseService<Connect>, Service: PhaseService<Connect>>
            + Layer<BoxPhaseService<Helo>, Service: PhaseService<Helo>>
            + Layer<BoxPhaseService<Auth>, Service: PhaseService<Auth>>
            + Layer<BoxPhaseService<Mail>, Service: PhaseService<Mail>>
            + Layer<BoxPhaseService<Rcpt>, Service: PhaseService<Rcpt>>
            + Layer<BoxPhaseService<Data>, Service: PhaseService<Data>>
            + Layer<BoxPhaseService<Command>, Service: PhaseService<Command>>,
        L: Send + Sync + 'static,
    {
        self.keep(KeptLayer::new(layer))
    }

    /// Wraps these phases as [`layer`](Self::layer) does, and leaves the others alone. The layer must still fit every phase.
    ///
    /// ```
    /// use smtpd_tower::{
    ///     Pipeline,
    ///     layer::{RateLimitLayer, RequireTlsLayer},
    ///     limiter::Rate,
    ///     phase::PhaseKind,
    /// };
    ///
    /// let pipeline = Pipeline::new()
    ///     // MAIL and RCPT count together.
    ///     .layer_on(
    ///         [PhaseKind::Mail, PhaseKind::Rcpt],
    ///         RateLimitLayer::per_ip(Rate::per_minute(100)?),
    ///     )
    ///     // Not connect and HELO, which come before STARTTLS.
    ///     .layer_on(
    ///         [PhaseKind::Auth, PhaseKind::Mail, PhaseKind::Rcpt, PhaseKind::Data],
    ///         RequireTlsLayer::new(),
    ///     );
    /// # Ok::<(), smtpd_tower::limiter::RateError>(())
    /// ```
    #[must_use]
    pub fn layer_on<L>(self, phases: impl IntoIterator<Item = PhaseKind>, layer: L) -> Self
    where
        L: Layer<BoxPhaseService<Connect>, Service: PhaseService<Connect>>
            + Layer<BoxPhaseService<Helo>, Service: PhaseService<Helo>>
            + Layer<BoxPhaseService<Auth>, Service: PhaseService<Auth>>
            + Layer<BoxPhaseService<Mail>, Service: PhaseService<Mail>>
            + Layer<BoxPhaseService<Rcpt>, Service: PhaseService<Rcpt>>
            + Layer<BoxPhaseService<Data>, Service: PhaseService<Data>>
            + Layer<BoxPhaseService<Command>, Service: PhaseService<Command>>,
        L: Send + Sync + 'static,
    {
        self.keep(KeptLayer::new(layer).on(phases))
    }

    /// Wraps the phases in a layer, and keeps it for the services that are set later.
    fn keep(mut self, layer: KeptLayer) -> Self {
        self.layers.push(layer.clone());
        Self {
            connect: layer.wrap(self.connect, unset()),
            helo: layer.wrap(self.helo, unset()),
            auth: layer.wrap(self.auth, None),
            mail: layer.wrap(self.mail, unset()),
            rcpt: layer.wrap(self.rcpt, unset()),
            data: layer.wrap(self.data, unset()),
            command: layer.wrap(self.command, None),
            layers: self.layers,
        }
    }

    /// Wraps a service in the layers that are kept.
    fn wrapped<P: Phase>(&self, service: impl PhaseService<P>) -> Option<BoxPhaseService<P>>
    where
        dyn AnyLayer: WrapPhase<P>,
    {
        let service = Some(BoxPhaseService::new(service));
        let wrap = |service, layer: &KeptLayer| layer.wrap(service, None);
        self.layers.iter().fold(service, wrap)
    }
}

macro_rules! serve {
    ($($phase:ident by $field:ident;)*) => {
        $(
            impl Service<Request<$phase>> for Pipeline {
                type Response = <$phase as Phase>::Response;
                type Error = BoxError;
                type Future = PhaseFuture<$phase>;

                fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
                    match &mut self.$field {
                        Some(service) => service.poll_ready(cx),
                        None => Poll::Ready(Ok(())),
                    }
                }

                fn call(&mut self, request: Request<$phase>) -> Self::Future {
                    match &mut self.$field {
                        Some(service) => service.call(request),
                        None => Box::pin(ready(Ok(request.payload().default_response()))),
                    }
                }
            }
        )*
    };
}

serve! {
    Connect by connect;
    Helo by helo;
    Auth by auth;
    Mail by mail;
    Rcpt by rcpt;
    Data by data;
    Command by command;
}

/// Answers a phase without a service, for layers that need one.
#[derive(Clone, Copy)]
struct Unset;

impl<P: Phase> Service<Request<P>> for Unset {
    type Response = P::Response;
    type Error = Infallible;
    type Future = Ready<Result<P::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        ready(Ok(request.payload().default_response()))
    }
}

fn unset<P: Phase>() -> Option<BoxPhaseService<P>> {
    Some(BoxPhaseService::new(Unset))
}

#[cfg(test)]
mod tests {
    use smtpd_core::{
        connection::AuthOutcome,
        envelope::Envelope,
        reply::{DataReply, Reply},
        sasl::{Credentials, MechanismName},
    };
    use tower::ServiceExt;

    use super::*;
    use crate::{
        body::Body,
        layer::{MapReplyLayer, RequireTlsLayer},
        phase::no_delivery,
        reply::Answer,
        service::handler_fn,
        session::Session,
    };

    fn request<P: Phase>(payload: P) -> Request<P> {
        Request::new(Session::local(), payload)
    }

    fn rcpt() -> Request<Rcpt> {
        request(Rcpt::new("bob@example.org".parse().unwrap()))
    }

    #[tokio::test]
    async fn a_phase_that_is_not_set_answers_the_same_with_a_layer_and_without() {
        let bare = Pipeline::new();
        let wrapped = Pipeline::new().layer(tower::layer::util::Identity::new());
        for pipeline in [bare, wrapped] {
            let ask = || pipeline.clone();
            let reply = ask().oneshot(request(Connect::new())).await.unwrap();
            assert_eq!(reply, Reply::OK);
            let helo = Helo::new("client.test".parse().unwrap());
            assert_eq!(ask().oneshot(request(helo)).await.unwrap(), Reply::OK);
            let mail = Mail::new("alice@example.org".parse().unwrap());
            assert_eq!(ask().oneshot(request(mail)).await.unwrap(), Reply::OK);
            let reply = ask().oneshot(rcpt()).await.unwrap();
            assert_eq!(reply, Reply::relay_denied());
            let data = Data::new(Envelope::default(), Body::default());
            let reply = ask().oneshot(request(data)).await.unwrap();
            assert_eq!(reply, DataReply::from(no_delivery()));
            let command = Command::new("XPING", "");
            let usual = command.default_reply().clone();
            assert_eq!(ask().oneshot(request(command)).await.unwrap(), usual);
            let credentials = Credentials::plain("alice", "hunter2").unwrap();
            let auth = Auth::new(MechanismName::from_static("PLAIN"), credentials);
            let outcome = ask().oneshot(request(auth)).await.unwrap();
            let AuthOutcome::Refuse(reply) = outcome else {
                panic!("{outcome:?}");
            };
            assert_eq!(reply, Reply::auth_failed());
        }
    }

    #[tokio::test]
    async fn a_request_passes_the_layers_and_the_service_of_its_phase() {
        let pipeline = Pipeline::new().rcpt(handler_fn(async |_: Request<Rcpt>| Reply::busy()));
        let reply = pipeline.clone().oneshot(rcpt()).await.unwrap();
        assert_eq!(reply, Reply::busy());
        let within = Pipeline::new().rcpt(pipeline);
        assert_eq!(within.oneshot(rcpt()).await.unwrap(), Reply::busy());
    }

    #[test]
    fn a_pipeline_is_as_ready_as_the_service_of_the_phase() {
        let (mock, mut handle) = tower_test::mock::pair::<Request<Rcpt>, Reply>();
        handle.allow(0);
        let mut pipeline = Pipeline::new().rcpt(mock);
        let mut task = tokio_test::task::spawn(());
        let ready = task.enter(|cx, _| Service::<Request<Rcpt>>::poll_ready(&mut pipeline, cx));
        assert!(ready.is_pending());
        let ready = task.enter(|cx, _| Service::<Request<Mail>>::poll_ready(&mut pipeline, cx));
        assert!(ready.is_ready());
        handle.allow(1);
        assert!(task.is_woken());
        let ready = task.enter(|cx, _| Service::<Request<Rcpt>>::poll_ready(&mut pipeline, cx));
        assert!(ready.is_ready());
    }

    /// Calls `check` for each phase, with a payload and a function that sets its service: one that refuses.
    macro_rules! for_each_phase {
        ($check:ident) => {
            let helo = || Helo::new("client.test".parse().unwrap());
            let auth = || {
                let credentials = Credentials::plain("alice", "hunter2").unwrap();
                Auth::new(MechanismName::from_static("PLAIN"), credentials)
            };
            let mail = || Mail::new("alice@example.org".parse().unwrap());
            let rcpt = || Rcpt::new("bob@example.org".parse().unwrap());
            let data = || Data::new(Envelope::default(), Body::default());
            let command = || Command::new("XPING", "");
            $check(Connect::new, |all| all.connect(refusing())).await;
            $check(helo, |all| all.helo(refusing())).await;
            $check(auth, |all| all.auth(refusing())).await;
            $check(mail, |all| all.mail(refusing())).await;
            $check(rcpt, |all| all.rcpt(refusing())).await;
            $check(data, |all| all.data(refusing())).await;
            $check(command, |all| all.command(refusing())).await;
        };
    }

    fn refusing<P: Phase>() -> impl PhaseService<P> {
        tower::service_fn(|_: Request<P>| ready(Ok::<_, Infallible>(Reply::rejected("service"))))
            .map_response(P::Response::from)
    }

    /// Returns the reply of a pipeline to this phase.
    async fn reply<P>(pipeline: &Pipeline, payload: P) -> Reply
    where
        P: Phase,
        Pipeline: Service<Request<P>, Response = P::Response, Error = BoxError>,
    {
        let answer = pipeline.clone().oneshot(request(payload)).await.unwrap();
        answer.reply().unwrap().clone()
    }

    fn adding(line: &'static str) -> MapReplyLayer<impl Fn(Reply) -> Reply + Clone> {
        MapReplyLayer::new(move |reply: Reply| reply.with_line(line))
    }

    #[tokio::test]
    async fn a_layer_before_its_services_protects_nothing() {
        async fn check<P>(payload: impl Fn() -> P, set: fn(Pipeline) -> Pipeline)
        where
            P: Phase,
            Pipeline: Service<Request<P>, Response = P::Response, Error = BoxError>,
        {
            let bare = reply(&set(Pipeline::new()), payload()).await;
            assert_eq!(bare.text(), "service");
            let layer = |all: Pipeline| all.layer(RequireTlsLayer::new());
            for pipeline in [
                layer(set(Pipeline::new())),
                set(layer(Pipeline::new())),
                set(layer(set(Pipeline::new()))),
                set(set(layer(Pipeline::new()))),
            ] {
                let refused = reply(&pipeline, payload()).await;
                assert_eq!(refused, Reply::tls_required(), "{:?}", P::KIND);
            }
        }
        for_each_phase!(check);
    }

    #[tokio::test]
    async fn a_later_layer_is_outside_of_an_earlier_one_wherever_the_service_is_set() {
        async fn check<P>(payload: impl Fn() -> P, set: fn(Pipeline) -> Pipeline)
        where
            P: Phase,
            Pipeline: Service<Request<P>, Response = P::Response, Error = BoxError>,
        {
            // Before which of the layers the service is set; a bit for each, so it may be set several times.
            for moments in 1..8 {
                let set_at = |at: u8, all| {
                    if moments & 1 << at == 0 {
                        all
                    } else {
                        set(all)
                    }
                };
                let pipeline = set_at(0, Pipeline::new()).layer(adding("inner"));
                let pipeline = set_at(1, pipeline).layer(adding("outer"));
                let reply = reply(&set_at(2, pipeline), payload()).await;
                assert_eq!(
                    reply.text(),
                    "service\ninner\nouter",
                    "{moments} {:?}",
                    P::KIND
                );
            }
        }
        for_each_phase!(check);
    }

    #[tokio::test]
    async fn a_layer_for_some_phases_is_around_no_other() {
        async fn check<P>(payload: impl Fn() -> P, set: fn(Pipeline) -> Pipeline)
        where
            P: Phase,
            Pipeline: Service<Request<P>, Response = P::Response, Error = BoxError>,
        {
            let (one, none) = ([P::KIND], []);
            for pipeline in [
                set(Pipeline::new()).layer_on(one, adding("one")),
                set(Pipeline::new().layer_on(one, adding("one"))),
            ] {
                let pipeline = pipeline.layer_on(none, adding("none"));
                assert_eq!(reply(&pipeline, payload()).await.text(), "service\none");
            }
            let unset = Pipeline::new().layer_on(one, adding("one"));
            let has_default = !matches!(P::KIND, PhaseKind::Auth | PhaseKind::Command);
            let text = reply(&unset, payload()).await;
            assert_eq!(text.text().ends_with("\none"), has_default, "{text}");
        }
        for_each_phase!(check);
    }

    #[test]
    fn a_layer_offers_neither_auth_nor_commands() {
        let layered = Pipeline::new().layer(adding("line"));
        let layered = layered.layer_on([PhaseKind::Auth, PhaseKind::Command], adding("line"));
        assert!(layered.auth.is_none() && layered.command.is_none());
    }
}
