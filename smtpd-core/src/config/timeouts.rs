//! The time limits of a session.

use std::time::Duration;

use crate::time::Nanos;

/// Time limits for each stage of a session. [`Connection`](crate::connection::Connection) enforces all of them; a limit of [`Duration::MAX`] is none.
///
/// A client that is too slow receives 421 4.4.2, and the session ends with [`CloseReason::Timeout`](crate::connection::CloseReason::Timeout). Nothing can be sent to one
/// that does not take its replies, nor within a TLS handshake, which ends with [`CloseReason::TlsFailed`](crate::connection::CloseReason::TlsFailed). A service that is too
/// slow costs the command 451, or AUTH 454 ([`Overdue`](crate::connection::Overdue)), and the session goes on.
///
/// The limits on a service (`ready`, `call`, `data_start`, `delivery`) hold for questions that are
/// [deferred](crate::connection::Ask::defer): while a driver answers in place, the session cannot interrupt it.
///
/// The defaults follow RFC 5321 section 4.5.3.2, which says how long a client waits: a service must take less than that.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_core::{Config, Timeouts};
///
/// let mut timeouts = Timeouts::default().inactivity(Duration::from_secs(60));
/// timeouts.call = Duration::from_secs(20);
/// let config = Config::new("mx.example.org").timeouts(timeouts);
/// assert_eq!(config.timeouts_ref().command, Duration::from_secs(60));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Silence while a command is awaited (RFC 5321 section 4.5.3.2.7: at least 5 minutes). Default: 5 minutes.
    pub command: Duration,
    /// From the first byte of a command line or SASL response to its CRLF. Default: 1 minute.
    pub line: Duration,
    /// Silence within a message (RFC 5321 section 4.5.3.2.5: clients send a block in 3 minutes at most). Default: 5 minutes.
    pub data: Duration,
    /// The client's time for a whole message, including what passes between its BDAT chunks. [`min_rate`](Self::min_rate)
    /// adds to it as bytes come. Default: 15 minutes.
    pub transfer: Duration,
    /// Bytes per second: a message of n bytes may take `transfer` + n / `min_rate`, and the time for replies grows
    /// likewise as the client takes them. 0 acts as 1. Default: 500.
    pub min_rate: u32,
    /// A TLS handshake. Default: 30 seconds.
    pub handshake: Duration,
    /// The client's time to take the replies that wait for it, to which [`min_rate`](Self::min_rate) adds as it takes them.
    /// Default: 5 minutes.
    pub write: Duration,
    /// The session as a whole. When it has passed, the session ends at the next pause between two messages; a transaction that
    /// is open may go on for as long as a message may take. Default: 1 hour.
    pub session: Duration,
    /// The time that the session waits for commands without a message being accepted, counted anew after each that is. A
    /// transaction that is open may go on for as long as a message may take. Default: 10 minutes.
    pub without_message: Duration,
    /// The time that the session waits for commands before the client has authenticated, where it
    /// [has to](crate::Config::require_auth). Default: 5 minutes.
    pub without_login: Duration,
    /// A service becomes ready. Default: 30 seconds.
    pub ready: Duration,
    /// A service answers connect, HELO, AUTH, MAIL, RCPT or another command (RFC 5321 sections 4.5.3.2.1 to 4.5.3.2.3: clients
    /// wait 5 minutes). Default: 4 minutes.
    pub call: Duration,
    /// The data service asks for the message, so that 354 is sent (RFC 5321 section 4.5.3.2.4: clients wait 2 minutes, and
    /// `ready` comes before). Default: 85 seconds.
    pub data_start: Duration,
    /// The data service takes more of the message, or answers it once it has ended (RFC 5321 section 4.5.3.2.6: clients wait
    /// 10 minutes). If it is exceeded after the end of a message, the client sends the message again, so let the work end before
    /// the limit or be able to undo it. Default: 9 minutes.
    pub delivery: Duration,
    /// The last replies are written after [`Connection::shut_down`](crate::connection::Connection::shut_down). The driver may take as long again to read off what the
    /// client still sends, before it closes the connection. Default: 1 second.
    pub linger: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        const fn minutes(n: u64) -> Duration {
            Duration::from_secs(n * 60)
        }
        Self {
            command: minutes(5),
            line: minutes(1),
            data: minutes(5),
            transfer: minutes(15),
            min_rate: 500,
            handshake: Duration::from_secs(30),
            write: minutes(5),
            session: minutes(60),
            without_message: minutes(10),
            without_login: minutes(5),
            ready: Duration::from_secs(30),
            call: minutes(4),
            data_start: Duration::from_secs(85),
            delivery: minutes(9),
            linger: Duration::from_secs(1),
        }
    }
}

impl Timeouts {
    /// Sets `command`, `data` and `write` to the limit, `line` and `handshake` to twice and `transfer` to three times as long,
    /// the last three at most to their defaults. The other limits stay.
    #[must_use]
    pub fn inactivity(self, limit: Duration) -> Self {
        let default = Self::default();
        Self {
            command: limit,
            data: limit,
            write: limit,
            line: default.line.min(limit.saturating_mul(2)),
            handshake: default.handshake.min(limit.saturating_mul(2)),
            transfer: default.transfer.min(limit.saturating_mul(3)),
            ..self
        }
    }
}

macro_rules! times {
    ($($limit:ident)*) => {
        /// [`Timeouts`] as a session counts time. They are looked at several times in every poll.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Times {
            $(pub(crate) $limit: Nanos,)*
            /// Bytes per second.
            pub(crate) min_rate: u32,
        }

        impl From<&Timeouts> for Times {
            fn from(timeouts: &Timeouts) -> Self {
                Self {
                    $($limit: Nanos::of(timeouts.$limit),)*
                    min_rate: timeouts.min_rate,
                }
            }
        }
    };
}

times! {
    command line data transfer handshake write session without_message without_login
    ready call data_start delivery linger
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_limit_of_silence_shrinks_all_limits_on_the_client() {
        let short = Timeouts::default().inactivity(SECOND * 5);
        assert_eq!(
            (short.line, short.handshake, short.transfer),
            (SECOND * 10, SECOND * 10, SECOND * 15)
        );
        assert_eq!(
            Timeouts::default().inactivity(SECOND * 300),
            Timeouts::default()
        );
    }
}
