//! Questions to the caller. Each is a value that can be answered once.

use std::{fmt, marker::PhantomData, mem::ManuallyDrop};

use super::{
    Connection,
    event::{AuthOutcome, MessageError},
    fixed,
    session::Session,
};
use crate::{
    reply::{DataReply, Reply},
    sasl::{Identity, Secret},
};

/// A question that the client waits for: answer it, refuse it, or defer it. If it is dropped, the client receives 451 4.3.0, or
/// 454 4.7.0 to AUTH, or the reply of the [`MessageError`] if there is one, so a forgotten question neither stalls the session
/// nor accepts anything.
///
/// `K` is the kind of question. Each kind can be answered only in its own ways, which [`ask_kind`](super::ask_kind) lists.
///
/// It borrows the session. To answer from elsewhere, [`defer`](Self::defer) it.
///
/// Two answers to one question do not compile:
/// ```compile_fail,E0382
/// # use smtpd_core::{Ask, ask_kind::Mail};
/// fn twice(ask: Ask<'_, Mail>) {
///     ask.accept();
///     ask.accept();
/// }
/// ```
/// Neither does the answer to another kind of question, such as a plain `reply` to DATA, which would discard the message, or to
/// AUTH:
/// ```compile_fail,E0599
/// # use smtpd_core::{Ask, Reply, ask_kind::Data};
/// fn yes(ask: Ask<'_, Data>) {
///     ask.reply(Reply::OK);
/// }
/// ```
/// ```compile_fail,E0599
/// # use smtpd_core::{Ask, Reply, ask_kind::Auth};
/// fn yes(ask: Ask<'_, Auth>) {
///     ask.reply(Reply::OK);
/// }
/// ```
/// Neither does the answer to another kind of deferred question:
/// ```compile_fail,E0599
/// # use smtpd_core::{Connection, Deferred, ask_kind::Mail};
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

/// A deferred question, to be [resumed](Connection::resume) when its answer is known. It is valid only for the session and the
/// question that it was created from.
///
/// Its type names the kind of question, such as `Deferred<ask_kind::Rcpt>`; [`ask_kind`](super::ask_kind) lists the kinds. It
/// borrows nothing and is [`Send`], so it can move to another thread or task and come back with the answer.
///
/// If it is not resumed in time, the connection itself replies with 451, or 454 to AUTH, and reports that with
/// [`Step::Overdue`](super::Step::Overdue). A later answer is harmless: `resume` returns `None` for it. Unlike an [`Ask`], a
/// dropped `Deferred` answers nothing, and the client waits until that timeout. So send it back in every case, even if the work
/// has failed.
///
/// ```
/// use std::{sync::mpsc, thread, time::Instant};
///
/// use smtpd_core::{
///     Config, Connection, Deferred, Reply, Step, ask_kind, bytes::BytesMut,
/// };
///
/// /// What the other threads send back.
/// enum Answer {
///     Rcpt(Deferred<ask_kind::Rcpt>, Reply),
///     Message(Deferred<ask_kind::Message>, Reply),
/// }
///
/// let (sender, answers) = mpsc::channel();
/// let mut connection = Connection::new(Config::new("mx.example.org").into());
/// let mut input = BytesMut::from(
///     "HELO client.example\r\nMAIL FROM:<a@example.com>\r\n\
///      RCPT TO:<b@example.org>\r\nDATA\r\nHello\r\n.\r\nQUIT\r\n",
/// );
/// let mut received = String::new();
/// loop {
///     match connection.poll(Instant::now(), &mut input) {
///         Step::Rcpt(rcpt, ask) => {
///             let (deferred, sender) = (ask.defer(), sender.clone());
///             thread::spawn(move || {
///                 // Look the recipient up, however long that takes.
///                 let known = rcpt
///                     .recipient
///                     .mailbox()
///                     .is_some_and(|mailbox| mailbox.local_part() == "b");
///                 let reply = if known {
///                     Reply::OK
///                 } else {
///                     Reply::no_such_user()
///                 };
///                 sender.send(Answer::Rcpt(deferred, reply))
///             });
///         }
///         Step::Message(Ok(()), ask) => {
///             let (deferred, sender) = (ask.defer(), sender.clone());
///             thread::spawn(move || {
///                 sender.send(Answer::Message(deferred, Reply::queued("4F2A")))
///             });
///         }
///         // A real driver also looks for the end of the connection here.
///         Step::Answer(wait) => {
///             let left = wait.until().saturating_duration_since(Instant::now());
///             let connection = wait.into_connection();
///             match answers.recv_timeout(left) {
///                 Ok(Answer::Rcpt(deferred, reply)) => {
///                     if let Some(ask) = connection.resume(deferred) {
///                         ask.reply(reply);
///                     }
///                 }
///                 Ok(Answer::Message(deferred, reply)) => {
///                     if let Some(ask) = connection.resume(deferred) {
///                         ask.reply(reply);
///                     }
///                 }
///                 Err(_) => {} // The deadline has passed: poll.
///             }
///         }
///         Step::Write(mut writing) => {
///             received.push_str(std::str::from_utf8(writing.bytes())?);
///             writing.wrote(writing.bytes().len(), Instant::now());
///         }
///         Step::Read(wait) => wait.into_connection().handle_eof(),
///         Step::Handshake(wait) => wait.failed(),
///         Step::Closed(_) => break,
///         Step::Connect(ask) => ask.accept(),
///         Step::Helo(_, ask) => ask.accept(),
///         Step::Mail(_, ask) => ask.accept(),
///         Step::Data(ask) => ask.receive(),
///         Step::ChunkEnd(ask) => ask.taken(),
///         _ => {}
///     }
/// }
/// assert!(received.contains("250 2.0.0 Queued as 4F2A\r\n221 "));
/// # Ok::<(), std::str::Utf8Error>(())
/// ```
#[must_use = "the client waits for the answer"]
pub struct Deferred<K> {
    serial: u64,
    kind: PhantomData<fn() -> K>,
}

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

impl<'c, K> Ask<'c, K> {
    pub(super) const fn new(connection: &'c mut Connection) -> Self {
        Self {
            connection,
            kind: PhantomData,
        }
    }

    fn answered(self, answer: impl FnOnce(&mut Session)) {
        answer(&mut ManuallyDrop::new(self).connection.session);
    }

    /// Refuses the command. At [`Data`], the client receives the reply instead of 354; the bytes of a BDAT chunk are read and
    /// dropped first.
    pub fn refuse(self, refusal: impl Into<Refusal>) {
        let Refusal(reply) = refusal.into();
        self.answered(|session| session.refuse_question(reply));
    }

    /// Defers the question. The answer then has the time that [`Timeouts`](crate::config::Timeouts) sets for it: `call`,
    /// `data_start` at [`Data`], `delivery` at [`Chunk`] and [`Message`].
    pub fn defer(self) -> Deferred<K> {
        Deferred {
            serial: ManuallyDrop::new(self).connection.session.question.serial(),
            kind: PhantomData,
        }
    }

    /// Defers the question until the service is ready, for at most [`Timeouts::ready`](crate::config::Timeouts::ready). Call
    /// [`Connection::begin`] when the service starts; answering without `begin` is allowed.
    pub fn queue(self) -> Deferred<K> {
        self.connection.session.question.queue();
        self.defer()
    }

    /// Returns the session that asks.
    pub const fn connection(&self) -> &Connection {
        self.connection
    }
}

impl<K: OneReply> Ask<'_, K> {
    /// Accepts: sends the greeting at [`Connect`], the extensions at [`Helo`], and 250 otherwise.
    pub fn accept(self) {
        self.reply(Reply::OK);
    }

    /// Answers with `reply`, which may also refuse. A reply that [closes](Reply::closes) ends the session.
    ///
    /// A positive code that would mean something else to the client, such as 221 at MAIL, becomes 250; 251 is for RCPT and
    /// commands. An intermediate reply (3yz) is not an answer, and becomes 451 4.3.0. At [`Connect`] and [`Helo`], the text of a
    /// positive reply is not used.
    pub fn reply(self, reply: Reply) {
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
        let reply = reply.into();
        self.answered(|session| session.begin_discarding(reply));
    }
}

impl Ask<'_, Chunk> {
    /// Continues the session: the bytes were accepted.
    pub fn taken(self) {
        self.answered(Session::go_on);
    }

    /// Answers the message before its end, as [`Receiving::discard`](super::Receiving::discard) does.
    pub fn discard(self, reply: impl Into<DataReply>) {
        let reply = reply.into();
        self.answered(|session| session.discard_rest(reply));
    }
}

impl Ask<'_, Message> {
    /// Answers the message. A [`DataReply`] has a reply for each recipient, which LMTP sends (RFC 2033 section 4.2).
    ///
    /// A positive reply means that the message was accepted, durably if it is delivered or queued. Its codes are sent as 250.
    pub fn reply(self, reply: impl Into<DataReply>) {
        let reply = reply.into();
        self.answered(|session| session.answer_whole(reply));
    }
}

impl<K> Drop for Ask<'_, K> {
    fn drop(&mut self) {
        self.connection.session.give_up_question(fixed::FORGOTTEN);
    }
}

impl<K> fmt::Debug for Ask<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = self.connection.session.question.asked();
        f.debug_tuple("Ask").field(&asked).finish()
    }
}

impl<K> Deferred<K> {
    pub(super) const fn new(serial: u64) -> Self {
        Self {
            serial,
            kind: PhantomData,
        }
    }

    pub(super) const fn serial(&self) -> u64 {
        self.serial
    }
}

impl<K> fmt::Debug for Deferred<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Deferred").field(&self.serial).finish()
    }
}

/// A reply of 4yz or 5yz: the only replies that can refuse.
///
/// A reply with any other code becomes 451 4.3.0 when it is converted, so it can never accept anything.
///
/// ```
/// use smtpd_core::{Refusal, Reply};
///
/// assert_eq!(
///     Refusal::from(Reply::no_such_user()).reply(),
///     &Reply::no_such_user()
/// );
/// assert_eq!(Refusal::from(Reply::OK).reply().code().as_u16(), 451);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Reply);

impl Refusal {
    /// Returns the reply.
    pub const fn reply(&self) -> &Reply {
        &self.0
    }
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Self {
        if reply.is_positive() {
            Self(fixed::FORGOTTEN)
        } else {
            Self(reply)
        }
    }
}

impl From<MessageError> for Refusal {
    fn from(error: MessageError) -> Self {
        Self(error.reply())
    }
}
