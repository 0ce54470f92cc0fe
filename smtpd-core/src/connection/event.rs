use std::{error::Error, fmt};

use bytes::Bytes;

use crate::{
    ClientName, ForwardPath, Forwarded, Parameters, Reply, ReversePath, XClient,
    sasl::{Credentials, Identity, MechanismName, Secret},
};

/// What the caller has to decide, or to take. All else the connection answers by itself.
///
/// An event that *asks* holds the connection until it is answered; the others only tell.
///
/// ```
/// use std::time::Instant;
///
/// use bytes::BytesMut;
/// use smtpd_core::{Config, Connection, Event, Reply};
///
/// let mut connection = Connection::new(Config::new("mx.example.org").into(), Instant::now());
/// let mut input = BytesMut::new();
/// while let Some(event) = connection.poll_event(Instant::now(), &mut input) {
///     match event {
///         Event::Connect => connection.reply(Reply::closing("Not today")),
///         Event::Closed(reason) => assert_eq!(reason.as_str(), "refused"),
///         other => unreachable!("{other:?}"),
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A client is there. Asks: a positive reply greets it.
    Connect,
    /// XCLIENT: the peer speaks for another client, and the session starts anew. This is all that it has said of that
    /// client so far. Asks, as [`Connect`](Self::Connect) does: a positive reply greets the client.
    XClient(Box<XClient>),
    /// HELO, EHLO or LHLO. Asks. A positive reply makes void what was known of a transaction; where it is refused,
    /// everything stays as it was (RFC 5321 section 4.1.4).
    Helo(Helo),
    /// A client wants to authenticate. Asks, by [`Connection::reply_auth`](crate::Connection::reply_auth).
    Auth(AuthRequest),
    /// The client has authenticated.
    Authenticated(Identity),
    /// MAIL. Asks.
    Mail(MailCommand),
    /// RCPT. Asks.
    Rcpt(RcptCommand),
    /// DATA, or the first BDAT of a message. Asks, either by a reply, or by
    /// [`Connection::accept_data`](crate::Connection::accept_data).
    Data,
    /// Octets of the message, dots undone.
    Chunk(Bytes),
    /// A chunk of BDAT is over, but not the message. Asks, by
    /// [`Connection::accept_chunk`](crate::Connection::accept_chunk) once the octets have been taken.
    ChunkEnd,
    /// The message is over: whole, or to be refused. Asks: a positive reply takes it.
    MessageEnd(Result<(), MessageError>),
    /// VRFY, EXPN, HELP, ETRN or an unknown verb, if [`Config::custom_commands`](crate::Config::custom_commands) is on. Asks.
    Command(CommandLine),
    /// RSET: the transaction is void.
    Reset,
    /// XFORWARD: where the next message comes from; all that was said of it so far. It holds to the end of that message's
    /// transaction, by reply, RSET or HELO.
    XForward(Box<Forwarded>),
    /// The client waits for a TLS handshake. Everything that was sent before has to be written first; then comes
    /// [`Connection::handle_tls`](crate::Connection::handle_tls).
    StartTls,
    /// The session is over: what is left to be sent has to be written, then the connection closed.
    Closed(CloseReason),
}

/// How a client has introduced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Helo {
    /// The name that it gave itself. Nothing vouches for it.
    pub name: ClientName,
    /// By which command.
    pub greeting: Greeting,
}

/// The command by which a client introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Greeting {
    /// HELO: plain SMTP (RFC 5321 section 4.1.1.1).
    Helo,
    /// EHLO: SMTP with extensions.
    Ehlo,
    /// LHLO: LMTP (RFC 2033 section 4.1).
    Lhlo,
}

/// What a client wants to authenticate with.
#[derive(Debug)]
#[non_exhaustive]
pub struct AuthRequest {
    /// The SASL mechanism, such as `PLAIN`.
    pub mechanism: MechanismName,
    /// What it presented.
    pub credentials: Credentials,
}

/// A MAIL command (RFC 5321 section 4.1.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MailCommand {
    /// Where failures are to be reported.
    pub sender: ReversePath,
    /// Its parameters.
    pub parameters: Parameters,
}

/// A RCPT command (RFC 5321 section 4.1.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RcptCommand {
    /// For whom the message is.
    pub recipient: ForwardPath,
    /// Its parameters.
    pub parameters: Parameters,
}

/// A command that means nothing to the session itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandLine {
    /// The first word, in upper case.
    pub verb: String,
    /// What follows it. What is not UTF-8 in it has been replaced.
    pub argument: String,
    /// What the connection would have answered by itself, such as 500 to an unknown verb.
    pub default_reply: Reply,
}

/// The answer to [`Event::Auth`].
///
/// ```
/// use smtpd_core::{AuthOutcome, Reply, sasl::{Identity, Secret}};
///
/// fn outcome(known: Option<&str>) -> AuthOutcome {
///     match known {
///         Some(password) => Secret::plain(password).into(), // for the mechanism to verify
///         None => Reply::auth_failed().into(),
///     }
/// }
/// assert!(matches!(outcome(None), AuthOutcome::Refuse(_)));
/// assert!(matches!(AuthOutcome::from(Identity::new("alice")), AuthOutcome::Accept(_)));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum AuthOutcome {
    /// The client is who it says, and is known by that name from now on.
    Accept(Identity),
    /// It is not, or not now. 535 5.7.8 is the usual reply.
    Refuse(Reply),
    /// This is the secret that belongs to the user: let the mechanism verify what the client presented. Mechanisms that
    /// never show the password, such as CRAM-MD5, can be served in no other way.
    Verify(Secret),
}

impl From<Reply> for AuthOutcome {
    fn from(reply: Reply) -> Self {
        Self::Refuse(reply)
    }
}

impl From<Identity> for AuthOutcome {
    fn from(identity: Identity) -> Self {
        Self::Accept(identity)
    }
}

impl From<Secret> for AuthOutcome {
    fn from(secret: Secret) -> Self {
        Self::Verify(secret)
    }
}

/// Why a message cannot be taken although all of it has come.
///
/// ```
/// use smtpd_core::MessageError;
///
/// assert_eq!(MessageError::TooLarge.reply().code().as_u16(), 552);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageError {
    /// It has more octets than the limit: 552 5.3.4 (RFC 1870 section 6.3).
    TooLarge,
    /// It holds a CR without LF, or an LF without CR: 550 5.6.11 (RFC 5321 section 2.3.8).
    BareNewline,
}

impl MessageError {
    /// The reply that tells the client.
    pub const fn reply(self) -> Reply {
        use crate::{Code, Status};
        match self {
            Self::TooLarge => Reply::too_large(),
            Self::BareNewline => Reply::fixed(
                Code::MAILBOX_UNAVAILABLE,
                Status::BAD_LINE_ENDING,
                "Message holds a bare CR or LF; lines must end with CRLF",
            ),
        }
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "message too large",
            Self::BareNewline => "message holds a bare CR or LF",
        })
    }
}

impl Error for MessageError {}

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client said QUIT.
    Quit,
    /// The greeting, or a reply that closes, was the caller's decision.
    Refused,
    /// The client was too slow, or the session too long.
    Timeout,
    /// A limit of wrong commands, failed authentications, commands or messages was reached.
    Limit,
    /// The client broke the protocol in a way that leaves no safe way to go on.
    Violation,
    /// The server shuts down.
    Shutdown,
}

impl CloseReason {
    /// A word for logs, such as `quit`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Violation => "violation",
            Self::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
