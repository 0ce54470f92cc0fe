//! Who has produced a reply.

use std::fmt;

use super::Reply;

/// Who has produced a reply that refuses. It is for logs and metrics: it is never sent, and replies are compared without it.
///
/// A layer names itself with [`Reply::with_origin`]. The session fills in what it knows itself, so each refusal that
/// [`Answered`](crate::connection::Answered) reports has an origin.
///
/// ```
/// use smtpd_core::{Reply, reply::Origin};
///
/// let reply = Reply::rejected("Spam").with_origin("my-filter");
/// assert_eq!(reply.origin(), Some(Origin::Layer("my-filter")));
/// assert_eq!(Origin::Layer("my-filter").to_string(), "my-filter");
/// assert_eq!(Origin::Service.to_string(), "service");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// A rule of the protocol: bad syntax, wrong order, a limit of the session, or credentials that a mechanism has compared.
    Protocol,
    /// The limits per client that a server enforces over all its sessions.
    Guard,
    /// A layer or filter, by its name.
    Layer(&'static str),
    /// A service: whoever answers the session's questions, and names nothing else.
    Service,
    /// A fault on this side: a service that failed, panicked or forgot to answer, or a full disk.
    Fault,
    /// A time limit: the client sent nothing, or a service did not answer in time.
    Timeout,
    /// The server is shutting down.
    Shutdown,
}

impl Origin {
    /// Returns whether the reply decides about what the client has sent: by a rule, a layer or a service. Such a 5yz is a mistake
    /// of the client. The others are not: limits over all of its sessions, faults, timeouts and the shutdown of the server.
    ///
    /// ```
    /// use smtpd_core::reply::Origin;
    ///
    /// assert!(Origin::Layer("my-filter").is_decision());
    /// assert!(!Origin::Fault.is_decision());
    /// ```
    pub const fn is_decision(self) -> bool {
        match self {
            Self::Protocol | Self::Layer(_) | Self::Service => true,
            Self::Guard | Self::Fault | Self::Timeout | Self::Shutdown => false,
        }
    }

    /// Returns a word for logs and labels of metrics: the name of a [`Layer`](Self::Layer), and otherwise that of the variant in
    /// lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Guard => "guard",
            Self::Layer(name) => name,
            Self::Service => "service",
            Self::Fault => "fault",
            Self::Timeout => "timeout",
            Self::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The name of a layer or filter.
impl From<&'static str> for Origin {
    fn from(name: &'static str) -> Self {
        Self::Layer(name)
    }
}

impl Reply {
    /// Returns who has produced the reply, as far as it says.
    pub const fn origin(&self) -> Option<Origin> {
        self.origin
    }

    /// Returns the reply with an origin: the name of a layer or filter, or any other [`Origin`]. It is not sent.
    ///
    /// ```
    /// use smtpd_core::Reply;
    ///
    /// let reply = Reply::relay_denied().with_origin("partners");
    /// assert_eq!(reply, Reply::relay_denied());
    /// assert_eq!(reply.to_string(), "550 5.7.1 Relaying denied");
    /// ```
    #[must_use]
    #[inline]
    pub fn with_origin(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = Some(origin.into());
        self
    }

    /// Returns the reply with an origin if it refuses and has none yet. A layer calls this for replies that may come from
    /// somebody else.
    ///
    /// ```
    /// use smtpd_core::{Reply, reply::Origin};
    ///
    /// let reply = Reply::busy().with_origin("inner").or_origin("outer");
    /// assert_eq!(reply.origin(), Some(Origin::Layer("inner")));
    /// assert_eq!(Reply::OK.or_origin("outer").origin(), None);
    /// ```
    #[must_use]
    #[inline]
    pub fn or_origin(mut self, origin: impl Into<Origin>) -> Self {
        self.sign(origin.into());
        self
    }

    /// Returns whether the client has made a mistake: the reply rejects what it has sent, and not because of a fault.
    pub(crate) fn blames_client(&self) -> bool {
        self.code().is_permanent() && self.origin.is_none_or(Origin::is_decision)
    }

    /// Returns the reply with the origin of another one, in place of which it is sent, if it refuses and has none of its own.
    #[must_use]
    pub(crate) fn or_origin_of(self, other: Option<Origin>) -> Self {
        match other {
            Some(origin) => self.or_origin(origin),
            None => self,
        }
    }

    /// Sets the origin of a reply that refuses and has none yet.
    #[inline]
    pub(crate) fn sign(&mut self, origin: Origin) {
        if !self.is_positive() && self.origin.is_none() {
            self.origin = Some(origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::reply::{Code, DataReply, Status};

    #[test]
    fn an_origin_makes_no_reply_differ_from_another() {
        let (plain, signed) = (
            Reply::busy(),
            Reply::busy().with_origin("a-name-that-is-not-sent"),
        );
        assert_eq!(plain, signed);
        assert_eq!(plain.to_string(), signed.to_string());
        assert_eq!(format!("{plain:#}"), format!("{signed:#}"));
        assert_eq!(HashSet::from([plain, signed]).len(), 1);
    }

    #[test]
    fn a_reply_that_is_changed_keeps_its_origin() {
        let reply = Reply::busy().with_origin("here");
        for changed in [
            reply.clone().with_text("Later"),
            reply.clone().with_line("Ask us"),
            reply.clone().with_code(Code::MAILBOX_BUSY),
            reply.clone().with_status(Status::POLICY),
            reply.clone().or_origin(Origin::Service),
            DataReply::each([Reply::OK, reply.clone()]).merged().clone(),
            // A layer that looks at the replies of others answers with another one.
            DataReply::from(reply.clone())
                .map(|_| Reply::rejected("No"))
                .merged()
                .clone(),
        ] {
            assert_eq!(changed.origin(), Some(Origin::Layer("here")), "{changed}");
        }
        let own = |_| Reply::rejected("No").with_origin("another");
        let replaced = DataReply::from(reply.clone()).map(own);
        assert_eq!(replaced.merged().origin(), Some(Origin::Layer("another")));
        let accepted = DataReply::from(reply).map(|_| Reply::OK);
        assert_eq!(accepted.merged().origin(), None);
    }
}
