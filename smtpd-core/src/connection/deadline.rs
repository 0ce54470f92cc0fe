use std::time::{Duration, Instant};

use super::{CloseReason, Connection, Reading, State};
use crate::{Code, Reply, Status};

/// How long a session may take over what. The defaults are those of RFC 5321 section 4.5.3.2, which tells how long a
/// client waits: what a service takes must be less than that.
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
    /// Silence while a command is awaited (RFC 5321 section 4.5.3.2.7: 5 minutes at least). 5 minutes.
    pub command: Duration,
    /// From the first octet of a command line or SASL response to its CRLF. 1 minute.
    pub line: Duration,
    /// Silence within a message (section 4.5.3.2.5: clients send a block in 3 minutes at most). 5 minutes.
    pub data: Duration,
    /// The client's time for a whole message, to which [`min_rate`](Self::min_rate) adds as octets come. 15 minutes.
    pub transfer: Duration,
    /// Octets in a second that a message has to keep up once `transfer` is used up. 500.
    pub min_rate: u32,
    /// A TLS handshake. 30 seconds.
    pub handshake: Duration,
    /// The client takes no octet of the replies. 5 minutes.
    pub write: Duration,
    /// The session as a whole; when it has passed, the next pause between two messages ends it. A transaction that is
    /// open then may go on for as long as a message may take. 1 hour.
    pub session: Duration,
    /// A service becomes ready. 30 seconds.
    pub ready: Duration,
    /// A service answers connect, HELO, AUTH, MAIL or RCPT (sections 4.5.3.2.1 to 3: clients wait 5 minutes). 4 minutes.
    pub call: Duration,
    /// The data service asks for the message, so that 354 is sent (section 4.5.3.2.4: clients wait 2 minutes). 100 seconds.
    pub data_start: Duration,
    /// The data service answers once the message has ended (section 4.5.3.2.6: clients wait 10 minutes). 9 minutes.
    pub delivery: Duration,
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
            ready: Duration::from_secs(30),
            call: minutes(4),
            data_start: Duration::from_secs(100),
            delivery: minutes(9),
        }
    }
}

impl Timeouts {
    /// The limits on the client, all derived from one limit of silence: what has to end as a whole gets two or three
    /// times as long, but never more than by default.
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

impl Connection {
    /// When [`handle_timeout`](Self::handle_timeout) is due, if nothing comes from the client until then. `None` while
    /// the client is not waited for.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let limits = &self.config.timeouts;
        match self.reading {
            Reading::Commands | Reading::SaslResponse => {
                let whole = self.line.is_within().then_some(limits.line);
                let deadline = self.clock.deadline(limits.command, whole)?;
                let session = match self.state {
                    State::Start | State::Ready | State::Refused => limits.session,
                    // Else commands that lead nowhere, or chunks of an octet, would keep it open without end.
                    _ => limits.session.saturating_add(self.transfer_limit()),
                };
                Some(deadline.min(self.clock.session_end(session)))
            }
            Reading::Message => self
                .clock
                .deadline(limits.data, Some(self.transfer_limit())),
            Reading::Handshake | Reading::Closed => None,
        }
    }

    /// Ends the session with 421 4.4.2 if its deadline has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            let text = format!(
                "{} {} timed out, closing the connection",
                self.config.hostname, self.config.app_name
            );
            self.close_with(
                Reply::new(Code::SERVICE_UNAVAILABLE, Status::BAD_CONNECTION, text),
                CloseReason::Timeout,
            );
        }
    }

    fn transfer_limit(&self) -> Duration {
        let limits = &self.config.timeouts;
        let octets = self.message.as_ref().map_or(0, |message| message.octets());
        let earned = Duration::from_secs(octets / u64::from(limits.min_rate.max(1)));
        limits.transfer.saturating_add(earned)
    }
}

/// Counts the time that was spent in waiting for the client. What a service takes is not held against it.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    /// Since when nothing has come; `None` while the client is not waited for.
    waiting: Option<Instant>,
    /// What earlier waits for the same line or message came to.
    waited: Duration,
    /// How much input lay there when the wait began.
    seen: usize,
}

impl Clock {
    /// What stands for any longer time, so that no deadline is beyond what an `Instant` can be.
    const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            waiting: None,
            waited: Duration::ZERO,
            seen: 0,
        }
    }

    /// Notes that input has come.
    pub(super) fn arrived(&mut self, now: Instant, input: usize) {
        if input != self.seen
            && let Some(since) = self.waiting.take()
        {
            self.waited += now.saturating_duration_since(since);
        }
    }

    /// Notes that the client has to go on.
    pub(super) fn wait(&mut self, now: Instant, input: usize) {
        self.seen = input;
        self.waiting.get_or_insert(now);
    }

    /// Notes that the client is not waited for.
    pub(super) fn pause(&mut self) {
        self.waiting = None;
        self.seen = 0;
    }

    /// A new line or message begins.
    pub(super) fn restart(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// When the wait is over that may take `silence`, and with those before it `whole`.
    pub(super) fn deadline(&self, silence: Duration, whole: Option<Duration>) -> Option<Instant> {
        let since = self.waiting?;
        let left = whole.map_or(silence, |whole| {
            silence.min(whole.saturating_sub(self.waited))
        });
        Some(since + left.min(Self::FOREVER))
    }

    /// When the session has lasted for `limit`.
    pub(super) fn session_end(&self, limit: Duration) -> Instant {
        self.started + limit.min(Self::FOREVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn every_octet_renews_the_silence_but_not_the_whole() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        for n in 0..4 {
            let now = start + SECOND * 2 * n;
            clock.arrived(now, n as usize);
            clock.wait(now, n as usize);
            assert_eq!(clock.deadline(SECOND * 3, None), Some(now + SECOND * 3));
        }
        let now = start + SECOND * 6;
        assert_eq!(
            clock.deadline(SECOND * 3, Some(SECOND * 8)),
            Some(now + SECOND * 2)
        );
        clock.restart();
        assert_eq!(
            clock.deadline(SECOND * 3, Some(SECOND * 8)),
            Some(now + SECOND * 3)
        );
    }

    #[test]
    fn what_a_service_takes_is_not_held_against_the_client() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        clock.wait(start, 0);
        clock.arrived(start + SECOND, 5);
        clock.pause();
        assert_eq!(clock.deadline(SECOND, None), None);
        clock.wait(start + SECOND * 100, 0);
        assert_eq!(
            clock.deadline(SECOND * 9, Some(SECOND * 5)),
            Some(start + SECOND * 104)
        );
    }

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
