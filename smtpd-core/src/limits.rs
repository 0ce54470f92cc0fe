//! Per-session limits.

/// Per-session limits. They keep one client from exhausting the memory and the time of a server (RFC 5321 sections 4.5.3.1 and
/// 7.8).
///
/// A limit without `Option` cannot be turned off, and only [`drain`](Self::drain) may be 0: for all others,
/// [`Config::check`](crate::Config::check) returns an error that names the limit.
///
/// The guide of smtpd-tower has [a table of them](https://docs.rs/smtpd-tower/latest/smtpd_tower/guide/limits/), with what the
/// client receives.
///
/// ```
/// use smtpd_core::Config;
///
/// let config = Config::new("mx.example.org").limits(|limits| {
///     limits.recipients = 1000;
///     limits.message_size = Some(50 << 20);
/// });
/// assert_eq!(config.get_limits().recipients, 1000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The maximum size of a message in bytes, announced by SIZE and checked while receiving (RFC 1870). `None` means no limit.
    /// Default: 1 MiB.
    pub message_size: Option<u64>,
    /// The maximum size of the header section of a message in bytes, up to and including the empty line that ends it. A message
    /// without an empty line is all header, unless it does not begin with a header field. A message that has more is rejected with
    /// 552 5.3.4: programs that read messages keep their headers in memory, often as one string for each field. Default: 1 MiB,
    /// like Exim's `header_maxsize`.
    pub header_section: u64,
    /// The maximum number of lines in the header section of a message, including lines that continue a field. A message that has
    /// more is rejected with 552 5.3.4: some programs take time that grows with the square of the number of fields. Default:
    /// 10,000, which a field of recipients with 10,000 addresses does not reach if two of them share a line.
    pub header_lines: u32,
    /// The maximum number of recipients of a message. RCPT beyond it is deferred with 452 4.5.3 (RFC 5321 section 4.5.3.1.8
    /// requires at least 100). Default: 100.
    pub recipients: u32,
    /// The maximum number of recipient domains in a session, over all of its messages. A recipient at one more domain is deferred
    /// with 452 4.5.3 (RFC 9422 section 4.3). `None` means no limit. Default: `None`.
    pub recipient_domains: Option<u32>,
    /// The maximum length of a command line in bytes, including its CRLF. RFC 5321 section 4.5.3.1.4 requires 512, and more with
    /// extensions. Extensions that are off by default add what they require. Default: 2,048.
    pub command_line: usize,
    /// The number of client errors that ends the session: the last of them is answered with 421. As many AUTH commands may
    /// be deferred (454), which are counted by themselves. Default: 20.
    pub errors: u32,
    /// The number of client errors, and of rejected recipients since the last accepted message, that are answered at once. Each
    /// further one is held back for one more second, up to three, and nothing is read from the client meanwhile: a client that
    /// guesses addresses or commands waits, and one that makes a few mistakes does not notice. Each of the two is counted by
    /// itself. To answer all of them at once, set it to [`u32::MAX`]. Default: 10.
    pub prompt_refusals: u32,
    /// The number of recipients rejected with 5yz since the last accepted message that ends the session: the last of them is
    /// answered with 421 (RFC 5321 section 7.3: addresses must not be found out by RCPT). Default: 50.
    pub rejected_recipients: u32,
    /// The number of recipients deferred with 4yz since the last accepted message that ends the session: the last of them is
    /// answered with 421. After every 1,000 of them, the client waits for a second. Recipients beyond
    /// [`recipients`](Self::recipients) count too. The default leaves room for a client that has a long list and tries the rest
    /// of it with the next message (RFC 5321 section 4.5.3.1.10). Default: 10,000.
    pub deferred_recipients: u32,
    /// The number of failed authentications that ends the session: the last of them is answered with 421. Default: 5.
    pub auth_failures: u32,
    /// The number of commands without an accepted message that ends the session: the last of them is answered with 421. A command
    /// that ends a transaction begun by MAIL, such as RSET, does not count. Default: 1,000.
    pub idle_commands: u32,
    /// The number of commands that are answered with 503 after a greeting of 5yz, when a client should send QUIT (RFC 5321
    /// section 3.1). One more is answered with 421 and ends the session. Default: 3.
    pub after_refusal: u32,
    /// The maximum number of MAIL commands in a session, whatever their outcome. One more is answered with 421 and ends the
    /// session (RFC 9422 section 4.1). Default: 10,000.
    pub messages: u32,
    /// The maximum number of bytes that a session may receive from its client, without those of TLS. When it has received more,
    /// it ends with 421, also within a message; the command that exceeds it is still answered. Set it to several times
    /// [`message_size`](Self::message_size). `None` means no limit. Default: `None`, because [`messages`](Self::messages) and
    /// `message_size` limit them together.
    pub session_bytes: Option<u64>,
    /// The maximum number of bytes of a refused message that are still read, so that the reply can be sent at its end. If there
    /// are more, the session ends. With 0, every refused message ends it. Default: 64 MiB.
    pub drain: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: Some(1 << 20),
            header_section: 1 << 20,
            header_lines: 10_000,
            recipients: 100,
            recipient_domains: None,
            command_line: 2048,
            errors: 20,
            prompt_refusals: 10,
            rejected_recipients: 50,
            deferred_recipients: 10_000,
            auth_failures: 5,
            idle_commands: 1000,
            after_refusal: 3,
            messages: 10_000,
            session_bytes: None,
            drain: 64 << 20,
        }
    }
}
