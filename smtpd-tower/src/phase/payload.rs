//! The payloads of all phases but commands.

use std::sync::Arc;

use smtpd_core::{
    address::{ClientName, ForwardPath, ReversePath},
    connection::{AuthRequest, Greeting, MailCommand, RcptCommand},
    envelope::Envelope,
    parameter::Parameters,
    sasl::{Credentials, MechanismName},
};

use crate::body::Body;

/// A client has connected and waits for the greeting.
///
/// ```
/// use smtpd_tower::{Connect, Reply, Request, handler_fn};
///
/// let connect = handler_fn(async |request: Request<Connect>| {
///     match request.session().client_addr().ip() {
///         Some(ip) if ip.is_multicast() => {
///             Err(Reply::rejected("How did you get here?"))
///         }
///         _ => Ok(()),
///     }
/// });
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Connect;

impl Connect {
    /// Creates the payload of a connect request.
    pub const fn new() -> Self {
        Self
    }
}

/// A client introduces itself by HELO, EHLO or LHLO (RFC 5321 section 4.1.1.1).
///
/// ```
/// use smtpd_tower::{Helo, Reply, Request, handler_fn};
///
/// let helo =
///     handler_fn(async |request: Request<Helo>| match request.name().as_str() {
///         "localhost" => Err(Reply::rejected("That is me")),
///         _ => Ok(()),
///     });
/// ```
#[derive(Clone, Debug)]
pub struct Helo(smtpd_core::connection::Helo);

impl Helo {
    /// Creates an EHLO with that name.
    pub const fn new(name: ClientName) -> Self {
        Self(smtpd_core::connection::Helo::new(name))
    }

    pub(crate) const fn of(helo: smtpd_core::connection::Helo) -> Self {
        Self(helo)
    }

    /// Returns a copy with this command.
    #[must_use]
    pub fn with_greeting(self, greeting: Greeting) -> Self {
        Self(self.0.with_greeting(greeting))
    }

    /// Returns the name that the client gives. It is not verified.
    pub const fn name(&self) -> &ClientName {
        self.0.name()
    }

    /// Returns the command that the client used.
    pub const fn greeting(&self) -> Greeting {
        self.0.greeting()
    }
}

/// A client wants to authenticate (RFC 4954).
///
/// How to answer depends on the mechanism: see [`Credentials`]. For EXTERNAL, the service checks the certificate in
/// [`Session::tls`](crate::session::Session::tls); the documentation of the module `tls` has an example.
///
/// ```
/// use smtpd_tower::{Auth, Identity, Reply, Request, handler_fn};
///
/// let auth = handler_fn(async |request: Request<Auth>| {
///     let credentials = request.credentials();
///     match (credentials.username(), credentials.password()) {
///         ("alice", Some("wonderland")) => Ok(Identity::new("alice")),
///         _ => Err(Reply::auth_failed()),
///     }
/// });
/// ```
#[derive(Clone, Debug)]
pub struct Auth {
    request: AuthRequest,
    failures: u32,
}

impl Auth {
    /// Creates an attempt with that mechanism.
    pub const fn new(mechanism: MechanismName, credentials: Credentials) -> Self {
        Self::of(AuthRequest::new(mechanism, credentials), 0)
    }

    pub(crate) const fn of(request: AuthRequest, failures: u32) -> Self {
        Self { request, failures }
    }

    /// Sets how many attempts have failed before, for tests.
    #[must_use]
    pub fn with_failures(self, failures: u32) -> Self {
        Self { failures, ..self }
    }

    /// Returns how many attempts of the session have failed before this one, whoever has decided that.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns the SASL mechanism.
    pub const fn mechanism(&self) -> MechanismName {
        self.request.mechanism()
    }

    /// Returns what the client presented.
    pub const fn credentials(&self) -> &Credentials {
        self.request.credentials()
    }
}

/// MAIL: a transaction begins (RFC 5321 section 4.1.1.2).
///
/// ```
/// use smtpd_tower::{Mail, Reply, Request, handler_fn, parameter::Size};
///
/// let mail = handler_fn(async |request: Request<Mail>| {
///     match request.parameters().get().map(Size::bytes) {
///         Some(1_000_000..) if request.sender().is_null() => {
///             Err(Reply::rejected("A report of that size?"))
///         }
///         _ => Ok(()),
///     }
/// });
/// ```
#[derive(Clone, Debug)]
pub struct Mail(MailCommand);

impl Mail {
    /// Creates a MAIL without parameters.
    pub fn new(sender: ReversePath) -> Self {
        Self(MailCommand::new(sender))
    }

    pub(crate) const fn of(command: MailCommand) -> Self {
        Self(command)
    }

    /// Returns a copy with these parameters.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self(self.0.with_parameters(parameters))
    }

    /// Returns the sender, to which failures are reported. It is null if the message is itself such a report.
    pub const fn sender(&self) -> &ReversePath {
        self.0.sender()
    }

    /// Returns the parameters, such as SIZE and BODY.
    pub const fn parameters(&self) -> &Parameters {
        self.0.parameters()
    }
}

/// RCPT: one recipient (RFC 5321 section 4.1.1.3).
///
/// ```
/// use smtpd_tower::{Rcpt, Reply, Request, handler_fn};
///
/// let rcpt = handler_fn(async |request: Request<Rcpt>| {
///     match request.recipient().as_str() {
///         "alice@example.org" => Ok(()),
///         _ if request.envelope().recipients().len() > 10 => {
///             Err(Reply::closing("Too many guesses"))
///         }
///         _ => Err(Reply::no_such_user()),
///     }
/// });
/// ```
#[derive(Clone, Debug)]
pub struct Rcpt {
    command: RcptCommand,
    envelope: Arc<Envelope>,
}

impl Rcpt {
    /// Creates a RCPT without parameters, the first of a message from the null sender.
    pub fn new(recipient: ForwardPath) -> Self {
        Self::of(RcptCommand::new(recipient), Arc::default())
    }

    pub(crate) const fn of(command: RcptCommand, envelope: Arc<Envelope>) -> Self {
        Self { command, envelope }
    }

    /// Returns a copy with this envelope of the transaction so far.
    #[must_use]
    pub fn with_envelope(self, envelope: impl Into<Arc<Envelope>>) -> Self {
        Self {
            envelope: envelope.into(),
            ..self
        }
    }

    /// Returns a copy with these parameters.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self {
            command: self.command.with_parameters(parameters),
            ..self
        }
    }

    /// Returns the recipient of the message.
    pub const fn recipient(&self) -> &ForwardPath {
        self.command.recipient()
    }

    /// Returns the parameters, such as NOTIFY and ORCPT.
    pub const fn parameters(&self) -> &Parameters {
        self.command.parameters()
    }

    /// Returns the sender, and the recipients accepted before this one.
    pub const fn envelope(&self) -> &Arc<Envelope> {
        &self.envelope
    }
}

/// DATA or BDAT: the message itself.
///
/// ```
/// use smtpd_tower::{Data, Reply, Request, handler_fn};
///
/// let data = handler_fn(async |request: Request<Data>| {
///     let recipients = request.envelope().recipients().len();
///     request.into_body().collect().await.map(|bytes| {
///         Reply::ok(format!("{} bytes for {recipients}", bytes.len()))
///     })
/// });
/// ```
#[derive(Debug)]
pub struct Data {
    envelope: Arc<Envelope>,
    body: Body,
}

impl Data {
    /// Creates a message with that envelope.
    pub fn new(envelope: impl Into<Arc<Envelope>>, body: Body) -> Self {
        Self {
            envelope: envelope.into(),
            body,
        }
    }

    /// Returns the sender and the recipients. Cloning the `Arc` is cheap; `into_parts` of the payload returns it too.
    pub const fn envelope(&self) -> &Arc<Envelope> {
        &self.envelope
    }

    /// Returns the message, to read it chunk by chunk. 354 is sent when it is first polled.
    pub const fn body_mut(&mut self) -> &mut Body {
        &mut self.body
    }

    /// Returns the message. 354 is sent when it is first polled.
    pub fn into_body(self) -> Body {
        self.body
    }

    /// Splits the payload into the envelope and the message.
    pub fn into_parts(self) -> (Arc<Envelope>, Body) {
        (self.envelope, self.body)
    }

    /// Replaces the body, for example with one that counts or changes what passes through it.
    #[must_use]
    pub fn map_body(self, f: impl FnOnce(Body) -> Body) -> Self {
        Self {
            body: f(self.body),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_built_of_all_their_parts() {
        let parameters = || "SIZE=9".parse::<Parameters>().unwrap();
        let mail = Mail::new("a@example.com".parse().unwrap()).with_parameters(parameters());
        assert_eq!(mail.sender().as_str(), "a@example.com");
        assert!(mail.parameters().contains("SIZE"));
        let envelope = Envelope::new("a@example.com".parse().unwrap());
        let rcpt = Rcpt::new("b@example.org".parse().unwrap())
            .with_envelope(envelope)
            .with_parameters(parameters());
        assert_eq!(rcpt.recipient().as_str(), "b@example.org");
        assert_eq!(rcpt.envelope().sender().as_str(), "a@example.com");
        assert!(rcpt.parameters().contains("SIZE"));
    }
}
