//! What layers are made of, and layers that go around others.

mod answer;
mod catch_panic;
mod cond;
mod from_fn;
mod gate;
mod map_reply;
mod trace;

pub(in crate::layer) use self::gate::rule_layer;
pub use self::{
    answer::AnswerFuture,
    catch_panic::{CatchPanic, CatchPanicFuture, CatchPanicLayer},
    cond::{Cond, CondFuture, CondLayer},
    from_fn::{FromFn, FromFnFuture, FromFnLayer, Next, from_fn},
    gate::{Admit, Gate},
    map_reply::{MapReply, MapReplyFuture, MapReplyLayer},
    trace::{Trace, TraceFuture, TraceLayer},
};
