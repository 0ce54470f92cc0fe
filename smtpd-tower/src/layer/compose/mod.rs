//! Building blocks for layers, and layers that wrap other layers.

mod answer;
mod catch_panic;
mod cond;
mod from_fn;
mod from_fn_with;
mod gate;
mod late_gate;
mod map_reply;
#[cfg(feature = "metrics")]
mod metrics;
mod session_span;
mod trace;

pub(in crate::layer) use self::gate::rule_layer;
#[cfg(feature = "metrics")]
pub use self::metrics::{Metrics, MetricsFuture, MetricsLayer};
pub use self::{
    answer::AnswerFuture,
    catch_panic::{CatchPanic, CatchPanicFuture, CatchPanicLayer},
    cond::{Cond, CondFuture, CondLayer},
    from_fn::{FromFn, FromFnFuture, FromFnLayer, Next, from_fn},
    from_fn_with::{FromFnWith, FromFnWithLayer, from_fn_with},
    gate::{Admit, Gate},
    late_gate::{AdmitLater, LateGate, LateGateFuture},
    map_reply::{MapReply, MapReplyFuture, MapReplyLayer},
    trace::{Trace, TraceFuture, TraceLayer},
};
