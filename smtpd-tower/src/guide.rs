//! The guide: pages in the order in which to read them. Each ends with a link to the next.
//!
//! **To begin with**
//!
//! | page | |
//! |---|---|
//! | [`start`] | A first server, and a test of it |
//! | [`phases`] | What is asked when, what may be replied, and what happens where nothing is set |
//! | [`pipelines`] | Services, handlers, layers, routes: how a server is put together |
//! | [`errors`] | Which error becomes which reply, and when a call is dropped |
//! | [`state`] | Of the server, the connection, the message |
//! | [`testing`] | From one service to programs that send |
//!
//! **What most servers need**
//!
//! | page | |
//! |---|---|
//! | [`authentication`] | Users, passwords, tokens, and who may send as whom |
//! | [`tls`] | Certificates, their renewal, client certificates, channel binding |
//! | [`bodies`] | Streaming, filters, copies, spools, MIME, and the memory of each |
//! | [`responsibility`] | What 250 promises: syncing, queues, duplicates, several recipients |
//! | [`queueing`] | Accept now and deliver later: retries, notifications, destinations |
//!
//! **A server on the internet**
//!
//! | page | |
//! |---|---|
//! | [`order_of_layers`] | What goes around what, in two pictures |
//! | [`layers_in_company`] | All layers: what each looks at, keeps and costs, and what goes around it |
//! | [`backpressure`] | What waits, for how long, and what is refused |
//! | [`limits`] | All limits and timeouts, and what the client receives |
//! | [`tower_with_smtp`] | tower's own layers around each phase, and their traps |
//! | [`hooks`] | Ends, resets, aborted messages, verbs, keywords and parameters of your own |
//! | [`logs_and_metrics`] | All events and spans, and what to count |
//! | [`metrics`] | All metrics, and what to alert on |
//! | [`listeners`] | Profiles, several listeners, LMTP, proxies, and what ends when |
//! | [`security`] | What holds by default, what is yours, and checklists |
//! | [`running`] | Ports, systemd, signals, descriptors, full disks, logs |
//! | [`clients`] | Clients that are at fault, and what to set for them |
//!
//! **Speed**
//!
//! | page | |
//! |---|---|
//! | [`cores`] | One runtime with several threads, or several runtimes with one each |
//! | [`what_a_message_costs`] | System calls, instructions, memory, what layers add |
//!
//! **To look up**
//!
//! | page | |
//! |---|---|
//! | [`compile_errors`] | What the compiler says, and what to do |
//! | [`versions`] | What is promised from version to version, and a glossary |
//! | [`coming_from_go_smtpd`] | For those who know Go's smtpd |
//! | [`coming_from_mailin`] | For those who know mailin |
//!
//! Every block of code in them is a test.

#[doc = include_str!("../docs/start.md")]
pub mod start {}

#[doc = include_str!("../docs/phases.md")]
pub mod phases {}

#[doc = include_str!("../docs/pipelines.md")]
pub mod pipelines {}

#[doc = include_str!("../docs/errors.md")]
pub mod errors {}

#[doc = include_str!("../docs/state.md")]
pub mod state {}

#[cfg_attr(not(feature = "test"), allow(rustdoc::broken_intra_doc_links))]
#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[cfg_attr(
    not(all(feature = "tls", feature = "password-hash")),
    allow(rustdoc::broken_intra_doc_links)
)]
#[doc = include_str!("../docs/authentication.md")]
pub mod authentication {}

#[cfg_attr(
    not(all(feature = "tls", feature = "encrypted-keys")),
    allow(rustdoc::broken_intra_doc_links)
)]
#[doc = include_str!("../docs/tls.md")]
pub mod tls {}

#[cfg_attr(
    not(all(feature = "spool", feature = "mime")),
    allow(rustdoc::broken_intra_doc_links)
)]
#[doc = include_str!("../docs/bodies.md")]
pub mod bodies {}

#[doc = include_str!("../docs/responsibility.md")]
pub mod responsibility {}

#[cfg_attr(
    not(all(unix, feature = "queue")),
    allow(rustdoc::broken_intra_doc_links)
)]
#[doc = include_str!("../docs/queueing.md")]
pub mod queueing {}

#[doc = include_str!("../docs/order_of_layers.md")]
pub mod order_of_layers {}

#[cfg_attr(not(feature = "spool"), allow(rustdoc::broken_intra_doc_links))]
#[doc = include_str!("../docs/layers_in_company.md")]
pub mod layers_in_company {}

#[doc = include_str!("../docs/backpressure.md")]
pub mod backpressure {}

#[doc = include_str!("../docs/limits.md")]
pub mod limits {}

#[doc = include_str!("../docs/tower_with_smtp.md")]
pub mod tower_with_smtp {}

#[doc = include_str!("../docs/hooks.md")]
pub mod hooks {}

#[doc = include_str!("../docs/logs_and_metrics.md")]
pub mod logs_and_metrics {}

#[cfg_attr(not(feature = "metrics"), allow(rustdoc::broken_intra_doc_links))]
#[doc = include_str!("../docs/metrics.md")]
pub mod metrics {}

#[cfg_attr(not(feature = "proxy"), allow(rustdoc::broken_intra_doc_links))]
#[doc = include_str!("../docs/listeners.md")]
pub mod listeners {}

#[doc = include_str!("../docs/security.md")]
pub mod security {}

#[doc = include_str!("../docs/running.md")]
pub mod running {}

#[doc = include_str!("../docs/clients.md")]
pub mod clients {}

#[doc = include_str!("../docs/cores.md")]
pub mod cores {}

#[doc = include_str!("../docs/what_a_message_costs.md")]
#[doc = include_str!("../docs/cpu_per_message.svg")]
pub mod what_a_message_costs {}

#[doc = include_str!("../docs/compile_errors.md")]
pub mod compile_errors {}

#[doc = include_str!("../docs/versions.md")]
pub mod versions {}

#[doc = include_str!("../docs/coming_from_go_smtpd.md")]
pub mod coming_from_go_smtpd {}

#[doc = include_str!("../docs/coming_from_mailin.md")]
pub mod coming_from_mailin {}
