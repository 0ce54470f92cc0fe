//! smtpd-tower
#![forbid(unsafe_code)]

mod body;
mod envelope;
mod handler;
pub mod layer;
pub mod limiter;
mod phase;
mod pipeline;
mod recover;
mod request;
mod session;
#[cfg(feature = "tls")]
pub mod tls;
mod tls_info;

pub use body::{Body, BodyError};
pub use envelope::{Envelope, Recipient};
pub use handler::{HandlerFn, HandlerFuture, IntoReply, handler_fn};
pub use phase::{Auth, Connect, Data, Helo, Mail, Phase, Rcpt};
pub use pipeline::{LayerPhase, PhaseService, Pipeline, ServePhase};
pub use recover::recover;
pub use request::Request;
pub use session::{PeerAddr, Session, TypedMap};
pub use smtpd_core::{
    self as core, AddressError, AuthOutcome, BareNewline, ClientName, Code, Domain, Extension,
    Extensions, ForwardPath, Greeting, Leniency, Limits, Mailbox, Parameters, Protocol, Reply,
    ReversePath, Status, Timeouts, sasl,
    sasl::{Credentials, Identity, Secret},
};
pub use tls_info::{TlsInfo, TlsVersion};
pub use tower::BoxError;
