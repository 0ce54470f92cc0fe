use crate::{limits::Limits, protocol::Protocol};

/// What is known of a session where an extension decides whether and how it is offered.
///
/// ```
/// use smtpd_core::{Config, Extension, SessionFacts, extension::RequireTls};
///
/// let config = Config::new("mx.example.org");
/// let plain = SessionFacts::new(&config);
/// assert!(!RequireTls.is_offered(plain) && RequireTls.is_offered(plain.with_tls()));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SessionFacts<'a> {
    protocol: Protocol,
    limits: &'a Limits,
    tls: bool,
    authenticated: bool,
}

impl<'a> SessionFacts<'a> {
    /// A session with these settings, in plaintext, of a client that has not authenticated.
    pub(crate) const fn of(protocol: Protocol, limits: &'a Limits) -> Self {
        Self {
            protocol,
            limits,
            tls: false,
            authenticated: false,
        }
    }

    /// The same within TLS.
    #[must_use]
    pub const fn with_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// The same, the client having authenticated.
    #[must_use]
    pub const fn with_identity(self) -> Self {
        Self {
            authenticated: true,
            ..self
        }
    }

    /// Whether the session runs over TLS.
    pub const fn is_tls(self) -> bool {
        self.tls
    }

    /// Whether the client has authenticated.
    pub const fn is_authenticated(self) -> bool {
        self.authenticated
    }

    /// SMTP or LMTP.
    pub const fn protocol(self) -> Protocol {
        self.protocol
    }

    /// The limits in force.
    pub const fn limits(self) -> &'a Limits {
        self.limits
    }
}
