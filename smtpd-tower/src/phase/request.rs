use std::{sync::Arc, time::Duration};

use smtpd_core::{
    address::{ClientName, Domain, ForwardPath, Mailbox, ReversePath},
    connection::Greeting,
    envelope::Envelope,
    parameter::Parameters,
    reply::Reply,
    sasl::{Credentials, MechanismName},
};

use crate::{
    body::Body,
    phase::{Auth, Command, Data, Deadline, Helo, Mail, Rcpt},
    session::Session,
};

/// A request for a decision in one phase of a session: the facts of the session, the payload of the phase, and the
/// [deadline](Self::deadline) of the answer.
///
/// As in other uses of tower, the service that answers a request consumes it. Every request is `Send` and `Sync`, so a reference
/// to one may be kept across an await. Requests of all phases but [`Data`] are `Clone`, so that tower's `retry` can repeat them.
/// A clone shares the session with the original, including its [state](Session::state).
///
/// What a payload tells can be read from the request directly: `request.recipient()` is `request.payload().recipient()`.
///
/// ```
/// use smtpd_tower::{Rcpt, Request, Session};
///
/// let request =
///     Request::new(Session::local(), Rcpt::new("user@example.org".parse()?));
/// assert_eq!(request.recipient().as_str(), "user@example.org");
/// assert!(request.session().identity().is_none());
/// # Ok::<(), smtpd_tower::address::AddressError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Request<P> {
    session: Session,
    payload: P,
    deadline: Deadline,
}

impl<P> Request<P> {
    /// Creates a request of that phase, without a deadline.
    pub const fn new(session: Session, payload: P) -> Self {
        Self {
            session,
            payload,
            deadline: Deadline::NEVER,
        }
    }

    /// Creates a request of a session that waits for its answer.
    pub(crate) const fn due(session: Session, payload: P, deadline: Deadline) -> Self {
        Self {
            session,
            payload,
            deadline,
        }
    }

    /// Sets the deadline: for tests, and for a request that is made of the parts of another.
    #[must_use]
    pub fn with_deadline(self, deadline: Deadline) -> Self {
        Self { deadline, ..self }
    }

    /// Returns the session.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Returns the payload of the phase.
    pub const fn payload(&self) -> &P {
        &self.payload
    }

    /// Returns the payload of the phase, to change it.
    pub const fn payload_mut(&mut self) -> &mut P {
        &mut self.payload
    }

    /// Returns when the session replies by itself, unless the service has answered before.
    pub const fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Notes that the service was not ready for so long.
    pub(crate) fn postpone(&mut self, by: Duration) {
        self.deadline.postpone(by);
    }

    /// Splits the request into its parts, and drops its [deadline](Self::deadline).
    pub fn into_parts(self) -> (Session, P) {
        (self.session, self.payload)
    }

    /// Replaces the payload.
    #[must_use]
    pub fn map<Q>(self, f: impl FnOnce(P) -> Q) -> Request<Q> {
        Request {
            session: self.session,
            payload: f(self.payload),
            deadline: self.deadline,
        }
    }
}

impl Request<Helo> {
    /// Returns the name that the client gives. It is not verified.
    pub const fn name(&self) -> &ClientName {
        self.payload.name()
    }

    /// Returns the command that the client used.
    pub const fn greeting(&self) -> Greeting {
        self.payload.greeting()
    }
}

impl Request<Auth> {
    /// Returns the SASL mechanism.
    pub const fn mechanism(&self) -> MechanismName {
        self.payload.mechanism()
    }

    /// Returns what the client presented.
    pub const fn credentials(&self) -> &Credentials {
        self.payload.credentials()
    }
}

impl Request<Mail> {
    /// Returns the sender, to which failures are reported. It is null if the message is itself such a report.
    pub const fn sender(&self) -> &ReversePath {
        self.payload.sender()
    }

    /// Returns the parameters of MAIL.
    pub const fn parameters(&self) -> &Parameters {
        self.payload.parameters()
    }
}

impl Request<Rcpt> {
    /// Returns the recipient of the message.
    pub const fn recipient(&self) -> &ForwardPath {
        self.payload.recipient()
    }

    /// Returns the recipient's domain, or `None` for `<Postmaster>` (RFC 5321 section 4.1.1.3).
    pub fn domain(&self) -> Option<&Domain> {
        self.recipient().mailbox().map(Mailbox::domain)
    }

    /// Returns the sender, to which failures are reported.
    pub fn sender(&self) -> &ReversePath {
        self.envelope().sender()
    }

    /// Returns the sender, and the recipients accepted before this one.
    pub const fn envelope(&self) -> &Arc<Envelope> {
        self.payload.envelope()
    }

    /// Returns the parameters of RCPT.
    pub const fn parameters(&self) -> &Parameters {
        self.payload.parameters()
    }
}

impl Request<Data> {
    /// Returns the sender and the recipients. Cloning the `Arc` is cheap; `into_parts` of the payload returns it too.
    pub const fn envelope(&self) -> &Arc<Envelope> {
        self.payload.envelope()
    }

    /// Returns the message, to read it chunk by chunk.
    pub const fn body_mut(&mut self) -> &mut Body {
        self.payload.body_mut()
    }

    /// Returns the message.
    pub fn into_body(self) -> Body {
        self.payload.into_body()
    }

    /// Replaces the body, for example with one that counts or changes what passes through it.
    #[must_use]
    pub fn map_body(self, f: impl FnOnce(Body) -> Body) -> Self {
        self.map(|data| data.map_body(f))
    }
}

impl Request<Command> {
    /// Returns the first word, in upper case.
    pub fn verb(&self) -> &str {
        self.payload.verb()
    }

    /// Returns the rest of the line, without the blanks around it.
    pub fn argument(&self) -> &str {
        self.payload.argument()
    }

    /// Returns the reply that the client receives if there is no service.
    pub const fn default_reply(&self) -> &Reply {
        self.payload.default_reply()
    }

    /// Returns whether the command may be shown; see [`Command::may_be_shown`].
    pub fn may_be_shown(&self) -> bool {
        self.payload.may_be_shown()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::Connect;

    #[test]
    fn requests_of_all_phases_but_data_are_cloned_for_a_retry() {
        fn check<T: Clone>() {}
        check::<Request<Connect>>();
        check::<Request<Helo>>();
        check::<Request<Auth>>();
        check::<Request<Mail>>();
        check::<Request<Rcpt>>();
        check::<Request<Command>>();
    }

    #[test]
    fn a_reference_to_any_request_may_be_kept_across_an_await() {
        fn check<T: Send + Sync>() {}
        check::<Request<Connect>>();
        check::<Request<Helo>>();
        check::<Request<Auth>>();
        check::<Request<Mail>>();
        check::<Request<Rcpt>>();
        check::<Request<Data>>();
        check::<Request<Command>>();
    }
}
