//! What the client was refused, and the reply that is held back because that was often.

use crate::{
    limits::Limits,
    reply::Reply,
    time::{Moment, Nanos},
};

/// By how much longer each reply is held back than the one before.
const STEP_MILLIS: u64 = 1000;

/// How long a reply is held back at most. Longer waits would hardly slow a guesser further, because the next session begins without
/// any, and an honest program with a short timeout takes them for a dead server.
const MOST_MILLIS: u64 = 3000;

/// After how many deferred recipients the client has to wait for a moment.
const DEFERRED_AT_ONCE: u32 = 1000;

/// What a session was refused, as far as it is counted here.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Boxed, because most sessions are refused nothing.
    counts: Option<Box<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Recipients that were rejected, in the whole session.
    all_rejected: u32,
    /// Those since the last accepted message.
    rejected: u32,
    /// Recipients that were deferred since the last accepted message.
    deferred: u32,
    /// Authentications that were deferred, in the whole session.
    logins: u32,
    held: Option<Held>,
}

/// A reply that is held back.
#[derive(Debug)]
struct Held {
    reply: Reply,
    delay: Nanos,
    /// When it may be sent, once the session has waited for it.
    until: Option<Moment>,
}

/// When a refusal is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Now,
    After(Nanos),
    /// Never: there were too many, so the session ends.
    Never,
}

impl When {
    /// Decides by the number of client errors so far, or of deferred authentications.
    pub(super) fn of_error(number: u32, limits: &Limits) -> Self {
        Self::decide(number, limits.prompt_refusals, limits.errors)
    }

    /// Decides by the number of refusals so far. After the first `prompt`, each is held back, longer than the one before up to a
    /// maximum.
    fn decide(number: u32, prompt: u32, most: u32) -> Self {
        match number {
            number if number >= most => Self::Never,
            number if number <= prompt => Self::Now,
            number => {
                let delay = STEP_MILLIS * u64::from(number - prompt);
                Self::After(Nanos::from_millis(delay.min(MOST_MILLIS)))
            }
        }
    }
}

impl Tally {
    /// Counts a rejected recipient.
    pub(super) fn rejected_recipient(&mut self, limits: &Limits) -> When {
        let counts = self.counts.get_or_insert_default();
        counts.all_rejected = counts.all_rejected.saturating_add(1);
        counts.rejected = counts.rejected.saturating_add(1);
        let most = limits.rejected_recipients;
        When::decide(counts.rejected, limits.prompt_refusals, most)
    }

    /// Counts a deferred recipient. A mailing list has many more recipients than a message may have, and tries the rest again
    /// after the message (RFC 5321 section 4.5.3.1.10), so they are answered at once, except that the client has to wait for a
    /// moment now and then.
    pub(super) fn deferred_recipient(&mut self, limits: &Limits) -> When {
        let counts = self.counts.get_or_insert_default();
        counts.deferred = counts.deferred.saturating_add(1);
        match counts.deferred {
            number if number >= limits.deferred_recipients => When::Never,
            number if number.is_multiple_of(DEFERRED_AT_ONCE) => {
                When::After(Nanos::from_millis(STEP_MILLIS))
            }
            _ => When::Now,
        }
    }

    /// Counts a deferred authentication. The client has guessed nothing, but without a limit, a session could try forever.
    pub(super) fn deferred_login(&mut self, limits: &Limits) -> When {
        let counts = self.counts.get_or_insert_default();
        counts.logins = counts.logins.saturating_add(1);
        When::of_error(counts.logins, limits)
    }

    /// Notes that a message was accepted.
    pub(super) const fn succeeded(&mut self) {
        if let Some(counts) = &mut self.counts {
            (counts.rejected, counts.deferred) = (0, 0);
        }
    }

    pub(super) const fn rejected_recipients(&self) -> u32 {
        match &self.counts {
            Some(counts) => counts.all_rejected,
            None => 0,
        }
    }

    /// Holds a reply back.
    pub(super) fn hold(&mut self, reply: Reply, delay: Nanos) {
        self.counts.get_or_insert_default().held = Some(Held {
            reply,
            delay,
            until: None,
        });
    }

    pub(super) fn is_holding(&self) -> bool {
        self.counts
            .as_ref()
            .is_some_and(|counts| counts.held.is_some())
    }

    /// Returns until when a reply is held back. The time begins at the first call.
    pub(super) fn held_until(&mut self, now: Moment) -> Option<Moment> {
        let held = self.counts.as_mut()?.held.as_mut()?;
        Some(*held.until.get_or_insert_with(|| now.plus(held.delay)))
    }

    /// Returns the reply that was held back.
    pub(super) fn release(&mut self) -> Option<Reply> {
        let held = self.counts.as_mut()?.held.take();
        held.map(|held| held.reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_refusals_are_prompt_and_the_others_up_to_three_seconds_late() {
        let after = |seconds: u64| When::After(Nanos::from_millis(1000 * seconds));
        let limits = Limits::default();
        let mut tally = Tally::default();
        let all: Vec<_> = (1..=20).map(|n| When::of_error(n, &limits)).collect();
        assert!(all[..10].iter().all(|when| *when == When::Now));
        for (number, when) in (1_u64..).zip(&all[10..19]) {
            assert_eq!(*when, after(number.min(3)));
        }
        assert_eq!(all[19], When::Never);
        let all: Vec<_> = (0..50).map(|_| tally.rejected_recipient(&limits)).collect();
        assert_eq!(
            (all[9], all[10], all[48], all[49]),
            (When::Now, after(1), after(3), When::Never)
        );
    }

    #[test]
    fn a_long_list_of_recipients_is_not_held_back() {
        let limits = Limits::default();
        let mut tally = Tally::default();
        // A thousand at a hundred in each message.
        for message in 1..=9 {
            for _ in 0..1000 - 100 * message {
                assert_eq!(tally.deferred_recipient(&limits), When::Now);
            }
            tally.succeeded();
        }
    }

    #[test]
    fn the_highest_limits_lead_to_no_overflow() {
        let mut limits = Limits::default();
        (limits.errors, limits.prompt_refusals) = (u32::MAX, 1);
        assert_eq!(When::of_error(u32::MAX, &limits), When::Never);
        let late = When::of_error(u32::MAX - 1, &limits);
        assert!(matches!(late, When::After(_)), "{late:?}");
    }
}
