//! The caller's view of a message that is being received.

use std::{fmt, time::Instant};

use super::{
    Connection, ask_kind, deferred::Deferred, question::Asked, refusal::Refusal, session::Mode,
};
use crate::reply::{DataReply, Origin};

/// A message that is being received, which can be put on hold or answered before its end. Returned by [`Connection::receiving`].
pub struct Receiving<'c> {
    connection: &'c mut Connection,
}

impl<'c> Receiving<'c> {
    pub(super) const fn new(connection: &'c mut Connection) -> Self {
        Self { connection }
    }

    /// Returns how many bytes of the message have been received so far.
    pub fn received(&self) -> u64 {
        self.connection.session.transfer.received()
    }

    /// Returns when the connection replies by itself, with 451, if the message is put on [hold](Self::hold) now.
    pub fn until(&self) -> Instant {
        self.connection.hold_until()
    }

    /// Stops reading, because the caller has no space for more of the message. [`Ask::accept`](super::Ask::accept) on the resumed
    /// question continues; the client's time does not run meanwhile.
    ///
    /// Returns `None` while another question is open or about to be asked, such as [`ChunkEnd`](super::Step::ChunkEnd), which
    /// blocks the session anyway, and between two chunks, when there is nothing to hold.
    #[must_use = "the session continues only after the question is resumed and answered"]
    pub fn hold(self) -> Option<Deferred<ask_kind::Chunk>> {
        let connection = self.connection;
        let session = &mut connection.session;
        let is_idle = session.question.asked().is_none() && session.question.is_notified();
        if !is_idle || session.reading != Mode::Message {
            return None;
        }
        connection.clock.forget_due();
        session.question.open(Asked::Room);
        Some(Deferred::new(session.question.serial()))
    }

    /// Refuses the message before its end: the rest of it is read and dropped, and the reply is sent at the end. No further
    /// [`Chunk`](super::Step::Chunk) and no [`Message`](super::Step::Message) follow for it.
    pub fn refuse(self, refusal: impl Into<Refusal>) {
        self.discard(refusal.into().into_reply());
    }

    /// Answers the message before its end: the rest of it is read and dropped, and the reply is sent at the end. If the reply is
    /// positive, the client assumes that the message was delivered. No further [`Chunk`](super::Step::Chunk) and no
    /// [`Message`](super::Step::Message) follow for it.
    ///
    /// If the message turns out to be too large, or to contain a bare CR or LF or a NUL that is not allowed, the client receives
    /// that rejection instead.
    pub fn discard(self, reply: impl Into<DataReply>) {
        let reply = reply.into().or_origin(Origin::Service);
        self.connection.session.discard_rest(reply);
    }
}

impl fmt::Debug for Receiving<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Receiving");
        shown
            .field("received", &self.received())
            .finish_non_exhaustive()
    }
}
