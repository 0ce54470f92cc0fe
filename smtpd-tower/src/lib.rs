//! SMTP servers on tower: every phase of a session is a typed [`Service`](tower_service::Service) request.
//!
//! ```no_run
//! use smtpd_tower::{
//!     Pipeline, Rcpt, Reply, Request, Server,
//!     deliver::Inbox,
//!     handler_fn,
//!     layer::{DomainFilterLayer, ReceivedLayer},
//! };
//! use tower::ServiceBuilder;
//!
//! async fn is_user(request: Request<Rcpt>) -> Result<(), Reply> {
//!     match request.recipient().mailbox() {
//!         Some(mailbox)
//!             if !mailbox.local_part_unquoted().eq_ignore_ascii_case("alice") =>
//!         {
//!             Err(Reply::no_such_user())
//!         }
//!         _ => Ok(()), // and <Postmaster>
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rcpt = ServiceBuilder::new()
//!     .layer(DomainFilterLayer::parse(["example.org"])?)
//!     .service(handler_fn(is_user));
//! let data =
//!     ServiceBuilder::new().layer(ReceivedLayer::new()).service(Inbox::new());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:2525").await?;
//! Server::new("mx.example.org", Pipeline::new().rcpt(rcpt).data(data))
//!     .serve(listener)
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # The guide
//!
//! [`guide`] explains everything, in reading order, from a first server and its test to running one on the internet.
//!
//! The repository has an example for each common use, such as `gateway`, `submission`, `webhook`, `custom_layer` and
//! `test_double`.
//!
//! # Types by topic
//!
//! | topic | types |
//! |---|---|
//! | a server | [`Server`], [`Config`], [`Profile`], [`config`] (limits and timeouts), [`server`] (listeners, [`Handle`](server::Handle)) |
//! | the services of a session | [`Pipeline`], [`Request`], the phases [`Connect`], [`Helo`], [`Auth`], [`Mail`], [`Rcpt`], [`Data`] and [`Command`], [`handler_fn`], [`service`] |
//! | what a service knows | [`Session`], [`Envelope`], [`address`], [`parameter`], [`session`] |
//! | what a service answers | [`Reply`], [`DataReply`], [`phase::AuthOutcome`], [`recover`], [`reply`] |
//! | messages | [`Body`], [`BodyError`], [`body`], [`deliver`] (Maildir, commands, web services, inbox, discard), [`disk`] (how much work at a time), [`memory`] (how many bytes at a time) |
//! | policy | [`guard`] (limits for each client), [`layer`] (access, limits, messages), [`limiter`], [`router`], [`domains`], [`addresses`], [`net`] (networks, addresses of peers), [`dns`], [`reload`] (lists that change) |
//! | authentication | [`Identity`], [`Secret`], [`sasl`], and `password_hash` with its feature |
//! | extensions of SMTP | [`extension`], [`proxied`] (XCLIENT, XFORWARD), and `tls`, `proxy`, `mime` with their features |
//! | tests | `test` with its feature |
//!
//! # Guarantees
//!
//! - 250 after DATA is sent only when the data service has accepted the message.
//! - 354 is sent when the [`Body`] is first polled. A message streams, and a service that stops polling stops the client.
//! - If a client disconnects in the middle of a message, its body ends with [`BodyError::Incomplete`]. A message that has arrived
//!   whole is delivered even if nothing waits for the reply.
//! - A service is cloned for each command, made ready within [`Timeouts::ready`](config::Timeouts::ready), called within its
//!   timeout, and dropped: an idle session holds no permit.
//! - The text of an error is logged and never sent to the client, and a fault on this side is never 5yz. A panic costs its
//!   session a 421.
//! - The replies to a group of pipelined commands leave in order, and in one write unless a service has to be waited for.
//!
//! # Behind a proxy
//!
//! Through a proxy, every client has the address of the proxy unless the proxy names the client: by the PROXY protocol
//! (`ProxyProtocol`, with the feature `proxy`) or by XCLIENT ([`Server::xclient_from`]). Both are accepted only from
//! [`TrustedPeers`](net::TrustedPeers). [`Session::client_addr`] is then the client, for all limits, layers and logs, and
//! [`Session::peer_addr`] the proxy. If messages pass through a filter, XFORWARD ([`Server::xforward_from`]) tells where they
//! came from, for logs only ([`Session::forwarded`]).
//!
//! # Features
//!
//! | feature | adds | default |
//! |---|---|---|
//! | `tls-ring` | the module `tls`, with the cryptography of ring | yes |
//! | `tls-aws-lc` | the same with that of aws-lc; if both are enabled, it has to be selected | |
//! | `tls` | the same with a provider of your own | |
//! | `encrypted-keys` | private keys with a passphrase | |
//! | `password-hash` | `PasswordHash` and `PasswordVerifier`: compare passwords with their Argon2 hashes | |
//! | `proxy` | the PROXY protocol: `ProxyProtocol`, `ProxyInfo` | |
//! | `spool` | `Body::spool`, `SpoolLayer`: messages in memory, or in temporary files above a limit | |
//! | `queue` | the module `queue`: messages in a durable queue on disk; includes `spool` | |
//! | `pipe` | `deliver::Pipe`: messages on the standard input of a command, on Unix | |
//! | `webhook` | `deliver::Webhook`: messages to a web service; `https` with the features of TLS | |
//! | `metrics` | `MetricsLayer` and `Server::metrics`: metrics by the facade `metrics` | |
//! | `mime` | the module `mime`: messages parsed by mail-parser | |
//! | `test` | the module `test`: a client, a recorder, transcripts, injected faults; for `[dev-dependencies]` | |
//!
//! The protocol itself is in [`smtpd_core`], without any I/O; [its page of RFCs](smtpd_core::guide::rfc) shows what is
//! implemented of each. If only smtpd-tower is a dependency, write `use smtpd_tower::smtpd_core;` before the examples of its
//! types, which name that crate. [Versions and terms](crate::guide::versions) says what stays compatible.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod addresses;
pub mod body;
pub mod deliver;
pub mod disk;
pub mod dns;
pub mod domains;
mod engine;
mod fault;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod guard;
pub mod guide;
mod header;
pub mod layer;
mod lifetime;
pub mod limiter;
pub mod memory;
mod meter;
#[cfg(feature = "mime")]
pub mod mime;
pub mod net;
#[cfg(feature = "password-hash")]
pub mod password_hash;
mod permits;
pub mod phase;
mod phase_kind;
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "queue")]
pub mod queue;
pub mod reload;
pub mod reply;
pub mod router;
mod serial;
pub mod server;
pub mod service;
pub mod session;
#[cfg(feature = "test")]
pub mod test;
#[cfg(feature = "tls")]
pub mod tls;
mod waker;

pub use body::{Body, BodyError};
pub use phase::{Auth, Command, Connect, Data, Helo, Mail, Phase, Rcpt, Request};
pub use reply::recover;
pub use server::{Server, system_hostname};
pub use service::{Pipeline, handler_fn, handler_fn_with};
pub use session::{Profile, Session};
pub use smtpd_core;
pub use smtpd_core::{
    Config, DataReply, Envelope, Reply,
    sasl::{Identity, Secret},
};
#[doc(inline)]
pub use smtpd_core::{address, config, envelope, extension, parameter, proxied, sasl};
pub use tower::BoxError;
