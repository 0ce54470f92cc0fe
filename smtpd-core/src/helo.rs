//! HELO, EHLO and LHLO, as the client sends them.

use crate::address::ClientName;

/// How a client introduced itself (RFC 5321 section 4.1.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helo {
    name: ClientName,
    greeting: Greeting,
}

impl Helo {
    /// Creates an EHLO with that name.
    pub const fn new(name: ClientName) -> Self {
        Self {
            name,
            greeting: Greeting::Ehlo,
        }
    }

    /// Returns a copy with this command.
    #[must_use]
    pub fn with_greeting(self, greeting: Greeting) -> Self {
        Self { greeting, ..self }
    }

    /// Returns the name that the client gives. It is not verified.
    pub const fn name(&self) -> &ClientName {
        &self.name
    }

    /// Returns the command that the client used.
    pub const fn greeting(&self) -> Greeting {
        self.greeting
    }
}

/// The command by which a client introduces itself.
///
/// ```
/// use smtpd_core::connection::Greeting;
///
/// fn knows_extensions(greeting: Greeting) -> bool {
///     greeting != Greeting::Helo
/// }
/// assert!(knows_extensions(Greeting::Ehlo));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Greeting {
    /// HELO: plain SMTP (RFC 5321 section 4.1.1.1).
    Helo,
    /// EHLO: SMTP with extensions.
    Ehlo,
    /// LHLO: LMTP (RFC 2033 section 4.1).
    Lhlo,
}
