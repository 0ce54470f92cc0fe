use std::{borrow::Cow, time::Duration};

use super::{Extension, SessionFacts};
use crate::{
    parameter::{By, DateTime, HoldFor, HoldUntil, ParameterRule, Parameters, malformed},
    protocol::Protocol,
    reply::Reply,
};

/// FUTURERELEASE (RFC 4865): [`HOLDFOR=`](HoldFor) or [`HOLDUNTIL=`](HoldUntil) on MAIL, before which time the message must
/// not be released. It belongs to submission alone (section 4.2), so turn it on for that listener only.
///
/// What needs no clock is checked here: that not both are given, that neither passes its maximum, that `HOLDFOR` does not
/// pass `BY`. What needs one is left to who has it: [`HoldUntil::resolve`].
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_core::{Extensions, extension::FutureRelease, parameter::DateTime};
///
/// let latest: DateTime = "2030-01-01T00:00:00Z".parse()?;
/// let extensions = Extensions::default().with(FutureRelease::new(Duration::from_secs(86_400), latest));
/// assert!(extensions.contains("FUTURERELEASE"));
/// # Ok::<(), smtpd_core::parameter::DateTimeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct FutureRelease {
    /// In seconds.
    longest: u32,
    latest: DateTime,
}

impl FutureRelease {
    /// Messages are held for that interval at most, of 1 to 999,999,999 whole seconds, or until that time at the latest.
    /// Both are announced (section 3).
    pub fn new(longest: Duration, latest: DateTime) -> Self {
        let most = u64::from(HoldFor::MAX_SECONDS);
        let longest = longest.as_secs().clamp(1, most);
        Self {
            longest: u32::try_from(longest).unwrap_or(HoldFor::MAX_SECONDS),
            latest,
        }
    }
}

impl Extension for FutureRelease {
    fn keyword(&self) -> &str {
        "FUTURERELEASE"
    }

    fn is_offered(&self, session: SessionFacts<'_>) -> bool {
        session.protocol() == Protocol::Smtp
    }

    fn announcement(&self, _: SessionFacts<'_>) -> Cow<'_, str> {
        format!("{} {}", self.longest, self.latest).into()
    }

    fn mail_parameters(&self) -> &[ParameterRule] {
        const HOLD: &[ParameterRule] = &[
            ParameterRule::of::<HoldFor>(),
            ParameterRule::of::<HoldUntil>(),
        ];
        HOLD
    }

    // RFC 4865 section 4.2 (7) to (11): 501 5.5.4.
    fn check_mail(&self, parameters: &Parameters, _: SessionFacts<'_>) -> Result<(), Reply> {
        let hold_for = parameters.get::<HoldFor>().map(HoldFor::seconds);
        let hold_until = parameters.get::<HoldUntil>().map(HoldUntil::time);
        if hold_for.is_some() && hold_until.is_some() {
            return Err(malformed("HOLDFOR and HOLDUNTIL exclude each other"));
        }
        if hold_for.is_some_and(|seconds| seconds > self.longest)
            || hold_until.is_some_and(|time| time > self.latest)
        {
            return Err(malformed("No message is held that long"));
        }
        // RFC 4865 section 5.2.2.
        let by = parameters.get::<By>().map(|by| i64::from(by.seconds()));
        if let (Some(hold), Some(by)) = (hold_for, by)
            && i64::from(hold) > by
        {
            return Err(malformed("HOLDFOR is beyond BY"));
        }
        Ok(())
    }

    /// RFC 4865 section 3 (5).
    fn extra_octets(&self) -> usize {
        34
    }
}
