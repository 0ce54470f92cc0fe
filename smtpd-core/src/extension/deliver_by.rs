use std::{borrow::Cow, num::NonZeroU32, time::Duration};

use super::{Extension, SessionFacts};
use crate::{
    parameter::{By, ByMode, ParameterRule, Parameters},
    reply::{Code, Reply, Status},
};

/// DELIVERBY (RFC 2852): [`BY=`](By) on MAIL, the time within which the message is to be delivered.
///
/// If you turn it on, your server must return the messages that it could not deliver in time, or report that they are late
/// (RFC 2852 section 4.1). The queue of `smtpd-tower` does.
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_core::extension::{DeliverBy, Extensions};
///
/// assert!(Extensions::default().with(DeliverBy::new()).contains("DELIVERBY"));
/// assert!(DeliverBy::with_minimum(Duration::from_secs(240)).is_some());
/// assert!(DeliverBy::with_minimum(Duration::ZERO).is_none());
/// ```
#[derive(Clone, Debug, Default)]
pub struct DeliverBy {
    /// In seconds.
    minimum: Option<NonZeroU32>,
}

impl DeliverBy {
    /// Creates the extension without a minimum: any time is accepted.
    pub const fn new() -> Self {
        Self { minimum: None }
    }

    /// Creates the extension with a minimum time, which is announced. MAIL is rejected with 555 5.5.4 if the message is to be
    /// returned when late and has less time (RFC 2852 section 3). Returns `None` unless `time` is 1 to 999,999,999 whole seconds.
    pub fn with_minimum(time: Duration) -> Option<Self> {
        let seconds = u32::try_from(time.as_secs()).ok()?;
        let is_valid = time.subsec_nanos() == 0 && seconds <= By::MAX_SECONDS;
        let minimum = NonZeroU32::new(seconds).filter(|_| is_valid)?;
        Some(Self {
            minimum: Some(minimum),
        })
    }
}

impl Extension for DeliverBy {
    fn keyword(&self) -> &str {
        "DELIVERBY"
    }

    fn announcement(&self, _: SessionFacts<'_>) -> Cow<'_, str> {
        let minimum = self.minimum.map(|seconds| seconds.to_string());
        minimum.unwrap_or_default().into()
    }

    fn mail_parameters(&self) -> &[ParameterRule] {
        &[const { ParameterRule::of::<By>() }]
    }

    fn check_mail(&self, parameters: &Parameters, _: SessionFacts<'_>) -> Result<(), Reply> {
        let (Some(minimum), Some(by)) = (self.minimum, parameters.get::<By>()) else {
            return Ok(());
        };
        if by.mode() == ByMode::Return && i64::from(by.seconds()) < i64::from(minimum.get()) {
            // RFC 2852 section 3: 55z.
            return Err(Reply::new(
                Code::PARAMETERS_UNKNOWN,
                Status::INVALID_PARAMETERS,
                format!("BY must be {minimum} seconds at least"),
            ));
        }
        Ok(())
    }

    /// RFC 2852 section 2 (5).
    fn extra_bytes(&self) -> usize {
        17
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimum_that_cannot_be_announced_is_not_changed_but_refused() {
        let minimum = |time| DeliverBy::with_minimum(time).and_then(|by| by.minimum);
        for seconds in [1, 240, 999_999_999] {
            let found = minimum(Duration::from_secs(seconds));
            assert_eq!(found.map(|found| found.get().into()), Some(seconds));
        }
        for bad in [
            Duration::ZERO,
            Duration::from_millis(999),
            Duration::from_millis(1001),
            Duration::from_secs(1_000_000_000),
            Duration::from_secs(u64::from(u32::MAX) + 2),
            Duration::MAX,
        ] {
            assert_eq!(minimum(bad), None, "{bad:?}");
        }
    }
}
