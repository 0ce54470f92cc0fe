//! Per-session limits.

/// Per-session limits. They keep one client from exhausting the memory and the time of a server (RFC 5321 sections 4.5.3.1 and
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
    /// The maximum size of a message in bytes, announced by SIZE and checked while receiving (RFC 1870). `None` means no limit.
    /// Default: 1 MiB.
    pub message_size: Option<u64>,
    /// The maximum number of recipients of a message. RCPT beyond it is deferred with 452 4.5.3 (RFC 5321 section 4.5.3.1.8
    /// requires at least 100). Default: 100.
    pub recipients: u32,
    /// The maximum number of recipient domains in a session, over all its messages. A recipient at one more domain is deferred
    /// with 452 4.5.3 (RFC 9422 section 4.3). `None` means no limit. Default: `None`.
    pub recipient_domains: Option<u32>,
    /// The maximum length of a command line in bytes, including its CRLF. RFC 5321 section 4.5.3.1.4 requires 512, and more with
    /// extensions. Extensions that are off by default add what they require. Default: 2,048.
    pub command_line: usize,
    /// The number of client errors after which the session ends with 421. A deferred AUTH (454) counts as one. Default: 20.
    pub errors: u32,
    /// The number of failed authentications after which the session ends with 421. Default: 5.
    pub auth_failures: u32,
    /// The number of commands without an accepted message after which the session ends with 421. A command that ends a
    /// transaction begun by MAIL, such as RSET, does not count. Default: 1,000.
    pub idle_commands: u32,
    /// The number of MAIL commands, whatever their outcome, after which MAIL is deferred with 421 (RFC 9422 section 4.1).
    /// Default: 10,000.
    pub messages: u32,
    /// The number of bytes of a refused message that are still read, so that the reply can be sent at its end. Beyond it, the
    /// session ends. Default: 64 MiB.
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
