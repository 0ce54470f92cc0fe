//! Longer pages, to be read in this order or as needed.
//!
//! | page | |
//! |---|---|
//! | [`phases`] | what is asked when, what may be answered, what happens where nothing is set |
//! | [`pipelines`] | services, handlers, layers, routes: how a server is put together |
//! | [`order_of_layers`] | what goes around what, in two pictures |
//! | [`backpressure`] | what waits, for how long, and what is refused |
//! | [`cores`] | one runtime with several threads, or several runtimes with one each |
//! | [`errors`] | which error becomes which reply |
//! | [`state`] | of the server, the connection, the message |
//! | [`hooks`] | ends, resets, aborted messages, verbs, keywords and parameters of your own |
//! | [`authentication`] | users, passwords, tokens, certificates, and who may send as whom |
//! | [`testing`] | from one service to programs that send |
//! | [`tower_with_smtp`] | tower's own layers around each phase, and their traps |
//! | [`compile_errors`] | what the compiler says, and what to do |
//! | [`what_a_message_costs`] | system calls, instructions, memory, what layers add |
//! | [`coming_from_go_smtpd`], [`coming_from_mailin`] | what was there, and what is here |
//!
//! Every block of code in them is a test.

#[doc = include_str!("../docs/phases.md")]
pub mod phases {}

#[doc = include_str!("../docs/pipelines.md")]
pub mod pipelines {}

#[doc = include_str!("../docs/order_of_layers.md")]
pub mod order_of_layers {}

#[doc = include_str!("../docs/backpressure.md")]
pub mod backpressure {}

#[doc = include_str!("../docs/cores.md")]
pub mod cores {}

#[doc = include_str!("../docs/errors.md")]
pub mod errors {}

#[doc = include_str!("../docs/state.md")]
pub mod state {}

#[doc = include_str!("../docs/hooks.md")]
pub mod hooks {}

#[doc = include_str!("../docs/authentication.md")]
pub mod authentication {}

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/tower_with_smtp.md")]
pub mod tower_with_smtp {}

#[doc = include_str!("../docs/compile_errors.md")]
pub mod compile_errors {}

#[doc = include_str!("../docs/what_a_message_costs.md")]
#[doc = include_str!("../docs/cpu_per_message.svg")]
pub mod what_a_message_costs {}

#[doc = include_str!("../docs/coming_from_go_smtpd.md")]
pub mod coming_from_go_smtpd {}

#[doc = include_str!("../docs/coming_from_mailin.md")]
pub mod coming_from_mailin {}

#[cfg(all(doctest, any(feature = "tls-ring", feature = "tls-aws-lc")))]
#[doc = include_str!("../../README.md")]
mod readme {}
