use std::{error::Error, fmt, io, sync::Arc};

use smtpd_core::{
    connection::MessageError,
    reply::{Code, Origin, Reply, Status},
};

use crate::fault::{self, cause_of};

/// Why a message did not arrive whole, or why the handler that reads it failed.
///
/// A handler that reads a message returns `Result<_, BodyError>`. `?` also accepts a [`Reply`] there, so that the handler can
/// refuse the message. There is no conversion in the other direction, because a `Reply` does not show a [fault](Self::is_fault),
/// so that neither the log nor [`Server::on_error`](crate::server::Server::on_error) would learn of it.
///
/// [The guide](crate::guide::errors) says which reply each becomes, and what happens to the call of a service.
///
/// ```
/// use smtpd_tower::{Body, BodyError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let error = Body::from("Hello\r\n").collect_to(3).await.unwrap_err();
/// assert!(matches!(error, BodyError::TooLarge));
/// assert_eq!(error.reply().code().as_u16(), 552);
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BodyError {
    /// The client disconnected, was too slow, or aborted the message before its end. It must not be delivered.
    ///
    /// The service has 10 seconds to clean up. A client that aborted the message with RSET or EHLO receives no reply until then,
    /// so keep it short.
    Incomplete,
    /// The message has more bytes than the server's limit, or than a limit of the reader.
    TooLarge,
    /// The header section is larger than the server's limits ([`Limits::header_section`](smtpd_core::Limits::header_section)), or
    /// than the reader allows; see [`Body::head`](super::Body::head).
    HeadTooLarge,
    /// The message contains a bare CR or LF, which the server rejects
    /// ([`BareNewline::Reject`](smtpd_core::config::BareNewline::Reject)).
    BareNewline,
    /// The message contains a NUL byte, which the server rejects ([`NulByte::Reject`](smtpd_core::config::NulByte::Reject)).
    NulByte,
    /// Not an error of the message: an I/O error of a handler, which `?` has converted to a `BodyError`. If a [`Reply`] is among
    /// its sources, the client receives that reply, otherwise 452 if a disk is full, and 451 for anything else.
    Handler(Arc<io::Error>),
    /// A body of your own failed or refuses the message: see [`other`](Self::other), [`refused`](Self::refused).
    Other(Arc<dyn Error + Send + Sync>),
}

impl BodyError {
    /// Creates an error for a failure of a body of your own. If a [`Reply`] is among its sources, it is a decision, and the
    /// client receives that reply; otherwise it is a fault, and the client receives 452 if a disk is full, and 451 for anything
    /// else.
    pub fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other(error.into().into())
    }

    /// Creates an error with which a body of your own refuses the message, for example a filter that inspects it. Whatever reads
    /// the body, the client receives `reply`.
    ///
    /// ```
    /// use smtpd_tower::{BodyError, Reply};
    ///
    /// assert_eq!(
    ///     BodyError::refused(Reply::rejected("Virus found")).reply(),
    ///     Reply::rejected("Virus found")
    /// );
    /// ```
    pub fn refused(reply: Reply) -> Self {
        Self::other(reply)
    }

    /// Returns the reply to the message. For [`Handler`](Self::Handler) and [`Other`](Self::Other), this is the reply among its
    /// sources, or what [`recover`](crate::reply::recover()) makes of a fault: 452 if a disk is full, otherwise 451 4.3.0.
    pub fn reply(&self) -> Reply {
        self.decision()
            .unwrap_or_else(|| fault::reply_to_fault(self))
    }

    /// Returns whether this is a fault on this side: neither the client's, nor a refusal.
    ///
    /// ```
    /// use smtpd_tower::{BodyError, Reply};
    ///
    /// assert!(BodyError::other("connection to the scanner lost").is_fault());
    /// assert!(!BodyError::refused(Reply::rejected("Virus found")).is_fault());
    /// assert!(!BodyError::Incomplete.is_fault());
    /// ```
    pub fn is_fault(&self) -> bool {
        self.decision().is_none()
    }

    /// Returns the reply, unless this is a fault on this side.
    fn decision(&self) -> Option<Reply> {
        let of_message = match self {
            Self::TooLarge => MessageError::TooLarge.reply(),
            Self::HeadTooLarge => MessageError::HeadTooLarge.reply(),
            Self::BareNewline => MessageError::BareNewline.reply(),
            Self::NulByte => MessageError::NulByte.reply(),
            Self::Incomplete => Reply::new(
                Code::LOCAL_ERROR,
                Status::BAD_CONNECTION,
                "Message incomplete",
            ),
            Self::Handler(error) => return known_reply(&**error),
            Self::Other(error) => return known_reply(&**error),
        };
        Some(of_message.with_origin(Origin::Protocol))
    }
}

impl From<MessageError> for BodyError {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::TooLarge => Self::TooLarge,
            MessageError::HeadTooLarge => Self::HeadTooLarge,
            MessageError::BareNewline => Self::BareNewline,
            MessageError::NulByte => Self::NulByte,
            other => Self::Other(Arc::new(other)),
        }
    }
}

impl From<Reply> for BodyError {
    /// Calls [`refused`](Self::refused).
    fn from(reply: Reply) -> Self {
        Self::refused(reply)
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incomplete => "message incomplete",
            Self::TooLarge => "message too large",
            Self::HeadTooLarge => "message header too large",
            Self::BareNewline => "message holds a bare CR or LF",
            Self::NulByte => "message holds a NUL byte",
            Self::Handler(_) => "I/O of the handler failed",
            Self::Other(_) => "message body failed",
        })
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Handler(error) => Some(&**error),
            Self::Other(error) => Some(&**error),
            _ => None,
        }
    }
}

/// Returns the reply of the first cause of an error that has one. Without one, the error is a fault on this side.
pub(crate) fn known_reply(error: &(dyn Error + 'static)) -> Option<Reply> {
    first_reply(error, fault::reply_of)
}

/// Returns the reply that a service has thrown as an error, for example by `?`.
///
/// Unlike [`known_reply`], it leaves out the errors of tower's own layers, such as `Elapsed`: other layers may look for those.
pub(crate) fn thrown_reply(error: &(dyn Error + 'static)) -> Option<Reply> {
    first_reply(error, |error| error.downcast_ref::<Reply>().cloned())
}

fn first_reply(
    error: &(dyn Error + 'static),
    reply_of: impl Fn(&(dyn Error + 'static)) -> Option<Reply>,
) -> Option<Reply> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(body) = error.downcast_ref::<BodyError>() {
            return body.decision();
        }
        if let Some(reply) = reply_of(error) {
            return Some(reply);
        }
        cause = cause_of(error);
    }
    None
}
