use std::borrow::Cow;

use super::{Extension, SessionFacts};
use crate::{
    parameter::{ParameterRule, Parameters, Priority},
    reply::{Code, Reply, Status},
};

/// MT-PRIORITY (RFC 6710): [`MT-PRIORITY=`](Priority) on MAIL, the urgency of the message.
///
/// A priority above 0 is accepted only from clients that have authenticated (RFC 6710 section 4.1), unless others are trusted
/// too. From all other clients, it is rejected with 550 5.7.1. The queue of `smtpd-tower` delivers more urgent messages first.
///
/// ```
/// use smtpd_core::extension::{Extensions, MtPriority, PriorityPolicy};
///
/// let extensions =
///     Extensions::default().with(MtPriority::new().policy(PriorityPolicy::MIXER));
/// assert!(extensions.contains("MT-PRIORITY"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct MtPriority {
    policy: Option<PriorityPolicy>,
    trusts_strangers: bool,
}

impl MtPriority {
    /// Creates the extension without a policy. It trusts only clients that have authenticated.
    pub const fn new() -> Self {
        Self {
            policy: None,
            trusts_strangers: false,
        }
    }

    /// Sets the announced policy, which says what each priority stands for (RFC 6710 section 9.2). Default: none.
    #[must_use]
    pub fn policy(self, policy: PriorityPolicy) -> Self {
        Self {
            policy: Some(policy),
            ..self
        }
    }

    /// Accepts priorities above 0 from clients that have not authenticated, for example among servers that have agreed on it, or
    /// if your services decide which clients to trust. Default: off.
    #[must_use]
    pub fn trust_unauthenticated(self) -> Self {
        Self {
            trusts_strangers: true,
            ..self
        }
    }
}

impl Extension for MtPriority {
    fn keyword(&self) -> &str {
        "MT-PRIORITY"
    }

    fn announcement(&self, _: SessionFacts<'_>) -> Cow<'_, str> {
        self.policy
            .as_ref()
            .map_or(Cow::Borrowed(""), |policy| policy.as_str().into())
    }

    fn mail_parameters(&self) -> &[ParameterRule] {
        &[const { ParameterRule::of::<Priority>() }]
    }

    fn check_mail(&self, parameters: &Parameters, session: SessionFacts<'_>) -> Result<(), Reply> {
        let trusted = self.trusts_strangers || session.is_authenticated();
        let is_raised = parameters
            .get::<Priority>()
            .is_some_and(|priority| priority.value() > 0);
        if is_raised && !trusted {
            return Err(Reply::fixed(
                Code::MAILBOX_UNAVAILABLE,
                Status::DENIED,
                "A priority above 0 needs authentication",
            ));
        }
        Ok(())
    }

    /// RFC 6710 section 3 (6).
    fn extra_bytes(&self) -> usize {
        15
    }
}

/// The name of a Priority Assignment Policy (RFC 6710 section 9.2).
///
/// ```
/// use smtpd_core::extension::PriorityPolicy;
///
/// assert_eq!(PriorityPolicy::MIXER.as_str(), "MIXER");
/// assert!(
///     PriorityPolicy::new("x-own.1").is_some()
///         && PriorityPolicy::new("two words").is_none()
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PriorityPolicy(Cow<'static, str>);

impl PriorityPolicy {
    /// RFC 6710 appendix B, the default: -4 for non-urgent, 0 for normal, 4 for urgent.
    pub const MIXER: Self = Self(Cow::Borrowed("MIXER"));
    /// RFC 6710 appendix A: military messages.
    pub const STANAG4406: Self = Self(Cow::Borrowed("STANAG4406"));
    /// RFC 6710 appendix C: national security and emergency preparedness.
    pub const NSEP: Self = Self(Cow::Borrowed("NSEP"));

    /// Creates a policy with this name. Returns `None` unless `name` is 1 to 20 letters, digits, `-`, `_` and `.` (RFC 6710
    /// section 7).
    pub fn new(name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        let is_name = (1..=20).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        is_name.then_some(Self(Cow::Owned(name)))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
