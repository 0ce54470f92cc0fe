use std::{error::Error, fmt, io, time::Duration};

use super::ClientReply;

/// Why a [`Client`](super::Client) has no reply, or not the expected one.
///
/// ```
/// use smtpd_tower::{Pipeline, Server, test::{Client, ClientError}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ClientError> {
/// let mut client =
///     Client::connect(&Server::new("mx.example.org", Pipeline::new()));
/// match client.greeting().await?.expect_code(554) {
///     Err(ClientError::Unexpected { expected: 554, reply }) => {
///         assert_eq!(reply.code().as_u16(), 220)
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The other end has closed the connection in order: everything that it sent has been read.
    Closed,
    /// The other end has reset the connection. Its last output may be lost; a server that lingers while its client still sends
    /// does this only after its linger time.
    Reset,
    /// The input is not a reply as in RFC 5321 section 4.2, with what is wrong with it.
    Malformed(String),
    /// The argument of a command contains CR or LF; [`raw`](super::Client::raw) sends those.
    LineBreak,
    /// The reply has another code.
    Unexpected {
        /// The code that was expected.
        expected: u16,
        /// The reply that arrived.
        reply: ClientReply,
    },
    /// The server has said or read nothing for so long.
    TimedOut {
        /// What the client has waited for.
        awaited: String,
        /// How long each step waits; see [`Client::timeout`](super::Client::timeout).
        limit: Duration,
    },
    /// The connection failed in another way.
    Io(io::Error),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::*;
        match error.kind() {
            ConnectionReset | ConnectionAborted => Self::Reset,
            BrokenPipe | NotConnected | WriteZero => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the server has closed the connection"),
            Self::Reset => f.write_str("the server has reset the connection"),
            Self::Malformed(what) => write!(f, "not an SMTP reply: {what}"),
            Self::LineBreak => f.write_str("a command cannot contain a line break"),
            Self::Unexpected { expected, reply } => write!(f, "expected {expected}, got {reply}"),
            Self::TimedOut { awaited, limit } => {
                write!(f, "timed out after {limit:?}, waiting for {awaited}")
            }
            Self::Io(_) => f.write_str("the connection failed"),
        }
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}
