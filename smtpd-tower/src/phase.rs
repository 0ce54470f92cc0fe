//! The phases of a session, and what each of them asks.

use std::sync::Arc;

use smtpd_core::{
    AuthOutcome, ClientName, Code, DataReply, ForwardPath, Greeting, Parameters, Reply,
    ReversePath, Status,
    sasl::{Credentials, MechanismName},
};

use crate::{Body, Envelope, IntoReply};

mod sealed {
    #[expect(unnameable_types, reason = "that is what seals the trait")]
    pub trait Sealed {}
}

/// A phase of a session. Sealed, for the protocol decides which there are.
///
/// It is there for services and layers that fit every phase: `impl<S, P: Phase> Service<Request<P>> for MyLayer<S>`.
pub trait Phase: sealed::Sealed + Send + Sync + 'static {
    /// What answers it: a [`Reply`], but for [`Auth`] and [`Data`].
    type Response: Answer;

    /// Its name, such as `rcpt`.
    const NAME: &'static str;
}

/// What a service may answer with: a [`Reply`], a [`DataReply`], an [`AuthOutcome`]. Sealed.
///
/// A layer that looks at answers is generic over this, and fits every phase.
pub trait Answer: sealed::Sealed + From<Reply> + IntoReply<Self> + Send + 'static {
    /// What the client is told, if that is settled already: for AUTH it is not before the mechanism has verified a secret.
    fn reply(&self) -> Option<&Reply>;

    /// The same with every reply in it changed.
    #[must_use]
    fn map_reply(self, f: impl FnMut(Reply) -> Reply) -> Self;
}

impl sealed::Sealed for Reply {}

impl Answer for Reply {
    fn reply(&self) -> Option<&Reply> {
        Some(self)
    }

    fn map_reply(self, mut f: impl FnMut(Self) -> Self) -> Self {
        f(self)
    }
}

impl sealed::Sealed for DataReply {}

impl Answer for DataReply {
    fn reply(&self) -> Option<&Reply> {
        Some(self.merged())
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

    fn map_reply(self, mut f: impl FnMut(Reply) -> Reply) -> Self {
        match self {
            Self::Refuse(reply) => Self::Refuse(f(reply)),
            other => other,
        }
    }
}

/// A client has connected, and waits for the greeting.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Connect;

impl Connect {
    /// The payload of a connect request.
    pub const fn new() -> Self {
        Self
    }
}

/// A client introduces itself by HELO, EHLO or LHLO (RFC 5321 section 4.1.1.1).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Helo {
    /// The name that it gives itself. Nothing vouches for it.
    pub name: ClientName,
    /// By which command.
    pub greeting: Greeting,
}

impl Helo {
    /// An EHLO of that name.
    pub const fn new(name: ClientName) -> Self {
        Self {
            name,
            greeting: Greeting::Ehlo,
        }
    }
}

/// A client wants to authenticate (RFC 4954).
#[derive(Debug)]
#[non_exhaustive]
pub struct Auth {
    /// The SASL mechanism.
    pub mechanism: MechanismName,
    /// What it presented.
    pub credentials: Credentials,
}

impl Auth {
    /// An attempt by that mechanism.
    pub const fn new(mechanism: MechanismName, credentials: Credentials) -> Self {
        Self {
            mechanism,
            credentials,
        }
    }
}

/// MAIL: a transaction begins (RFC 5321 section 4.1.1.2).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Mail {
    /// Where failures are to be reported; null for reports themselves.
    pub sender: ReversePath,
    /// SIZE, BODY and so on.
    pub parameters: Parameters,
}

impl Mail {
    /// A MAIL without parameters.
    pub fn new(sender: ReversePath) -> Self {
        Self {
            sender,
            parameters: Parameters::default(),
        }
    }

    /// The same with these parameters.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self { parameters, ..self }
    }
}

/// RCPT: one recipient (RFC 5321 section 4.1.1.3).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rcpt {
    /// For whom the message is.
    pub recipient: ForwardPath,
    /// NOTIFY, ORCPT and so on.
    pub parameters: Parameters,
    /// The sender, and the recipients accepted before this one.
    pub envelope: Arc<Envelope>,
}

impl Rcpt {
    /// A RCPT without parameters, the first of a message from the null sender.
    pub fn new(recipient: ForwardPath) -> Self {
        Self {
            recipient,
            parameters: Parameters::default(),
            envelope: Arc::default(),
        }
    }

    /// The same within a transaction that has come so far.
    #[must_use]
    pub fn with_envelope(self, envelope: impl Into<Arc<Envelope>>) -> Self {
        Self {
            envelope: envelope.into(),
            ..self
        }
    }

    /// The same with these parameters.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self { parameters, ..self }
    }
}

/// VRFY, EXPN, HELP, or a verb that the protocol does not know.
///
/// A service for it adds verbs of its own; to all others it answers with the [`default_reply`](Self::default_reply).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Command {
    /// The first word, in upper case.
    pub verb: String,
    /// What follows it. Nothing but the absence of control characters is known of it.
    pub argument: String,
    /// What the client would hear without a service, such as 500 5.5.1.
    pub default_reply: Reply,
}

impl Command {
    /// An unknown command.
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
#[derive(Debug)]
#[non_exhaustive]
pub struct Data {
    /// From whom and to whom.
    pub envelope: Arc<Envelope>,
    /// The message as it arrives. 354 is sent when it is first polled.
    pub body: Body,
}

impl Data {
    /// A message of that envelope.
    pub fn new(envelope: impl Into<Arc<Envelope>>, body: Body) -> Self {
        Self {
            envelope: envelope.into(),
            body,
        }
    }
}

macro_rules! phases {
    ($($phase:ty => $name:literal, $response:ty;)*) => {
        $(
            impl sealed::Sealed for $phase {}

            impl Phase for $phase {
                type Response = $response;
                const NAME: &'static str = $name;
            }
        )*
    };
}

phases! {
    Connect => "connect", Reply;
    Helo => "helo", Reply;
    Auth => "auth", AuthOutcome;
    Mail => "mail", Reply;
    Rcpt => "rcpt", Reply;
    Data => "data", DataReply;
    Command => "command", Reply;
}
