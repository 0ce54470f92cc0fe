//! The services of a server.
//!
//! | item | what it is |
//! |---|---|
//! | [`Pipeline`] | the services of all phases |
//! | [`handler_fn`], [`handler_fn_with`] | make a service from an async function |
//! | [`PhaseService`] | a service of one phase with its type erased |
//! | [`ServePhase`], [`LayerPhase`] | bounds for services and layers of one phase |

mod handler;
mod phase_service;
mod pipeline;

pub use handler::{HandlerFn, HandlerFnWith, HandlerFuture, handler_fn, handler_fn_with};
pub(crate) use phase_service::{Asked, Erased, PhaseFuture};
pub use phase_service::{PhaseService, ServePhase};
pub use pipeline::{LayerPhase, Pipeline};
