use smtpd_core::{AuthOutcome, DataReply, Reply};

use super::IntoReply;

mod sealed {
    #[expect(unnameable_types, reason = "that is what seals the trait")]
    pub trait Sealed {}
}

/// What a service may answer with: a [`Reply`], a [`DataReply`], an [`AuthOutcome`]. Sealed.
///
/// A layer that looks at answers is generic over this, and fits every phase; the [guide](crate::guide::pipelines#a-layer-for-every-phase)
/// has one. It sees what services say. It never sees
///
/// - a reply that travels as an error, thrown by a `filter` for instance, nor what [`recover`](crate::reply::recover()) makes of a failure
///   further out;
/// - what AUTH ends with where the service has answered with a secret, for the mechanism has the last word;
/// - what the protocol answers by itself: bad syntax, wrong order, limits, and positive replies to the greeting and EHLO.
///
/// ```
/// use smtpd_tower::{Answer, DataReply, Reply};
///
/// fn hide<R: Answer>(answer: R) -> R {
///     answer.map_reply(|reply| if reply.is_positive() { reply } else { reply.with_text("No") })
/// }
/// assert_eq!(hide(Reply::no_such_user()).text(), "No");
/// assert_eq!(hide(DataReply::from(Reply::OK)).reply(), Some(&Reply::OK));
/// ```
pub trait Answer: sealed::Sealed + From<Reply> + IntoReply<Self> + Send + 'static {
    /// What the client is told, if that is settled already: for AUTH it is not before the mechanism has verified a secret.
    fn reply(&self) -> Option<&Reply>;

    /// The same with every reply in it changed.
    #[must_use]
    fn map_reply(self, f: impl FnMut(Reply) -> Reply) -> Self;
}

impl sealed::Sealed for Reply {}

impl Answer for Reply {
    fn reply(&self) -> Option<&Reply> {
        Some(self)
    }

    fn map_reply(self, mut f: impl FnMut(Self) -> Self) -> Self {
        f(self)
    }
}

impl sealed::Sealed for DataReply {}

impl Answer for DataReply {
    fn reply(&self) -> Option<&Reply> {
        Some(self.merged())
    }

    fn map_reply(self, f: impl FnMut(Reply) -> Reply) -> Self {
        self.map(f)
    }
}

impl sealed::Sealed for AuthOutcome {}

impl Answer for AuthOutcome {
    fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Refuse(reply) => Some(reply),
            _ => None,
        }
    }

    fn map_reply(self, mut f: impl FnMut(Reply) -> Reply) -> Self {
        match self {
            Self::Refuse(reply) => Self::Refuse(f(reply)),
            other => other,
        }
    }
}
