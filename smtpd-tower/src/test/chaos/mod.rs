//! Faults on purpose, for those who test what sends mail.

mod layer;
mod listener;
mod stream;

pub use layer::{Chaos, ChaosFuture, ChaosLayer};
pub use listener::ChaosListener;
pub use stream::{ChaosStream, StreamChaos};
