//! The state machine of one session.
//!
//! [`Connection::poll`] is its center: it looks for what is to be decided next, and where nothing is, it says what to wait
//! for and until when. It returns a [`Step`], which is one of these:
//!
//! | steps | types |
//! |---|---|
//! | questions | [`Ask`] with its [kinds](ask_kind), [`Deferred`], [`Refusal`] |
//! | what a question is about | [`Helo`] with a [`Greeting`], [`AuthRequest`], [`MailCommand`], [`RcptCommand`], [`CommandLine`], [`MessageError`] |
//! | waits | [`Writing`], [`Reading`], [`Handshaking`], [`Answering`] |
//! | news | [`Receiving`] beside the bytes of a message, [`Overdue`], [`WireLine`] with a [`Direction`] |
//! | the end | [`CloseReason`] |
//!
//! [`AuthOutcome`] answers an [`AuthRequest`], and [`TlsFacts`] is what a handshake has brought. [`protocol_word`] is the word
//! for a session in a Received field.

mod answer;
mod ask;
mod auth;
mod claims;
mod client;
mod clock;
mod closing;
mod command;
mod deadline;
mod envelope;
mod etrn;
mod event;
mod extension;
mod hello;
mod known;
mod line;
mod look;
mod message;
mod output;
mod receiving;
mod recipients;
mod redact;
mod state;
mod step;
mod wire;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::BytesMut;

use self::{
    claims::Claims, client::Client, clock::Clock, event::Event, message::Message, output::Output,
    recipients::Domains, state::State, step::Found, wire::WireLog,
};
use crate::{
    config::Config,
    envelope::{Envelope, Recipient},
    framing::LineReader,
    reply::Reply,
    sasl::{Exchange, MechanismName},
    time::Moment,
};

pub use self::{
    ask::{Ask, Deferred, Refusal},
    event::{
        AuthOutcome, AuthRequest, CloseReason, CommandLine, MailCommand, MessageError, Overdue,
        RcptCommand,
    },
    receiving::Receiving,
    step::{Answering, Handshaking, Reading, Step, TlsFacts, Writing},
    wire::{Direction, WireLine},
};
pub use crate::{
    helo::{Greeting, Helo},
    protocol::protocol_word,
};

/// The kinds of questions, which say how an [`Ask`] is answered.
///
/// | kind | methods of its [`Ask`] |
/// |---|---|
/// | [`Connect`](ask_kind::Connect), [`Helo`](ask_kind::Helo), [`Mail`](ask_kind::Mail), [`Rcpt`](ask_kind::Rcpt), [`Command`](ask_kind::Command) | `accept()`, `reply(reply)` |
/// | [`Auth`](ask_kind::Auth) | `accept(identity)`, `verify(secret)`, `answer(outcome)` |
/// | [`StartTls`](ask_kind::StartTls) | `accept()` |
/// | [`Data`](ask_kind::Data) | `receive()`, `discard(reply)` |
/// | [`Chunk`](ask_kind::Chunk) | `taken()`, `discard(reply)` |
/// | [`Message`](ask_kind::Message) | `reply(reply)` |
/// | all | [`refuse`](Ask::refuse), [`defer`](Ask::defer), [`queue`](Ask::queue) |
pub mod ask_kind {
    pub use super::ask::{
        Auth, Chunk, Command, Connect, Data, Helo, Mail, Message, OneReply, Rcpt, StartTls,
    };
}

/// One session of SMTP or LMTP, without any I/O: bytes, time and answers go in; questions, bytes and deadlines come out.
///
/// A driver calls [`poll`](Self::poll) in a loop and does what the [`Step`] that it returns says. Each step is one of three
/// kinds:
///
/// | kind | steps | what to do |
/// |---|---|---|
/// | a question | [`Connect`](Step::Connect), [`XClient`](Step::XClient), [`Helo`](Step::Helo), [`Auth`](Step::Auth), [`Mail`](Step::Mail), [`Rcpt`](Step::Rcpt), [`Command`](Step::Command), [`StartTls`](Step::StartTls), [`Data`](Step::Data), [`ChunkEnd`](Step::ChunkEnd), [`Message`](Step::Message) | answer its [`Ask`], or [defer](Ask::defer) it |
/// | news | [`Chunk`](Step::Chunk), [`Authenticated`](Step::Authenticated), [`Reset`](Step::Reset), [`XForward`](Step::XForward), [`Overdue`](Step::Overdue), [`Line`](Step::Line) | take it, and poll again |
/// | a wait | [`Write`](Step::Write), [`Read`](Step::Read), [`Handshake`](Step::Handshake), [`Answer`](Step::Answer), [`Closed`](Step::Closed) | wait for exactly that, at most until its deadline, and poll again |
///
/// [`guide::driver`](crate::guide::driver) lists what else a driver has to keep. A wait is returned only when nothing is left
/// to decide, and each has a deadline, which `poll` acts on when it has passed. The replies to a group of commands leave in one write (RFC 2920 section 3.2), because
/// [`Write`](Step::Write) comes when all the input is used up or 64 KiB of replies wait. While it is returned, do not read:
/// then a client cannot make the session grow. A question holds the session until it is answered, so replies keep the order
/// of the commands. Which wait and which deadline applies where:
///
/// | the client | state | step | deadline ([`Timeouts`](crate::config::Timeouts)) |
/// |---|---|---|---|
/// | has connected with TLS first, or was told to start TLS | handshake | `Handshake` | `handshake` |
/// | has connected, or sent a command | a question is deferred | `Answer`, or `Write` while replies wait | `ready`, `call`, `data_start` |
/// | is to send a command or a SASL response | commands | `Read` | `command`, `line`, `session`, `without_message`, `without_login` |
/// | is to send more of a message | message | `Read` | `data`, `transfer` with `min_rate` |
/// | has sent more than the caller can take | [on hold](Receiving::hold) | `Answer` | `delivery` |
/// | has sent a whole message | a question is deferred | `Answer` | `delivery` |
/// | has to take replies | any | `Write` | `write`, `linger` after [`shut_down`](Self::shut_down) |
/// | is done | closed | `Write`, then `Closed` for ever | |
///
/// [`drain`](Self::drain), [`shut_down`](Self::shut_down), [`handle_eof`](Self::handle_eof) and
/// [`handle_lost`](Self::handle_lost) tell the session what has happened outside of it, and [`resume`](Self::resume) answers
/// deferred questions. Poll again after each of them: the wait that was returned before is out of date. Within a `match` on
/// the step, [`Reading::into_connection`] and its like give the session back for these calls.
///
/// [`envelope`](Self::envelope), [`identity`](Self::identity), [`helo`](Self::helo) and [`is_tls`](Self::is_tls) return what
/// holds now. Ask them instead of keeping copies, which go stale at RSET, EHLO, STARTTLS, XCLIENT and a refused DATA.
///
/// ```
/// use std::{sync::Arc, time::Instant};
///
/// use smtpd_core::{Config, Connection, Reply, Step, bytes::BytesMut};
///
/// let mut connection = Connection::new(Arc::new(Config::new("mx.example.org")));
/// // What the client sends, and what it receives.
/// let mut client = [
///     "EHLO client.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n",
///     "Hello\r\n..dot\r\n.\r\nQUIT\r\n",
/// ]
/// .into_iter();
/// let (mut input, mut received, mut message) = (BytesMut::new(), String::new(), Vec::new());
/// loop {
///     let now = Instant::now();
///     match connection.poll(now, &mut input) {
///         // Waits. A real driver waits for its socket here, and until the deadline.
///         Step::Write(mut writing) => {
///             received.push_str(std::str::from_utf8(writing.bytes())?);
///             writing.wrote(writing.bytes().len(), now);
///         }
///         Step::Read(reading) => {
///             assert!(reading.until() > now);
///             input.extend_from_slice(client.next().unwrap_or_default().as_bytes());
///         }
///         Step::Handshake(wait) => wait.failed(), // STARTTLS is not offered.
///         Step::Answer(_) => unreachable!("nothing is deferred here"),
///         Step::Closed(reason) => break assert_eq!(reason.as_str(), "quit"),
///         // Questions.
///         Step::Connect(ask) => ask.accept(),
///         Step::Helo(_, ask) => ask.accept(),
///         Step::Mail(mail, ask) if mail.sender.as_str() == "a@example.com" => ask.accept(),
///         Step::Rcpt(rcpt, ask) => match rcpt.recipient.mailbox() {
///             Some(mailbox) if !mailbox.domain().eq_ignore_case("example.org") => ask.refuse(Reply::relay_denied()),
///             _ => ask.accept(),
///         },
///         Step::Data(ask) => {
///             message.clear();
///             ask.receive();
///         }
///         Step::ChunkEnd(ask) => ask.taken(),
///         Step::Message(Ok(()), ask) => ask.reply(Reply::queued("4F2A")),
///         // News.
///         Step::Chunk(bytes, _) => message.extend_from_slice(&bytes),
///         // A question that is dropped is answered with 451, or AUTH with 454.
///         // Do not end with `_` in a driver of your own: it would hide a wait.
///         _ => {}
///     }
/// }
/// assert_eq!(message, b"Hello\r\n.dot\r\n");
/// assert!(received.contains("354 Start mail input; end with <CRLF>.<CRLF>\r\n250 2.0.0 Queued as 4F2A\r\n221 "));
/// # Ok::<(), std::str::Utf8Error>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
    state: State,
    reading: Mode,
    /// The question that the caller has not answered.
    asked: Option<Asked>,
    /// Whether the caller was given that question, or what else there was to be told.
    notified: bool,
    /// Whether the question waits for its service to become ready.
    queued: bool,
    draining: bool,
    eof: bool,
    /// Whether the driver was told once that it is late for a deadline that has passed.
    late: bool,
    /// Whether the driver was told once that it is late for a write.
    late_to_write: bool,
    /// Whether the session was ended by [`shut_down`](Self::shut_down).
    cut: bool,
    tls: bool,
    closed: Option<CloseReason>,
    /// Tells questions apart, also those of different sessions.
    serial: u64,
    /// When the answer to a deferred question, or the handshake, is due.
    due: Option<Moment>,
    slot: Slot,
    output: Output,
    line: LineReader,
    clock: Clock,
    client: Client,
    counts: Counts,
    /// What a trusted peer says of its client.
    claims: Option<Box<Claims>>,
    transaction: Transaction,
    /// The message that is being received.
    message: Option<Box<Message>>,
    /// The authentication that is going on.
    exchange: Option<Box<Running>>,
    wire: Option<Box<WireLog>>,
}

/// What the caller has to be told before anything else, or what the question is about. Never both.
#[derive(Debug)]
enum Slot {
    Empty,
    News(Event),
    Helo(Box<Helo>),
    Mail(Arc<Envelope>),
    Rcpt(Recipient),
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Commands,
    SaslResponse,
    Message,
    /// A TLS handshake, which is the caller's business.
    Handshake,
    /// Nothing is read any more, and what comes is dropped.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Connect,
    Helo,
    Auth,
    Mail,
    Rcpt,
    StartTls,
    Data,
    /// Whether the caller has taken what has come of the message so far.
    Room,
    Chunk,
    Message,
    Command,
}

#[derive(Debug, Default)]
struct Counts {
    errors: u32,
    auth_failures: u32,
    idle_commands: u32,
    /// Whether there was a MAIL since the last message was accepted, or since the last command that ends a transaction.
    attempted: bool,
    /// Accepted.
    messages: u32,
    /// MAIL commands.
    transactions: u32,
    /// The recipients' domains, where they are limited.
    domains: Option<Box<Domains>>,
}

/// What MAIL has settled for the commands that follow it.
#[derive(Debug, Default)]
struct Transaction {
    utf8: bool,
    binary: bool,
    /// Whether the client asked for a reply to each recipient of the message.
    reply_to_each: bool,
    envelope: Option<Arc<Envelope>>,
}

#[derive(Debug)]
struct Running {
    exchange: Exchange,
    mechanism: MechanismName,
    /// The caller's reply to a refusal, kept until the mechanism has come to its end.
    refusal: Option<Reply>,
}

/// The most questions in one session: each session's serial numbers begin at a multiple of it.
const SERIALS: u64 = 1 << 32;

impl Connection {
    /// No command is taken while more than this many bytes of replies wait to be written.
    const MAX_UNSENT: usize = 64 << 10;

    /// A session that begins in plaintext, at the first [`poll`](Self::poll).
    pub fn new(config: Arc<Config>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let wire = config.log_wire.then(Box::default);
        Self {
            config,
            state: State::Start,
            reading: Mode::Commands,
            asked: Some(Asked::Connect),
            notified: false,
            queued: false,
            draining: false,
            eof: false,
            late: false,
            late_to_write: false,
            cut: false,
            tls: false,
            closed: None,
            serial: NEXT.fetch_add(SERIALS, Ordering::Relaxed),
            due: None,
            slot: Slot::News(Event::Connect),
            output: Output::default(),
            line: LineReader::default(),
            clock: Clock::default(),
            client: Client::default(),
            counts: Counts::default(),
            claims: None,
            transaction: Transaction::default(),
            message: None,
            exchange: None,
            wire,
        }
    }

    /// A session over a connection that is encrypted from its first byte (RFC 8314 section 3.3): its first step is the
    /// [`Handshake`](Step::Handshake).
    pub fn with_tls(config: Arc<Config>) -> Self {
        Self {
            reading: Mode::Handshake,
            asked: None,
            notified: true,
            slot: Slot::Empty,
            ..Self::new(config)
        }
    }

    /// Returns what has to be done next.
    ///
    /// Takes from the front of `input` what it can use, and leaves the rest there: less than a line or a handful of bytes of
    /// a message, or what follows the command that has to be answered first. Append what is read to it.
    ///
    /// `now` is the present time: read the clock anew for every call, because the time that an answer took must not count as
    /// the client's, or call [`handle_busy`](Self::handle_busy) before the session has to wait. The session begins at the first
    /// call, and deadlines that have passed are acted on here. Input that was
    /// appended before this call is still used. If a deadline passed more than 10 ms before this call, the wait is returned
    /// once more for 10 ms, so that input already in the socket can be read. For [`Timeouts::session`](crate::config::Timeouts::session), input that was
    /// appended is not used, and there are no extra 10 ms.
    #[inline]
    pub fn poll(&mut self, now: Instant, input: &mut BytesMut) -> Step<'_> {
        match self.find(now, input) {
            Found::Event(event) => Step::of_event(self, event),
            Found::Wait(need, until) => Step::of_wait(self, need, until),
            Found::Closed(reason) => Step::Closed(reason),
        }
    }

    /// Returns the question that was deferred, so that it can be answered. `None` if the session has ended or has answered it
    /// by itself in the meantime: such an answer is late, and harmless. `None` as well if it is a question of another session, whose
    /// client then waits until the time limit and receives 451, or 454 to AUTH.
    #[must_use = "a question that is resumed and dropped is answered with 451, or AUTH with 454"]
    pub fn resume<K>(&mut self, deferred: Deferred<K>) -> Option<Ask<'_, K>> {
        self.is_open(&deferred).then(|| Ask::new(self))
    }

    /// Whether that question is open. One that was found, but not handed out yet, is another.
    fn is_open<K>(&self, deferred: &Deferred<K>) -> bool {
        self.notified && self.asked.is_some() && deferred.serial() == self.serial
    }

    /// Notes that the service of a [queued](Ask::queue) question has become ready and is at work: from the next poll on, the
    /// answer has the time that [`Timeouts`](crate::config::Timeouts) gives to a call.
    pub fn begin<K>(&mut self, deferred: &Deferred<K>) {
        if self.is_open(deferred) && self.queued {
            self.queued = false;
            self.due = None;
        }
    }

    /// The message that is being received, to be answered before its end or held up. `None` before [`Step::Data`] is
    /// answered and after [`Step::Message`] was returned.
    pub fn receiving(&mut self) -> Option<Receiving<'_>> {
        let open = !matches!(self.asked, Some(Asked::Data | Asked::Message));
        let wanted = self
            .message
            .as_ref()
            .is_some_and(|message| message.is_open());
        (open && wanted && self.reading != Mode::Closed).then(|| Receiving::new(self))
    }

    fn greeting(&self) -> Option<Greeting> {
        self.client.helo.as_ref().map(|helo| helo.greeting)
    }

    /// Tells the caller, before anything else is looked at.
    fn tell(&mut self, event: Event) {
        debug_assert!(
            self.asked.is_none() && self.notified,
            "news would hide a question or other news"
        );
        self.slot = Slot::News(event);
        self.notified = false;
    }

    /// What the caller has to be told before anything else. What the answer to a question will make known is kept.
    fn hand_out(&mut self) -> Option<Event> {
        self.notified = true;
        if let Some(asked) = self.asked {
            self.open(asked);
        }
        match &self.slot {
            Slot::Rcpt(recipient) => Some(Event::Rcpt(RcptCommand::of(recipient))),
            Slot::Mail(envelope) => Some(Event::Mail(MailCommand::of(envelope))),
            Slot::Helo(helo) => Some(Event::Helo(Helo::clone(helo))),
            Slot::News(_) | Slot::Empty => match self.take_slot() {
                Slot::News(event) => Some(event),
                _ => None,
            },
        }
    }

    fn take_slot(&mut self) -> Slot {
        std::mem::replace(&mut self.slot, Slot::Empty)
    }

    fn end_transaction(&mut self) {
        self.transaction = Transaction::default();
        self.message = None;
        self.forget_forwarded();
        if !matches!(self.state, State::Start | State::Refused) {
            self.state = State::Ready;
        }
    }
}
