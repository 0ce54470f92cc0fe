//! The services of a server.
//!
//! | item | what it is |
//! |---|---|
//! | [`Pipeline`] | the services of all phases |
//! | [`handler_fn`], [`handler_fn_with`] | make a service from an async function |
//! | [`PhaseService`] | the bound of a service for one phase |
//! | [`BoxPhaseService`] | a service for one phase with its type erased |

mod handler;
mod kept_layer;
mod phase_service;
mod pipeline;

pub use handler::{HandlerFn, HandlerFnWith, HandlerFuture, handler_fn, handler_fn_with};
pub(crate) use phase_service::{Asked, Erased, PhaseFuture};
pub use phase_service::{BoxPhaseService, PhaseService};
pub use pipeline::Pipeline;
