use smtpd_core::Reply;
use tower_layer::Layer;

use crate::{
    phase::{Auth, Command, Connect, Data, Helo, Mail, Phase, Rcpt, Request},
    service::{PhaseService, ServePhase, handler_fn},
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
/// What is not set is safe: connect, HELO and MAIL are accepted, AUTH is not offered, every recipient is refused
/// (550 5.7.1), and so is every message (451 4.3.0). An open relay takes a line of code.
///
/// A service is cloned for each command, made ready, called once, and dropped. What its clones have to share belongs
/// into an `Arc`; the layers of this crate do so.
///
/// ```
/// use smtpd_tower::{
///     Data, Pipeline, Rcpt, Reply, Request, handler_fn,
///     layer::{DomainFilterLayer, TraceLayer},
/// };
/// use tower::ServiceBuilder;
///
/// let rcpt = ServiceBuilder::new()
///     .layer(DomainFilterLayer::parse(["example.org"])?)
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let pipeline = Pipeline::new()
///     .rcpt(rcpt)
///     .data(handler_fn(async |_: Request<Data>| Reply::ok("Dropped")))
///     .layer(TraceLayer::new()); // around every phase
/// # Ok::<(), smtpd_tower::DomainsError>(())
/// ```
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
    /// A pipeline with nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who decides whether a client is greeted.
    #[must_use]
    pub fn connect(self, service: impl ServePhase<Connect>) -> Self {
        Self {
            connect: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Who decides on HELO, EHLO and LHLO.
    #[must_use]
    pub fn helo(self, service: impl ServePhase<Helo>) -> Self {
        Self {
            helo: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Who authenticates. Only with it is AUTH offered.
    #[must_use]
    pub fn auth(self, service: impl ServePhase<Auth>) -> Self {
        Self {
            auth: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Who decides on senders.
    #[must_use]
    pub fn mail(self, service: impl ServePhase<Mail>) -> Self {
        Self {
            mail: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Who decides on recipients.
    #[must_use]
    pub fn rcpt(self, service: impl ServePhase<Rcpt>) -> Self {
        Self {
            rcpt: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Who takes messages: 250 is sent when it says so, never before.
    #[must_use]
    pub fn data(self, service: impl ServePhase<Data>) -> Self {
        Self {
            data: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Who answers VRFY, EXPN, HELP and verbs that the protocol does not know. Without it they hear 252, 502, 214 and 500.
    ///
    /// ```
    /// use smtpd_tower::{Command, Pipeline, Reply, Request, handler_fn};
    ///
    /// let pipeline = Pipeline::new().command(handler_fn(async |request: Request<Command>| {
    ///     match request.payload().verb.as_str() {
    ///         "XTIME" => Reply::ok("It is late"),
    ///         _ => request.payload().default_reply.clone(),
    ///     }
    /// }));
    /// ```
    #[must_use]
    pub fn command(self, service: impl ServePhase<Command>) -> Self {
        Self {
            command: Some(PhaseService::new(service)),
            ..self
        }
    }

    /// Wraps every phase, also those that are not set, but for AUTH and commands of your own where they are not. As in
    /// [`ServiceBuilder`](tower::ServiceBuilder) the outermost layer sees a request first; a later call wraps an earlier one.
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
            connect: wrap(&layer, self.connect.or_else(accept)),
            helo: wrap(&layer, self.helo.or_else(accept)),
            auth: wrap(&layer, self.auth),
            mail: wrap(&layer, self.mail.or_else(accept)),
            rcpt: wrap(&layer, self.rcpt.or_else(|| answer(no_recipient()))),
            data: wrap(&layer, self.data.or_else(|| answer(no_delivery()))),
            command: wrap(&layer, self.command),
        }
    }
}

/// The reply to RCPT if no service is set.
pub(crate) const fn no_recipient() -> Reply {
    Reply::relay_denied()
}

/// The reply to DATA if no service is set.
pub(crate) fn no_delivery() -> Reply {
    Reply::try_again("No delivery is set up")
}

fn wrap<P: Phase, L: LayerPhase<P>>(
    layer: &L,
    service: Option<PhaseService<P>>,
) -> Option<PhaseService<P>> {
    service.map(|service| PhaseService::new(layer.layer(service)))
}

fn accept<P: Phase>() -> Option<PhaseService<P>> {
    answer(Reply::OK)
}

fn answer<P: Phase>(reply: Reply) -> Option<PhaseService<P>> {
    Some(PhaseService::new(handler_fn(move |_: Request<P>| {
        std::future::ready(reply.clone())
    })))
}
