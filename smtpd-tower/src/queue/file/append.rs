//! Records on their way into a segment.

use std::{io, sync::Arc};

use super::{
    disk::DiskFile,
    frame::{Header, Kind, Marker, Place, Small},
};
use crate::{body::Spooled, session::QueueId};

/// How many bytes are gathered before they are written.
const BUFFER: usize = 1 << 20;

/// Appends records to a segment. Nothing is in the segment before [`finish`](Self::finish).
pub(super) struct Appender {
    file: Arc<dyn DiskFile>,
    segment: u64,
    marker: Marker,
    /// Where the buffer belongs.
    at: u64,
    buffer: Vec<u8>,
    /// Up to where anything was written.
    touched: u64,
    /// The checksum of the last record.
    last_sum: u32,
}

/// The reason why a record was not appended.
pub(super) enum Failure {
    /// Its source cannot be read: the other records are well.
    Source(io::Error),
    /// The segment cannot be written.
    Segment(io::Error),
}

impl Appender {
    pub(super) fn new(file: Arc<dyn DiskFile>, segment: u64, marker: Marker, at: u64) -> Self {
        Self {
            file,
            segment,
            marker,
            at,
            buffer: Vec::new(),
            touched: at,
            last_sum: 0,
        }
    }

    /// Returns where the next record begins.
    pub(super) fn end(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    /// Returns the checksum of the last record.
    pub(super) const fn last_sum(&self) -> u32 {
        self.last_sum
    }

    pub(super) fn small(&mut self, record: &Small) -> io::Result<Place> {
        let source = |_: u64| Ok(Vec::new());
        let Small { kind, id, head } = record;
        self.record(*kind, id, head, 0, source)
            .map_err(Failure::into_inner)
    }

    pub(super) fn message(
        &mut self,
        id: &QueueId,
        head: &[u8],
        body: &Spooled,
    ) -> Result<Place, Failure> {
        self.record(Kind::Put, id, head, body.len(), |at| {
            body.blocking_chunk(at)
        })
    }

    /// Appends a record whose body comes in chunks from a position on. If that fails, nothing of the record remains.
    pub(super) fn record<C: AsRef<[u8]>>(
        &mut self,
        kind: Kind,
        id: &QueueId,
        head: &[u8],
        body_len: u64,
        chunk: impl Fn(u64) -> io::Result<C>,
    ) -> Result<Place, Failure> {
        let start = self.end();
        let appended = self.parts(kind, id, head, body_len, chunk);
        if let Err(Failure::Source(_)) = &appended {
            self.rewind(start);
        }
        let header = appended?;
        Ok(Place {
            segment: self.segment,
            at: start,
            header,
        })
    }

    fn parts<C: AsRef<[u8]>>(
        &mut self,
        kind: Kind,
        id: &QueueId,
        head: &[u8],
        body_len: u64,
        chunk: impl Fn(u64) -> io::Result<C>,
    ) -> Result<Header, Failure> {
        let id = id.as_str().as_bytes();
        let too_large = || Failure::Source(io::ErrorKind::InvalidInput.into());
        let header = Header {
            kind,
            id_len: u8::try_from(id.len()).map_err(|_| too_large())?,
            head_len: u32::try_from(head.len()).map_err(|_| too_large())?,
            body_len,
        };
        self.push(&header.encode(self.marker))?;
        let mut sum = crc32fast::Hasher::new();
        for part in [id, head] {
            sum.update(part);
            self.push(part)?;
        }
        let mut at = 0;
        while at < body_len {
            let chunk = chunk(at).map_err(Failure::Source)?;
            let chunk = chunk.as_ref();
            if chunk.is_empty() {
                return Err(Failure::Source(io::ErrorKind::UnexpectedEof.into()));
            }
            sum.update(chunk);
            self.push(chunk)?;
            at += chunk.len() as u64;
        }
        self.last_sum = sum.finalize();
        self.push(&self.last_sum.to_le_bytes())?;
        Ok(header)
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.buffer.extend_from_slice(bytes);
        match self.buffer.len() < BUFFER {
            true => Ok(()),
            false => self.flush().map_err(Failure::Segment),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.touched = self.touched.max(self.end());
            self.file.write_at(self.at, &self.buffer)?;
            self.at = self.end();
            self.buffer.clear();
        }
        Ok(())
    }

    /// Forgets what was appended from there on.
    pub(super) fn rewind(&mut self, to: u64) {
        let kept = usize::try_from(to.saturating_sub(self.at)).unwrap_or_default();
        self.buffer.truncate(kept);
        self.at = self.at.min(to);
    }

    /// Writes what is left. Returns the length of the segment.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        if self.touched > self.at {
            self.file.set_len(self.at)?;
        }
        Ok(self.at)
    }
}

impl Failure {
    pub(super) fn into_inner(self) -> io::Error {
        match self {
            Self::Source(error) | Self::Segment(error) => error,
        }
    }
}
