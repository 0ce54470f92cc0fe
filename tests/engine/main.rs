//! What the engine keeps to whatever its clients and services do: nothing hangs, nothing grows, no reply is lost, and every
//! session ends once.

mod ends;
mod hangs;
#[path = "../support/mod.rs"]
mod support;
