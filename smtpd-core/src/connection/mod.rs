//! The state machine of one session.

mod answer;
mod auth;
mod claims;
mod closing;
mod command;
mod deadline;
mod envelope;
mod etrn;
mod event;
mod extension;
mod hello;
mod line;
mod message;
mod output;
mod recipients;
mod state;
mod wire;

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;

use self::{
    claims::Claims, deadline::Clock, message::Message, output::Output, state::State, wire::WireLog,
};
use crate::{
    Config, Reply,
    framing::LineReader,
    sasl::{ChannelBindings, Exchange, Identity, MAX_RESPONSE_LINE, MechanismName},
};

pub use self::{
    deadline::Timeouts,
    event::{
        AuthOutcome, AuthRequest, CloseReason, CommandLine, Event, Greeting, Helo, MailCommand,
        MessageError, RcptCommand,
    },
    wire::{Direction, WireLine},
};

/// One session of SMTP or LMTP, without any I/O: octets, time and answers go in; events, octets and deadlines come out.
///
/// Its methods are of these kinds:
///
/// - **take input**: [`poll_event`](Self::poll_event) takes octets from the front of a buffer that the caller owns, and
///   yields what they mean; [`handle_timeout`](Self::handle_timeout), [`handle_tls`](Self::handle_tls) and
///   [`set_channel_bindings`](Self::set_channel_bindings) and
///   [`set_client_certificate`](Self::set_client_certificate) take what has happened otherwise;
///   [`allow_xclient`](Self::allow_xclient) and [`allow_xforward`](Self::allow_xforward) that the peer is a trusted proxy.
/// - **take answers** to an event that asks: [`reply`](Self::reply), [`reply_auth`](Self::reply_auth),
///   [`accept_data`](Self::accept_data), [`accept_chunk`](Self::accept_chunk).
/// - **give output**: [`output`](Self::output) is what has to be written, [`advance_output`](Self::advance_output) notes
///   what was; [`poll_timeout`](Self::poll_timeout) tells until when to wait.
///
/// The order of calls: poll events, answering each that asks, until there is none; write the output; then wait for
/// octets or for the deadline. Writing only then puts the replies of a pipelined group into one write (RFC 2920
/// section 3.2). Nothing is yielded while an answer is outstanding, so replies keep the order of the commands.
///
/// ```
/// use std::{sync::Arc, time::Instant};
///
/// use bytes::BytesMut;
/// use smtpd_core::{Config, Connection, Event, Reply};
///
/// let now = Instant::now();
/// let mut connection = Connection::new(Arc::new(Config::new("mx.example.org")), now);
/// let mut input = BytesMut::new();
///
/// // The caller decides whether the client is welcome.
/// assert!(matches!(connection.poll_event(now, &mut input), Some(Event::Connect)));
/// connection.reply(Reply::OK);
/// assert!(connection.output().starts_with(b"220 mx.example.org smtpd ESMTP"));
/// connection.advance_output(connection.output().len());
///
/// // A whole group of commands arrives at once.
/// input.extend_from_slice(
///     b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n",
/// );
/// let Some(Event::Helo(helo)) = connection.poll_event(now, &mut input) else { panic!() };
/// assert_eq!(helo.name.as_str(), "client.example");
/// connection.reply(Reply::OK);
/// let Some(Event::Mail(mail)) = connection.poll_event(now, &mut input) else { panic!() };
/// assert_eq!(mail.sender.as_str(), "a@example.com");
/// assert!(connection.poll_event(now, &mut input).is_none(), "MAIL has not been answered");
/// connection.reply(Reply::OK);
/// let Some(Event::Rcpt(rcpt)) = connection.poll_event(now, &mut input) else { panic!() };
/// assert_eq!(rcpt.recipient.as_str(), "b@example.org");
/// connection.reply(Reply::OK);
/// assert!(matches!(connection.poll_event(now, &mut input), Some(Event::Data)));
/// connection.accept_data();
/// assert!(connection.output().ends_with(b"354 Start mail input; end with <CRLF>.<CRLF>\r\n"));
///
/// // The message comes, its dots undone; the reply to it is the caller's.
/// input.extend_from_slice(b"Hello\r\n..dot\r\n.\r\nQUIT\r\n");
/// let mut message = Vec::new();
/// loop {
///     match connection.poll_event(now, &mut input) {
///         Some(Event::Chunk(octets)) => message.extend_from_slice(&octets),
///         Some(Event::MessageEnd(result)) => break assert!(result.is_ok()),
///         other => panic!("{other:?}"),
///     }
/// }
/// assert_eq!(message, b"Hello\r\n.dot\r\n");
/// connection.reply(Reply::queued("4F2A"));
/// assert!(matches!(connection.poll_event(now, &mut input), Some(Event::Closed(_))));
/// assert!(connection.output().ends_with(b"221 2.0.0 mx.example.org smtpd closing the connection\r\n"));
/// ```
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
    state: State,
    reading: Reading,
    /// The question that the caller has not answered.
    asked: Option<Asked>,
    /// What the caller has to be told before anything else.
    news: Option<Event>,
    output: Output,
    line: LineReader,
    clock: Clock,
    tls: bool,
    /// What SCRAM can bind to; none where there is nothing.
    bindings: Option<Box<ChannelBindings>>,
    /// Whether the client has shown a certificate that was verified.
    certified: bool,
    greeting: Option<Greeting>,
    identity: Option<Identity>,
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

/// What the next octets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
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
    Helo(Greeting),
    Auth,
    Mail,
    Rcpt,
    Data,
    Chunk,
    Message,
    Command,
}

#[derive(Debug, Default)]
struct Counts {
    errors: u32,
    auth_failures: u32,
    idle_commands: u32,
    /// Taken.
    messages: u32,
    /// MAIL commands.
    transactions: u32,
    /// The recipients' domains, where they are limited.
    domains: Vec<Box<str>>,
}

/// What MAIL has settled for the commands that follow it.
#[derive(Debug, Default)]
struct Transaction {
    utf8: bool,
    binary: bool,
    /// Whether the client asked for a reply to each recipient of the message.
    reply_to_each: bool,
    recipients: u32,
}

#[derive(Debug)]
struct Running {
    exchange: Exchange,
    mechanism: MechanismName,
    /// The caller's reply to a refusal, kept until the mechanism has come to its end.
    refusal: Option<Reply>,
}

impl Connection {
    /// No command is taken while more than this many octets of replies wait to be written.
    const MAX_UNSENT: usize = 64 << 10;

    /// A session that begins now, in plaintext.
    pub fn new(config: Arc<Config>, now: Instant) -> Self {
        let wire = config.log_wire.then(Box::default);
        Self {
            config,
            state: State::Start,
            reading: Reading::Commands,
            asked: Some(Asked::Connect),
            news: Some(Event::Connect),
            output: Output::default(),
            line: LineReader::default(),
            clock: Clock::new(now),
            tls: false,
            bindings: None,
            certified: false,
            greeting: None,
            identity: None,
            counts: Counts::default(),
            claims: None,
            transaction: Transaction::default(),
            message: None,
            exchange: None,
            wire,
        }
    }

    /// A session over a connection that was encrypted from its first octet (RFC 8314 section 3.3).
    pub fn with_tls(config: Arc<Config>, now: Instant) -> Self {
        Self {
            tls: true,
            ..Self::new(config, now)
        }
    }

    /// The next event, or `None` until there is more input, an answer, room for more output, or a TLS handshake.
    ///
    /// Takes from the front of `input` what it can use, and leaves the rest there: less than a line or a handful of
    /// octets of a message, or what stands behind the command that has to be answered first. `now` is when the last of
    /// the input came.
    pub fn poll_event(&mut self, now: Instant, input: &mut BytesMut) -> Option<Event> {
        self.clock.arrived(now, input.len());
        if self.is_between_lines() {
            self.clock.restart();
        }
        loop {
            // Looked at before it is taken: an event is large, and mostly there is none.
            if self.news.is_some() {
                self.clock.pause();
                return self.news.take();
            }
            if self.asked.is_some() || self.output.unsent() >= Self::MAX_UNSENT {
                self.clock.pause();
                return None;
            }
            if !self.step(input) {
                self.clock.wait(now, input.len());
                return None;
            }
        }
    }

    /// Notes that the TLS handshake is done. The session starts anew: whatever the client has said in plaintext is
    /// forgotten (RFC 3207 section 4.2), and what came behind STARTTLS was dropped with it. Only what XCLIENT has said
    /// stays: else a client whose proxy hands it through after XCLIENT could get rid of its own address. It has no effect while no
    /// handshake is awaited, as when the session has been ended in the meantime.
    pub fn handle_tls(&mut self) {
        if self.reading != Reading::Handshake {
            return;
        }
        self.state = State::Start;
        self.reading = Reading::Commands;
        self.tls = true;
        self.bindings = None;
        self.certified = false;
        self.greeting = None;
        self.identity = None;
        self.line = LineReader::default();
        self.clock.pause();
        self.end_transaction();
    }

    /// Tells what this TLS connection can be told apart by, so that the -PLUS forms of SCRAM can be offered (RFC 5802
    /// section 6): to be called before anything is polled after [`handle_tls`](Self::handle_tls) or
    /// [`with_tls`](Self::with_tls). It has no effect while there is no TLS.
    pub fn set_channel_bindings(&mut self, bindings: ChannelBindings) {
        self.bindings = (self.tls && !bindings.is_empty()).then(|| Box::new(bindings));
    }

    /// Tells whether the client has shown a certificate that was verified, so that EXTERNAL can be offered (RFC 4422
    /// appendix A): to be called when [`set_channel_bindings`](Self::set_channel_bindings) is. It has no effect while
    /// there is no TLS.
    pub fn set_client_certificate(&mut self, verified: bool) {
        self.certified = self.tls && verified;
    }

    /// The octets that have to be written.
    pub fn output(&self) -> &[u8] {
        self.output.as_slice()
    }

    /// Notes that so many octets of [`output`](Self::output) have been written.
    pub fn advance_output(&mut self, written: usize) {
        self.output.advance(written);
    }

    /// Whether [`poll_event`](Self::poll_event) waits for output to be written before it takes more commands.
    pub fn is_congested(&self) -> bool {
        self.output.unsent() >= Self::MAX_UNSENT
    }

    /// Whether the session runs over TLS.
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether a message is being received.
    pub fn is_receiving(&self) -> bool {
        self.message.is_some()
    }

    /// How many messages have been taken.
    pub const fn messages(&self) -> u32 {
        self.counts.messages
    }

    /// What the session was set up with.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The next line of the wire log, if [`Config::log_wire`] is on. Secrets and messages are not in it.
    #[inline]
    pub fn poll_wire_line(&mut self) -> Option<WireLine> {
        self.wire.as_mut()?.pop()
    }

    /// Takes something from the input. Returns whether there was enough of it.
    fn step(&mut self, input: &mut BytesMut) -> bool {
        match self.reading {
            Reading::Commands => self.step_line(input, self.config.line_limit(), Self::command),
            Reading::SaslResponse => {
                self.step_line(input, MAX_RESPONSE_LINE + 2, Self::sasl_response)
            }
            Reading::Message => self.step_message(input),
            Reading::Handshake => false,
            Reading::Closed => {
                input.clear();
                false
            }
        }
    }

    /// Tells the caller, before anything else is looked at.
    fn tell(&mut self, event: Event) {
        self.news = Some(event);
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
