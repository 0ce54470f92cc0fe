//! Layers: what stands around the services of a pipeline. One file holds a layer, its service and its future.

mod answer;
mod domain_filter;

pub use answer::AnswerFuture;
pub use domain_filter::{DomainFilter, DomainFilterLayer};
