use smtpd_core::{Domain, Envelope, ForwardPath, Parameters, ReversePath, sasl::Credentials};

use crate::{
    body::Body,
    phase::{Auth, Data, Helo, Mail, Rcpt},
    session::Session,
};

/// One phase of a session asking for a decision: what is known of the session, and what this phase brings.
///
/// Like requests elsewhere in tower it is consumed by the service that answers it. Every request is `Send` and `Sync`, so
/// a reference to one may be kept across an await. Requests of all phases but [`Data`] are `Clone`, so that tower's `retry` can
/// repeat them. A clone shares the session with the original, including its [state](Session::state).
///
/// ```
/// use smtpd_tower::{Rcpt, Request, Session};
///
/// let request = Request::new(Session::local(), Rcpt::new("user@example.org".parse()?));
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
    /// A request of that phase.
    pub const fn new(session: Session, payload: P) -> Self {
        Self { session, payload }
    }

    /// What is known of the session.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// What the phase brings.
    pub const fn payload(&self) -> &P {
        &self.payload
    }

    /// What the phase brings, to be changed.
    pub const fn payload_mut(&mut self) -> &mut P {
        &mut self.payload
    }

    /// Takes the request apart.
    pub fn into_parts(self) -> (Session, P) {
        (self.session, self.payload)
    }

    /// The same request with another payload.
    #[must_use]
    pub fn map<Q>(self, f: impl FnOnce(P) -> Q) -> Request<Q> {
        Request {
            session: self.session,
            payload: f(self.payload),
        }
    }
}

impl Request<Helo> {
    /// The name that the client gives itself. Nothing vouches for it.
    pub fn name(&self) -> &str {
        self.payload.name.as_str()
    }
}

impl Request<Auth> {
    /// The SASL mechanism, such as `PLAIN`.
    pub fn mechanism(&self) -> &'static str {
        self.payload.mechanism.as_str()
    }

    /// What the client presented.
    pub const fn credentials(&self) -> &Credentials {
        &self.payload.credentials
    }
}

impl Request<Mail> {
    /// Where failures are to be reported.
    pub const fn sender(&self) -> &ReversePath {
        &self.payload.sender
    }

    /// The parameters of MAIL.
    pub const fn parameters(&self) -> &Parameters {
        &self.payload.parameters
    }
}

impl Request<Rcpt> {
    /// For whom the message is.
    pub const fn recipient(&self) -> &ForwardPath {
        &self.payload.recipient
    }

    /// The recipient's domain; `None` for `<Postmaster>` (RFC 5321 section 4.1.1.3).
    pub fn domain(&self) -> Option<&Domain> {
        self.recipient().mailbox().map(smtpd_core::Mailbox::domain)
    }

    /// Where failures are to be reported.
    pub fn sender(&self) -> &ReversePath {
        self.payload.envelope.sender()
    }

    /// The sender, and the recipients accepted before this one.
    pub fn envelope(&self) -> &Envelope {
        &self.payload.envelope
    }

    /// The parameters of RCPT.
    pub const fn parameters(&self) -> &Parameters {
        &self.payload.parameters
    }
}

impl Request<Data> {
    /// From whom and to whom.
    pub fn envelope(&self) -> &Envelope {
        &self.payload.envelope
    }

    /// The message, to be read piece by piece.
    pub const fn body_mut(&mut self) -> &mut Body {
        &mut self.payload.body
    }

    /// The message.
    pub fn into_body(self) -> Body {
        self.payload.body
    }

    /// The same request with another body, such as one that counts or changes what passes through it.
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
