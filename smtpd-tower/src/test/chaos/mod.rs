//! Injected faults, for testing programs that send mail.

mod layer;
mod listener;
mod stream;

pub use layer::{Chaos, ChaosFuture, ChaosLayer};
pub use listener::ChaosListener;
pub use stream::{ChaosStream, StreamChaos};
