//! A case: the layers, the services, the sessions. It is data, so that it can be printed, and cut down.

use smtpd_tower::phase::PhaseKind;

use crate::session_plan::SessionPlan;

/// Everything that a run depends on.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub lmtp: bool,
    pub settings: Settings,
    /// How the pipeline is put together, in this order.
    pub steps: Vec<Step>,
    pub sessions: Vec<SessionPlan>,
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// The engine's limit for a call, in seconds.
    pub call: u64,
    /// The engine's limit for a delivery, in seconds.
    pub delivery: u64,
    /// The phase that has most of the layers and all of the faults, unless all have.
    pub focus: Option<PhaseKind>,
    /// How many of 100 calls of a service go wrong.
    pub faults: usize,
    /// Services keep a clone of each session.
    pub keeps_sessions: bool,
    /// Peers may name their clients.
    pub xclient: bool,
    pub proxy: bool,
    pub starttls: bool,
}

/// A call of the builder.
#[derive(Clone, Debug)]
pub enum Step {
    Set(PhaseKind, Stack),
    /// `Pipeline::layer`
    Layer(Spec),
    /// `Pipeline::layer_on`
    LayerOn(Vec<PhaseKind>, Spec),
}

/// A service within layers, the outermost first.
#[derive(Clone, Debug)]
pub struct Stack {
    pub layers: Vec<Spec>,
    pub core: Core,
    /// The number of the core, as that of a layer.
    pub slot: usize,
}

#[derive(Clone, Debug)]
pub enum Core {
    /// What it does is decided for each call.
    Leaf,
    /// Routes by domain, of RCPT and DATA.
    Router {
        routes: Vec<(&'static str, Stack)>,
        otherwise: Option<Box<Stack>>,
    },
}

/// A layer, with a number that no other of the case has, unless it is a clone of it.
#[derive(Clone, Debug)]
pub struct Spec {
    pub slot: usize,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    // Access.
    RequireAuth,
    RequireTls,
    AllowClients(&'static [&'static str]),
    DenyClients(&'static [&'static str]),
    DomainFilter,
    Recipients,
    DenySenders,
    HeloCheck,
    OwnSender,
    Greylist,
    GreylistData,
    ReverseDns,
    Score(i32),
    ScoreGate(i32),
    // Composition.
    CatchPanic,
    Cond(Condition, Vec<Spec>),
    FromFn(Function),
    FromFnWith(Function),
    MapReply,
    Metrics,
    Trace,
    Gate,
    // Limits.
    ConcurrencyPerIp(usize),
    ConcurrencyPerIdentity(usize),
    RatePerIp(u32),
    RatePerIdentity(u32),
    SessionsPerIp(usize),
    MaxRecipients(usize),
    SizeLimit(u64),
    FreeSpace,
    Tarpit(u64),
    // The message.
    DistinctRecipients,
    HopLimit(u32),
    MapBody,
    Received,
    SubmissionFields,
    Spool(usize),
    Tee,
    // The test kit.
    Chaos,
    // tower's own.
    Timeout(u64),
    ConcurrencyLimit(usize),
    GlobalLimit(usize),
    LoadShed,
    Buffer(usize),
    MapResponse,
    MapRequest,
    MapErr,
    Filter,
    FilterAsync,
    Retry(usize),
    Then,
    AndThen,
}

/// When the other branch of a `CondLayer` is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Always,
    Never,
    Stranger,
    InTheClear,
    FromLoopback,
}

/// What a function of `from_fn` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Pass,
    Defer,
    Reject,
    ThrowDefer,
    ThrowReject,
    Fail,
    Panic,
    /// Calls the service, and throws what it has refused.
    Throws,
    Delay(u64),
}

impl Step {
    /// The layer that is put around a phase.
    pub fn layer_on(&self, phase: PhaseKind) -> Option<&Spec> {
        match self {
            Self::Layer(spec) => Some(spec),
            Self::LayerOn(phases, spec) => phases.contains(&phase).then_some(spec),
            Self::Set(..) => None,
        }
    }
}

impl Spec {
    /// Whether a layer with this number exempts clients of this machine, if it can.
    pub const fn exempts_local(slot: usize) -> bool {
        slot.is_multiple_of(4)
    }
}

impl Kind {
    /// Whether it counts, and can exempt some clients.
    pub const fn counts_clients(&self) -> bool {
        matches!(
            self,
            Self::ConcurrencyPerIp(_)
                | Self::ConcurrencyPerIdentity(_)
                | Self::RatePerIp(_)
                | Self::RatePerIdentity(_)
                | Self::SessionsPerIp(_)
        )
    }

    /// Whether a `Pipeline::layer` takes it.
    pub const fn fits_every_phase(&self) -> bool {
        !matches!(
            self,
            Self::DomainFilter
                | Self::Recipients
                | Self::DenySenders
                | Self::GreylistData
                | Self::DistinctRecipients
                | Self::HeloCheck
                | Self::OwnSender
                | Self::Greylist
                | Self::ReverseDns
                | Self::SessionsPerIp(_)
                | Self::MaxRecipients(_)
                | Self::SizeLimit(_)
                | Self::FreeSpace
                | Self::HopLimit(_)
                | Self::MapBody
                | Self::Received
                | Self::SubmissionFields
                | Self::Spool(_)
                | Self::Tee
                | Self::Buffer(_)
                | Self::Retry(_)
                | Self::Cond(..)
        )
    }
}
