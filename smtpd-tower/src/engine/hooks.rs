//! What a server tells its owner of sessions and of what fails in them.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use smtpd_core::{CloseReason, WireLine};
use tower::BoxError;

use super::ask::Failure;
use crate::{
    Envelope, Session,
    fault::{caught, quietly},
    recover::cause_of,
};

type Hook<T> = Option<Arc<dyn Fn(&Session, &T) + Send + Sync>>;

/// Who is told of what goes wrong.
pub(crate) type ErrorHook = Hook<SessionError>;

/// What a user wants to be told of.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) wire: Hook<WireLine>,
    pub(crate) error: ErrorHook,
    pub(crate) reset: Hook<Envelope>,
    pub(crate) close: Hook<Summary>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// Calls a hook. Its panic costs the session nothing; it is logged.
pub(super) fn call(session: &Session, name: &'static str, hook: impl FnOnce()) {
    if let Err(panic) = caught(hook) {
        let (session, panic) = (session.id(), panic.escape_debug());
        quietly(|| tracing::error!(session, %panic, "{name} panicked"));
    }
}

/// Something that went wrong in a session, as [`Server::on_error`](crate::Server::on_error) tells it. The client has been told at
/// most that something has.
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionError {
    /// The connection failed.
    Io(io::Error),
    /// A trusted peer has sent no PROXY header, or none that is good, in time.
    Proxy(io::Error),
    /// The TLS handshake failed, or took too long.
    Tls(io::Error),
    /// A service failed, or [told of a fault](Session::report_fault); mostly the client received 451.
    Service {
        /// The name of the phase.
        phase: &'static str,
        /// The service's error.
        error: BoxError,
    },
    /// A service did not become ready, or did not answer, in time.
    ServiceTimeout {
        /// The name of the phase.
        phase: &'static str,
    },
    /// A service panicked; the session was ended with 421.
    Panic {
        /// The name of the phase, or `session` where it was no service of a phase.
        phase: &'static str,
        /// The panic's message.
        message: String,
    },
}

impl SessionError {
    pub(super) fn of(phase: &'static str, failure: Failure) -> Self {
        match failure {
            Failure::Error(error) => Self::Service { phase, error },
            Failure::Panic(message) => Self::Panic { phase, message },
        }
    }

    /// Writes it into the log, and calls the hook.
    pub(crate) fn report(&self, session: &Session, hook: &ErrorHook) {
        quietly(|| self.log(session));
        if let Some(hook) = hook {
            call(session, "on_error", || hook(session, self));
        }
    }

    fn log(&self, session: &Session) {
        let (session, peer, cause) = (session.id(), session.peer(), self.causes());
        match self {
            Self::Io(_) | Self::Proxy(_) | Self::Tls(_) => {
                tracing::debug!(session, %peer, cause, "{self}");
            }
            _ => tracing::error!(session, %peer, cause, "{self}"),
        }
    }

    /// What all the errors behind it say, in one line.
    fn causes(&self) -> Option<String> {
        let mut cause = self.source()?;
        let mut text = cause.to_string();
        while let Some(next) = cause_of(cause) {
            text.push_str(": ");
            text.push_str(&next.to_string());
            cause = next;
        }
        Some(text.escape_debug().to_string())
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(_) => f.write_str("connection failed"),
            Self::Proxy(_) => f.write_str("no PROXY header"),
            Self::Tls(_) => f.write_str("TLS handshake failed"),
            Self::Service { phase, .. } => write!(f, "{phase} service failed"),
            Self::ServiceTimeout { phase } => write!(f, "{phase} service took too long"),
            Self::Panic { phase, message } => write!(f, "{phase} service panicked: {message}"),
        }
    }
}

impl Error for SessionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) | Self::Proxy(error) | Self::Tls(error) => Some(error),
            Self::Service { error, .. } => Some(&**error),
            _ => None,
        }
    }
}

/// A session that has ended, as [`Server::on_close`](crate::Server::on_close) tells it.
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
    /// How long the session took, with the time for closing the connection: up to [`Timeouts::linger`](crate::Timeouts::linger).
    pub duration: Duration,
}

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// By the protocol. `CloseReason::Lost` and `CloseReason::TlsFailed` are never in here: they are reported as
    /// [`Lost`](Self::Lost) and [`TlsFailed`](Self::TlsFailed). A session that a panic has ended with 421 is
    /// `Closed(CloseReason::Refused)`, and [`Server::on_error`](crate::Server::on_error) is told of the panic.
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
