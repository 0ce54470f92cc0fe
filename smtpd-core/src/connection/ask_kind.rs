//! The kinds of questions, which determine how an [`Ask`](super::Ask) can be answered.
//!
//! | kind | methods of its [`Ask`](super::Ask) |
//! |---|---|
//! | [`Connect`], [`Helo`], [`Mail`], [`Rcpt`], [`Command`] | `accept()`, `reply(reply)` |
//! | [`Auth`] | `accept(identity)`, `verify(secret)`, `answer(outcome)` |
//! | [`StartTls`] | `accept()` |
//! | [`Data`] | `receive()`, `discard(reply)` |
//! | [`Chunk`] | `taken()`, `discard(reply)` |
//! | [`Message`] | `reply(reply)` |
//! | all | [`refuse`](super::Ask::refuse), [`defer`](super::Ask::defer), [`queue`](super::Ask::queue) |

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident;)*) => { $($(#[$doc])* #[derive(Debug)] pub enum $kind {})* };
}

kinds! {
    /// Whether to accept a client.
    Connect;
    /// Whether to accept a name given by HELO.
    Helo;
    /// Whether a client is who it claims to be.
    Auth;
    /// Whether to accept a sender.
    Mail;
    /// Whether to accept a recipient.
    Rcpt;
    /// The reply to a command.
    Command;
    /// Whether TLS is available.
    StartTls;
    /// Whether to receive a message.
    Data;
    /// Whether the bytes so far were accepted.
    Chunk;
    /// The reply to a complete message.
    Message;
}

/// The kinds of questions that are answered by one reply.
pub trait OneReply: sealed::Sealed {}

mod sealed {
    #[expect(unnameable_types, reason = "nobody else may implement it")]
    pub trait Sealed {}
}

macro_rules! one_reply {
    ($($kind:ident)*) => { $(impl sealed::Sealed for $kind {} impl OneReply for $kind {})* };
}

one_reply!(Connect Helo Mail Rcpt Command);
