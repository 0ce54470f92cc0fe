use std::time::{Duration, Instant};

use super::{Asked, CloseReason, Connection, Mode, Overdue, event::Event, step::Found};
use crate::{Code, Reply, Status};

/// Time limits for each stage of a session. [`Connection`] enforces all of them; a limit of [`Duration::MAX`] is none.
///
/// A client that is too slow receives 421 4.4.2, and the session ends with [`CloseReason::Timeout`]. Nothing can be sent to one
/// that does not take its replies, nor within a TLS handshake, which ends with [`CloseReason::TlsFailed`]. A service that is too
/// slow costs the command 451 ([`Overdue`]), and the session goes on.
///
/// The limits on a service (`ready`, `call`, `data_start`, `delivery`) hold for questions that are
/// [deferred](crate::Ask::defer): while a driver answers in place, the session cannot interrupt it.
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
    /// The data service asks for the message, so that 354 is sent (RFC 5321 section 4.5.3.2.4: clients wait 2 minutes).
    /// Default: 100 seconds.
    pub data_start: Duration,
    /// The data service takes more of the message, or answers it once it has ended (RFC 5321 section 4.5.3.2.6: clients wait
    /// 10 minutes). If it is exceeded after the end of a message, the client sends the message again, so let the work end before
    /// the limit or be able to undo it. Default: 9 minutes.
    pub delivery: Duration,
    /// The last replies are written after [`Connection::shut_down`]. The driver may take as long again to read off what the
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
            data_start: Duration::from_secs(100),
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

impl Connection {
    /// The client is awaited. `None` where it has been too long.
    pub(super) fn starved(&mut self, now: Instant, input: usize) -> Option<Found> {
        if !self.output.as_slice().is_empty() {
            // Not before it has the replies.
            self.pause(now);
            return self.await_write(now);
        }
        if self.eof {
            self.close(CloseReason::Lost);
            return None;
        }
        if self.clock.wait(now, input) {
            self.late = false;
        }
        let until = self.read_deadline(now);
        if until > now {
            return Some(Found::Read(until));
        }
        match lateness(&mut self.late, until, now) {
            Some(late) => self.clock.postpone(late),
            None => self.time_out(),
        }
        None
    }

    fn read_deadline(&self, now: Instant) -> Instant {
        let limits = &self.config.timeouts;
        let waited = |message: &super::Message| message.waited();
        let for_message = self.message.as_deref().map_or(Duration::MAX, |message| {
            self.transfer_limit().saturating_sub(waited(message))
        });
        let since = self.clock.waiting_since(now);
        if self.reading == Mode::Message {
            return later(since, limits.data.min(for_message));
        }
        let mut left = limits.command.min(for_message);
        if self.line.is_within() {
            left = left.min(self.clock.left_of_line(limits.line));
        }
        let idle = self.clock.idle();
        if limits.without_message.saturating_sub(idle) < left {
            left = left.min(self.extended(limits.without_message).saturating_sub(idle));
        }
        if self.must_authenticate() {
            left = left.min(limits.without_login.saturating_sub(idle));
        }
        let until = later(since, left);
        match self.clock.end() {
            Some(end) if end <= until => until.min(self.session_end(end)),
            _ => until,
        }
    }

    /// Whether the session has lasted too long, whatever the client still sends.
    pub(super) fn is_over_time(&self, now: Instant) -> bool {
        let is_command = matches!(self.reading, Mode::Commands | Mode::SaslResponse);
        let end = self.clock.end().filter(|end| *end <= now && is_command);
        end.is_some_and(|end| self.session_end(end) <= now)
    }

    /// When the session has to end, which is later than `end` within a transaction.
    fn session_end(&self, end: Instant) -> Instant {
        later(end, self.extended(Duration::ZERO))
    }

    /// A limit on what leads to no message. Within a transaction it is longer by what a message may take: without any,
    /// commands that lead nowhere would keep it open without end.
    fn extended(&self, limit: Duration) -> Duration {
        if self.is_between_messages() {
            limit
        } else {
            limit.saturating_add(self.transfer_limit())
        }
    }

    fn transfer_limit(&self) -> Duration {
        let limits = &self.config.timeouts;
        let received = self
            .message
            .as_ref()
            .map_or(0, |message| message.received());
        limits
            .transfer
            .saturating_add(earned(received, limits.min_rate))
    }

    pub(super) fn time_out(&mut self) {
        let text = format!(
            "{} {} timed out, closing the connection",
            self.config.hostname, self.config.app_name
        );
        self.close_with(
            Reply::new(Code::SERVICE_UNAVAILABLE, Status::BAD_CONNECTION, text),
            CloseReason::Timeout,
        );
    }

    /// The client has to take replies. `None` where it has taken too long over them.
    pub(super) fn await_write(&mut self, now: Instant) -> Option<Found> {
        let limits = &self.config.timeouts;
        let limit = if self.cut {
            limits.linger
        } else {
            limits.write
        };
        let (since, is_new) = self.output.waiting_since(now);
        if is_new {
            self.late_to_write = false;
        }
        let until = later(since, limit);
        if until > now {
            return Some(Found::Write(until));
        }
        match lateness(&mut self.late_to_write, until, now) {
            Some(late) => self.output.postpone(late),
            None => self.lose(CloseReason::Timeout),
        }
        None
    }

    /// What is left to be written is awaited, then nothing.
    pub(super) fn await_end(&mut self, now: Instant) -> Option<Found> {
        if self.output.as_slice().is_empty() {
            return self.closed.map(Found::Closed);
        }
        self.await_write(now)
    }

    pub(super) fn await_handshake(&mut self, now: Instant) -> Option<Found> {
        if self.draining {
            self.close(CloseReason::Shutdown);
            return None;
        }
        if !self.output.as_slice().is_empty() {
            return self.await_write(now);
        }
        if self.eof {
            self.close(CloseReason::Lost);
            return None;
        }
        match self.due_in(self.config.timeouts.handshake, now) {
            Some(until) => Some(Found::Handshake(until)),
            None => {
                self.close(CloseReason::TlsFailed);
                None
            }
        }
    }

    /// The answer to a question is awaited. `None` where it did not come in time.
    pub(super) fn await_answer(&mut self, now: Instant) -> Option<Found> {
        let Some(due) = self.due_in(self.answer_limit(), now) else {
            self.overdue();
            return None;
        };
        if self.output.as_slice().is_empty() {
            return Some(Found::Answer(due));
        }
        match self.await_write(now)? {
            Found::Write(until) => Some(Found::Write(until.min(due))),
            other => Some(other),
        }
    }

    /// When a handshake or an answer is due. `None` if that has passed.
    fn due_in(&mut self, limit: Duration, now: Instant) -> Option<Instant> {
        let Some(due) = self.due else {
            self.late = false;
            self.due = Some(later(now, limit));
            return self.due.filter(|due| *due > now);
        };
        if due <= now {
            let late = lateness(&mut self.late, due, now)?;
            self.due = Some(due + late);
        }
        self.due
    }

    fn answer_limit(&self) -> Duration {
        let limits = &self.config.timeouts;
        match self.asked {
            _ if self.queued => limits.ready,
            Some(Asked::Data) => limits.data_start,
            Some(Asked::Room | Asked::Chunk | Asked::Message) => limits.delivery,
            _ => limits.call,
        }
    }

    fn overdue(&mut self) {
        let (overdue, reply) = if self.queued {
            (Overdue::NotReady, Reply::busy())
        } else {
            (Overdue::Unanswered, Reply::timed_out())
        };
        self.give_up_question(reply);
        self.tell(Event::Overdue(overdue));
    }
}

/// How late a driver may look at a deadline that has passed, and be on time.
const PUNCTUAL: Duration = Duration::from_millis(10);

/// By how much a deadline that has passed is postponed, once. A driver that is late was too busy to look at its socket, where
/// what it waits for may have arrived in time. It is given a moment to find it.
fn lateness(was_late: &mut bool, until: Instant, now: Instant) -> Option<Duration> {
    let late = now.saturating_duration_since(until);
    (late > PUNCTUAL && !std::mem::replace(was_late, true)).then(|| late + PUNCTUAL)
}

/// That time after `start`, or long after it, so that no deadline is beyond what an `Instant` can be.
fn later(start: Instant, limit: Duration) -> Instant {
    const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    start + limit.min(FOREVER)
}

/// The time that so many bytes may take.
pub(super) fn earned(bytes: u64, least_rate: u32) -> Duration {
    if bytes == 0 {
        return Duration::ZERO;
    }
    let rate = u64::from(least_rate.max(1));
    let whole = Duration::from_secs(bytes / rate);
    whole.saturating_add(Duration::from_nanos(bytes % rate * 1_000_000_000 / rate))
}

/// Counts the time that was spent in waiting for the client. What a service takes is not held against it.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// When the session has lasted for its time, which begins at its first poll.
    end: Option<Instant>,
    /// Since when nothing has come; `None` while the client is not waited for.
    waiting: Option<Instant>,
    /// What earlier waits for the same line came to, in nanoseconds. A `Duration` would take twice the room in each session.
    waited: u64,
    /// What all waits for commands have come to since a message was accepted, in nanoseconds.
    idle: u64,
    /// How much input lay there when the wait began.
    seen: usize,
}

impl Clock {
    /// Notes that input may have come. Returns what was waited for it.
    pub(super) fn arrived(&mut self, now: Instant, input: usize) -> Duration {
        if input == self.seen {
            return Duration::ZERO;
        }
        let Some(since) = self.waiting.take() else {
            return Duration::ZERO;
        };
        now.saturating_duration_since(since)
    }

    /// Counts a wait for a command.
    pub(super) fn count(&mut self, waited: Duration) {
        let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.waited = self.waited.saturating_add(waited);
        self.idle = self.idle.saturating_add(waited);
    }

    /// Notes that the client has to go on. Returns whether it has not had to before.
    pub(super) fn wait(&mut self, now: Instant, input: usize) -> bool {
        self.seen = input;
        let is_new = self.waiting.is_none();
        self.waiting.get_or_insert(now);
        is_new
    }

    /// Lets a wait have begun later by this.
    fn postpone(&mut self, late: Duration) {
        self.waiting = self.waiting.map(|since| since + late);
    }

    /// Notes that the client is not waited for. Returns what was waited for it until now.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        self.seen = 0;
        let since = self.waiting.take();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// A new line begins.
    pub(super) fn begin_line(&mut self) {
        self.waited = 0;
    }

    /// A message was accepted.
    pub(super) fn accepted(&mut self) {
        self.idle = 0;
    }

    /// The session begins, and may last so long.
    pub(super) fn begin(&mut self, now: Instant, limit: Duration) {
        if self.end.is_none() {
            self.end = Some(later(now, limit));
        }
    }

    const fn end(&self) -> Option<Instant> {
        self.end
    }

    fn waiting_since(&self, now: Instant) -> Instant {
        self.waiting.unwrap_or(now)
    }

    fn left_of_line(&self, limit: Duration) -> Duration {
        limit.saturating_sub(Duration::from_nanos(self.waited))
    }

    const fn idle(&self) -> Duration {
        Duration::from_nanos(self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_for_the_same_line_add_up() {
        let start = Instant::now();
        let mut clock = Clock::default();
        for n in 1..4 {
            clock.wait(start + SECOND * n, n as usize);
            let waited = clock.arrived(start + SECOND * 2 * n, n as usize + 1);
            assert_eq!(waited, SECOND * n);
            clock.count(waited);
        }
        assert_eq!(clock.left_of_line(SECOND * 8), SECOND * 2);
        assert_eq!(clock.idle(), SECOND * 6);
        clock.begin_line();
        assert_eq!(clock.left_of_line(SECOND * 8), SECOND * 8);
        assert_eq!(clock.idle(), SECOND * 6);
        clock.accepted();
        assert_eq!(clock.idle(), Duration::ZERO);
    }

    #[test]
    fn a_poll_without_input_ends_no_wait() {
        let start = Instant::now();
        let mut clock = Clock::default();
        clock.wait(start, 3);
        assert_eq!(clock.arrived(start + SECOND, 3), Duration::ZERO);
        clock.wait(start + SECOND, 3);
        assert_eq!(clock.waiting_since(start + SECOND), start);
    }

    #[test]
    fn bytes_earn_time() {
        assert_eq!(earned(1250, 500), Duration::from_millis(2500));
        assert_eq!(earned(u64::MAX, 0), Duration::from_secs(u64::MAX));
        let now = Instant::now();
        assert!(later(now, Duration::MAX) > now);
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
