//! The timeouts of a session.

use std::time::Duration;

use crate::time::Nanos;

/// Timeouts for each stage of a session. [`Connection`](crate::connection::Connection) enforces all of them. [`Duration::MAX`]
/// means no timeout; 0 is allowed only for [`linger`](Self::linger), for the others [`Config::check`](crate::Config::check)
/// returns an error.
///
/// A client that is too slow receives 421 4.4.2, and the session ends with
/// [`CloseReason::Timeout`](crate::connection::CloseReason::Timeout). Nothing is sent to a client that does not read its replies,
/// nor during a TLS handshake, after which the session ends with
/// [`CloseReason::TlsFailed`](crate::connection::CloseReason::TlsFailed). If a service is too slow, the command is answered with
/// 451, or AUTH with 454 ([`Overdue`](crate::connection::Overdue)), and the session continues.
///
/// The timeouts of services (`ready`, `call`, `data_start`, `delivery`) apply to questions that are
/// [deferred](crate::connection::Ask::defer): the session cannot interrupt a driver that answers in place.
///
/// The defaults follow RFC 5321 section 4.5.3.2, which says how long a client waits: a service must take less time than that.
///
/// The guide of smtpd-tower has [a table of them](https://docs.rs/smtpd-tower/latest/smtpd_tower/guide/limits/), with what they
/// add up to.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_core::{Config, Timeouts};
///
/// let config = Config::new("mx.example.org").timeouts(|timeouts| {
///     *timeouts = Timeouts::default().inactivity(Duration::from_secs(60));
///     timeouts.call = Duration::from_secs(20);
/// });
/// assert_eq!(config.get_timeouts().command, Duration::from_secs(60));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// The client's time to send a command (RFC 5321 section 4.5.3.2.7: at least 5 minutes). Default: 5 minutes.
    pub command: Duration,
    /// The client's time from the first byte of a command line or SASL response to its CRLF. Default: 1 minute.
    pub line: Duration,
    /// The client's time to send the next bytes of a message (RFC 5321 section 4.5.3.2.5: clients send a block within 3 minutes).
    /// Default: 5 minutes.
    pub data: Duration,
    /// The client's time to send a whole message, including the time between its BDAT chunks. [`min_rate`](Self::min_rate)
    /// extends it with every byte. Default: 15 minutes.
    pub transfer: Duration,
    /// The minimum rate of a transfer in bytes per second: a client may take `transfer` + n / `min_rate` to send n bytes of a
    /// message, and `write` + n / `min_rate` to receive n bytes of replies. Default: 500.
    pub min_rate: u32,
    /// The time for a TLS handshake. Default: 30 seconds.
    pub handshake: Duration,
    /// The client's time to receive the replies that wait for it. [`min_rate`](Self::min_rate) extends it with every byte.
    /// Default: 5 minutes.
    pub write: Duration,
    /// The time of the whole session. After it, the session ends between two messages; an open transaction may continue for as
    /// long as a message may take. Default: 1 hour.
    pub session: Duration,
    /// The total time of waiting for commands since the last accepted message. An open transaction may continue for as long as a
    /// message may take. Default: 10 minutes.
    pub without_message: Duration,
    /// The total time of waiting for commands before the client has authenticated, if it
    /// [must](crate::Config::require_auth). Default: 5 minutes.
    pub without_login: Duration,
    /// The client's time to send QUIT after a greeting of 5yz (RFC 5321 section 3.1), whatever else it sends, and including the
    /// time to receive its replies. Default: 10 seconds.
    pub after_refusal: Duration,
    /// The time for a service to become ready. Default: 30 seconds.
    pub ready: Duration,
    /// The time for a service to answer connect, HELO, AUTH, MAIL, RCPT or another command (RFC 5321 sections 4.5.3.2.1 to
    /// 4.5.3.2.3: clients wait 5 minutes). Default: 4 minutes.
    pub call: Duration,
    /// The time for the data service to start reading the message, so that 354 is sent (RFC 5321 section 4.5.3.2.4: clients wait
    /// 2 minutes, which include `ready`). Default: 85 seconds.
    pub data_start: Duration,
    /// The time for the data service to read more of the message, or to reply after its end (RFC 5321 section 4.5.3.2.6: clients
    /// wait 10 minutes). If the reply to a whole message is late, the client sends the message again: finish the work before this
    /// timeout, or be able to undo it. Default: 9 minutes.
    pub delivery: Duration,
    /// The time for writing the last replies after [`Connection::shut_down`](crate::connection::Connection::shut_down), and after
    /// [`after_refusal`](Self::after_refusal). The driver may then take the same time again to discard what the client still
    /// sends, before it closes the connection. Default: 1 second.
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
            after_refusal: Duration::from_secs(10),
            ready: Duration::from_secs(30),
            call: minutes(4),
            data_start: Duration::from_secs(85),
            delivery: minutes(9),
            linger: Duration::from_secs(1),
        }
    }
}

impl Timeouts {
    /// Sets the timeouts for an inactive client: `command`, `data` and `write` to `timeout`, `line` and `handshake` to twice and
    /// `transfer` to three times as long, but these three at most to their defaults. All others stay as they are.
    #[must_use]
    pub fn inactivity(self, timeout: Duration) -> Self {
        let default = Self::default();
        Self {
            command: timeout,
            data: timeout,
            write: timeout,
            line: default.line.min(timeout.saturating_mul(2)),
            handshake: default.handshake.min(timeout.saturating_mul(2)),
            transfer: default.transfer.min(timeout.saturating_mul(3)),
            ..self
        }
    }
}

macro_rules! times {
    ($($limit:ident)*) => {
        /// [`Timeouts`] in the unit in which a session counts time, because it reads them several times in every poll.
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
    after_refusal ready call data_start delivery linger
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_timeout_of_inactivity_sets_all_timeouts_of_the_client() {
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
