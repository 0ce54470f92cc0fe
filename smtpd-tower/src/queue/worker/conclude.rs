//! What the replies of an attempt mean for each recipient.

use std::time::SystemTime;

use smtpd_core::{
    parameter::{By, ByMode},
    reply::{Code, Reply, Status},
};

use super::{super::dsn::Action, Disposition};
use crate::queue::{
    Job, Outcome, RecipientState, Schedule,
    dsn::Notice,
    terms::{Terms, notify_of},
};

/// What an attempt has led to, for one recipient.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Replied(Reply, Disposition),
    /// Its destination was not to be asked. What the destination has replied to others, if it did.
    NotTried(SystemTime, Option<Reply>),
    /// The sender does not want it any more.
    TooLate,
}

/// What is to be recorded, and to be told to the sender.
#[derive(Debug, Default)]
pub(super) struct Conclusion {
    pub(super) outcomes: Vec<(usize, Outcome)>,
    pub(super) notices: Vec<Notice>,
    /// The positions of those that were given up because their time was over.
    pub(super) expired: Vec<usize>,
}

/// Decides about the recipients of a message.
pub(super) struct Judge<'a> {
    job: &'a Job,
    schedule: &'a Schedule,
    now: SystemTime,
    terms: Terms,
}

impl<'a> Judge<'a> {
    pub(super) fn new(job: &'a Job, schedule: &'a Schedule, now: SystemTime) -> Self {
        Self {
            job,
            schedule,
            now,
            terms: Terms::of(job),
        }
    }

    pub(super) fn conclude(&self, verdicts: Vec<(usize, Verdict)>) -> Conclusion {
        let mut conclusion = Conclusion::default();
        for (number, verdict) in verdicts {
            let state = self.job.recipients().nth(number).map(|(_, state)| state);
            if let Some(state) = state {
                self.one(number, state, verdict, &mut conclusion);
            }
        }
        conclusion
    }

    fn one(
        &self,
        number: usize,
        state: &RecipientState,
        verdict: Verdict,
        conclusion: &mut Conclusion,
    ) {
        let outcome = match verdict {
            Verdict::Replied(reply, disposition) if reply.is_positive() => {
                self.tell_success(number, &reply, disposition, conclusion);
                Outcome::Delivered(reply)
            }
            Verdict::Replied(reply, _) if reply.code().is_permanent() => {
                let status = status_of(&reply);
                self.tell_failure(number, &reply, status, conclusion);
                Outcome::Failed(reply)
            }
            Verdict::TooLate => self.expire(number, state, None, conclusion),
            Verdict::Replied(reply, _) if self.is_over() => {
                self.expire(number, state, Some(reply), conclusion)
            }
            Verdict::Replied(reply, _) => {
                let tries = state.tries().saturating_add(1);
                let wait = self.schedule.wait_of(self.job.id(), tries);
                let told = self.tell_delay(number, state, Some(&reply), conclusion);
                let until = self.next(after(self.now, wait), told || state.is_told());
                Outcome::Deferred { reply, until, told }
            }
            Verdict::NotTried(_, reply) if self.is_over() => {
                self.expire(number, state, reply, conclusion)
            }
            Verdict::NotTried(until, reply) => {
                let told = self.tell_delay(number, state, reply.as_ref(), conclusion);
                let until = self.next(until, told || state.is_told());
                Outcome::Postponed { until, told }
            }
        };
        conclusion.outcomes.push((number, outcome));
    }

    /// When the message is given up.
    fn end(&self) -> SystemTime {
        after(self.terms.released, self.schedule.get_lifetime())
    }

    fn is_over(&self) -> bool {
        self.now >= self.end() || self.terms.is_too_late(self.now)
    }

    /// When the sender is to be told that the message is late: RFC 2852 section 4.1.3 requires it at a certain time.
    fn warn_at(&self) -> Option<SystemTime> {
        match self.terms.by {
            Some((by, ByMode::Notify)) => Some(by),
            _ => {
                let warn = self.schedule.get_warn_after();
                warn.map(|warn| after(self.terms.released, warn))
            }
        }
    }

    /// When the next attempt is due, which is not later than anything that has to be done.
    fn next(&self, wanted: SystemTime, told: bool) -> SystemTime {
        let by = self.terms.by.filter(|(by, mode)| match mode {
            ByMode::Return => true,
            ByMode::Notify => !told && *by > self.now,
        });
        let by = by.map(|(by, _)| by);
        by.into_iter()
            .chain([self.end()])
            .fold(wanted, SystemTime::min)
    }

    fn tell_success(
        &self,
        number: usize,
        reply: &Reply,
        disposition: Disposition,
        conclusion: &mut Conclusion,
    ) {
        let notify = self.notify(number);
        let action = match disposition {
            Disposition::Delivered => Action::Delivered,
            Disposition::Expanded => Action::Expanded,
            Disposition::Relayed | Disposition::PassedOn => Action::Relayed,
        };
        // RFC 2852 section 4.1.4: who wants a trace is told of each relay, whatever else is wanted.
        let by = self.job.envelope().parameters().get::<By>();
        let is_traced = action == Action::Relayed
            && by.is_some_and(By::is_traced)
            && notify != smtpd_core::parameter::Notify::NEVER;
        let is_wanted = notify.has_success() && disposition != Disposition::PassedOn;
        if is_wanted || is_traced {
            let status = status_of(reply);
            let notice = Notice::new(number, action, status, Some(reply.clone()));
            conclusion.notices.push(notice);
        }
    }

    fn tell_failure(
        &self,
        number: usize,
        reply: &Reply,
        status: String,
        conclusion: &mut Conclusion,
    ) {
        if self.notify(number).has_failure() {
            let notice = Notice::new(number, Action::Failed, status, Some(reply.clone()));
            conclusion.notices.push(notice);
        }
    }

    fn tell_delay(
        &self,
        number: usize,
        state: &RecipientState,
        reply: Option<&Reply>,
        conclusion: &mut Conclusion,
    ) -> bool {
        let is_late = self.warn_at().is_some_and(|warn| self.now >= warn);
        if state.is_told() || !is_late || !self.notify(number).has_delay() {
            return false;
        }
        let reply = reply.or_else(|| state.last_reply());
        let status = match (self.terms.by, reply) {
            (None, Some(reply)) => status_of(reply),
            _ => "4.4.7".to_owned(),
        };
        let notice = Notice::new(number, Action::Delayed, status, reply.cloned());
        conclusion.notices.push(notice.retried_until(self.end()));
        true
    }

    /// Gives up a recipient.
    fn expire(
        &self,
        number: usize,
        state: &RecipientState,
        reply: Option<Reply>,
        conclusion: &mut Conclusion,
    ) -> Outcome {
        conclusion.expired.push(number);
        let last = reply.or_else(|| state.last_reply().cloned());
        let reply = last.unwrap_or_else(|| {
            let status = Status::new(4, 7).unwrap_or_default();
            Reply::new(Code::TRANSACTION_FAILED, status, "Delivery time expired")
        });
        // RFC 2852 section 4.1.3 demands 5.4.7; that the time in the queue is over is a persistent transient failure (RFC 3463
        // section 2).
        let status = match self.terms.is_too_late(self.now) {
            true => "5.4.7",
            false => "4.4.7",
        };
        self.tell_failure(number, &reply, status.to_owned(), conclusion);
        Outcome::Failed(reply)
    }

    fn notify(&self, number: usize) -> smtpd_core::parameter::Notify {
        let recipients = self.job.envelope().recipients();
        let recipient = recipients.get(number);
        recipient.map_or(smtpd_core::parameter::Notify::NEVER, |one| {
            notify_of(one.parameters())
        })
    }
}

fn status_of(reply: &Reply) -> String {
    format!("{}.{}", reply.code().as_u16() / 100, reply.status())
}

/// A time that the system does not know is never reached.
pub(super) fn after(time: SystemTime, wait: std::time::Duration) -> SystemTime {
    const YEAR: std::time::Duration = std::time::Duration::from_secs(365 * 86_400);
    let later = time.checked_add(wait);
    later.or_else(|| time.checked_add(YEAR)).unwrap_or(time)
}
