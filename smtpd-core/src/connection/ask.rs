//! Questions to the caller. Each is a value that can be answered once.

use std::{fmt, marker::PhantomData, mem::ManuallyDrop, time::Instant};

use super::{
    Connection,
    ask_kind::{Auth, Chunk, Data, Message, OneReply, StartTls},
    deferred::Deferred,
    event::AuthOutcome,
    fixed,
    refusal::Refusal,
    session::Session,
    state::State,
};
use crate::{
    reply::{DataReply, Origin, Reply},
    sasl::{Identity, Secret},
};

/// A question that the client waits for: answer it, refuse it, or defer it. If it is dropped, the client receives 451 4.3.0, or
/// 454 4.7.0 to AUTH, or the reply of the [`MessageError`](super::MessageError) if there is one, so a forgotten question neither
/// stalls the session nor accepts anything.
///
/// `K` is the kind of question. Each kind can be answered only in its own ways, which [`ask_kind`](super::ask_kind) lists.
///
/// It borrows the session. To answer from elsewhere, [`defer`](Self::defer) it.
///
/// Two answers to one question do not compile:
/// ```compile_fail,E0382
/// # use smtpd_core::{Ask, connection::ask_kind::Mail};
/// fn twice(ask: Ask<'_, Mail>) {
///     ask.accept();
///     ask.accept();
/// }
/// ```
/// Neither does the answer to another kind of question, such as a plain `reply` to DATA, which would discard the message, or to
/// AUTH:
/// ```compile_fail,E0599
/// # use smtpd_core::{Ask, Reply, connection::ask_kind::Data};
/// fn yes(ask: Ask<'_, Data>) {
///     ask.reply(Reply::OK);
/// }
/// ```
/// ```compile_fail,E0599
/// # use smtpd_core::{Ask, Reply, connection::ask_kind::Auth};
/// fn yes(ask: Ask<'_, Auth>) {
///     ask.reply(Reply::OK);
/// }
/// ```
/// Neither does the answer to another kind of deferred question:
/// ```compile_fail,E0599
/// # use smtpd_core::{Connection, connection::{Deferred, ask_kind::Mail}};
/// fn receive(connection: &mut Connection, deferred: Deferred<Mail>) {
///     let Some(ask) = connection.resume(deferred) else { return };
///     ask.receive();
/// }
/// ```
/// Neither does polling again while a question is open:
/// ```compile_fail,E0499
/// # use std::time::Instant;
/// # use smtpd_core::{Connection, bytes::BytesMut};
/// fn skip(connection: &mut Connection, input: &mut BytesMut) {
///     let question = connection.poll(Instant::now(), input);
///     let next = connection.poll(Instant::now(), input);
///     drop((question, next));
/// }
/// ```
#[must_use = "the client waits for the answer; if this is dropped, it receives 451, or 454 to AUTH"]
pub struct Ask<'c, K> {
    connection: &'c mut Connection,
    kind: PhantomData<K>,
}

impl<'c, K> Ask<'c, K> {
    pub(super) const fn new(connection: &'c mut Connection) -> Self {
        Self {
            connection,
            kind: PhantomData,
        }
    }

    fn answered(self, answer: impl FnOnce(&mut Session)) {
        let connection = &mut *ManuallyDrop::new(self).connection;
        answer(&mut connection.session);
        if connection.session.state == State::Refused {
            // The time until the client is given up begins.
            connection.clock.forget_due();
        }
    }

    /// Refuses the command. At [`Data`], the client receives the reply instead of 354; the bytes of a BDAT chunk are read and
    /// dropped first.
    pub fn refuse(self, refusal: impl Into<Refusal>) {
        let reply = refusal.into().into_reply().or_origin(Origin::Service);
        self.answered(|session| session.refuse_question(reply));
    }

    /// Defers the question. The answer then has the time that [`Timeouts`](crate::config::Timeouts) sets for it: `call`,
    /// `data_start` at [`Data`], `delivery` at [`Chunk`] and [`Message`].
    pub fn defer(self) -> Deferred<K> {
        Deferred::new(ManuallyDrop::new(self).connection.session.question.serial())
    }

    /// Defers the question until the service is ready, for at most [`Timeouts::ready`](crate::config::Timeouts::ready). Call
    /// [`Connection::begin`] when the service starts; answering without `begin` is allowed.
    pub fn queue(self) -> Deferred<K> {
        self.connection.session.question.queue();
        self.defer()
    }

    /// Returns when the connection replies by itself, with 451, or 454 to AUTH, if the question is [deferred](Self::defer) now.
    pub fn until(&self) -> Instant {
        self.connection.due_for(self.connection.answer_limit())
    }

    /// Returns the session that asks.
    pub const fn connection(&self) -> &Connection {
        self.connection
    }
}

impl<K: OneReply> Ask<'_, K> {
    /// Accepts: sends the greeting at [`Connect`](super::ask_kind::Connect), the extensions at
    /// [`Helo`](super::ask_kind::Helo), and 250 otherwise.
    pub fn accept(self) {
        self.reply(Reply::OK);
    }

    /// Answers with `reply`, which may also refuse. A reply that [closes](Reply::closes) ends the session.
    ///
    /// A positive code that would mean something else to the client, such as 221 at MAIL, becomes 250; 251 is for RCPT and
    /// commands. An intermediate reply (3yz) is not an answer, and becomes 451 4.3.0. At
    /// [`Connect`](super::ask_kind::Connect) and [`Helo`](super::ask_kind::Helo), the text of a positive reply is not used.
    pub fn reply(self, mut reply: Reply) {
        reply.sign(Origin::Service);
        self.answered(|session| session.answer_question(reply));
    }
}

impl Ask<'_, Auth> {
    /// Accepts the client under this identity.
    pub fn accept(self, identity: Identity) {
        self.answer(AuthOutcome::Accept(identity));
    }

    /// Lets the mechanism compare what the client presented with the user's secret. The comparison runs at once and takes as long
    /// as the [derivation](crate::sasl::Credentials::derivation), if there is one: let that run elsewhere first.
    pub fn verify(self, secret: Secret) {
        self.answer(AuthOutcome::Verify(secret));
    }

    /// Answers with an outcome of any kind.
    pub fn answer(self, outcome: AuthOutcome) {
        let outcome = match outcome {
            AuthOutcome::Refuse(reply) => AuthOutcome::Refuse(reply.or_origin(Origin::Service)),
            outcome => outcome,
        };
        self.answered(|session| session.answer_auth(outcome));
    }
}

impl Ask<'_, StartTls> {
    /// Sends 220, and waits for the handshake.
    pub fn accept(self) {
        self.connection.clock.forget_due();
        self.answered(Session::begin_tls);
    }
}

impl Ask<'_, Data> {
    /// Receives the message. The client receives 354 to DATA, and the reply to BDAT after the bytes of the chunk.
    pub fn receive(self) {
        self.answered(Session::begin_message);
    }

    /// Receives the message only to drop it, and answers with `reply` at its end. If the reply is positive, the client assumes
    /// that the message was delivered.
    pub fn discard(self, reply: impl Into<DataReply>) {
        let reply = reply.into().or_origin(Origin::Service);
        self.answered(|session| session.begin_discarding(reply));
    }
}

impl Ask<'_, Chunk> {
    /// Continues the session: the bytes were accepted.
    pub fn accept(self) {
        self.answered(Session::go_on);
    }

    /// Answers the message before its end, as [`Receiving::discard`](super::Receiving::discard) does.
    pub fn discard(self, reply: impl Into<DataReply>) {
        let reply = reply.into().or_origin(Origin::Service);
        self.answered(|session| session.discard_rest(reply));
    }
}

impl Ask<'_, Message> {
    /// Answers the message. A [`DataReply`] has a reply for each recipient, which LMTP sends (RFC 2033 section 4.2).
    ///
    /// A positive reply means that the message was accepted, durably if it is delivered or queued. Its codes are sent as 250.
    pub fn reply(self, reply: impl Into<DataReply>) {
        let reply = reply.into().or_origin(Origin::Service);
        self.answered(|session| session.answer_whole(reply));
    }
}

impl<K> Drop for Ask<'_, K> {
    fn drop(&mut self) {
        let reply = fixed::FORGOTTEN.with_origin(Origin::Fault);
        self.connection.session.give_up_question(reply);
    }
}

impl<K> fmt::Debug for Ask<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = self.connection.session.question.asked();
        f.debug_tuple("Ask").field(&asked).finish()
    }
}
