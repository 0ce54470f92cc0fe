use std::borrow::Cow;

use super::{Extension, SessionFacts};

/// LIMITS (RFC 9422): announces how many messages, recipients and recipient domains a client may send. It is on by default.
///
/// The numbers are those of [`Limits`](crate::Limits), which are enforced whether they are announced or not.
///
/// ```
/// use smtpd_core::{
///     Config,
///     extension::{Extension, SessionFacts, SessionLimits},
/// };
///
/// let config = Config::new("mx.example.org")
///     .limits(|limits| limits.recipient_domains = Some(1));
/// assert_eq!(
///     SessionLimits.announcement(SessionFacts::new(&config.into())),
///     "MAILMAX=10000 RCPTMAX=100 RCPTDOMAINMAX=1"
/// );
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits;

impl SessionLimits {
    /// RFC 9422 section 4: a value is not 0, and has at most six digits.
    const VALUES: std::ops::RangeInclusive<u32> = 1..=999_999;

    fn announced(session: SessionFacts<'_>) -> impl Iterator<Item = (&'static str, u32)> {
        let limits = session.limits();
        [
            ("MAILMAX", Some(limits.messages)),
            ("RCPTMAX", Some(limits.recipients)),
            ("RCPTDOMAINMAX", limits.recipient_domains),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .filter(|(_, value)| Self::VALUES.contains(value))
    }
}

impl Extension for SessionLimits {
    fn keyword(&self) -> &str {
        "LIMITS"
    }

    /// RFC 9422 section 3: at least one limit is required.
    fn is_offered(&self, session: SessionFacts<'_>) -> bool {
        Self::announced(session).next().is_some()
    }

    fn announcement(&self, session: SessionFacts<'_>) -> Cow<'_, str> {
        let words: Vec<_> = Self::announced(session)
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        words.join(" ").into()
    }
}
