use std::slice;

use smtpd_core::{
    connection::AuthOutcome,
    reply::{DataReply, Reply},
};

use super::{IntoReply, Verdict};

mod sealed {
    #[expect(unnameable_types, reason = "this seals the trait")]
    pub trait Sealed {}
}

/// The response of a service: a [`Reply`], a [`DataReply`], an [`AuthOutcome`]. Sealed.
///
/// A layer that looks at responses is generic over this trait, and fits every phase; the
/// [guide](crate::guide::pipelines#a-layer-for-every-phase) has one. It sees what services return. It never sees
///
/// - a reply that is returned as an error, for instance by a `filter`, nor what [`recover`](crate::reply::recover()) makes of an
///   error further out: [`Verdict::of`] looks at both;
/// - the final reply to AUTH if the service has returned a secret, because the mechanism decides;
/// - the replies of the protocol itself: bad syntax, wrong order, limits, and positive replies to the greeting and EHLO.
///
/// ```
/// use smtpd_tower::{DataReply, Reply, reply::Answer};
///
/// fn hide<R: Answer>(answer: R) -> R {
///     answer.map_reply(|reply| {
///         if reply.is_positive() { reply } else { reply.with_text("No") }
///     })
/// }
/// assert_eq!(hide(Reply::no_such_user()).text(), "No");
/// assert_eq!(hide(DataReply::from(Reply::OK)).reply(), Some(&Reply::OK));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the response of a service for SMTP",
    label = "a layer is around a service with this response",
    note = "it must be `Reply`, `DataReply` at DATA, or `AuthOutcome` at AUTH",
    note = "`handler_fn(...)` makes one of what a function returns, such as `()` or a `Result`"
)]
pub trait Answer: sealed::Sealed + From<Reply> + IntoReply<Self> + Send + 'static {
    /// Returns the reply that the client receives, if it is settled: for AUTH, it is not until the mechanism has verified a
    /// secret.
    fn reply(&self) -> Option<&Reply>;

    /// Returns the replies in it: for a message one or one for each recipient, for an AUTH that is not refused none.
    fn replies(&self) -> &[Reply];

    /// Returns what it means. [`Verdict::of`] looks at errors too.
    fn verdict(&self) -> Verdict;

    /// Returns for how many of that many recipients it is positive. Only the answer to a message may differ among them.
    fn accepted_of(&self, recipients: usize) -> usize {
        match self.verdict() {
            Verdict::Accepted | Verdict::Undecided => recipients,
            _ => 0,
        }
    }

    /// Changes every reply in it. One that refuses, and has no [`Origin`](super::Origin) of its own, has that of the reply before.
    #[must_use]
    fn map_reply(self, f: impl FnMut(Reply) -> Reply) -> Self;
}

impl sealed::Sealed for Reply {}

impl Answer for Reply {
    fn reply(&self) -> Option<&Reply> {
        Some(self)
    }

    fn replies(&self) -> &[Self] {
        slice::from_ref(self)
    }

    fn verdict(&self) -> Verdict {
        self.into()
    }

    fn map_reply(self, mut f: impl FnMut(Self) -> Self) -> Self {
        let origin = self.origin();
        let reply = f(self);
        match origin {
            Some(origin) => reply.or_origin(origin),
            None => reply,
        }
    }
}

impl sealed::Sealed for DataReply {}

impl Answer for DataReply {
    fn reply(&self) -> Option<&Reply> {
        Some(self.merged())
    }

    fn replies(&self) -> &[Reply] {
        self.replies()
    }

    fn verdict(&self) -> Verdict {
        self.into()
    }

    fn accepted_of(&self, recipients: usize) -> usize {
        let replies = (0..recipients).map(|number| self.for_recipient(number));
        replies.filter(|reply| reply.is_positive()).count()
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

    fn replies(&self) -> &[Reply] {
        self.reply().map_or(&[], slice::from_ref)
    }

    fn verdict(&self) -> Verdict {
        self.into()
    }

    fn map_reply(self, f: impl FnMut(Reply) -> Reply) -> Self {
        match self {
            Self::Refuse(reply) => Self::Refuse(reply.map_reply(f)),
            other => other,
        }
    }
}
