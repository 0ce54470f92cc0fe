use std::{error::Error, fmt, time::Duration};

use tower::BoxError;

/// An error of a [`Webhook`](super::Webhook): a setting that cannot be used, or a fault of the web service. Its text is for the
/// log only.
#[derive(Debug)]
pub struct WebhookError(Problem);

#[derive(Debug)]
pub(super) enum Problem {
    Url(String),
    #[cfg_attr(feature = "tls", allow(dead_code, reason = "with TLS, it can"))]
    NoTls,
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "there is no TLS"))]
    Tls(BoxError),
    Header(String),
    Secret,
    Request(BoxError),
    Response(BoxError),
    TimedOut(Duration),
    Early(u16),
    Status(u16, String),
}

impl WebhookError {
    pub(super) const fn new(problem: Problem) -> Self {
        Self(problem)
    }

    /// Returns whether the service took too long.
    pub const fn is_timeout(&self) -> bool {
        matches!(self.0, Problem::TimedOut(_))
    }

    /// Returns the status of the response, if the fault is that.
    pub const fn status(&self) -> Option<u16> {
        match self.0 {
            Problem::Status(status, _) | Problem::Early(status) => Some(status),
            _ => None,
        }
    }
}

impl fmt::Display for WebhookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Problem::Url(url) => write!(f, "not the URL of a web service: {url:?}"),
            Problem::NoTls => f.write_str("https needs the feature `tls`"),
            Problem::Tls(_) => f.write_str("TLS cannot be used"),
            Problem::Header(name) => write!(f, "not a header field for a request: {name:?}"),
            Problem::Secret => f.write_str("not a secret: `whsec_` and base64 of 24 to 64 bytes"),
            Problem::Request(_) => f.write_str("cannot send to the web service"),
            Problem::Response(_) => f.write_str("no response of the web service"),
            Problem::TimedOut(limit) => write!(f, "the web service took longer than {limit:?}"),
            Problem::Early(status) => {
                write!(
                    f,
                    "the web service responded with {status} before the message had ended"
                )
            }
            Problem::Status(status, text) => {
                write!(f, "the web service responded with {status}")?;
                match text.is_empty() {
                    true => Ok(()),
                    false => write!(f, ": {text}"),
                }
            }
        }
    }
}

impl Error for WebhookError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Problem::Tls(error) | Problem::Request(error) | Problem::Response(error) => {
                Some(&**error)
            }
            _ => None,
        }
    }
}
