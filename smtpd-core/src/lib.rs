//! The SMTP server protocol without any I/O.
//!
//! This crate knows what SMTP (RFC 5321) and LMTP (RFC 2033) mean, and nothing of sockets, clocks or threads.
//! [`Connection`] is one session: octets and time go in; events, octets and deadlines come out, so it can be driven by
//! any runtime, and tested without one. Its documentation plays a whole session by hand.
//!
//! Around it:
//!
//! - [`Reply`], [`Code`] and [`Status`]: what is answered, in a form that cannot carry a CR or LF;
//! - [`Mailbox`], [`ReversePath`], [`ForwardPath`], [`Domain`], [`ClientName`]: addresses and names, parsed strictly
//!   unless a [`Leniency`] says otherwise;
//! - [`Parameters`], [`Parameter`], [`Extension`], [`Extensions`]: the parameters of MAIL and RCPT, an open set;
//! - [`extension`]: the extensions that are off by default;
//! - [`sasl`]: the mechanisms of AUTH;
//! - [`XClient`], [`Forwarded`]: what a trusted proxy says of its client by XCLIENT and XFORWARD;
//! - [`Config`], [`Limits`], [`Timeouts`], [`BareNewline`]: what a server is set up to do.
//!
//! The feature `scram` (default) adds the mechanisms that hash: SCRAM-SHA-1, SCRAM-SHA-256 and their -PLUS forms; the feature
//! `idna` adds [`Domain::canonical`](Domain), by which A-labels and U-labels are the same domain; the feature `getrandom` adds
//! `Config::os_entropy`, the operating system's random bytes for mechanisms that challenge the client.
//!
//! [`guide::rfc`] tells which RFC is kept how, and where that is tested.
//!
//! Who writes a server wants `smtpd-tower`, which runs this crate on tokio and calls tower services.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
mod check;
mod code;
mod command;
mod config;
mod connection;
mod data_reply;
mod envelope;
pub mod extension;
mod framing;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod guide;
mod parameter;
mod proxied;
mod reply;
pub mod sasl;
mod status;

pub use address::{
    AddressError, AddressErrorKind, AddressPart, Charset, ClientName, ClientNameKind, Domain,
    ForwardPath, Leniency, Mailbox, PathOptions, Postmaster, ReversePath,
};
/// The buffers of [`Connection::poll`], re-exported so that a driver uses the same version.
pub use bytes;
pub use check::ConfigError;
pub use code::Code;
pub use config::{Config, Limits, Protocol};
pub use connection::{
    Answering, Ask, AuthOutcome, AuthRequest, CloseReason, CommandLine, Connection, Deferred,
    Direction, Greeting, Handshaking, Helo, MailCommand, MessageError, Overdue, RcptCommand,
    Reading, Receiving, Refusal, Step, Timeouts, TlsFacts, WireLine, Writing, ask_kind,
    protocol_word,
};
pub use data_reply::DataReply;
pub use envelope::{Envelope, Recipient};
pub use extension::{
    facts::SessionFacts,
    set::{Extension, Extensions},
    standard::Standard,
};
pub use framing::BareNewline;
pub use parameter::{
    BodyType, By, ByMode, DateTime, DateTimeError, EnvelopeId, HoldFor, HoldUntil, MailAuth,
    NoSupport, Notify, OriginalRecipient, Parameter, ParameterError, ParameterRule, Parameters,
    Priority, Ret, Size, SmtpUtf8, Solicit, ValidSince,
};
pub use proxied::{Attribute, AttributeError, Forwarded, MailSource, XClient};
pub use reply::Reply;
pub use status::Status;
