//! The phases: what is known of a request, and what a response says.

use std::net::IpAddr;

use smtpd_tower::{
    Auth, Command, Connect, Data, DataReply, Helo, Identity, Mail, Phase, Pipeline, Rcpt, Reply,
    Request, Session,
    parameter::Size,
    phase::{AuthOutcome, PhaseKind},
    service::{BoxPhaseService, PhaseService},
};
use tower::{BoxError, Layer, retry::Policy};

use crate::{
    plan::{Core, Kind},
    scene::Scene,
    session_plan::number_of,
};

/// A reply to a command, or to one recipient of a message.
#[derive(Clone, PartialEq, Eq)]
pub struct Said {
    pub code: u16,
    pub status: String,
    pub text: String,
}

impl Said {
    pub fn of(reply: &Reply) -> Self {
        Self {
            code: reply.code().as_u16(),
            status: reply.status().to_string(),
            text: reply.text().to_owned(),
        }
    }

    pub const fn class(&self) -> u16 {
        self.code / 100
    }
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, status, text } = self;
        write!(f, "{code} {}.{status} {text}", self.class())
    }
}

/// What a request says to a layer.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub session: usize,
    pub ip: Option<IpAddr>,
    pub is_local: bool,
    pub is_own: bool,
    pub tls: bool,
    pub identity: Option<String>,
    pub helo: Option<String>,
    pub score: i32,
    /// That of MAIL, and of the transaction.
    pub sender: Option<String>,
    /// That of RCPT.
    pub recipient: Option<String>,
    /// Those that were accepted, or that a message is for.
    pub recipients: Vec<String>,
    pub declared: Option<u64>,
}

impl Facts {
    fn of(session: &Session) -> Self {
        let client = session.client_addr();
        Self {
            session: number_of(session.peer_addr()),
            ip: client.ip(),
            is_local: client.is_local(),
            is_own: client.ip().is_some() && client.ip() == session.local_addr().ip(),
            tls: session.tls().is_some(),
            identity: session.identity().map(|name| name.as_str().to_owned()),
            helo: session.helo().map(ToString::to_string),
            score: smtpd_tower::session::Score::of(session).total(),
            ..Self::default()
        }
    }
}

/// A phase as this test sees it.
pub trait Station: Phase {
    /// What a request of the phase says besides its session.
    fn facts(request: &Request<Self>, facts: &mut Facts)
    where
        Self: Sized;

    /// What a response says, for each recipient if it is to a message.
    fn said(response: &Self::Response) -> Vec<Said>;

    /// A positive response.
    fn accept(_: &Request<Self>) -> Self::Response
    where
        Self: Sized,
    {
        Reply::OK.into()
    }

    fn set(pipeline: Pipeline, service: impl PhaseService<Self>) -> Pipeline
    where
        Self: Sized;

    /// Puts a layer that does not fit every phase around a service.
    fn own(
        scene: &Scene,
        slot: usize,
        kind: &Kind,
        inner: BoxPhaseService<Self>,
    ) -> BoxPhaseService<Self>
    where
        Self: Sized;

    fn core(scene: &Scene, slot: usize, core: &Core) -> BoxPhaseService<Self>
    where
        Self: Sized;
}

pub fn facts_of<P: Station>(request: &Request<P>) -> Facts {
    let mut facts = Facts::of(request.session());
    P::facts(request, &mut facts);
    facts
}

pub fn boxed<P, L>(layer: L, inner: BoxPhaseService<P>) -> BoxPhaseService<P>
where
    P: Phase,
    L: Layer<BoxPhaseService<P>, Service: PhaseService<P>>,
{
    BoxPhaseService::new(layer.layer(inner))
}

/// Calls a service again after an error.
#[derive(Clone)]
pub struct Again(pub usize);

impl<P: Phase + Clone, R> Policy<Request<P>, R, BoxError> for Again {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<P>,
        result: &mut Result<R, BoxError>,
    ) -> Option<Self::Future> {
        self.0 = self.0.checked_sub(1)?;
        result.is_err().then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<P>) -> Option<Request<P>> {
        Some(request.clone())
    }
}

macro_rules! stations {
    ($($phase:ident, $set:ident, $own:path, $core:path, |$request:ident, $facts:ident| $body:block;)*) => {
        $(
            impl Station for $phase {
                fn facts($request: &Request<Self>, $facts: &mut Facts) $body

                fn said(response: &Self::Response) -> Vec<Said> {
                    Says::said(response)
                }

                fn accept(request: &Request<Self>) -> Self::Response {
                    Accepts::accept(request)
                }

                fn set(pipeline: Pipeline, service: impl PhaseService<Self>) -> Pipeline {
                    pipeline.$set(service)
                }

                fn own(scene: &Scene, slot: usize, kind: &Kind, inner: BoxPhaseService<Self>) -> BoxPhaseService<Self> {
                    $own(scene, slot, kind, inner)
                }

                fn core(scene: &Scene, slot: usize, core: &Core) -> BoxPhaseService<Self> {
                    $core(scene, slot, core)
                }
            }
        )*
    };
}

stations! {
    Connect, connect, crate::layers::at_connect, crate::layers::leaf, |_request, _facts| {};
    Helo, helo, crate::layers::at_helo, crate::layers::leaf, |request, facts| {
        facts.helo = Some(request.name().to_string());
    };
    Auth, auth, crate::layers::again, crate::layers::leaf, |_request, _facts| {};
    Mail, mail, crate::layers::at_mail, crate::layers::leaf, |request, facts| {
        facts.sender = Some(request.sender().as_str().to_owned());
        facts.declared = request.parameters().get::<Size>().map(Size::bytes);
    };
    Rcpt, rcpt, crate::layers::at_rcpt, crate::layers::routes_of_rcpt, |request, facts| {
        facts.recipient = Some(request.recipient().as_str().to_owned());
        facts.sender = Some(request.sender().as_str().to_owned());
        facts.recipients = names(request.envelope());
    };
    Data, data, crate::layers::at_data, crate::layers::routes_of_data, |request, facts| {
        facts.sender = Some(request.envelope().sender().as_str().to_owned());
        facts.recipients = names(request.envelope());
        facts.declared = request.envelope().parameters().get::<Size>().map(Size::bytes);
    };
    Command, command, crate::layers::again, crate::layers::leaf, |_request, _facts| {};
}

fn names(envelope: &smtpd_tower::Envelope) -> Vec<String> {
    let recipients = envelope.recipients().iter();
    recipients.map(|to| to.path().as_str().to_owned()).collect()
}

trait Says {
    fn said(&self) -> Vec<Said>;
}

impl Says for Reply {
    fn said(&self) -> Vec<Said> {
        vec![Said::of(self)]
    }
}

impl Says for DataReply {
    fn said(&self) -> Vec<Said> {
        self.replies().iter().map(Said::of).collect()
    }
}

impl Says for AuthOutcome {
    fn said(&self) -> Vec<Said> {
        match self {
            Self::Refuse(reply) => vec![Said::of(reply)],
            _ => vec![Said {
                code: 235,
                status: "7.0".to_owned(),
                text: String::new(),
            }],
        }
    }
}

trait Accepts<P: Phase> {
    fn accept(&self) -> P::Response;
}

macro_rules! accept_with_ok {
    ($($phase:ident)*) => {
        $(impl Accepts<$phase> for Request<$phase> {
            fn accept(&self) -> Reply {
                Reply::OK
            }
        })*
    };
}

accept_with_ok!(Connect Helo Mail Rcpt);

impl Accepts<Auth> for Request<Auth> {
    fn accept(&self) -> AuthOutcome {
        match self.credentials().username() {
            "wrong" => Reply::auth_failed().into(),
            name => Identity::new(name).into(),
        }
    }
}

impl Accepts<Data> for Request<Data> {
    fn accept(&self) -> DataReply {
        Reply::OK.into()
    }
}

impl Accepts<Command> for Request<Command> {
    fn accept(&self) -> Reply {
        match self.verb() {
            "XPING" => Reply::ok("pong"),
            _ => self.default_reply().clone(),
        }
    }
}

/// The reply of a phase without a service.
pub fn default_of(phase: PhaseKind) -> Said {
    match phase {
        PhaseKind::Rcpt => Said::of(&Reply::relay_denied()),
        PhaseKind::Data => Said::of(&Reply::try_again("No delivery is set up")),
        _ => Said::of(&Reply::OK),
    }
}
