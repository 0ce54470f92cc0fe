//! What a client asks for: the subjects of questions.

use std::fmt;

use super::{fixed, redact};
use crate::{
    address::{ForwardPath, ReversePath},
    envelope::{Envelope, Recipient},
    parameter::Parameters,
    reply::Reply,
    sasl::{Credentials, MechanismName},
};

/// A client's request to authenticate (RFC 4954).
#[derive(Clone, Debug)]
pub struct AuthRequest {
    mechanism: MechanismName,
    credentials: Credentials,
}

impl AuthRequest {
    /// Creates a request with that mechanism.
    pub const fn new(mechanism: MechanismName, credentials: Credentials) -> Self {
        Self {
            mechanism,
            credentials,
        }
    }

    /// Returns the SASL mechanism, such as `PLAIN`.
    pub const fn mechanism(&self) -> MechanismName {
        self.mechanism
    }

    /// Returns the credentials that the client presented.
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

/// A MAIL command (RFC 5321 section 4.1.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailCommand {
    sender: ReversePath,
    parameters: Parameters,
}

impl MailCommand {
    /// Creates a MAIL without parameters.
    pub fn new(sender: ReversePath) -> Self {
        Self {
            sender,
            parameters: Parameters::default(),
        }
    }

    /// Returns a copy with these parameters.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self { parameters, ..self }
    }

    /// Returns the address to which delivery failures are reported. It is null if the message is itself such a report.
    pub const fn sender(&self) -> &ReversePath {
        &self.sender
    }

    /// Returns the parameters, such as SIZE and BODY.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(super) fn of(envelope: &Envelope) -> Self {
        Self {
            sender: envelope.sender().clone(),
            parameters: envelope.parameters().clone(),
        }
    }
}

/// A RCPT command (RFC 5321 section 4.1.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RcptCommand {
    recipient: ForwardPath,
    parameters: Parameters,
}

impl RcptCommand {
    /// Creates a RCPT without parameters.
    pub fn new(recipient: ForwardPath) -> Self {
        Self {
            recipient,
            parameters: Parameters::default(),
        }
    }

    /// Returns a copy with these parameters.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self { parameters, ..self }
    }

    /// Returns the recipient of the message.
    pub const fn recipient(&self) -> &ForwardPath {
        &self.recipient
    }

    /// Returns the parameters, such as NOTIFY and ORCPT.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(super) fn of(recipient: &Recipient) -> Self {
        Self {
            recipient: recipient.path().clone(),
            parameters: recipient.parameters().clone(),
        }
    }
}

/// A command that has no meaning for the session itself: VRFY, EXPN, HELP, ETRN, or a verb that is not known.
///
/// Its `Debug` form shows neither verb nor argument of an unknown command: a client whose AUTH was refused may continue with user
/// names and passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct CommandLine {
    verb: String,
    argument: String,
    default_reply: Reply,
}

impl CommandLine {
    /// Creates a command whose verb is not known. The verb is converted to upper case.
    ///
    /// ```
    /// use smtpd_core::connection::CommandLine;
    ///
    /// let command = CommandLine::new("xping", "pong");
    /// assert_eq!((command.verb(), command.argument()), ("XPING", "pong"));
    /// assert_eq!(command.default_reply().code().as_u16(), 500);
    /// ```
    pub fn new(verb: impl Into<String>, argument: impl Into<String>) -> Self {
        let mut verb = verb.into();
        verb.make_ascii_uppercase();
        Self {
            verb,
            argument: argument.into(),
            default_reply: fixed::UNKNOWN,
        }
    }

    pub(super) fn parse(verb: &[u8], argument: &[u8], default_reply: Reply) -> Self {
        Self {
            default_reply,
            ..Self::new(
                String::from_utf8_lossy(verb),
                String::from_utf8_lossy(argument),
            )
        }
    }

    /// Returns a copy with this default reply.
    #[must_use]
    pub fn with_default_reply(self, default_reply: Reply) -> Self {
        Self {
            default_reply,
            ..self
        }
    }

    /// Returns the first word, in upper case.
    pub fn verb(&self) -> &str {
        &self.verb
    }

    /// Returns the rest of the line, without the blanks around it. In a command of a client, it contains no control characters.
    /// Anything that is not UTF-8 has been replaced.
    pub fn argument(&self) -> &str {
        &self.argument
    }

    /// Returns the reply that the connection would send by itself, such as 500 5.5.1 to an unknown verb.
    pub const fn default_reply(&self) -> &Reply {
        &self.default_reply
    }

    /// Returns whether the command may be shown, for instance in a log. Any other may contain a user name or a password of a
    /// client whose AUTH was refused. `Debug` follows this rule.
    pub fn may_be_shown(&self) -> bool {
        redact::is_asked_about(&self.verb)
    }
}

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, argument) = match self.may_be_shown() {
            true => (&*self.verb, &*self.argument),
            false => (redact::REDACTED, redact::REDACTED),
        };
        f.debug_struct("CommandLine")
            .field("verb", &verb)
            .field("argument", &argument)
            .field("default_reply", &self.default_reply)
            .finish()
    }
}
