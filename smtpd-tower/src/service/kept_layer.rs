//! The layers of a pipeline, with their types erased.

use std::{fmt, sync::Arc};

use tower_layer::Layer;

use crate::{
    phase::{Auth, Command, Connect, Data, Helo, Mail, Phase, Rcpt},
    phase_kind::PhaseKind,
    service::{BoxPhaseService, PhaseService},
};

/// A layer that a pipeline keeps, for the services that are set after it.
#[derive(Clone)]
pub(super) struct KeptLayer {
    layer: Arc<dyn AnyLayer>,
    /// `None` for every phase.
    phases: Option<Arc<[PhaseKind]>>,
}

/// A layer for one phase.
pub(super) trait WrapPhase<P: Phase>: Send + Sync {
    fn wrap(&self, service: BoxPhaseService<P>) -> BoxPhaseService<P>;
}

/// A layer for every phase.
pub(super) trait AnyLayer:
    WrapPhase<Connect>
    + WrapPhase<Helo>
    + WrapPhase<Auth>
    + WrapPhase<Mail>
    + WrapPhase<Rcpt>
    + WrapPhase<Data>
    + WrapPhase<Command>
{
}

impl<P, L> WrapPhase<P> for L
where
    P: Phase,
    L: Layer<BoxPhaseService<P>, Service: PhaseService<P>> + Send + Sync,
{
    fn wrap(&self, service: BoxPhaseService<P>) -> BoxPhaseService<P> {
        BoxPhaseService::new(self.layer(service))
    }
}

impl<L> AnyLayer for L where
    L: WrapPhase<Connect>
        + WrapPhase<Helo>
        + WrapPhase<Auth>
        + WrapPhase<Mail>
        + WrapPhase<Rcpt>
        + WrapPhase<Data>
        + WrapPhase<Command>
{
}

impl KeptLayer {
    pub(super) fn new(layer: impl AnyLayer + 'static) -> Self {
        Self {
            layer: Arc::new(layer),
            phases: None,
        }
    }

    /// Restricts it to these phases.
    pub(super) fn on(mut self, phases: impl IntoIterator<Item = PhaseKind>) -> Self {
        self.phases = Some(phases.into_iter().collect());
        self
    }

    /// Wraps the service of a phase, or `default` if the phase has none, unless this layer is for other phases only.
    pub(super) fn wrap<P: Phase>(
        &self,
        service: Option<BoxPhaseService<P>>,
        default: Option<BoxPhaseService<P>>,
    ) -> Option<BoxPhaseService<P>>
    where
        dyn AnyLayer: WrapPhase<P>,
    {
        let applies = |phases: &Arc<[PhaseKind]>| phases.contains(&P::KIND);
        if !self.phases.as_ref().is_none_or(applies) {
            return service;
        }
        service.or(default).map(|service| self.layer.wrap(service))
    }
}

impl fmt::Debug for KeptLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptLayer")
            .field("phases", &self.phases)
            .finish_non_exhaustive()
    }
}
