use std::any::Any;

use smtpd_core::{
    connection::AuthOutcome,
    reply::{DataReply, Origin, Reply},
};
use tower::BoxError;

use super::Answer;
use crate::body::known_reply;

/// What a service has decided about a request. All layers that look at results share this notion.
///
/// A service can refuse by a response, or by an error with a [`Reply`] among its sources, as a `?` in a
/// [`from_fn`](crate::layer::from_fn) does; a layer that looks at responses alone misses the latter. A message that a service has
/// accepted for some of its recipients is accepted.
///
/// ```
/// use smtpd_tower::{DataReply, Reply, reply::Verdict};
///
/// assert_eq!(Verdict::of(&Ok(Reply::OK)), Verdict::Accepted);
///
/// let thrown = Err::<Reply, _>(Reply::no_such_user().into());
/// assert_eq!(Verdict::of(&thrown), Verdict::Rejected);
///
/// let fault = Err::<Reply, _>("the database is down".into());
/// assert_eq!(Verdict::of(&fault), Verdict::Failed);
///
/// let partly = DataReply::each([Reply::OK, Reply::mailbox_full()]);
/// assert_eq!(Verdict::of(&Ok(partly)), Verdict::Accepted);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// The reply is positive. For a message, it is for at least one recipient.
    Accepted,
    /// The reply is a 4yz: the client is to try again later.
    Deferred,
    /// The reply is a 5yz: the client is to give up.
    Rejected,
    /// Not decided yet: the engine has to compare the secret that a service for AUTH has returned.
    Undecided,
    /// A fault on this side: an error without a reply.
    Failed,
}

impl Verdict {
    /// Returns the verdict of a result.
    pub fn of<R: Answer>(result: &Result<R, BoxError>) -> Self {
        match result {
            Ok(response) => response.verdict(),
            Err(error) => Self::of_error(error),
        }
    }

    /// Returns the verdict of a result with any type of error. A reply is found in a [`BoxError`], which handlers throw; another
    /// error is a fault.
    pub(crate) fn of_any<R: Answer, E: 'static>(result: &Result<R, E>) -> Self {
        match result {
            Ok(response) => response.verdict(),
            Err(error) => match (error as &dyn Any).downcast_ref::<BoxError>() {
                Some(error) => Self::of_error(error),
                None => Self::Failed,
            },
        }
    }

    fn of_error(error: &BoxError) -> Self {
        known_reply(&**error).map_or(Self::Failed, |reply| reply.verdict())
    }

    /// Returns the word for what became of a request that was answered, for labels of metrics. A fault stays one when the engine or
    /// a layer has made a reply of it.
    pub(crate) fn outcome<R: Answer>(response: &R) -> &'static str {
        let is_fault = |reply: &Reply| reply.origin() == Some(Origin::Fault);
        match response.verdict() {
            Self::Deferred | Self::Rejected if response.reply().is_some_and(is_fault) => {
                Self::Failed.as_str()
            }
            verdict => verdict.as_str(),
        }
    }

    /// Returns a word for labels of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::Rejected => "rejected",
            Self::Undecided => "undecided",
            Self::Failed => "failed",
        }
    }

    /// Returns whether the request is refused, for now or for good. A fault is no refusal.
    #[must_use]
    pub const fn is_refused(self) -> bool {
        matches!(self, Self::Deferred | Self::Rejected)
    }
}

impl From<&Reply> for Verdict {
    fn from(reply: &Reply) -> Self {
        match reply.code() {
            code if code.is_transient() => Self::Deferred,
            _ if reply.is_positive() => Self::Accepted,
            _ => Self::Rejected,
        }
    }
}

impl From<&DataReply> for Verdict {
    fn from(reply: &DataReply) -> Self {
        match reply.is_accepted() {
            true => Self::Accepted,
            false => reply.merged().into(),
        }
    }
}

impl From<&AuthOutcome> for Verdict {
    fn from(outcome: &AuthOutcome) -> Self {
        match outcome {
            AuthOutcome::Accept(_) => Self::Accepted,
            AuthOutcome::Refuse(reply) => reply.into(),
            _ => Self::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::{
        reply::{Code, Status},
        sasl::{Identity, Secret},
    };

    use super::*;
    use crate::body::BodyError;

    #[test]
    fn a_refusal_is_one_whether_it_is_returned_or_thrown() {
        for (reply, expected) in [
            (Reply::OK, Verdict::Accepted),
            (
                Reply::new(Code::START_MAIL, Status::UNDEFINED, "go"),
                Verdict::Accepted,
            ),
            (Reply::busy(), Verdict::Deferred),
            (Reply::no_such_user(), Verdict::Rejected),
        ] {
            assert_eq!(Verdict::of(&Ok(reply.clone())), expected);
            assert_eq!(Verdict::of(&Ok(DataReply::from(reply.clone()))), expected);
            let deep = BodyError::other(BodyError::refused(reply.clone()));
            assert_eq!(Verdict::of::<Reply>(&Err(deep.into())), expected);
            let thrown = Err::<DataReply, BoxError>(reply.into());
            assert_eq!(Verdict::of(&thrown), expected);
            assert_eq!(Verdict::of_any(&thrown), expected);
        }
        let fault = std::io::Error::other("disk");
        assert_eq!(Verdict::of::<Reply>(&Err(fault.into())), Verdict::Failed);
    }

    #[test]
    fn a_message_that_some_recipients_have_is_not_refused() {
        let each = |replies: &[Reply]| DataReply::each(replies.iter().cloned()).verdict();
        let (later, no) = (Reply::mailbox_full(), Reply::no_such_user());
        assert_eq!(each(&[Reply::OK, later.clone()]), Verdict::Accepted);
        assert_eq!(each(&[no.clone(), Reply::OK]), Verdict::Accepted);
        assert_eq!(each(&[no.clone(), later]), Verdict::Deferred);
        assert_eq!(each(&[no.clone(), no]), Verdict::Rejected);
    }

    #[test]
    fn a_password_that_is_still_to_be_compared_is_neither_accepted_nor_refused() {
        let verify = AuthOutcome::from(Secret::password("hunter2"));
        assert_eq!(verify.verdict(), Verdict::Undecided);
        let accept = AuthOutcome::from(Identity::new("alice"));
        assert_eq!(accept.verdict(), Verdict::Accepted);
        let refuse = AuthOutcome::from(Reply::auth_failed());
        assert_eq!(refuse.verdict(), Verdict::Rejected);
    }
}
