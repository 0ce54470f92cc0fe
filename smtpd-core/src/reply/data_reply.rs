use std::fmt;

use super::{Code, Origin, Reply};

/// The reply to a message: one for all its recipients, or one for each.
///
/// LMTP sends a reply for each recipient (RFC 2033 section 4.2). SMTP sends a single one, the [`merged`](Self::merged) reply,
/// which [`code`](Self::code) and `Display` refer to. A `DataReply` equals a [`Reply`] if all its replies do.
///
/// ```
/// use smtpd_core::{DataReply, Reply};
///
/// let reply =
///     DataReply::each([Reply::OK, Reply::mailbox_full(), Reply::no_such_user()]);
/// assert_eq!(reply.merged(), &Reply::mailbox_full());
/// assert_eq!(reply.for_recipient(2), &Reply::no_such_user());
/// assert_eq!(
///     (reply.code().as_u16(), reply.is_positive(), reply.is_accepted()),
///     (452, false, true)
/// );
/// assert_eq!(reply.to_string(), "452 4.2.2 Mailbox full");
/// assert_eq!(DataReply::from(Reply::OK), Reply::OK);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataReply(Replies);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Replies {
    All(Reply),
    /// Never empty.
    Each(Vec<Reply>),
}

impl DataReply {
    /// Creates a reply for each accepted recipient, in the order of their RCPT commands. If there are too few, the last one
    /// stands for the rest. If there are none, all recipients get 451 4.3.0.
    pub fn each(replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies: Vec<_> = replies.into_iter().collect();
        if replies.is_empty() {
            Self::missing().into()
        } else {
            Self(Replies::Each(replies))
        }
    }

    /// Returns the reply that stands for a missing one.
    pub(crate) fn missing() -> Reply {
        Reply::try_again("No answer").with_origin(Origin::Fault)
    }

    /// Returns the single reply that stands for all of them. It is positive only if all are. If one is transient, it is that one:
    /// then no recipient loses mail, though some may get it twice when the client tries again.
    pub fn merged(&self) -> &Reply {
        let replies = match &self.0 {
            Replies::All(reply) => return reply,
            Replies::Each(replies) => replies,
        };
        let transient = replies.iter().find(|reply| reply.code().is_transient());
        let refused = replies.iter().find(|reply| !reply.is_positive());
        transient.or(refused).unwrap_or(&replies[0])
    }

    /// Returns the code of the [`merged`](Self::merged) reply.
    pub fn code(&self) -> Code {
        self.merged().code()
    }

    /// Returns whether the [`merged`](Self::merged) reply is positive: the message is accepted for all its recipients. See
    /// [`is_accepted`](Self::is_accepted) for any of them.
    pub fn is_positive(&self) -> bool {
        self.merged().is_positive()
    }

    /// Returns the reply for the message as a whole if each recipient has its own: positive if any is, because the message was
    /// then accepted (draft-hall-prdr-00 section 4.5.3).
    pub(crate) fn overall(&self) -> Reply {
        let merged = self.merged();
        if self.is_accepted() && !merged.is_positive() {
            Reply::ok("Taken for some of the recipients")
        } else {
            merged.clone()
        }
    }

    /// Returns the reply for the recipient at index `number`, counted from 0.
    pub fn for_recipient(&self, number: usize) -> &Reply {
        let replies = self.replies();
        &replies[number.min(replies.len() - 1)]
    }

    /// Returns the replies as they were given: one for all, or one for each.
    pub fn replies(&self) -> &[Reply] {
        match &self.0 {
            Replies::All(reply) => std::slice::from_ref(reply),
            Replies::Each(replies) => replies,
        }
    }

    /// Returns whether the message is accepted for any of its recipients.
    pub fn is_accepted(&self) -> bool {
        self.replies().iter().any(Reply::is_positive)
    }

    /// Returns the result of `f` for every reply. One that refuses, and has no [`Origin`] of its own, has that of the reply before.
    #[must_use]
    pub fn map(self, mut f: impl FnMut(Reply) -> Reply) -> Self {
        let mut f = |reply: Reply| {
            let origin = reply.origin();
            f(reply).or_origin_of(origin)
        };
        match self.0 {
            Replies::All(reply) => Self(Replies::All(f(reply))),
            Replies::Each(replies) => Self(Replies::Each(replies.into_iter().map(f).collect())),
        }
    }

    /// Returns the replies with an origin, where they refuse and have none yet.
    #[must_use]
    pub(crate) fn or_origin(mut self, origin: Origin) -> Self {
        match &mut self.0 {
            Replies::All(reply) => reply.sign(origin),
            Replies::Each(replies) => replies.iter_mut().for_each(|reply| reply.sign(origin)),
        }
        self
    }
}

impl From<Reply> for DataReply {
    fn from(reply: Reply) -> Self {
        Self(Replies::All(reply))
    }
}

impl PartialEq<Reply> for DataReply {
    fn eq(&self, reply: &Reply) -> bool {
        self.replies().iter().all(|own| own == reply)
    }
}

impl PartialEq<DataReply> for Reply {
    fn eq(&self, reply: &DataReply) -> bool {
        reply == self
    }
}

impl fmt::Display for DataReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.merged().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_merged_so_that_no_recipient_loses_mail() {
        let (yes, later, no) = (Reply::OK, Reply::busy(), Reply::no_such_user());
        let merged = |replies: &[&Reply]| {
            DataReply::each(replies.iter().map(|&r| r.clone()))
                .merged()
                .clone()
        };
        assert_eq!(merged(&[&yes, &yes]), yes);
        assert_eq!(merged(&[&yes, &no, &later]), later);
        assert_eq!(merged(&[&yes, &no]), no);
        assert_eq!(merged(&[]).code().as_u16(), 451);
    }

    #[test]
    fn a_message_that_some_recipients_took_is_taken() {
        let overall = |replies: [Reply; 2]| DataReply::each(replies).overall().to_string();
        assert_eq!(
            overall([Reply::busy(), Reply::ok("Two")]),
            "250 2.0.0 Taken for some of the recipients"
        );
        assert_eq!(
            overall([Reply::ok("One"), Reply::ok("Two")]),
            "250 2.0.0 One"
        );
        let refused = [Reply::no_such_user(), Reply::busy()];
        assert_eq!(overall(refused), Reply::busy().to_string());
    }

    #[test]
    fn the_last_reply_stands_for_those_that_are_missing() {
        let reply = DataReply::each([Reply::OK, Reply::busy()]);
        assert_eq!(reply.for_recipient(0), &Reply::OK);
        assert_eq!(reply.for_recipient(7), &Reply::busy());
        assert!(reply.is_accepted());
        assert_ne!(reply, Reply::OK);
        assert_ne!(Reply::OK, reply);
        let both = DataReply::each([Reply::OK, Reply::OK]);
        assert_eq!(both, Reply::OK);
        assert_eq!(Reply::OK, both);
    }
}
