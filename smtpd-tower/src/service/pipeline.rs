use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    phase::{Auth, Command, Connect, Data, Helo, Mail, Phase, Rcpt, Request},
    service::{PhaseFuture, PhaseService, ServePhase},
};

/// A layer that can wrap phase `P`. It has a blanket implementation.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot wrap the SMTP phase `{P}`",
    note = "`Pipeline::layer` wraps every phase; a layer for one phase goes around that phase's service, by `ServiceBuilder`"
)]
pub trait LayerPhase<P: Phase>: Layer<PhaseService<P>, Service: ServePhase<P>> {}

impl<P: Phase, L> LayerPhase<P> for L where L: Layer<PhaseService<P>, Service: ServePhase<P>> {}

/// The services of a server, one for each phase.
///
/// The defaults are safe: connect, HELO and MAIL are accepted, AUTH is not offered, every recipient is rejected (550 5.7.1), and
/// every message is deferred (451 4.3.0). It takes a line of code to make an open relay.
///
/// A service is cloned for each command, made ready, called once, and dropped. Wrap what its clones have to share in an `Arc`;
/// the layers of this crate do so.
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
/// # Ok::<(), smtpd_tower::DomainsError>(())
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
    pub(crate) connect: Option<PhaseService<Connect>>,
    pub(crate) helo: Option<PhaseService<Helo>>,
    pub(crate) auth: Option<PhaseService<Auth>>,
    pub(crate) mail: Option<PhaseService<Mail>>,
    pub(crate) rcpt: Option<PhaseService<Rcpt>>,
    pub(crate) data: Option<PhaseService<Data>>,
    pub(crate) command: Option<PhaseService<Command>>,
}

impl Pipeline {
    /// Creates a pipeline with no services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the service that decides whether to greet a client. Default: accepts every client.
    #[must_use]
    pub fn connect(self, service: impl ServePhase<Connect>) -> Self {
        Self {
            connect: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Sets the service for HELO, EHLO and LHLO. Default: accepts every name.
    #[must_use]
    pub fn helo(self, service: impl ServePhase<Helo>) -> Self {
        Self {
            helo: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Sets the service for AUTH. Default: none, and AUTH is not offered.
    #[must_use]
    pub fn auth(self, service: impl ServePhase<Auth>) -> Self {
        Self {
            auth: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Sets the service for MAIL. Default: accepts every sender.
    #[must_use]
    pub fn mail(self, service: impl ServePhase<Mail>) -> Self {
        Self {
            mail: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Sets the service for RCPT. Default: rejects every recipient.
    #[must_use]
    pub fn rcpt(self, service: impl ServePhase<Rcpt>) -> Self {
        Self {
            rcpt: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Sets the service for messages: 250 is sent when it accepts, never before. Default: defers every message.
    #[must_use]
    pub fn data(self, service: impl ServePhase<Data>) -> Self {
        Self {
            data: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Sets the service for VRFY, EXPN, HELP and unknown verbs. Default: replies with 252, 502, 214 and 500.
    ///
    /// ```
    /// use smtpd_tower::{Command, Pipeline, Reply, Request, handler_fn};
    ///
    /// let pipeline =
    ///     Pipeline::new().command(handler_fn(async |request: Request<Command>| {
    ///         match request.payload().verb.as_str() {
    ///             "XTIME" => Reply::ok("It is late"),
    ///             _ => request.payload().default_reply.clone(),
    ///         }
    ///     }));
    /// ```
    #[must_use]
    pub fn command(self, service: impl ServePhase<Command>) -> Self {
        Self {
            command: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Wraps every phase, including those without a service, except AUTH and commands of your own if they have none. As in
    /// [`ServiceBuilder`](tower::ServiceBuilder), the outermost layer sees a request first; a later call wraps an earlier one.
    #[must_use]
    pub fn layer<L>(self, layer: L) -> Self
    where
        L: Layer<PhaseService<Connect>, Service: ServePhase<Connect>>
            + Layer<PhaseService<Helo>, Service: ServePhase<Helo>>
            + Layer<PhaseService<Auth>, Service: ServePhase<Auth>>
            + Layer<PhaseService<Mail>, Service: ServePhase<Mail>>
            + Layer<PhaseService<Rcpt>, Service: ServePhase<Rcpt>>
            + Layer<PhaseService<Data>, Service: ServePhase<Data>>
            + Layer<PhaseService<Command>, Service: ServePhase<Command>>,
    {
        Self {
            connect: wrap(&layer, self.connect.or_else(unset)),
            helo: wrap(&layer, self.helo.or_else(unset)),
            auth: wrap(&layer, self.auth),
            mail: wrap(&layer, self.mail.or_else(unset)),
            rcpt: wrap(&layer, self.rcpt.or_else(unset)),
            data: wrap(&layer, self.data.or_else(unset)),
            command: wrap(&layer, self.command),
        }
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

fn unset<P: Phase>() -> Option<PhaseService<P>> {
    Some(PhaseService::new(Unset))
}

fn wrap<P: Phase, L: LayerPhase<P>>(
    layer: &L,
    service: Option<PhaseService<P>>,
) -> Option<PhaseService<P>> {
    service.map(|service| PhaseService::new(layer.layer(service)))
}

#[cfg(test)]
mod tests {
    use smtpd_core::{
        AuthOutcome, DataReply, Reply,
        sasl::{Credentials, MechanismName},
    };
    use tower::ServiceExt;

    use super::*;
    use crate::{body::Body, phase::no_delivery, service::handler_fn, session::Session};

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
            let data = Data::new(smtpd_core::Envelope::default(), Body::default());
            let reply = ask().oneshot(request(data)).await.unwrap();
            assert_eq!(reply, DataReply::from(no_delivery()));
            let command = Command::new("XPING", "");
            let usual = command.default_reply.clone();
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
}
