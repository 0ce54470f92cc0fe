use smtpd_core::{Domain, Envelope, ForwardPath, Parameters, ReversePath, sasl::Credentials};

use crate::{
    body::Body,
    phase::{Auth, Data, Helo, Mail, Rcpt},
    session::Session,
};

/// A request for a decision in one phase of a session: the facts of the session, and the payload of the phase.
///
/// As in other uses of tower, the service that answers a request consumes it. Every request is `Send` and `Sync`, so a reference
/// to one may be kept across an await. Requests of all phases but [`Data`] are `Clone`, so that tower's `retry` can repeat them.
/// A clone shares the session with the original, including its [state](Session::state).
///
/// ```
/// use smtpd_tower::{Rcpt, Request, Session};
///
/// let request =
///     Request::new(Session::local(), Rcpt::new("user@example.org".parse()?));
/// assert_eq!(request.recipient().as_str(), "user@example.org");
/// assert!(request.session().identity().is_none());
/// # Ok::<(), smtpd_tower::AddressError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Request<P> {
    session: Session,
    payload: P,
}

impl<P> Request<P> {
    /// Creates a request of that phase.
    pub const fn new(session: Session, payload: P) -> Self {
        Self { session, payload }
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

    /// Splits the request into its parts.
    pub fn into_parts(self) -> (Session, P) {
        (self.session, self.payload)
    }

    /// Replaces the payload.
    #[must_use]
    pub fn map<Q>(self, f: impl FnOnce(P) -> Q) -> Request<Q> {
        Request {
            session: self.session,
            payload: f(self.payload),
        }
    }
}

impl Request<Helo> {
    /// Returns the name that the client gives. It is not verified.
    pub fn name(&self) -> &str {
        self.payload.name.as_str()
    }
}

impl Request<Auth> {
    /// Returns the SASL mechanism, such as `PLAIN`.
    pub fn mechanism(&self) -> &'static str {
        self.payload.mechanism.as_str()
    }

    /// Returns what the client presented.
    pub const fn credentials(&self) -> &Credentials {
        &self.payload.credentials
    }
}

impl Request<Mail> {
    /// Returns the sender: where to report failures.
    pub const fn sender(&self) -> &ReversePath {
        &self.payload.sender
    }

    /// Returns the parameters of MAIL.
    pub const fn parameters(&self) -> &Parameters {
        &self.payload.parameters
    }
}

impl Request<Rcpt> {
    /// Returns the recipient of the message.
    pub const fn recipient(&self) -> &ForwardPath {
        &self.payload.recipient
    }

    /// Returns the recipient's domain, or `None` for `<Postmaster>` (RFC 5321 section 4.1.1.3).
    pub fn domain(&self) -> Option<&Domain> {
        self.recipient().mailbox().map(smtpd_core::Mailbox::domain)
    }

    /// Returns the sender: where to report failures.
    pub fn sender(&self) -> &ReversePath {
        self.payload.envelope.sender()
    }

    /// Returns the sender, and the recipients accepted before this one.
    pub fn envelope(&self) -> &Envelope {
        &self.payload.envelope
    }

    /// Returns the parameters of RCPT.
    pub const fn parameters(&self) -> &Parameters {
        &self.payload.parameters
    }
}

impl Request<Data> {
    /// Returns the sender and the recipients.
    pub fn envelope(&self) -> &Envelope {
        &self.payload.envelope
    }

    /// Returns the message, to read it chunk by chunk.
    pub const fn body_mut(&mut self) -> &mut Body {
        &mut self.payload.body
    }

    /// Returns the message.
    pub fn into_body(self) -> Body {
        self.payload.body
    }

    /// Replaces the body, for example with one that counts or changes what passes through it.
    #[must_use]
    pub fn map_body(self, f: impl FnOnce(Body) -> Body) -> Self {
        self.map(|data| Data {
            body: f(data.body),
            ..data
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::{Command, Connect};

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
    }
}
