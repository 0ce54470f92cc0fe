//! The reference server as a separate process.
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
mod metrics;
mod operating;
mod options;
mod reference;
mod reload;
mod systemd;
mod tls;
