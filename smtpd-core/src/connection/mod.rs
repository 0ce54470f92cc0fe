//! The state machine of one session.
//!
//! [`Connection::poll`] is its center: it finds what must be decided next, or else what to wait for and until when. It returns a
//! [`Step`], which is one of these:
//!
//! | steps | types |
//! |---|---|
//! | questions | [`Ask`] with its [kinds](ask_kind), [`Deferred`], [`Refusal`] |
//! | subjects of questions | [`Helo`] with a [`Greeting`], [`AuthRequest`], [`MailCommand`], [`RcptCommand`], [`CommandLine`], [`MessageError`] |
//! | waits | [`Writing`], [`Reading`], [`Handshaking`], [`Answering`] |
//! | notifications | [`Receiving`] with the bytes of a message, [`Overdue`], [`WireLine`] with a [`Direction`], [`Answered`] |
//! | the end | [`CloseReason`] |
//!
//! [`AuthOutcome`] answers an [`AuthRequest`], and [`TlsFacts`] are the results of a handshake. [`protocol_word`] returns the
//! protocol of a session for a Received field.

mod answer;
mod answered;
mod ask;
pub mod ask_kind;
mod authentication;
mod claims;
mod clock;
mod command;
mod deferred;
mod envelope;
mod etrn;
mod event;
mod fixed;
mod getters;
mod hello;
mod offer;
mod output;
mod question;
mod receiving;
mod redact;
mod refusal;
mod replies;
mod session;
mod state;
mod step;
mod subject;
mod tally;
mod transaction;
mod transfer;
mod wait;
mod waiting;
mod wire;

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;

use self::{
    clock::Clock,
    question::Asked,
    session::{Mode, Session},
    state::State,
    step::Found,
};
use crate::{
    config::DriverConfig,
    reply::{Origin, Reply},
    time::Nanos,
};

pub use self::{
    answered::Answered,
    ask::Ask,
    deferred::Deferred,
    event::{AuthOutcome, CloseReason, MessageError, Overdue},
    receiving::Receiving,
    refusal::Refusal,
    step::Step,
    subject::{AuthRequest, CommandLine, MailCommand, RcptCommand},
    waiting::{Answering, Handshaking, Reading, TlsFacts, Writing},
    wire::{Direction, WireLine},
};
pub use crate::{
    helo::{Greeting, Helo},
    protocol::protocol_word,
};

/// One session of SMTP or LMTP, without any I/O: its input is bytes, time and answers, its output is questions, bytes and
/// deadlines.
///
/// A driver calls [`poll`](Self::poll) in a loop and does what the returned [`Step`] says. Each step is one of three kinds:
///
/// | kind | steps | what to do |
/// |---|---|---|
/// | a question | [`Connect`](Step::Connect), [`XClient`](Step::XClient), [`Helo`](Step::Helo), [`Auth`](Step::Auth), [`Mail`](Step::Mail), [`Rcpt`](Step::Rcpt), [`Command`](Step::Command), [`StartTls`](Step::StartTls), [`Data`](Step::Data), [`ChunkEnd`](Step::ChunkEnd), [`Message`](Step::Message) | answer its [`Ask`], or [defer](Ask::defer) it |
/// | a notification | [`Chunk`](Step::Chunk), [`Authenticated`](Step::Authenticated), [`Reset`](Step::Reset), [`XForward`](Step::XForward), [`Overdue`](Step::Overdue), [`Line`](Step::Line), [`Answered`](Step::Answered) | handle it, and poll again |
/// | a wait | [`Write`](Step::Write), [`Read`](Step::Read), [`Handshake`](Step::Handshake), [`Answer`](Step::Answer), [`Closed`](Step::Closed) | wait for exactly that, at most until its deadline, and poll again |
///
/// [`guide::driver`](crate::guide::driver) lists the other duties of a driver. A wait is returned only when nothing is left to
/// decide, and each has a deadline; after it has passed, `poll` acts on it. The replies to a group of commands are sent in one
/// write (RFC 2920 section 3.2), because [`Write`](Step::Write) comes when all the input is used up or 16 KiB of replies wait. Do
/// not read until it is done: then a client cannot make the session grow. A question blocks the session until it is answered, so
/// replies keep the order of the commands. The following table shows which wait and which deadline applies:
///
/// | the client | state | step | deadline ([`Timeouts`](crate::config::Timeouts)) |
/// |---|---|---|---|
/// | has connected with implicit TLS, or received 220 to STARTTLS | handshake | `Handshake` | `handshake` |
/// | has connected, and must send nothing yet | before the greeting | `Read` | [`Config::greeting_delay`](crate::Config::greeting_delay) |
/// | has connected, or sent a command | a question is deferred | `Answer`, or `Write` while replies wait | `ready`, `call`, `data_start` |
/// | must send a command or a SASL response | commands | `Read` | `command`, `line`, `session`, `without_message`, `without_login` |
/// | must send more of a message | message | `Read` | `data`, `transfer` with `min_rate` |
/// | has made [many mistakes](crate::Limits::prompt_refusals) | a reply is held back | `Answer`, or `Write` while replies wait | when the reply is sent |
/// | has sent more than the caller can process | [on hold](Receiving::hold) | `Answer` | `delivery` |
/// | has sent a whole message | a question is deferred | `Answer` | `delivery` |
/// | must receive replies | any | `Write` | `write`, `linger` after [`shut_down`](Self::shut_down) |
/// | is done | closed | `Write`, then `Closed` forever | |
///
/// [`drain`](Self::drain), [`shut_down`](Self::shut_down), [`handle_eof`](Self::handle_eof) and
/// [`handle_lost`](Self::handle_lost) notify the session of outside events, and [`resume`](Self::resume) answers deferred
/// questions. Poll again after each of them: the wait that was returned before is out of date. Within a `match` on the step,
/// [`Reading::into_connection`] and its counterparts return the session for these calls.
///
/// [`envelope`](Self::envelope), [`identity`](Self::identity), [`helo`](Self::helo) and [`is_tls`](Self::is_tls) return the
/// current state. Call them instead of keeping copies, which become stale at RSET, EHLO, STARTTLS, XCLIENT and a refused DATA.
///
/// ```
/// use std::time::Instant;
///
/// use smtpd_core::{Config, Connection, Reply, Step, bytes::BytesMut};
///
/// let mut connection = Connection::new(Config::new("mx.example.org").into());
/// // What the client sends, and what it receives.
/// let mut client = [
///     "EHLO client.example\r\nMAIL FROM:<a@example.com>\r\n\
///      RCPT TO:<b@example.org>\r\nDATA\r\n",
///     "Hello\r\n..dot\r\n.\r\nQUIT\r\n",
/// ]
/// .into_iter();
/// let (mut input, mut received, mut message) =
///     (BytesMut::new(), String::new(), Vec::new());
/// loop {
///     let now = Instant::now();
///     match connection.poll(now, &mut input) {
///         // Waits. A real driver waits for its socket until the deadline.
///         Step::Write(mut writing) => {
///             received.push_str(std::str::from_utf8(writing.bytes())?);
///             writing.wrote(writing.bytes().len(), now);
///         }
///         Step::Read(reading) => {
///             assert!(reading.until() > now);
///             input.extend_from_slice(
///                 client.next().unwrap_or_default().as_bytes(),
///             );
///         }
///         Step::Handshake(wait) => wait.failed(), // STARTTLS is not offered.
///         // Nothing is deferred here, but a reply may be held back.
///         Step::Answer(wait) => std::thread::sleep(wait.until() - now),
///         Step::Closed(reason) => break assert_eq!(reason.as_str(), "quit"),
///         // Questions.
///         Step::Connect(ask) => ask.accept(),
///         Step::Helo(_, ask) => ask.accept(),
///         Step::Mail(mail, ask) if mail.sender().as_str() == "a@example.com" => {
///             ask.accept()
///         }
///         Step::Rcpt(rcpt, ask) => match rcpt.recipient().mailbox() {
///             Some(mailbox)
///                 if !mailbox.domain().eq_ignore_case("example.org") =>
///             {
///                 ask.refuse(Reply::relay_denied())
///             }
///             _ => ask.accept(),
///         },
///         Step::Data(ask) => {
///             message.clear();
///             ask.receive();
///         }
///         Step::ChunkEnd(ask) => ask.accept(),
///         Step::Message(Ok(()), ask) => ask.reply(Reply::queued("4F2A")),
///         // Notifications.
///         Step::Chunk(bytes, _) => message.extend_from_slice(&bytes),
///         // A question that is dropped is answered with 451, or AUTH with 454.
///         // Do not end with `_` in a driver of your own: it would hide a wait.
///         _ => {}
///     }
/// }
/// assert_eq!(message, b"Hello\r\n.dot\r\n");
/// assert!(received.contains(
///     "354 Start mail input; end with <CRLF>.<CRLF>\r\n\
///      250 2.0.0 Queued as 4F2A\r\n221 "
/// ));
/// # Ok::<(), std::str::Utf8Error>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    session: Session,
    clock: Clock,
    draining: bool,
    eof: bool,
    /// Whether [`shut_down`](Self::shut_down) ended the session.
    cut: bool,
    /// Whether the client sent something before it was greeted.
    talked_early: bool,
}

impl Connection {
    /// Creates a session that begins in plaintext, at the first [`poll`](Self::poll).
    pub fn new(config: Arc<DriverConfig>) -> Self {
        let mut connection = Self::silent(config);
        connection.session.begin();
        connection
    }

    /// Creates a session over a connection that is encrypted from its first byte (RFC 8314 section 3.3). Its first step is the
    /// [`Handshake`](Step::Handshake).
    pub fn with_tls(config: Arc<DriverConfig>) -> Self {
        let mut connection = Self::silent(config);
        connection.session.read(Mode::Handshake);
        connection
    }

    /// Creates a session over a connection whose TLS handshake is over: the driver has performed it, or a TLS terminator in front
    /// of it has. The session begins at the first [`poll`](Self::poll), and never offers STARTTLS.
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// use smtpd_core::{
    ///     Config, Connection, Step, bytes::BytesMut, connection::TlsFacts,
    /// };
    ///
    /// let config = Config::new("mx.example.org").into();
    /// let mut connection = Connection::within_tls(config, TlsFacts::default());
    /// assert!(connection.is_tls());
    /// let step = connection.poll(Instant::now(), &mut BytesMut::new());
    /// assert!(matches!(step, Step::Connect(_)));
    /// ```
    pub fn within_tls(config: Arc<DriverConfig>, facts: TlsFacts) -> Self {
        let mut connection = Self::silent(config);
        connection.session.encrypted(facts);
        connection.session.begin();
        connection
    }

    /// Creates a session without a first question.
    fn silent(config: Arc<DriverConfig>) -> Self {
        Self {
            session: Session::new(config),
            clock: Clock::default(),
            draining: false,
            eof: false,
            cut: false,
            talked_early: false,
        }
    }

    /// Returns what must be done next.
    ///
    /// Takes from the front of `input` what it can use, and leaves the rest there: less than a line or a few bytes of a message,
    /// or what follows a command that must be answered first. Append what you read to it.
    ///
    /// `now` is the current time. Read the clock anew for every call, because the time that an answer took must not be charged to
    /// the client, or call [`handle_busy`](Self::handle_busy) before the session has to wait. The session begins at the first
    /// call, and `poll` acts on deadlines that have passed. Input that was appended before this call is still used. If a deadline
    /// passed more than 10 ms before this call, the wait is returned once more for 10 ms, so that input already in the socket can
    /// be read. This does not apply to [`Timeouts::session`](crate::config::Timeouts::session): appended input is not used, and
    /// there are no extra 10 ms.
    #[inline]
    pub fn poll(&mut self, now: Instant, input: &mut BytesMut) -> Step<'_> {
        match self.find(now, input) {
            Found::Event(event) => Step::of_event(self, event),
            Found::Wait(wait) => Step::of_wait(self, wait),
        }
    }

    /// Returns the question of `deferred`, so that it can be answered. Returns `None` if the session has ended or has answered it
    /// by itself in the meantime: such an answer is late, and harmless. Also returns `None` for a question of another session,
    /// whose client then waits until the timeout and receives 451, or 454 to AUTH.
    #[must_use = "a question that is resumed and dropped is answered with 451, or AUTH with 454"]
    pub fn resume<K>(&mut self, deferred: Deferred<K>) -> Option<Ask<'_, K>> {
        let is_open = self.session.question.is_open(deferred.serial());
        is_open.then(|| Ask::new(self))
    }

    /// Notes that the service of a [queued](Ask::queue) question has become ready and has started: from the next poll on, the
    /// answer has the time that [`Timeouts`](crate::config::Timeouts) sets for a call.
    pub fn begin<K>(&mut self, deferred: &Deferred<K>) {
        let question = &mut self.session.question;
        if question.is_open(deferred.serial()) && question.begin() {
            self.clock.forget_due();
        }
    }

    /// Returns the message that is being received, so that it can be answered before its end or put on hold. Returns `None`
    /// before [`Step::Data`] is answered and after [`Step::Message`] was returned.
    pub fn receiving(&mut self) -> Option<Receiving<'_>> {
        let session = &self.session;
        let open = !matches!(session.question.asked(), Some(Asked::Data | Asked::Message));
        let wanted = session.transfer.is_open() && session.reading != Mode::Closed;
        (open && wanted).then(|| Receiving::new(self))
    }

    /// Ends the session with 421 4.3.2 (RFC 5321 section 3.8) as soon as it is between two messages: at once, or at the end of
    /// the open transaction. Pipelined commands after that are not answered, and a TLS handshake is not awaited. The effect is
    /// permanent.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Ends the session with 421 4.3.2 at once, for example when the time for a graceful shutdown is over. The remaining output
    /// has [`Timeouts::linger`](crate::config::Timeouts::linger) to be written.
    ///
    /// Outstanding questions can no longer be answered: a client that has sent a whole message does not learn that it was
    /// accepted, and will send it again. [`drain`](Self::drain) waits for them.
    pub fn shut_down(&mut self) {
        if self.session.closed.is_none() {
            self.say_shutdown();
        } else if self.session.reading != Mode::Closed {
            // The client is lost, and only the answer to its message was awaited.
            self.session.close(CloseReason::Shutdown);
        }
        if !self.cut {
            self.cut = true;
            self.session.replies.restart();
        }
    }

    fn say_shutdown(&mut self) {
        let text = self
            .session
            .config
            .settings
            .signed("shuts down, closing the connection");
        self.session.interrupt();
        let reply = Reply::closing(text).with_origin(Origin::Shutdown);
        self.session.close_with(reply, CloseReason::Shutdown);
    }

    /// Ends the session with `refusal` at once, for example after a fault of the caller. Outstanding questions can no longer be
    /// answered.
    pub fn end(&mut self, refusal: impl Into<Refusal>) {
        let reply = refusal.into().into_reply().or_origin(Origin::Service);
        self.session.interrupt();
        self.session.close_with(reply, CloseReason::Refused);
    }

    /// Notes that the client will send nothing more. What it has sent is still answered, and then the session ends; an incomplete
    /// message is discarded. During a TLS handshake, the session ends at once.
    pub fn handle_eof(&mut self) {
        self.eof = true;
    }

    /// Notes that the driver was busy between these two times and did not look at its socket. That time is not charged to the
    /// client: the deadlines of [`Read`](Step::Read), [`Write`](Step::Write) and [`Handshake`](Step::Handshake) move later by it.
    /// The deadline of an [`Answer`](Step::Answer) does not move. `since` is the time of the last poll, or later. Poll again
    /// after it.
    ///
    /// A driver that reads the clock anew for every [`poll`](Self::poll) does not need this. It is for one that polls many times
    /// with the time at which it was woken, and finds out only later how much time has passed since.
    pub fn handle_busy(&mut self, since: Instant, now: Instant) {
        let busy = Nanos::of(now.saturating_duration_since(since));
        self.clock.postpone(busy);
        self.session.replies.postpone(busy);
        if self.session.reading == Mode::Handshake || self.session.state == State::Refused {
            self.clock.postpone_due(busy);
        }
    }

    /// Notes that the connection is lost: nothing can be read or written any more. Only a complete message is still answered, so
    /// that its delivery can finish (RFC 5321 section 6.1).
    pub fn handle_lost(&mut self) {
        self.session.lose(CloseReason::Lost);
    }

    /// Lets this peer report its client with XCLIENT, until it has named an address. Call it only for trusted peers, and before
    /// the greeting: it has no effect after [`Step::Connect`] was returned, or unless
    /// [`DriverConfig::xclient`](crate::config::DriverConfig::xclient) is on.
    ///
    /// Commands after an address may come from that client, so neither XCLIENT nor XFORWARD is accepted from then on.
    pub fn allow_xclient(&mut self) {
        let session = &mut self.session;
        if session.config.xclient && session.question.is_first() {
            session.claims.allow_xclient();
        }
    }

    /// Lets this peer report the origin of its messages with XFORWARD, as [`allow_xclient`](Self::allow_xclient) does for
    /// XCLIENT; [`DriverConfig::xforward`](crate::config::DriverConfig::xforward) must be on.
    pub fn allow_xforward(&mut self) {
        let session = &mut self.session;
        if session.config.xforward && session.question.is_first() {
            session.claims.allow_xforward();
        }
    }

    /// Notes that `written` bytes were written at `now`.
    #[inline]
    fn wrote(&mut self, written: usize, now: Instant) {
        // After a forced shutdown, the client gains no more time.
        let least_rate = match self.cut {
            true => u32::MAX,
            false => self.session.config.prepared.times.min_rate,
        };
        let clock = &mut self.clock;
        self.session
            .replies
            .wrote(written, least_rate, || clock.moment(now));
    }
}
