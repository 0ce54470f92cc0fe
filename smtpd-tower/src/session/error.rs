use std::{error::Error, fmt, io};

use tower::BoxError;

use super::{Session, hook::ErrorHook};
use crate::{
    fault::{cause_of, quietly},
    phase_kind::PhaseKind,
};

/// An error in a session, as passed to [`Server::on_error`](crate::server::Server::on_error). The client has at most been told
/// that something went wrong.
///
/// [The guide](crate::guide::errors) says which errors are reported, and [how they are logged](crate::guide::logs_and_metrics).
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionError {
    /// The connection failed.
    Io(io::Error),
    /// A trusted peer sent no valid PROXY header in time.
    Proxy(io::Error),
    /// The TLS handshake failed or timed out.
    Tls(io::Error),
    /// A service failed, or [reported a fault](Session::report_fault); usually the client received 451, or 454 to AUTH.
    Service {
        /// The phase.
        phase: PhaseKind,
        /// The service's error.
        error: BoxError,
    },
    /// A service did not become ready, or did not answer, in time.
    ServiceTimeout {
        /// The phase.
        phase: PhaseKind,
    },
    /// A service panicked. The session was ended with 421, or [`CatchPanicLayer`](crate::layer::CatchPanicLayer) or a
    /// [`Router`](crate::router::Router) has deferred the request.
    Panic {
        /// The phase, or `None` if the panic did not come from a service.
        phase: Option<PhaseKind>,
        /// The panic's message.
        message: String,
    },
}

impl SessionError {
    /// Logs the error, and calls the hooks.
    pub(super) fn report(&self, session: &Session, hook: &ErrorHook) {
        quietly(|| self.log(session));
        hook.call("on_error", session, self);
    }

    fn log(&self, session: &Session) {
        let (session, peer, cause) = (session.id(), session.client_addr(), self.causes());
        match self {
            Self::Io(_) | Self::Proxy(_) | Self::Tls(_) => {
                tracing::debug!(session, %peer, cause, "{self}");
            }
            _ => tracing::error!(session, %peer, cause, "{self}"),
        }
    }

    /// Returns what all the errors behind it say, in one line.
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
            Self::Panic {
                phase: Some(phase),
                message,
            } => write!(f, "{phase} service panicked: {}", message.escape_debug()),
            Self::Panic {
                phase: None,
                message,
            } => write!(f, "session panicked: {}", message.escape_debug()),
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
