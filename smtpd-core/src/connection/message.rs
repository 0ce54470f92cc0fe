//! The message itself, by DATA or in chunks of BDAT.

use bytes::{Bytes, BytesMut};

use super::{Asked, CloseReason, Connection, MessageError, Mode, State, event::Event};
use crate::{
    framing::{BareNewline, ChunkReader, DotReader, Flaws, NulByte, Piece, TextFilter},
    reply::{Code, DataReply, Reply, Status},
    time::Nanos,
};

/// A message that is being received.
#[derive(Debug)]
pub(super) struct Message {
    source: Source,
    text: TextFilter,
    limit: u64,
    received: u64,
    /// Octets that nobody wants any more.
    drained: u64,
    error: Option<MessageError>,
    /// The reply, where it is known before the end.
    early: Option<DataReply>,
    /// A BDAT that was not in order: its octets are read only to be dropped.
    void: bool,
    /// What the waits for it have come to, also those between its chunks.
    waited: Nanos,
}

#[derive(Debug)]
enum Source {
    Dots(DotReader),
    Chunk {
        reader: ChunkReader,
        size: u64,
        last: bool,
    },
    /// Nothing more to come.
    Over,
}

enum Part {
    Octets(Bytes, Flaws),
    ChunkEnd,
    End,
}

impl Message {
    fn new(source: Source, limit: Option<u64>, text: TextFilter) -> Self {
        Self {
            source,
            text,
            limit: limit.unwrap_or(u64::MAX),
            received: 0,
            drained: 0,
            error: None,
            early: None,
            void: false,
            waited: Nanos::ZERO,
        }
    }

    /// How many bytes have come so far.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    pub(super) const fn waited(&self) -> Nanos {
        self.waited
    }

    pub(super) fn count(&mut self, waited: Nanos) {
        self.waited = self.waited.plus(waited);
    }

    /// Whether it can still be answered.
    pub(super) const fn is_open(&self) -> bool {
        !self.void && self.early.is_none()
    }

    /// Why it has to be refused, if that was found so far.
    pub(super) const fn error(&self) -> Option<MessageError> {
        self.error
    }

    fn poll(&mut self, input: &mut BytesMut) -> Option<Part> {
        match &mut self.source {
            Source::Dots(reader) => match reader.poll(input)? {
                Piece::Text { octets, flaws } => Some(Part::Octets(octets, flaws)),
                Piece::End => Some(Part::End),
            },
            Source::Chunk { reader, last, .. } => match reader.poll(input) {
                Some(octets) => {
                    let flaws = self.text.flaws_of(&octets);
                    Some(Part::Octets(octets, flaws))
                }
                None if !reader.is_done() => None,
                None if *last => Some(Part::End),
                None => Some(Part::ChunkEnd),
            },
            Source::Over => Some(Part::End),
        }
    }

    /// What of these octets is to be handed on.
    fn take(&mut self, octets: Bytes, flaws: Flaws) -> Option<Bytes> {
        let len = octets.len() as u64;
        if self.is_unwanted() {
            self.drained = self.drained.saturating_add(len);
        }
        // RFC 1870 section 5: the octets of the message, without the dots that were added for transparency.
        self.received = self.received.saturating_add(len);
        let excess = self.received.saturating_sub(self.limit);
        if excess > 0 {
            // It takes precedence over what text must not have: which of the two was found first depends on the pieces.
            self.error = Some(MessageError::TooLarge);
            self.drained = self.drained.max(excess);
        }
        if self.void
            || self
                .error
                .is_some_and(|error| error != MessageError::NulByte)
        {
            return None;
        }
        // A message that was taken early is looked at to its end: it may yet have to be refused.
        let octets = self.text.apply(octets, flaws);
        if self.text.is_flawed() {
            self.judge_text();
        }
        (!self.is_unwanted() && !octets.is_empty()).then_some(octets)
    }

    /// A bare CR or LF takes precedence over a NUL that is found with it in one piece of the message. Which of the two is in an
    /// earlier piece is the error of the message: see [`take`](Self::take).
    #[cold]
    fn judge_text(&mut self) {
        if self.text.refuses_newline() {
            self.error = Some(MessageError::BareNewline);
        } else if self.text.refuses_nul() {
            self.error = Some(MessageError::NulByte);
        }
    }

    fn is_unwanted(&self) -> bool {
        self.void || self.error.is_some() || self.early.is_some()
    }

    /// The reply that all the octets yet to come can no longer change.
    fn refusal(&self) -> Option<Reply> {
        let early = self.early.as_ref().filter(|reply| !reply.is_taken());
        let early = early.map(|reply| reply.merged().clone());
        early.or_else(|| self.error.map(MessageError::reply))
    }

    fn chunk(&self) -> Option<(u64, bool)> {
        match self.source {
            Source::Chunk { size, last, .. } => Some((size, last)),
            _ => None,
        }
    }
}

impl Connection {
    fn new_message(&self, source: Source) -> Box<Message> {
        let text = match self.transaction.binary {
            true => TextFilter::new(BareNewline::PassThrough, NulByte::PassThrough),
            false => TextFilter::new(self.config.bare_newline, self.config.nul_byte),
        };
        Box::new(Message::new(source, self.config.limits.message_size, text))
    }

    pub(super) fn bdat(&mut self, argument: &[u8]) {
        let Some((size, last)) = parse_bdat(argument) else {
            return self.malformed_bdat();
        };
        let source = Source::Chunk {
            reader: ChunkReader::new(size),
            size,
            last,
        };
        match &mut self.message {
            Some(message) => {
                message.source = source;
                self.reading = Mode::Message;
            }
            None => {
                self.message = Some(self.new_message(source));
                self.ask(Asked::Data, Event::Data)
            }
        }
    }

    /// RFC 3030 section 2: the octets that a refused BDAT announces are on their way, so they have to be read off.
    pub(super) fn refuse_bdat(&mut self, argument: &[u8], reply: Reply) {
        let Some((size, last)) = parse_bdat(argument) else {
            return self.malformed_bdat();
        };
        if size > self.config.limits.drain {
            return self.close_with(reply, CloseReason::Violation);
        }
        let mut message = self.new_message(Source::Chunk {
            reader: ChunkReader::new(size),
            size,
            last,
        });
        message.early = Some(reply.into());
        message.void = true;
        self.message = Some(message);
        self.reading = Mode::Message;
    }

    /// Where the message ends cannot be known, so there is no way to go on.
    fn malformed_bdat(&mut self) {
        let reply = Reply::fixed(
            Code::PARAMETER_ERROR,
            Status::INVALID_PARAMETERS,
            "Syntax: BDAT octets [LAST]",
        );
        self.close_with(reply, CloseReason::Violation)
    }

    /// Takes what there is of a message. Returns whether that was anything.
    pub(super) fn step_message(&mut self, input: &mut BytesMut) -> bool {
        let Some(message) = &mut self.message else {
            self.reading = Mode::Commands;
            return true;
        };
        match message.poll(input) {
            None => return false,
            Some(Part::Octets(octets, flaws)) => match message.take(octets, flaws) {
                Some(octets) => self.tell(Event::Chunk(octets)),
                None if message.drained > self.config.limits.drain => {
                    if let Some(reply) = message.refusal() {
                        self.close_with(reply, CloseReason::Limit);
                    }
                }
                None => {}
            },
            Some(Part::ChunkEnd) => self.chunk_end(),
            Some(Part::End) => self.message_end(),
        }
        true
    }

    pub(super) fn chunk_end(&mut self) {
        self.reading = Mode::Commands;
        self.clock.begin_line();
        let Some(message) = &mut self.message else {
            return;
        };
        if message.void {
            return self.void_end();
        }
        match (&message.early, message.error) {
            (Some(reply), _) if !reply.is_taken() => {
                let reply = reply.merged().clone();
                self.break_chunks(&reply);
            }
            (None, Some(error)) => self.ask(Asked::Message, Event::MessageEnd(Err(error))),
            (Some(_), Some(error)) => self.break_chunks(&error.reply()),
            (Some(_), None) => self.put_chunk_taken(),
            (None, None) => self.ask(Asked::Chunk, Event::ChunkEnd),
        }
    }

    fn message_end(&mut self) {
        let Some(message) = &mut self.message else {
            return;
        };
        let rest = message.text.finish();
        if message.error != Some(MessageError::TooLarge) {
            message.judge_text();
        }
        if let Some(rest) = rest.filter(|_| !message.is_unwanted()) {
            message.source = Source::Over;
            return self.tell(Event::Chunk(rest));
        }
        self.reading = Mode::Commands;
        self.clock.begin_line();
        if message.void {
            return self.void_end();
        }
        self.log_received(&format!(
            "[message of {} octets]",
            self.message.as_ref().map_or(0, |m| m.received)
        ));
        match self
            .message
            .as_mut()
            .and_then(|message| message.early.take())
        {
            Some(reply) => self.answer_message(reply),
            None => {
                let result = self
                    .message
                    .as_ref()
                    .and_then(|message| message.error)
                    .map_or(Ok(()), Err);
                self.ask(Asked::Message, Event::MessageEnd(result))
            }
        }
    }

    /// The octets of a BDAT that was not in order are gone; the transaction is what it was.
    fn void_end(&mut self) {
        let reply = self.message.take().and_then(|message| message.early);
        if let Some(reply) = reply {
            self.fault(reply.merged().clone());
        }
    }

    /// RFC 3030 section 2: after a refused chunk only RSET brings the transaction to an end.
    fn break_chunks(&mut self, reply: &Reply) {
        self.message = None;
        self.state = State::Broken;
        if reply.closes() {
            return self.close_with(reply.clone(), CloseReason::Refused);
        }
        self.put(reply);
    }

    pub(super) fn put_chunk_taken(&mut self) {
        self.state = State::Chunks;
        let size = self
            .message
            .as_ref()
            .and_then(|message| message.chunk())
            .map_or(0, |(size, _)| size);
        self.put(&Reply::ok(format!("{size} octets received")));
    }

    /// Starts to receive a message that ends with a dot.
    pub(super) fn begin_text(&mut self) {
        self.message = Some(self.new_message(Source::Dots(DotReader::new())));
        // RFC 2034 section 4: an intermediate reply has no enhanced code, so it is the same in every session.
        self.put_raw(b"354 Start mail input; end with <CRLF>.<CRLF>\r\n");
    }

    /// Keeps a reply that has come before the end of the message: what is left of it is read and dropped.
    pub(super) fn answer_early(&mut self, reply: DataReply) {
        if let Some(message) = &mut self.message {
            message.early.get_or_insert(reply);
        }
    }

    /// A reply in place of the message, or of the first chunk, whose bytes then have to be read off.
    pub(super) fn refuse_data(&mut self, reply: Reply) {
        let too_long = self
            .message
            .as_ref()
            .and_then(|m| m.chunk())
            .is_some_and(|(size, _)| size > self.config.limits.drain);
        if too_long || reply.closes() {
            return self.close_with(reply, CloseReason::Refused);
        }
        if self.message.is_some() {
            self.reading = Mode::Message;
            return self.answer_early(reply.into());
        }
        self.put(&reply);
        self.end_transaction();
    }

    /// Answers a message that is over.
    pub(super) fn answer_message(&mut self, reply: DataReply) {
        let Some(message) = self.message.take() else {
            return;
        };
        let reply = reply.map(|reply| settle(reply, message.error));
        let is_last = message.chunk().is_none_or(|(_, last)| last);
        if !is_last {
            return self.break_chunks(reply.merged());
        }
        if reply.is_taken() {
            self.counts.messages += 1;
            self.counts.idle_commands = 0;
            self.counts.attempted = false;
            self.clock.accepted();
        }
        let closes = self.put_data_reply(&reply);
        self.end_transaction();
        if closes {
            self.close(CloseReason::Refused);
        }
    }
}

/// A message that must be refused is never taken, whatever the service has said.
fn settle(reply: Reply, error: Option<MessageError>) -> Reply {
    match error {
        Some(error) if reply.is_positive() => error.reply(),
        _ => reply,
    }
}

/// RFC 3030 section 2: `"BDAT" SP chunk-size [ SP end-marker ]`.
fn parse_bdat(argument: &[u8]) -> Option<(u64, bool)> {
    let mut words = argument
        .split(|&octet| octet == b' ')
        .filter(|word| !word.is_empty());
    let digits = words.next()?;
    let size = std::str::from_utf8(digits)
        .ok()
        .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?
        .parse()
        .ok()?;
    match (words.next(), words.next()) {
        (None, _) => Some((size, false)),
        (Some(last), None) if last.eq_ignore_ascii_case(b"LAST") => Some((size, true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bdat_lines() {
        let cases: [(&str, Option<(u64, bool)>); 13] = [
            ("0", Some((0, false))),
            ("10 LAST", Some((10, true))),
            ("10 last", Some((10, true))),
            ("18446744073709551615", Some((u64::MAX, false))),
            ("18446744073709551616", None),
            ("", None),
            ("abc", None),
            ("-1", None),
            ("+3", None),
            ("0x3 LAST", None),
            ("3LAST", None),
            ("1 FIRST", None),
            ("1 LAST x", None),
        ];
        for (argument, expected) in cases {
            assert_eq!(parse_bdat(argument.as_bytes()), expected, "{argument:?}");
        }
    }
}
