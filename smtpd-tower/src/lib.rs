//! SMTP servers on tower: every phase of a session is a typed [`Service`](tower_service::Service) request.
//!
//! ```no_run
//! use smtpd_tower::{BodyError, Data, Pipeline, Rcpt, Reply, Request, Server, handler_fn};
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:2525").await?;
//!     let pipeline = Pipeline::new()
//!         .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
//!         .data(handler_fn(print));
//!     Server::new("localhost", pipeline).serve(listener).await
//! }
//!
//! async fn print(request: Request<Data>) -> Result<Reply, BodyError> {
//!     let message = request.into_body().collect().await?;
//!     println!("{}", message.escape_ascii());
//!     Ok(Reply::ok("Printed"))
//! }
//! ```
//!
//! # Phases
//!
//! | phase | when | brings | where nothing is set |
//! |---|---|---|---|
//! | [`Connect`] | a client has connected; before the greeting | | accepted |
//! | [`Helo`] | HELO, EHLO, LHLO | the name it gives itself | accepted |
//! | [`Auth`] | AUTH | mechanism and credentials | AUTH is not offered |
//! | [`Mail`] | MAIL | sender, parameters | accepted |
//! | [`Rcpt`] | RCPT | recipient, parameters, envelope so far | 550 5.7.1 |
//! | [`Data`] | DATA, BDAT | envelope, the message as a stream | 451 4.3.0 |
//! | [`Command`] | VRFY, EXPN, HELP, verbs of your own | verb, argument | 252, 502, 214, 500 |
//!
//! Every [`Request`] has a [`Session`]: addresses, names, TLS, identity, and your own state in two typed maps, one for the
//! connection and one for the transaction.
//!
//! A service answers with a [`Reply`]; AUTH with an [`AuthOutcome`]. [`handler_fn`] makes a service of an async function; a type
//! of yours implements `Service<Request<P>>`.
//!
//! # Pipelines and layers
//!
//! A [`Pipeline`] holds a service for each phase. Layers go around one service by `ServiceBuilder`, or around all by
//! [`Pipeline::layer`]; the first layer is the outermost. [`layer`] has ours; tower's work as well:
//!
//! - `timeout` becomes 451 4.3.0, and does not cover readiness, which the engine limits by itself;
//! - `load_shed` belongs outside `concurrency_limit`, and becomes 451 4.3.2;
//! - `rate_limit` delays instead of refusing, and needs `buffer` around it; [`layer::RateLimitLayer`] refuses, per client;
//! - one `GlobalConcurrencyLimitLayer` given to [`Pipeline::layer`] is one semaphore for all phases.
//!
//! A [`router::Router`] chooses between services by recipient, listener, identity, or whatever you like.
//!
//! # What the engine does
//!
//! For each command the service is cloned, made ready within [`Timeouts::ready`], called within its limit, and dropped. So an
//! idle session holds no permit, and an instance that has failed is never used again. Readiness that is pending delays the
//! reply, and nothing more is read from that client.
//!
//! - 354 is sent when the [`Body`] is first polled: a service or layer can answer DATA without an octet received.
//! - The message streams; a service that stops polling stops the client.
//! - A service may answer in the middle: what is left is read and dropped, and the reply sent at its end.
//! - 250 after DATA is sent when the data service has said so, and never otherwise.
//! - A client that goes away cancels the call that works for it; in the middle of a message the body ends with
//!   [`BodyError::Incomplete`]. A message that has come whole is delivered all the same.
//! - The replies to a group of pipelined commands leave in one write.
//!
//! # Behind a proxy
//!
//! Through a proxy every client has the proxy's address, unless that says whom it speaks for: by the PROXY protocol
//! (`ProxyProtocol`, with the feature `proxy`), or by XCLIENT ([`Server::xclient_from`]). Both are believed only from
//! [`TrustedPeers`]. [`Session::peer`] is then the client, for all limits, layers and logs, and [`Session::connection_peer`]
//! the proxy. Where messages pass through a filter, XFORWARD ([`Server::xforward_from`]) tells where they came from, for logs
//! alone ([`Session::forwarded`]).
//!
//! # Errors
//!
//! A decision is a response; an error is a failure. [`recover`] tells which reply an error becomes: its text goes to the log,
//! never to the client. A [`Reply`] is also an error, so `?` works in handlers and it passes through layers that know only errors.
//! A panic costs its session a 421.
//!
//! # Testing
//!
//! Pipelines need no socket: `service.oneshot(Request::new(Session::local(), Rcpt::new(path)))`. Whole sessions run over
//! [`Server::serve_connection`] and `tokio::io::duplex`; [`deliver::Inbox`] keeps what was delivered. With the feature `test`
//! there is a module `test`: a client, a recording service, transcripts, faults on purpose, a server on a free port.
//!
//! # More
//!
//! [`guide`] has longer pages. The protocol itself is in [`smtpd_core`], without any I/O.
#![forbid(unsafe_code)]

mod body;
mod cidr;
pub mod deliver;
mod engine;
mod envelope;
pub mod guide;
mod handler;
pub mod layer;
pub mod limiter;
#[cfg(feature = "mime")]
pub mod mime;
mod phase;
mod pipeline;
mod recover;
mod request;
pub mod router;
mod server;
mod session;
#[cfg(feature = "test")]
pub mod test;
#[cfg(feature = "tls")]
pub mod tls;
mod tls_info;

pub use body::{
    Body, BodyError, BodyReader, Head, HeaderField, HeaderFields, OctetCount, SinkFailure,
};
#[cfg(feature = "spool")]
pub use body::{Spooled, Spooling};
pub use cidr::{Cidr, CidrError, CidrErrorKind};
pub use engine::{EndReason, SessionError, Summary};
pub use envelope::{Envelope, Recipient};
pub use handler::{HandlerFn, HandlerFuture, IntoReply, handler_fn};
pub use phase::{Answer, Auth, Command, Connect, Data, Helo, Mail, Phase, Rcpt};
pub use pipeline::{LayerPhase, PhaseService, Pipeline, ServePhase};
pub use recover::recover;
pub use request::Request;
pub use server::{Handle, Listener, Server, TrustedPeers, system_hostname};
#[cfg(feature = "proxy")]
pub use server::{ProxyHeaderError, ProxyInfo, ProxyProtocol, ProxyTls, ProxyVersion};
pub use session::{PeerAddr, Session, TypedMap};
pub use smtpd_core::{
    self as core, AddressError, Attribute, AttributeError, AuthOutcome, BareNewline, ClientName,
    CloseReason, Code, Config, DataReply, Direction, Domain, Extension, Extensions, ForwardPath,
    Forwarded, Greeting, Leniency, Limits, MailSource, Mailbox, Parameters, Protocol, Reply,
    ReversePath, Status, Timeouts, WireLine, XClient, sasl,
    sasl::{Credentials, Identity, Secret},
};
pub use tls_info::{TlsInfo, TlsVersion};
pub use tower::BoxError;
