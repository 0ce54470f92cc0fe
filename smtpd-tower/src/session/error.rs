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
        session.meters().fault(self.kind());
        hook.call("on_error", session, self);
    }

    /// The words for the label of a metric.
    #[cfg(feature = "metrics")]
    pub(crate) const KINDS: [&str; 6] = ["io", "proxy", "tls", "service", "timeout", "panic"];

    /// Returns the word for the label of a metric.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::Proxy(_) => "proxy",
            Self::Tls(_) => "tls",
            Self::Service { .. } => "service",
            Self::ServiceTimeout { .. } => "timeout",
            Self::Panic { .. } => "panic",
        }
    }

    fn log(&self, session: &Session) {
        let (listener, cause) = (session.listener_addr(), self.causes());
        let (session, peer) = (session.id(), session.client_addr());
        match self {
            Self::Io(_) => tracing::debug!(session, %listener, %peer, cause, "{self}"),
            // The client is refused, and there is no reply that would show it.
            Self::Proxy(_) | Self::Tls(_) => {
                tracing::info!(session, %listener, %peer, cause, "{self}");
            }
            _ => tracing::error!(session, %listener, %peer, cause, "{self}"),
        }
    }

    /// Returns what all the errors behind it say, in one line.
    fn causes(&self) -> Option<String> {
        let mut cause = Some(self.source()?);
        let mut text = String::new();
        while let Some(error) = cause {
            let own = error.to_string();
            let own = without_link(&own);
            // Many errors also say what their cause says, and an `io::Error` says nothing else.
            if !text.ends_with(own) {
                if !text.is_empty() {
                    text.push_str(": ");
                }
                text.push_str(own);
            }
            cause = cause_of(error);
        }
        Some(text.escape_debug().to_string())
    }
}

/// Returns the text without a link to documentation at its end, as rustls adds it.
fn without_link(text: &str) -> &str {
    text.split_once(": https://")
        .map_or(text, |(before, _)| before)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once_and_without_a_link() {
        let inner = || io::Error::other("no certificate");
        for (error, expected) in [
            (inner(), "no certificate"),
            (io::Error::other(inner()), "no certificate"),
            (
                io::Error::other("closed: https://docs.rs/rustls/howto.html#eof"),
                "closed",
            ),
            (io::Error::other("a\nb"), "a\\nb"),
        ] {
            assert_eq!(SessionError::Tls(error).causes().unwrap(), expected);
        }
        let service = SessionError::Service {
            phase: PhaseKind::Mail,
            error: crate::body::BodyError::other(inner()).into(),
        };
        let causes = service.causes().unwrap();
        assert_eq!(causes.matches("no certificate").count(), 1, "{causes}");
    }
}
