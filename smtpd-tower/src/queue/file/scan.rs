//! What the segments hold, when a queue is opened.

use std::{io, sync::Arc};

use super::{
    disk::{Disk, DiskFile},
    frame::{self, Header, Kind, Marker, Place, START},
    index::{Entry, Index, Segment},
};
use crate::{
    queue::{codec, job::Job},
    session::QueueId,
};

/// How many bytes are read at once.
const WINDOW: u64 = 1 << 20;

/// Builds the index of all segments.
pub(super) fn open(disk: &dyn Disk) -> io::Result<Index> {
    let mut index = Index::default();
    let mut numbers = disk.segments()?;
    numbers.sort_unstable();
    let last = numbers.last().copied();
    for number in numbers {
        let file = disk.open(number)?;
        let len = file.len()?;
        index.add_segment(number, Segment::new(file.clone(), len));
        let mut scan = Scan {
            disk,
            number,
            len,
            index: &mut index,
            window: Window::new(file.clone(), len),
        };
        scan.run(Some(number) == last)?;
        if Some(number) == last {
            // A process that was killed may have written what it has not synced. From now on it counts.
            file.sync()?;
        }
    }
    Ok(index)
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    number: u64,
    len: u64,
    index: &'a mut Index,
    window: Window,
}

impl Scan<'_> {
    fn run(&mut self, is_last: bool) -> io::Result<()> {
        let start = self.window.get(0, START)?;
        let Some(marker) = start.and_then(frame::marker) else {
            // One that was just being created has nothing in it.
            return match self.len > START {
                true => self.set_aside(0, self.len),
                false => Ok(()),
            };
        };
        let mut at = START;
        while at < self.len {
            if let Some(end) = self.record(at, marker)? {
                at = end;
                continue;
            }
            match self.next_record(at + 1, marker)? {
                Some(next) => {
                    self.set_aside(at, next)?;
                    at = next;
                }
                None => {
                    let is_torn = is_last && !self.is_complete(at, marker)?;
                    return self.cut(at, is_torn);
                }
            }
        }
        Ok(())
    }

    /// Takes the record that begins there. Returns its end, or `None` if there is none.
    fn record(&mut self, at: u64, marker: Marker) -> io::Result<Option<u64>> {
        let Some(header) = self.header(at, marker)? else {
            return Ok(None);
        };
        let place = Place {
            segment: self.number,
            at,
            header,
        };
        let end = header.total().and_then(|total| at.checked_add(total));
        let Some(end) = end.filter(|end| *end <= self.len) else {
            return Ok(None);
        };
        // Not more than the file has, whatever its header says.
        let parts = u64::from(header.id_len) + u64::from(header.head_len);
        let Some(parts) = self.window.get(place.id_at(), parts)?.map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        let mut sum = crc32fast::Hasher::new();
        sum.update(&parts);
        let trailer = end - Header::TRAILER as u64;
        self.window.feed(place.body_at(), trailer, &mut sum)?;
        let expected = self.window.get(trailer, Header::TRAILER as u64)?;
        if expected != Some(&sum.finalize().to_le_bytes()[..]) {
            return Ok(None);
        }
        let (id, head) = parts.split_at(usize::from(header.id_len));
        if self.take(place, id, head).is_none() {
            self.set_aside(at, end)?;
        }
        Ok(Some(end))
    }

    fn header(&mut self, at: u64, marker: Marker) -> io::Result<Option<Header>> {
        let bytes = self.window.get(at, Header::LEN as u64)?;
        Ok(bytes.and_then(|bytes| Header::decode(bytes, marker)))
    }

    /// Notes a record. `None` if it cannot be understood.
    fn take(&mut self, place: Place, id: &[u8], head: &[u8]) -> Option<()> {
        let id = QueueId::stored(id)?;
        match place.header.kind {
            Kind::Put => {
                let job = codec::decode(id.clone(), head)?;
                let due = Job::due(&job.states).unwrap_or(job.created);
                let pending = pending(&job.states);
                let entry = Entry::new(place, job.created, due, pending, job.priority());
                self.index.put(&id, entry);
            }
            Kind::States => {
                let states = codec::decode_states(head)?;
                match Job::due(&states) {
                    Some(due) => self.index.set_states(&id, place, due, pending(&states)),
                    None => self.index.remove(&id),
                }
            }
            Kind::Hold => {
                let (held, due) = frame::decode_hold(head)?;
                self.index.set_hold(&id, place, held, due);
            }
            Kind::Remove => self.index.remove(&id),
        }
        Some(())
    }

    /// Looks for the next place where a record may begin.
    fn next_record(&mut self, from: u64, marker: Marker) -> io::Result<Option<u64>> {
        let mut at = from;
        while let Some(found) = self.window.find(at, marker)? {
            if self.header(found, marker)?.is_some() {
                return Ok(Some(found));
            }
            at = found + 1;
        }
        Ok(None)
    }

    /// Returns whether a record there is as long as it should be.
    fn is_complete(&mut self, at: u64, marker: Marker) -> io::Result<bool> {
        let header = self.header(at, marker)?;
        let end = header.and_then(|header| header.total()?.checked_add(at));
        Ok(end.is_some_and(|end| end <= self.len))
    }

    /// Removes what is after the last record. If a crash has torn it, it was never acknowledged. Otherwise that is rarer, and it is
    /// kept for whoever wants to look at it.
    fn cut(&mut self, at: u64, is_torn: bool) -> io::Result<()> {
        if !is_torn {
            self.set_aside(at, self.len)?;
        }
        let file = &self.window.file;
        let cut = file.set_len(at).and_then(|()| file.sync());
        if let Err(error) = cut {
            // It will be ignored again.
            tracing::warn!(%error, number = self.number, "the queue cannot cut a segment");
        } else if let Some(segment) = self.index.segment_mut(self.number) {
            segment.len = at;
        }
        Ok(())
    }

    /// Copies what cannot be understood into a file of its own, unless that was done earlier.
    fn set_aside(&mut self, from: u64, to: u64) -> io::Result<()> {
        self.index.count_damaged();
        let number = self.number;
        tracing::error!(number, from, to, "a segment of the queue is damaged");
        let copied = self.copy_aside(from, to);
        if let Err(error) = copied {
            tracing::error!(%error, number, from, to, "the queue cannot set damaged records aside");
        }
        Ok(())
    }

    fn copy_aside(&mut self, from: u64, to: u64) -> io::Result<()> {
        let Some(copy) = self.disk.set_aside(self.number, from)? else {
            return Ok(());
        };
        let mut at = from;
        while at < to {
            let bytes = self
                .window
                .get(at, WINDOW.min(to - at))?
                .unwrap_or_default();
            copy.write_at(at - from, bytes)?;
            at += WINDOW;
        }
        copy.sync()
    }
}

pub(super) fn pending(states: &[crate::queue::RecipientState]) -> u32 {
    let pending = states.iter().filter(|state| state.is_pending()).count();
    u32::try_from(pending).unwrap_or(u32::MAX)
}

/// A part of a file that is in memory.
struct Window {
    file: Arc<dyn DiskFile>,
    len: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    const fn new(file: Arc<dyn DiskFile>, len: u64) -> Self {
        Self {
            file,
            len,
            at: 0,
            bytes: Vec::new(),
        }
    }

    /// Returns `len` bytes from a position on, or `None` if the file has fewer.
    fn get(&mut self, at: u64, len: u64) -> io::Result<Option<&[u8]>> {
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.len) else {
            return Ok(None);
        };
        if at < self.at || end > self.at + self.bytes.len() as u64 {
            let wanted = len.max(WINDOW).min(self.len - at);
            let wanted = usize::try_from(wanted).map_err(io::Error::other)?;
            self.bytes.clear();
            self.bytes.resize(wanted, 0);
            self.at = at;
            if let Err(error) = self.file.read_at(at, &mut self.bytes) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let start = usize::try_from(at - self.at).map_err(io::Error::other)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        Ok(self.bytes.get(start..start + len))
    }

    fn feed(&mut self, from: u64, to: u64, sum: &mut crc32fast::Hasher) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let len = WINDOW.min(to - at);
            sum.update(self.get(at, len)?.unwrap_or_default());
            at += len;
        }
        Ok(())
    }

    fn find(&mut self, from: u64, marker: Marker) -> io::Result<Option<u64>> {
        let overlap = marker.len() as u64 - 1;
        let mut at = from;
        while at + overlap < self.len {
            let len = WINDOW.min(self.len - at);
            let bytes = self.get(at, len)?.unwrap_or_default();
            if let Some(found) = memchr::memmem::find(bytes, &marker) {
                return Ok(Some(at + found as u64));
            }
            at += len - overlap;
        }
        Ok(None)
    }
}
