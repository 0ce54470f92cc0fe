//! The waits that a driver performs.

use std::{fmt, time::Instant};

use bytes::BytesMut;

use super::{
    Connection,
    event::CloseReason,
    session::{Mode, drop_all},
};
use crate::{sasl::ChannelBindings, time::Moment};

/// Nothing is left to decide.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    Until(Need, Moment),
    Closed(CloseReason),
}

/// What to wait for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need {
    Write,
    Read,
    Handshake,
    Answer,
}

/// Bytes that must be written, at the latest by [`until`](Self::until).
pub struct Writing<'c> {
    pub(super) connection: &'c mut Connection,
    pub(super) until: Moment,
}

impl<'c> Writing<'c> {
    /// Returns the bytes that must be written; never empty when the step is returned.
    pub fn bytes(&self) -> &[u8] {
        self.connection.session.replies.unsent()
    }

    /// Notes that `written` of the bytes were written at `now`. Any excess is ignored.
    ///
    /// # Panics
    ///
    /// In debug builds, if `written` exceeds the number of bytes.
    #[inline]
    pub fn wrote(&mut self, written: usize, now: Instant) {
        self.connection.wrote(written, now);
    }

    /// Returns when the client's time is over. Poll then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Returns the session, to notify it of an event: that the client is lost, or that the server is shutting down.
    pub const fn into_connection(self) -> &'c mut Connection {
        self.connection
    }
}

/// Bytes from the client are needed, at the latest by [`until`](Self::until).
pub struct Reading<'c> {
    pub(super) connection: &'c mut Connection,
    pub(super) until: Moment,
}

impl<'c> Reading<'c> {
    /// Returns when the client's time is over. Poll then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Returns whether the awaited bytes belong to a message.
    pub fn is_message(&self) -> bool {
        self.connection.session.reading == Mode::Message
    }

    /// Returns the session, to notify it of an event: that the client sends nothing more or is lost, or that the server is
    /// shutting down.
    pub const fn into_connection(self) -> &'c mut Connection {
        self.connection
    }
}

/// The answer to a deferred question is needed, at the latest by [`until`](Self::until). Or a reply is held back until then.
pub struct Answering<'c> {
    pub(super) connection: &'c mut Connection,
    pub(super) until: Moment,
}

impl<'c> Answering<'c> {
    /// Returns when the connection itself replies with 451, or 454 to AUTH, or when a reply is sent that was held back. Poll
    /// then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Returns whether the answer still matters after the client is gone: a completely received message must be delivered even
    /// though nobody waits for the reply (RFC 5321 section 6.1).
    pub fn outlives_client(&self) -> bool {
        self.connection.session.is_delivering()
    }

    /// Returns whether a reply is held back until then, because the client was refused [too
    /// often](crate::Limits::prompt_refusals), and no answer is needed.
    pub fn holds_reply(&self) -> bool {
        self.connection.session.tally.is_holding()
    }

    /// Returns the session, to [resume](Connection::resume) the question, or to notify it of an event.
    pub const fn into_connection(self) -> &'c mut Connection {
        self.connection
    }
}

/// The results of the TLS handshake.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TlsFacts {
    /// The channel bindings for the -PLUS forms of SCRAM (RFC 5802 section 6). They are offered only if this is not empty.
    pub bindings: ChannelBindings,
    /// Whether the client presented a verified certificate. EXTERNAL is offered only then (RFC 4422 appendix A).
    pub client_certificate: bool,
}

/// A TLS handshake is needed, at the latest by [`until`](Self::until).
pub struct Handshaking<'c> {
    pub(super) connection: &'c mut Connection,
    pub(super) until: Moment,
}

impl<'c> Handshaking<'c> {
    /// Returns when the time for the handshake is over. Poll then.
    pub fn until(&self) -> Instant {
        self.connection.clock.instant(self.until)
    }

    /// Notes that the connection is encrypted. `input` is emptied, so that nothing sent in plaintext can become a command under
    /// TLS, and the session starts anew: what the client said before is forgotten (RFC 3207 section 4.2). Only the attributes of
    /// XCLIENT are kept: otherwise, a client whose proxy passes it through after XCLIENT could get rid of its own address.
    pub fn done(self, input: &mut BytesMut, facts: TlsFacts) {
        drop_all(input);
        let connection = self.connection;
        connection.clock.forget_due();
        let session = &mut connection.session;
        session.encrypted(facts);
        if session.question.is_first() {
            session.begin();
        }
    }

    /// Notes that the handshake has failed. The session ends: it never continues in plaintext.
    pub fn failed(self) {
        self.connection.session.close(CloseReason::TlsFailed);
    }

    /// Returns the session, to notify it of an event: that the client sends nothing more or is lost, or that the server is
    /// shutting down.
    pub const fn into_connection(self) -> &'c mut Connection {
        self.connection
    }
}

macro_rules! debug {
    ($($wait:ident)*) => { $(
        impl fmt::Debug for $wait<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut shown = f.debug_struct(stringify!($wait));
                shown.field("until", &self.until()).finish_non_exhaustive()
            }
        }
    )* };
}

debug!(Writing Reading Answering Handshaking);
