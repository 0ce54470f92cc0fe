//! Questions that are answered later.

use std::{fmt, marker::PhantomData};

/// A deferred question, to be [resumed](super::Connection::resume) when its answer is known. It is valid only for the session and
/// the question that it was created from.
///
/// Its type names the kind of question, such as `Deferred<ask_kind::Rcpt>`; [`ask_kind`](super::ask_kind) lists the kinds. It
/// borrows nothing and is [`Send`], so it can move to another thread or task and come back with the answer.
///
/// If it is not resumed in time, the connection itself replies with 451, or 454 to AUTH, and reports that with
/// [`Step::Overdue`](super::Step::Overdue). A later answer is harmless: `resume` returns `None` for it. Unlike an
/// [`Ask`](super::Ask), a dropped `Deferred` answers nothing, and the client waits until that timeout. So send it back in every
/// case, even if the work has failed.
///
/// ```
/// use std::{sync::mpsc, thread, time::Instant};
///
/// use smtpd_core::{
///     Config, Connection, Reply, Step,
///     bytes::BytesMut,
///     connection::{Deferred, ask_kind},
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
///                     .recipient()
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
///         Step::ChunkEnd(ask) => ask.accept(),
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
