//! HELO, EHLO and LHLO, as the client sends them.

use crate::address::ClientName;

/// How a client introduced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Helo {
    /// The HELO name. It is not verified.
    pub name: ClientName,
    /// The command that the client used.
    pub greeting: Greeting,
}

/// The command by which a client introduces itself.
///
/// ```
/// use smtpd_core::Greeting;
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
