//! How much of everything a session may have.

/// Per-session limits. They keep one client from using up the memory and the time of a server (RFC 5321 sections 4.5.3.1 and
/// 7.8).
///
/// ```
/// use smtpd_core::{Config, Limits};
///
/// let mut limits = Limits::default();
/// limits.recipients = 1000;
/// limits.message_size = Some(50 << 20);
/// let config = Config::new("mx.example.org").limits(limits);
/// assert_eq!(config.limits_ref().recipients, 1000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Octets of a message, announced by SIZE and checked while receiving (RFC 1870); `None` for no limit. 1 MiB.
    pub message_size: Option<u64>,
    /// Recipients of a message; one more is answered 452 4.5.3 (RFC 5321 section 4.5.3.1.8 asks for 100 at least). 100.
    pub recipients: u32,
    /// Domains that the recipients of a session may be of, all its messages taken together; a recipient of one more is
    /// answered 452 4.5.3 (RFC 9422 section 4.3). `None`, for no limit.
    pub recipient_domains: Option<u32>,
    /// Octets of a command line with its CRLF; RFC 5321 section 4.5.3.1.4 asks for 512 and more with extensions. 2,048, to
    /// which comes what the extensions that are off by default ask for.
    pub command_line: usize,
    /// Wrong commands until the session is ended with 421; an AUTH that is refused for now (454) counts as one. 20.
    pub errors: u32,
    /// Failed authentications until the session is ended with 421. 5.
    pub auth_failures: u32,
    /// Commands without a message taken until the session is ended with 421; one that ends what a MAIL has begun, such as
    /// RSET, does not count. 1,000.
    pub idle_commands: u32,
    /// MAIL commands, whatever became of them, until MAIL is answered with 421 (RFC 9422 section 4.1). 10,000.
    pub messages: u32,
    /// Octets of a refused message that are read on, so that the reply can be given at its end; beyond, the session is
    /// ended. 64 MiB.
    pub drain: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: Some(1 << 20),
            recipients: 100,
            recipient_domains: None,
            command_line: 2048,
            errors: 20,
            auth_failures: 5,
            idle_commands: 1000,
            messages: 10_000,
            drain: 64 << 20,
        }
    }
}
