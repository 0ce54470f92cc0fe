//! The reference server as a process of its own.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "all of it is a test"
)]

mod crash;
mod durability;
mod end;
mod lettre;
mod log;
mod options;
mod reference;
mod tls;
