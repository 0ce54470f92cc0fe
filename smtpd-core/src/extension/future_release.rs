use std::borrow::Cow;

use super::{Extension, SessionFacts};
use crate::{
    parameter::{By, DateTime, HoldFor, HoldUntil, ParameterRule, Parameters, malformed},
    protocol::Protocol,
    reply::Reply,
};

/// FUTURERELEASE (RFC 4865): [`HOLDFOR=`](HoldFor) or [`HOLDUNTIL=`](HoldUntil) on MAIL, the time before which the message must
/// not be released. It is for submission only (RFC 4865 section 4.2), so enable it only on such a listener.
///
/// The extension checks what needs no clock: that MAIL does not have both parameters, that neither exceeds its maximum, and
/// that `HOLDFOR` does not exceed `BY`. Call [`HoldUntil::resolve`] in your service for the rest. The queue of `smtpd-tower` holds the
/// messages.
///
/// ```
/// use smtpd_core::{
///     extension::{Extensions, FutureRelease},
///     parameter::HoldFor,
/// };
///
/// let extension =
///     FutureRelease::new(HoldFor::new(86_400)?, "2030-01-01T00:00:00Z".parse()?);
/// assert!(
///     Extensions::default()
///         .with(extension)
///         .contains("FUTURERELEASE")
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FutureRelease {
    longest: HoldFor,
    latest: DateTime,
}

impl FutureRelease {
    /// Creates the extension for messages that are held for at most `longest`, or until `latest`. Both are announced
    /// (RFC 4865 section 3).
    pub const fn new(longest: HoldFor, latest: DateTime) -> Self {
        Self { longest, latest }
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
        format!("{} {}", self.longest.seconds(), self.latest).into()
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
        let hold_for = parameters.get::<HoldFor>();
        let hold_until = parameters.get::<HoldUntil>().map(HoldUntil::time);
        if hold_for.is_some() && hold_until.is_some() {
            return Err(malformed("HOLDFOR and HOLDUNTIL exclude each other"));
        }
        if hold_for.is_some_and(|time| time > self.longest)
            || hold_until.is_some_and(|time| time > self.latest)
        {
            return Err(malformed("No message is held that long"));
        }
        // RFC 4865 section 5.2.2.
        let by = parameters.get::<By>().map(|by| i64::from(by.seconds()));
        if let (Some(hold), Some(by)) = (hold_for, by)
            && i64::from(hold.seconds()) > by
        {
            return Err(malformed("HOLDFOR is beyond BY"));
        }
        Ok(())
    }

    /// RFC 4865 section 3 (5).
    fn extra_bytes(&self) -> usize {
        34
    }
}
