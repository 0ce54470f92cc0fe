use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smtpd_core::parameter::{
    By, ByMode, DateTime, HoldFor, HoldUntil, Notify, Parameters, Priority,
};

use super::Job;

/// What the sender demands of the delivery of a message, by the parameters of MAIL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// When the first attempt may begin (RFC 4865).
    pub(super) released: SystemTime,
    /// When the message has to be delivered, and what to do if it is not (RFC 2852).
    pub(super) by: Option<(SystemTime, ByMode)>,
    pub(super) priority: i8,
}

impl Terms {
    pub(super) fn of(job: &Job) -> Self {
        let (created, parameters) = (job.created(), job.envelope().parameters());
        let hold_until = parameters.get().map(HoldUntil::time).map(system_time);
        let hold_for = parameters.get().map(HoldFor::seconds);
        let hold_for = hold_for.map(|seconds| after(created, i64::from(seconds)));
        let released = hold_for.or(hold_until).unwrap_or(created).max(created);
        let by = parameters.get::<By>();
        Self {
            released,
            by: by.map(|by| (after(created, i64::from(by.seconds())), by.mode())),
            priority: parameters.get::<Priority>().map_or(0, Priority::value),
        }
    }

    /// Returns whether the message must not be delivered any more (RFC 2852 section 4.1.3).
    pub(super) fn is_too_late(&self, now: SystemTime) -> bool {
        matches!(self.by, Some((by, ByMode::Return)) if now >= by)
    }
}

/// Returns the events of which the sender wants to be told. Without the parameter, those are failures and delays (RFC 3461 section
/// 4.1).
pub(super) fn notify_of(parameters: &Parameters) -> Notify {
    let default = Notify::NEVER.with_failure().with_delay();
    parameters.get().unwrap_or(default)
}

/// Returns the parameters of MAIL for a delivery that begins now: the time that is left (RFC 2852 section 4.1.4), and nothing of
/// how long the message was to be held.
pub(super) fn parameters_at(job: &Job, now: SystemTime) -> Parameters {
    let parameters = job.envelope().parameters();
    let is_changed = ["BY", "HOLDFOR", "HOLDUNTIL"]
        .iter()
        .any(|keyword| parameters.contains(keyword));
    if !is_changed {
        return parameters.clone();
    }
    let words = parameters.iter().filter_map(|(keyword, value)| {
        match keyword.to_ascii_uppercase().as_str() {
            "HOLDFOR" | "HOLDUNTIL" => None,
            "BY" => {
                let by = parameters.get::<By>()?;
                let mode = value?.split_once(';')?.1;
                let gone = now.duration_since(job.created()).unwrap_or_default();
                let gone = i64::try_from(gone.as_secs()).unwrap_or(i64::MAX);
                let most = i64::from(By::MAX_SECONDS);
                let left = i64::from(by.seconds()).saturating_sub(gone);
                Some(format!("{keyword}={};{mode}", left.clamp(-most, most)))
            }
            _ => Some(match value {
                Some(value) => format!("{keyword}={value}"),
                None => keyword.to_owned(),
            }),
        }
    });
    let words: Vec<_> = words.collect();
    // They were parameters before, so they are again.
    words.join(" ").parse().unwrap_or_default()
}

fn system_time(time: DateTime) -> SystemTime {
    after(UNIX_EPOCH, time.unix_seconds())
}

fn after(time: SystemTime, seconds: i64) -> SystemTime {
    let span = Duration::from_secs(seconds.unsigned_abs());
    let moved = match seconds < 0 {
        true => time.checked_sub(span),
        false => time.checked_add(span),
    };
    moved.unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use smtpd_core::envelope::Envelope;

    use super::*;
    use crate::session::{Session, SessionFacts};

    fn job(parameters: &str) -> Job {
        let envelope = Envelope::default().with_parameters(parameters.parse().unwrap());
        Job::new(SessionFacts::from(&Session::local()), envelope)
    }

    #[test]
    fn what_a_sender_demands_is_counted_from_the_arrival() {
        let job = job("HOLDFOR=60 BY=120;N MT-PRIORITY=4");
        let (terms, created) = (Terms::of(&job), job.created());
        assert_eq!(terms.released, created + Duration::from_secs(60));
        let by = created + Duration::from_secs(120);
        assert_eq!(terms.by, Some((by, ByMode::Notify)));
        assert_eq!(terms.priority, 4);
        assert!(!terms.is_too_late(by));
        let late = self::job("HOLDUNTIL=2001-01-01T00:00:00Z BY=1;R");
        assert_eq!(Terms::of(&late).released, late.created());
        let by = late.created() + Duration::from_secs(1);
        assert!(Terms::of(&late).is_too_late(by) && !Terms::of(&late).is_too_late(late.created()));
    }

    #[test]
    fn what_is_passed_on_says_how_much_time_is_left() {
        for (parameters, expected) in [
            ("SIZE=7 SMTPUTF8", "SIZE=7 SMTPUTF8"),
            ("SIZE=7 BY=120;RT HOLDFOR=9", "SIZE=7 BY=20;RT"),
            ("by=50;n SMTPUTF8", "by=-50;n SMTPUTF8"),
            ("BY=-999999999;N", "BY=-999999999;N"),
            ("HOLDUNTIL=2030-01-01T00:00:00Z", ""),
        ] {
            let job = job(parameters);
            let now = job.created() + Duration::from_millis(100_999);
            assert_eq!(parameters_at(&job, now), expected.parse().unwrap());
        }
    }
}
