//! A message on its way to the output.

use std::fmt;

use bytes::Bytes;

use super::{unsupported::Unsupported, wire::Wire};
use crate::framing::{BareNewline, DotWriter};

/// How much of a message is gathered before it is written.
const BATCH: usize = 16 << 10;

/// The bytes of a message that the output has no room for, or the state of their encoding.
pub(super) enum Content {
    Dots(DotWriter),
    /// Parts of the next BDAT chunk, their length, and the length from which a chunk is sent.
    Chunk(Vec<Bytes>, usize, usize),
}

impl Content {
    pub(super) fn new(is_chunked: bool, policy: BareNewline, chunk_size: usize) -> Self {
        match is_chunked {
            true => Self::Chunk(Vec::new(), 0, chunk_size.max(1)),
            false => Self::Dots(DotWriter::new(policy)),
        }
    }

    /// Returns whether there is room for more.
    pub(super) fn has_room(&self, wire: &Wire) -> bool {
        match self {
            Self::Dots(_) => wire.output.unsent() < BATCH,
            Self::Chunk(_, staged, size) => staged < size && wire.is_written(),
        }
    }

    /// Returns whether a chunk is large enough to be sent.
    pub(super) const fn is_full(&self) -> bool {
        match self {
            Self::Dots(_) => false,
            Self::Chunk(_, staged, size) => *staged >= *size,
        }
    }

    /// Appends bytes to the message. Returns an error if it cannot be sent by DATA.
    pub(super) fn push(&mut self, bytes: Bytes, wire: &mut Wire) -> Result<(), Unsupported> {
        match self {
            Self::Dots(writer) => {
                let mut result = Ok(());
                let output = &mut wire.output;
                output.push_with(|out| result = writer.push(bytes, out));
                result.map_err(|_| Unsupported::BareNewline)
            }
            Self::Chunk(parts, staged, _) => {
                *staged += bytes.len();
                parts.push(bytes);
                Ok(())
            }
        }
    }

    /// Ends a message that is sent by DATA.
    pub(super) fn finish(&mut self, wire: &mut Wire) -> Result<(), Unsupported> {
        let mut result = Ok(());
        if let Self::Dots(writer) = self {
            let output = &mut wire.output;
            output.push_with(|out| result = writer.finish(out));
        }
        result.map_err(|_| Unsupported::BareNewline)
    }

    /// Sends a chunk (RFC 3030 section 2).
    pub(super) fn send_chunk(&mut self, is_last: bool, wire: &mut Wire) {
        let Self::Chunk(parts, staged, _) = self else {
            return;
        };
        let last = if is_last { " LAST" } else { "" };
        wire.output
            .push(format!("BDAT {staged}{last}\r\n").as_bytes());
        parts.drain(..).for_each(|part| wire.output.push_part(part));
        *staged = 0;
    }
}

/// Shows nothing of the message.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dots(_) => f.write_str("Dots"),
            Self::Chunk(_, staged, _) => f.debug_tuple("Chunk").field(staged).finish(),
        }
    }
}
