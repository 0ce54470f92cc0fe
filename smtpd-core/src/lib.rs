//! The server side of SMTP (RFC 5321) and LMTP (RFC 2033), without any I/O, and with the feature `client` also the client side.
//!
//! This crate has no sockets, clocks or threads. [`Connection`] is the state machine of one session: its input is bytes, the time
//! and answers, its output is questions, replies and deadlines. It runs on any runtime or on none, and is tested without one.
//!
//! To write a server, use `smtpd-tower`, which runs this crate on tokio and calls a `tower` service for each question.
//!
//! A program that owns the socket, called the driver, calls [`Connection::poll`] in a loop and does what the returned [`Step`]
//! says: wait for something until a deadline, answer a question, or handle a notification. Each question is an [`Ask`], a value
//! that can be answered once, in the ways that its kind allows, at once or [later](connection::Deferred). The documentation of
//! [`Connection`] runs a whole session by hand, and [`guide::driver`] shows how to write a driver and what to look out for.
//!
//! The modules, from the lowest to the highest. Each uses only those before it:
//!
//! - [`address`]: senders, recipients and the names of clients, parsed strictly unless a [`Leniency`](address::Leniency) says
//!   otherwise;
//! - [`reply`]: what the server sends to the client, in a form that cannot contain a CR or LF;
//! - [`parameter`]: the parameters of MAIL and RCPT, an open set;
//! - [`sasl`]: the mechanisms of AUTH;
//! - [`envelope`]: the sender and the recipients of a message;
//! - [`proxied`]: what a trusted proxy reports about its client by XCLIENT and XFORWARD;
//! - [`extension`]: the SMTP extensions, including your own;
//! - [`config`]: the settings of a server and its driver. [`Config::check`] finds settings with which no session could work;
//! - [`connection`]: the state machine of a session;
//! - `client`, with the feature of that name: the state machine of a session with another server, to which messages are sent.
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `scram` | yes | the mechanisms SCRAM-SHA-1, SCRAM-SHA-256 and their -PLUS forms |
//! | `idna` | no | [`Domain::canonical`](Domain), by which the A-label and the U-label of a domain are equal; U-labels are checked against the Unicode tables (see below) |
//! | `getrandom` | no | `Config::os_entropy`, the operating system's random bytes for mechanisms that challenge the client |
//! | `client` | no | the module `client`: the client side of SMTP and LMTP, to send messages; it adds no dependencies |
//! | `test` | no | the module `test`: transcripts of sessions, for `[dev-dependencies]` |
//!
//! `idna` does more than add: it rejects addresses whose domains cannot exist in the DNS. Without it, the tables are missing, and
//! only a short list of deceptive characters is rejected. ASCII names are checked in the same way with and without it.
//!
//! [`guide::rfc`] says how each RFC is followed, and where that is tested.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod address;
#[cfg(feature = "client")]
#[cfg_attr(docsrs, doc(cfg(feature = "client")))]
pub mod client;
mod command;
pub mod config;
pub mod connection;
pub mod envelope;
pub mod extension;
mod framing;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod guide;
mod helo;
mod limits;
pub mod parameter;
mod protocol;
pub mod proxied;
pub mod reply;
pub mod sasl;
#[cfg(feature = "test")]
pub mod test;
mod time;

pub use address::{Domain, ForwardPath, Mailbox, ReversePath};
/// Provides the buffers of [`Connection::poll`], re-exported so that a driver uses the same version.
pub use bytes;
pub use config::{Config, Limits, Protocol, Timeouts};
pub use connection::{Ask, Connection, Step};
pub use envelope::{Envelope, Recipient};
pub use reply::{Code, DataReply, Reply, Status};
