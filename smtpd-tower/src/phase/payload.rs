use std::{fmt, sync::Arc};

use smtpd_core::{
    ClientName, Code, CommandLine, Envelope, ForwardPath, Greeting, Parameters, Reply, ReversePath,
    Status,
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
/// let helo = handler_fn(async |request: Request<Helo>| match request.name() {
///     "localhost" => Err(Reply::rejected("That is me")),
///     _ => Ok(()),
/// });
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Helo {
    /// The name that the client gives. It is not verified.
    pub name: ClientName,
    /// The command used.
    pub greeting: Greeting,
}

impl Helo {
    /// Creates an EHLO with that name.
    pub const fn new(name: ClientName) -> Self {
        Self {
            name,
            greeting: Greeting::Ehlo,
        }
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
#[non_exhaustive]
pub struct Auth {
    /// The SASL mechanism.
    pub mechanism: MechanismName,
    /// What the client presented.
    pub credentials: Credentials,
}

impl Auth {
    /// Creates an attempt with that mechanism.
    pub const fn new(mechanism: MechanismName, credentials: Credentials) -> Self {
        Self {
            mechanism,
            credentials,
        }
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
#[non_exhaustive]
pub struct Mail {
    /// Where to report failures; null for reports themselves.
    pub sender: ReversePath,
    /// SIZE, BODY and so on.
    pub parameters: Parameters,
}

impl Mail {
    /// Creates a MAIL without parameters.
    pub fn new(sender: ReversePath) -> Self {
        Self {
            sender,
            parameters: Parameters::default(),
        }
    }

    /// Sets the parameters. Default: none.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self { parameters, ..self }
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
#[non_exhaustive]
pub struct Rcpt {
    /// The recipient of the message.
    pub recipient: ForwardPath,
    /// NOTIFY, ORCPT and so on.
    pub parameters: Parameters,
    /// The sender, and the recipients accepted before this one.
    pub envelope: Arc<Envelope>,
}

impl Rcpt {
    /// Creates a RCPT without parameters, the first of a message from the null sender.
    pub fn new(recipient: ForwardPath) -> Self {
        Self {
            recipient,
            parameters: Parameters::default(),
            envelope: Arc::default(),
        }
    }

    /// Sets the envelope of the transaction so far. Default: the null sender without recipients.
    #[must_use]
    pub fn with_envelope(self, envelope: impl Into<Arc<Envelope>>) -> Self {
        Self {
            envelope: envelope.into(),
            ..self
        }
    }

    /// Sets the parameters. Default: none.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self { parameters, ..self }
    }
}

/// VRFY, EXPN, HELP, or a verb that the protocol does not know.
///
/// A service for this phase adds verbs of its own. To all others it replies with the [`default_reply`](Self::default_reply).
///
/// ```
/// use smtpd_tower::{Command, Reply, Request, Session, handler_fn};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
/// let command = handler_fn(async |request: Request<Command>| {
///     match request.payload().verb.as_str() {
///         "XPING" => Reply::ok(request.payload().argument.clone()),
///         _ => request.payload().default_reply.clone(),
///     }
/// });
/// let ask = |verb| {
///     command
///         .clone()
///         .oneshot(Request::new(Session::local(), Command::new(verb, "pong")))
/// };
/// assert_eq!(ask("xping").await?.text(), "pong");
/// assert_eq!(ask("XOTHER").await?.code().as_u16(), 500);
/// # Ok(()) }
/// ```
///
/// Its `Debug` form shows neither verb nor argument of an unknown command: a client whose AUTH was refused may continue with
/// names and passwords.
#[derive(Clone)]
#[non_exhaustive]
pub struct Command {
    /// The first word, in upper case.
    pub verb: String,
    /// The rest of the line, without the blanks around it. It contains no control characters; nothing else is guaranteed.
    pub argument: String,
    /// The reply that the client receives if there is no service, such as 500 5.5.1.
    pub default_reply: Reply,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, argument) = match CommandLine::may_be_shown(&self.verb) {
            true => (&*self.verb, &*self.argument),
            false => ("[redacted]", "[redacted]"),
        };
        f.debug_struct("Command")
            .field("verb", &verb)
            .field("argument", &argument)
            .field("default_reply", &self.default_reply)
            .finish()
    }
}

impl Command {
    /// Creates an unknown command.
    pub fn new(verb: impl Into<String>, argument: impl Into<String>) -> Self {
        let default_reply = Reply::new(
            Code::SYNTAX_ERROR,
            Status::INVALID_COMMAND,
            "Command not recognized",
        );
        Self {
            verb: verb.into().to_ascii_uppercase(),
            argument: argument.into(),
            default_reply,
        }
    }
}

/// DATA or BDAT: the message itself.
///
/// ```
/// use smtpd_tower::{Data, Reply, Request, handler_fn};
///
/// let data = handler_fn(async |request: Request<Data>| {
///     let recipients = request.envelope().recipients().len();
///     request.into_body().collect().await.map(|octets| {
///         Reply::ok(format!("{} octets for {recipients}", octets.len()))
///     })
/// });
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Data {
    /// The sender and the recipients.
    pub envelope: Arc<Envelope>,
    /// The message as it arrives. 354 is sent when it is first polled.
    pub body: Body,
}

impl Data {
    /// Creates a message with that envelope.
    pub fn new(envelope: impl Into<Arc<Envelope>>, body: Body) -> Self {
        Self {
            envelope: envelope.into(),
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_password_that_was_taken_for_a_command() {
        let shown = |verb, argument| format!("{:?}", Command::new(verb, argument));
        assert!(shown("vrfy", "alice").contains("alice"));
        for (verb, argument) in [
            ("c2VjcmV0", ""),
            ("AUTH", "PLAIN c2VjcmV0"),
            ("pass", "c2VjcmV0"),
        ] {
            let shown = shown(verb, argument).to_ascii_uppercase();
            assert!(!shown.contains("C2VJCMV0"), "{shown}");
        }
    }

    #[test]
    fn requests_are_built_of_all_their_parts() {
        let parameters = || "SIZE=9".parse::<Parameters>().unwrap();
        let mail = Mail::new("a@example.com".parse().unwrap()).with_parameters(parameters());
        assert_eq!(mail.sender.as_str(), "a@example.com");
        assert!(mail.parameters.contains("SIZE"));
        let envelope = Envelope::new("a@example.com".parse().unwrap());
        let rcpt = Rcpt::new("b@example.org".parse().unwrap())
            .with_envelope(envelope)
            .with_parameters(parameters());
        assert_eq!(rcpt.recipient.as_str(), "b@example.org");
        assert_eq!(rcpt.envelope.sender().as_str(), "a@example.com");
        assert!(rcpt.parameters.contains("SIZE"));
    }
}
