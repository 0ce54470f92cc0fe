use std::{fmt, time::Duration};

use smtpd_core::connection::CloseReason;

/// A session that has ended, as passed to [`Server::on_close`](crate::server::Server::on_close).
///
/// [The guide](crate::guide::logs_and_metrics) makes metrics of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Why the session ended.
    pub reason: EndReason,
    /// The number of accepted messages.
    pub messages: u32,
    /// The number of replies that refused something, by 4yz or 5yz.
    pub refused: u32,
    /// The number of bytes received, after decryption, including those that were drained while the connection was closed.
    pub received: u64,
    /// The number of bytes sent, before encryption.
    pub sent: u64,
    /// The duration of the session, including closing the connection: up to [`Timeouts::linger`](smtpd_core::Timeouts::linger).
    pub duration: Duration,
}

/// How a session ended, also if the client was lost or the session was dropped.
///
/// [The guide](crate::guide::hooks) tells apart who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The protocol ended it. Never contains `CloseReason::Lost` and `CloseReason::TlsFailed`: they are reported as
    /// [`Lost`](Self::Lost) and [`TlsFailed`](Self::TlsFailed). A session that a panic has ended with 421 is
    /// `Closed(CloseReason::Refused)`, and the panic is reported to [`Server::on_error`](crate::server::Server::on_error).
    Closed(CloseReason),
    /// The client disconnected, or closed its side without QUIT.
    Lost,
    /// A peer that has to send a PROXY header did not send one.
    ProxyFailed,
    /// The TLS handshake failed.
    TlsFailed,
    /// The future of the session was dropped before the session had ended.
    Aborted,
    /// The session panicked twice, so it could not even be ended with 421.
    Panicked,
}

impl EndReason {
    /// All reasons, for metrics.
    #[cfg(feature = "metrics")]
    pub(crate) const ALL: [Self; 11] = [
        Self::Closed(CloseReason::Quit),
        Self::Closed(CloseReason::Refused),
        Self::Closed(CloseReason::Timeout),
        Self::Closed(CloseReason::Limit),
        Self::Closed(CloseReason::Violation),
        Self::Closed(CloseReason::Shutdown),
        Self::Lost,
        Self::ProxyFailed,
        Self::TlsFailed,
        Self::Aborted,
        Self::Panicked,
    ];

    /// Returns a word for logs and labels of metrics, such as `quit`.
    ///
    /// ```
    /// use smtpd_tower::session::{CloseReason, EndReason};
    ///
    /// assert_eq!(EndReason::Closed(CloseReason::Quit).as_str(), "quit");
    /// assert_eq!(EndReason::Lost.as_str(), "lost");
    /// ```
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed(reason) => reason.as_str(),
            Self::Lost => "lost",
            Self::ProxyFailed => "proxy failed",
            Self::TlsFailed => "tls failed",
            Self::Aborted => "aborted",
            Self::Panicked => "panicked",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
