//! smtpd-tower
#![forbid(unsafe_code)]

mod body;
mod engine;
pub mod deliver;
mod envelope;
mod handler;
pub mod layer;
pub mod limiter;
mod phase;
mod pipeline;
mod recover;
mod request;
mod server;
mod session;
#[cfg(feature = "tls")]
pub mod tls;
mod tls_info;

pub use body::{Body, BodyError};
pub use engine::{EndReason, SessionError, Summary};
pub use envelope::{Envelope, Recipient};
pub use handler::{HandlerFn, HandlerFuture, IntoReply, handler_fn};
pub use phase::{Auth, Connect, Data, Helo, Mail, Phase, Rcpt};
pub use pipeline::{LayerPhase, PhaseService, Pipeline, ServePhase};
pub use recover::recover;
pub use request::Request;
pub use server::{Handle, Listener, Server, system_hostname};
pub use session::{PeerAddr, Session, TypedMap};
pub use smtpd_core::{
    self as core, AddressError, AuthOutcome, BareNewline, ClientName, CloseReason, Code, Config,
    Direction, Domain, Extension, Extensions, ForwardPath, Greeting, Leniency, Limits, Mailbox,
    Parameters, Protocol, Reply, ReversePath, Status, Timeouts, WireLine, sasl,
    sasl::{Credentials, Identity, Secret},
};
pub use tls_info::{TlsInfo, TlsVersion};
pub use tower::BoxError;
