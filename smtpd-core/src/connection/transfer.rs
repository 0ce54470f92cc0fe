//! The message itself, sent with DATA or in BDAT chunks.

use std::mem;

use bytes::{Bytes, BytesMut};

use super::event::MessageError;
use crate::{
    config::Config,
    framing::{
        BareNewline, ChunkReader, DotReader, Flaws, HeaderMeter, NulByte, Piece, TextFilter,
    },
    limits::Limits,
    reply::{DataReply, Reply},
    time::Nanos,
};

/// The message that is being received, if any.
#[derive(Debug, Default)]
pub(super) struct Transfer(Option<Box<Message>>);

#[derive(Debug)]
struct Message {
    source: Source,
    text: TextFilter,
    header: HeaderMeter,
    limits: Sizes,
    received: u64,
    /// The number of bytes that were dropped.
    drained: u64,
    fate: Fate,
    /// The total time of the waits for it, including those between its chunks.
    waited: Nanos,
}

#[derive(Debug)]
enum Source {
    Dots(DotReader),
    Chunk {
        reader: ChunkReader,
        chunk: Chunk,
    },
    /// Nothing follows.
    Over,
}

/// The limits on the size of a message.
#[derive(Debug)]
struct Sizes {
    message: u64,
    header: u64,
    header_lines: u32,
}

/// The announcement of a BDAT command (RFC 3030 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) size: u64,
    pub(super) is_last: bool,
}

/// The fate of a message, as far as it is known before its end.
#[derive(Debug)]
enum Fate {
    /// The caller receives it.
    Wanted,
    /// It must be rejected.
    Faulty(MessageError),
    /// The reply is known already. The message may still turn out to need a rejection.
    Answered(DataReply, Option<MessageError>),
    /// A BDAT that was not allowed: its bytes are read only to be dropped.
    Void(Reply),
}

/// What was found in the input.
#[derive(Debug)]
pub(super) enum Part {
    Bytes(Bytes),
    /// Bytes that the caller does not receive.
    Dropped,
    /// More such bytes than are worth reading. The [`UnreadReply`] can no longer change.
    Drained,
    /// The chunk has ended, but not the message.
    ChunkEnd,
    End,
}

/// What follows the end of a chunk that is not the last.
#[derive(Debug)]
pub(super) enum AfterChunk {
    /// The caller must accept the bytes.
    Ask,
    Taken(u64),
    /// The caller must learn that the message has to be rejected.
    Faulty(MessageError),
    /// The message is refused (RFC 3030 section 2).
    Broken(Reply),
    /// The chunk was not allowed, and the transaction is unchanged.
    Void(Reply),
}

/// The reply to what is not read to its end.
#[derive(Debug)]
pub(super) enum UnreadReply {
    /// To a message: each recipient may have a reply.
    Message(DataReply),
    /// To a chunk that is not the last, or that was not allowed.
    Chunk(Reply),
}

/// What follows the end of the message.
#[derive(Debug)]
pub(super) enum AfterMessage {
    /// The part of it that was held back.
    Rest(Bytes),
    Ask(Result<(), MessageError>),
    Answered(DataReply),
    Void(Reply),
}

impl Transfer {
    pub(super) const fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    /// Returns how many bytes have been received so far.
    pub(super) fn received(&self) -> u64 {
        self.0.as_ref().map_or(0, |message| message.received)
    }

    /// Returns how long the session has waited for the message so far. `None` without a message.
    pub(super) fn waited(&self) -> Option<Nanos> {
        self.0.as_ref().map(|message| message.waited)
    }

    pub(super) fn charge(&mut self, waited: Nanos) {
        if let Some(message) = &mut self.0 {
            message.waited = message.waited.plus(waited);
        }
    }

    /// Returns whether the message can still be answered.
    pub(super) fn is_open(&self) -> bool {
        let fate = self.0.as_ref().map(|message| &message.fate);
        matches!(fate, Some(Fate::Wanted | Fate::Faulty(_)))
    }

    /// Returns why the message must be rejected, if a reason was found so far.
    pub(super) fn error(&self) -> Option<MessageError> {
        self.0.as_ref().and_then(|message| message.error())
    }

    /// Returns the size of the last announced chunk. `None` unless the message comes in chunks.
    pub(super) fn chunk_size(&self) -> Option<u64> {
        let chunk = self.0.as_ref().and_then(|message| message.chunk());
        chunk.map(|chunk| chunk.size)
    }

    /// Begins a message that ends with a dot.
    pub(super) fn begin_dots(&mut self, config: &Config, is_binary: bool) {
        let source = Source::Dots(DotReader::new());
        self.0 = Some(Message::new(source, Fate::Wanted, config, is_binary));
    }

    /// Begins a chunk. Returns whether it is the first of its message.
    pub(super) fn begin_chunk(&mut self, chunk: Chunk, config: &Config, is_binary: bool) -> bool {
        let source = Source::of(chunk);
        match &mut self.0 {
            Some(message) => {
                message.source = source;
                false
            }
            None => {
                self.0 = Some(Message::new(source, Fate::Wanted, config, is_binary));
                true
            }
        }
    }

    /// Begins a chunk that is not allowed.
    pub(super) fn begin_void(&mut self, chunk: Chunk, reply: Reply, config: &Config) {
        let (source, fate) = (Source::of(chunk), Fate::Void(reply));
        self.0 = Some(Message::new(source, fate, config, true));
    }

    /// Keeps a reply given before the end of the message: the rest of the message is read and dropped.
    pub(super) fn answer(&mut self, reply: DataReply) {
        if let Some(message) = &mut self.0
            && let Fate::Wanted | Fate::Faulty(_) = message.fate
        {
            message.fate = Fate::Answered(reply, message.error());
        }
    }

    /// Processes the available part of the message. Returns `None` if more input is needed. Beyond `drain` bytes, unwanted input
    /// is not read.
    pub(super) fn poll(&mut self, input: &mut BytesMut, drain: u64) -> Option<Part> {
        let Some(message) = &mut self.0 else {
            return Some(Part::End);
        };
        let (bytes, flaws) = match &mut message.source {
            Source::Dots(reader) => match reader.poll(input)? {
                Piece::Text { bytes, flaws } => (bytes, flaws),
                Piece::End => return Some(Part::End),
            },
            Source::Chunk { reader, chunk } => match reader.poll(input) {
                Some(bytes) => {
                    let flaws = message.text.flaws_of(&bytes);
                    (bytes, flaws)
                }
                None if !reader.is_done() => return None,
                None if chunk.is_last => return Some(Part::End),
                None => return Some(Part::ChunkEnd),
            },
            Source::Over => return Some(Part::End),
        };
        Some(match message.take(bytes, flaws) {
            Some(bytes) => Part::Bytes(bytes),
            None if message.drained > drain && message.is_refused() => Part::Drained,
            None => Part::Dropped,
        })
    }

    /// Returns the reply that further bytes can no longer change.
    pub(super) fn refusal(&self) -> Option<UnreadReply> {
        let message = self.0.as_ref().filter(|message| message.is_refused())?;
        let reply = match &message.fate {
            Fate::Wanted => return None,
            Fate::Void(reply) => return Some(UnreadReply::Chunk(reply.clone())),
            Fate::Faulty(error) => error.reply().into(),
            Fate::Answered(reply, None) => reply.clone(),
            Fate::Answered(reply, Some(error)) => error.refuse(reply.clone()),
        };
        Some(match message.is_whole() {
            true => UnreadReply::Message(reply),
            false => UnreadReply::Chunk(reply.merged().clone()),
        })
    }

    /// Ends a chunk, but not the message. Returns `None` without a message.
    pub(super) fn end_chunk(&mut self) -> Option<AfterChunk> {
        let message = self.0.as_ref()?;
        let size = message.chunk().map_or(0, |chunk| chunk.size);
        let after = match &message.fate {
            Fate::Wanted => AfterChunk::Ask,
            Fate::Faulty(error) => AfterChunk::Faulty(*error),
            Fate::Answered(reply, _) if !reply.is_accepted() => {
                AfterChunk::Broken(reply.merged().clone())
            }
            Fate::Answered(_, Some(error)) => AfterChunk::Broken(error.reply()),
            Fate::Answered(_, None) => AfterChunk::Taken(size),
            Fate::Void(reply) => AfterChunk::Void(reply.clone()),
        };
        if let AfterChunk::Broken(_) | AfterChunk::Void(_) = after {
            self.0 = None;
        }
        Some(after)
    }

    /// Ends the message. Returns `None` without one.
    pub(super) fn end(&mut self) -> Option<AfterMessage> {
        let message = self.0.as_mut()?;
        let rest = message.text.finish();
        if message.error() != Some(MessageError::TooLarge) {
            message.check_text();
        }
        if let Some(rest) = rest
            && message.is_wanted()
        {
            message.source = Source::Over;
            return Some(AfterMessage::Rest(rest));
        }
        // Flaws that were found in the message still count when it is answered.
        let found = message.error().map_or(Fate::Wanted, Fate::Faulty);
        Some(match mem::replace(&mut message.fate, found) {
            Fate::Wanted => AfterMessage::Ask(Ok(())),
            Fate::Faulty(error) => AfterMessage::Ask(Err(error)),
            Fate::Answered(reply, _) => AfterMessage::Answered(reply),
            Fate::Void(reply) => {
                self.0 = None;
                AfterMessage::Void(reply)
            }
        })
    }

    /// Finishes the message with its reply. Returns the reply to send, and whether all of the message was received, which is not
    /// so if a chunk was refused. A message that must be rejected is never accepted, whatever the service replied.
    pub(super) fn finish(&mut self, reply: DataReply) -> Option<(DataReply, bool)> {
        let message = self.0.take()?;
        let reply = match message.error() {
            Some(error) => error.refuse(reply),
            None => reply,
        };
        Some((reply, message.is_whole()))
    }

    /// Forgets the message.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

impl Message {
    fn new(source: Source, fate: Fate, config: &Config, is_binary: bool) -> Box<Self> {
        let (newline, nul) = match is_binary {
            true => (BareNewline::PassThrough, NulByte::PassThrough),
            false => (config.bare_newline, config.nul_byte),
        };
        Box::new(Self {
            source,
            text: TextFilter::new(newline, nul),
            header: HeaderMeter::new(newline),
            limits: Sizes::of(&config.limits),
            received: 0,
            drained: 0,
            fate,
            waited: Nanos::ZERO,
        })
    }

    const fn chunk(&self) -> Option<Chunk> {
        match self.source {
            Source::Chunk { chunk, .. } => Some(chunk),
            _ => None,
        }
    }

    /// Returns whether nothing follows what is being received, as after the last chunk.
    fn is_whole(&self) -> bool {
        self.chunk().is_none_or(|chunk| chunk.is_last)
    }

    const fn error(&self) -> Option<MessageError> {
        match self.fate {
            Fate::Faulty(error) => Some(error),
            Fate::Answered(_, error) => error,
            Fate::Wanted | Fate::Void(_) => None,
        }
    }

    const fn is_wanted(&self) -> bool {
        matches!(self.fate, Fate::Wanted)
    }

    /// Notes that the message must be rejected.
    #[cold]
    fn reject(&mut self, error: MessageError) {
        match &mut self.fate {
            Fate::Answered(_, found) => *found = Some(error),
            Fate::Wanted | Fate::Faulty(_) => self.fate = Fate::Faulty(error),
            Fate::Void(_) => {}
        }
    }

    /// Returns the part of these bytes to pass on.
    fn take(&mut self, bytes: Bytes, flaws: Flaws) -> Option<Bytes> {
        let len = bytes.len() as u64;
        if !self.is_wanted() {
            self.drained = self.drained.saturating_add(len);
        }
        // RFC 1870 section 5: the octets of the message, without the dots that were added for transparency.
        self.received = self.received.saturating_add(len);
        let excess = self.received.saturating_sub(self.limits.message);
        if excess > 0 {
            // It takes precedence over flaws of the text: which of the two was found first depends on how the input was split.
            self.reject(MessageError::TooLarge);
            self.drained = self.drained.max(excess);
        }
        let is_refused = match self.fate {
            Fate::Void(_) => true,
            _ => self.error().is_some_and(MessageError::is_final),
        };
        if is_refused {
            return None;
        }
        // A message that was answered early is checked to its end: it may still have to be rejected.
        let bytes = self.text.apply(bytes, flaws);
        self.header.measure(&bytes);
        if self.text.is_flawed() | self.limits.are_exceeded_by(&self.header) {
            self.check_text();
        }
        (self.is_wanted() && !bytes.is_empty()).then_some(bytes)
    }

    /// A bare CR or LF takes precedence over the size of the header section, and that over a NUL, however the input was split:
    /// see [`MessageError::is_final`].
    #[cold]
    fn check_text(&mut self) {
        if self.text.refuses_newline() {
            self.reject(MessageError::BareNewline);
        } else if self.limits.are_exceeded_by(&self.header) {
            self.reject(MessageError::HeadTooLarge);
        } else if self.text.refuses_nul() {
            self.reject(MessageError::NulByte);
        }
    }

    /// Returns whether further bytes can no longer change the reply.
    fn is_refused(&self) -> bool {
        match &self.fate {
            Fate::Wanted => false,
            Fate::Answered(reply, None) => !reply.is_accepted(),
            Fate::Answered(_, Some(_)) | Fate::Faulty(_) | Fate::Void(_) => true,
        }
    }
}

impl MessageError {
    /// Replaces the replies that accept a message which must be rejected.
    fn refuse(self, reply: DataReply) -> DataReply {
        reply.map(|one| match one.is_positive() {
            true => self.reply(),
            false => one,
        })
    }
}

impl Sizes {
    fn of(limits: &Limits) -> Self {
        Self {
            message: limits.message_size.unwrap_or(u64::MAX),
            header: limits.header_section,
            header_lines: limits.header_lines,
        }
    }

    const fn are_exceeded_by(&self, header: &HeaderMeter) -> bool {
        (header.size() > self.header) | (header.lines() > self.header_lines)
    }
}

impl Source {
    fn of(chunk: Chunk) -> Self {
        Self::Chunk {
            reader: ChunkReader::new(chunk.size),
            chunk,
        }
    }
}

impl Chunk {
    /// RFC 3030 section 2: `"BDAT" SP chunk-size [ SP end-marker ]`.
    pub(super) fn parse(argument: &[u8]) -> Option<Self> {
        let mut words = argument
            .split(|&byte| byte == b' ')
            .filter(|word| !word.is_empty());
        let digits = words.next()?;
        let size = std::str::from_utf8(digits)
            .ok()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?
            .parse()
            .ok()?;
        let is_last = match (words.next(), words.next()) {
            (None, _) => false,
            (Some(last), None) if last.eq_ignore_ascii_case(b"LAST") => true,
            _ => return None,
        };
        Some(Self { size, is_last })
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
            let expected = expected.map(|(size, is_last)| Chunk { size, is_last });
            assert_eq!(Chunk::parse(argument.as_bytes()), expected, "{argument:?}");
        }
    }
}
