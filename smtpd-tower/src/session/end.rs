use std::{fmt, time::Duration};

use smtpd_core::CloseReason;

/// A session that has ended, as [`Server::on_close`](crate::server::Server::on_close) tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Why it has ended.
    pub reason: EndReason,
    /// Messages that were taken.
    pub messages: u32,
    /// Octets that came, after decryption, with those that were read off while the connection was closed.
    pub received: u64,
    /// Octets that were sent, before encryption.
    pub sent: u64,
    /// How long the session took, with the time for closing the connection: up to [`Timeouts::linger`](smtpd_core::Timeouts::linger).
    pub duration: Duration,
}

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// By the protocol. `CloseReason::Lost` and `CloseReason::TlsFailed` are never in here: they are reported as
    /// [`Lost`](Self::Lost) and [`TlsFailed`](Self::TlsFailed). A session that a panic has ended with 421 is
    /// `Closed(CloseReason::Refused)`, and [`Server::on_error`](crate::server::Server::on_error) is told of the panic.
    Closed(CloseReason),
    /// The client went away, or closed its side without QUIT.
    Lost,
    /// There was no PROXY header from a peer that has to send one.
    ProxyFailed,
    /// The TLS handshake failed.
    TlsFailed,
    /// The future of the session was dropped before the session had ended.
    Aborted,
    /// The session panicked twice, so that it could not even be ended with 421.
    Panicked,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) => reason.fmt(f),
            Self::Lost => f.write_str("lost"),
            Self::ProxyFailed => f.write_str("proxy failed"),
            Self::TlsFailed => f.write_str("tls failed"),
            Self::Aborted => f.write_str("aborted"),
            Self::Panicked => f.write_str("panicked"),
        }
    }
}
