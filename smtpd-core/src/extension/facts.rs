use crate::{limits::Limits, protocol::Protocol};

/// The facts about a session from which an extension decides whether and how it is offered.
///
/// ```
/// use smtpd_core::{
///     Config,
///     config::DriverConfig,
///     extension::{Extension, RequireTls, SessionFacts},
/// };
///
/// let config = DriverConfig::new(Config::new("mx.example.org"));
/// let plain = SessionFacts::new(&config);
/// assert!(
///     !RequireTls.is_offered(plain) && RequireTls.is_offered(plain.with_tls())
/// );
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SessionFacts<'a> {
    protocol: Protocol,
    limits: &'a Limits,
    tls: bool,
    authenticated: bool,
}

impl<'a> SessionFacts<'a> {
    /// Creates the facts of a plaintext session with these settings, whose client has not authenticated.
    pub(crate) const fn of(protocol: Protocol, limits: &'a Limits) -> Self {
        Self {
            protocol,
            limits,
            tls: false,
            authenticated: false,
        }
    }

    /// Returns the facts of the same session within TLS.
    #[must_use]
    pub const fn with_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// Returns the facts of the same session after the client has authenticated.
    #[must_use]
    pub const fn with_identity(self) -> Self {
        Self {
            authenticated: true,
            ..self
        }
    }

    /// Returns whether the session runs over TLS.
    pub const fn is_tls(self) -> bool {
        self.tls
    }

    /// Returns whether the client has authenticated.
    pub const fn is_authenticated(self) -> bool {
        self.authenticated
    }

    /// Returns the protocol, SMTP or LMTP.
    pub const fn protocol(self) -> Protocol {
        self.protocol
    }

    /// Returns the limits of the session.
    pub const fn limits(self) -> &'a Limits {
        self.limits
    }
}
