//! The timeouts of a client, and its limits on replies.

use std::time::Duration;

/// How long a client waits in each stage of a session (RFC 5321 section 4.5.3.2). [`Client`](super::Client) enforces all of them:
/// each wait has a deadline, and the session ends when it has passed. [`Duration::MAX`] means no timeout.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_core::client::{ClientConfig, ClientTimeouts};
///
/// let config = ClientConfig::new("relay.example.org".parse()?)
///     .timeouts(|timeouts| timeouts.idle = Duration::from_secs(20));
/// assert_eq!(config.get_timeouts().message, Duration::from_secs(600));
/// assert_eq!(ClientTimeouts::default().idle, Duration::from_secs(60));
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientTimeouts {
    /// The server's time to send its greeting (RFC 5321 section 4.5.3.2.1). Default: 5 minutes.
    pub greeting: Duration,
    /// The server's time to reply to EHLO, STARTTLS, AUTH, RSET and NOOP. Default: 5 minutes.
    pub command: Duration,
    /// The server's time to reply to MAIL (RFC 5321 section 4.5.3.2.2). Default: 5 minutes.
    pub mail: Duration,
    /// The server's time to reply to a RCPT (RFC 5321 section 4.5.3.2.3). Default: 5 minutes.
    pub rcpt: Duration,
    /// The server's time to reply to DATA (RFC 5321 section 4.5.3.2.4). Default: 2 minutes.
    pub data_start: Duration,
    /// The server's time to receive what waits for it (RFC 5321 section 4.5.3.2.5). [`min_rate`](Self::min_rate) extends it with
    /// every byte. Default: 3 minutes.
    pub write: Duration,
    /// The minimum rate at which the server must receive, in bytes per second: it may take `write` + n / `min_rate` to receive n
    /// bytes. Default: 500.
    pub min_rate: u32,
    /// The server's time to reply to a whole message, or to a BDAT chunk (RFC 5321 section 4.5.3.2.6). If it is too short, the
    /// server may have accepted a message that is sent again. Default: 10 minutes.
    pub message: Duration,
    /// The caller's time to supply the next bytes of a message. Default: 5 minutes.
    pub body: Duration,
    /// The time for a TLS handshake. Default: 30 seconds.
    pub handshake: Duration,
    /// The time for which a session waits for the next message. After it, the client sends QUIT. Servers wait for 5 minutes (RFC
    /// 5321 section 4.5.3.2.7). Default: 1 minute.
    pub idle: Duration,
    /// The server's time to reply to QUIT. Default: 10 seconds.
    pub quit: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        const fn minutes(n: u64) -> Duration {
            Duration::from_secs(n * 60)
        }
        Self {
            greeting: minutes(5),
            command: minutes(5),
            mail: minutes(5),
            rcpt: minutes(5),
            data_start: minutes(2),
            write: minutes(3),
            min_rate: 500,
            message: minutes(10),
            body: minutes(5),
            handshake: Duration::from_secs(30),
            idle: minutes(1),
            quit: Duration::from_secs(10),
        }
    }
}

/// How much a server may send in one reply, and how much may be under way. A session of a client keeps at most
/// [`bytes`](Self::bytes) of a reply and [`line`](Self::line) of unread input, plus what its driver reads at a time.
///
/// ```
/// use smtpd_core::client::ClientConfig;
///
/// let config = ClientConfig::new("relay.example.org".parse()?)
///     .limits(|limits| limits.lines = 100);
/// assert_eq!(config.get_limits().lines, 100);
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientLimits {
    /// The maximum length of a line of a reply in bytes, without its CRLF. RFC 5321 section 4.5.3.1.5 allows 512, but challenges
    /// of AUTH may have 12,288 (RFC 4954 section 4). Default: 16 KiB.
    pub line: usize,
    /// The maximum number of lines of a reply. Default: 512.
    pub lines: u32,
    /// The maximum number of bytes of a reply. Default: 64 KiB.
    pub bytes: usize,
    /// The maximum number of commands that are sent before the replies to them are received, if the server offers PIPELINING. A
    /// driver that does not read while it writes depends on the network to buffer the replies (RFC 2920 section 3.1). 0 is taken
    /// as 1. Default: 50.
    pub pipelined: usize,
    /// The size in bytes from which a BDAT chunk is sent. Default: 64 KiB.
    pub chunk: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            line: 16 << 10,
            lines: 512,
            bytes: 64 << 10,
            pipelined: 50,
            chunk: 64 << 10,
        }
    }
}
