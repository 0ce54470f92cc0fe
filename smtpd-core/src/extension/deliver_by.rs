use std::{borrow::Cow, time::Duration};

use super::{Extension, SessionFacts};
use crate::{
    parameter::{By, ByMode, ParameterRule, Parameters},
    reply::{Code, Reply, Status},
};

/// DELIVERBY (RFC 2852): [`BY=`](By) on MAIL, the time within which the message is to be delivered.
///
/// Who turns it on has to return, or to report as late, what could not be delivered in time (section 4.1).
///
/// ```
/// use std::time::Duration;
///
/// use smtpd_core::{Extensions, extension::DeliverBy};
///
/// let extensions = Extensions::default().with(DeliverBy::new().minimum(Duration::from_secs(240)));
/// assert!(extensions.contains("DELIVERBY"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct DeliverBy {
    /// In seconds; 0 for none.
    minimum: u32,
}

impl DeliverBy {
    /// Any time is taken.
    pub const fn new() -> Self {
        Self { minimum: 0 }
    }

    /// Less time than this, in whole seconds, is refused with 555 5.5.4 where the message is to be returned if it is late
    /// (section 3). It is announced. None by default, and no more than 999,999,999 seconds.
    #[must_use]
    pub fn minimum(self, time: Duration) -> Self {
        let most = u64::from(By::MAX_SECONDS);
        Self {
            minimum: u32::try_from(time.as_secs().min(most)).unwrap_or(By::MAX_SECONDS),
        }
    }
}

impl Extension for DeliverBy {
    fn keyword(&self) -> &str {
        "DELIVERBY"
    }

    fn announcement(&self, _: SessionFacts<'_>) -> Cow<'_, str> {
        match self.minimum {
            0 => Cow::Borrowed(""),
            seconds => seconds.to_string().into(),
        }
    }

    fn mail_parameters(&self) -> &[ParameterRule] {
        &[const { ParameterRule::of::<By>() }]
    }

    fn check_mail(&self, parameters: &Parameters, _: SessionFacts<'_>) -> Result<(), Reply> {
        let is_short = parameters.get::<By>().is_some_and(|by| {
            by.mode() == ByMode::Return && i64::from(by.seconds()) < i64::from(self.minimum)
        });
        if is_short {
            // RFC 2852 section 3: 55z.
            let text = format!("BY must be {} seconds at least", self.minimum);
            return Err(Reply::new(
                Code::PARAMETERS_UNKNOWN,
                Status::INVALID_PARAMETERS,
                text,
            ));
        }
        Ok(())
    }

    /// RFC 2852 section 2 (5).
    fn extra_octets(&self) -> usize {
        17
    }
}
