//! How messages are read back.

use std::{io, sync::Arc};

use super::{
    FileStore,
    disk::DiskFile,
    frame::{Header, Kind, Place},
};
use crate::{
    body::{ReadAt, Spooled},
    disk::DiskPermits,
    memory::MemoryBudget,
    queue::{Job, Leased, codec},
    session::QueueId,
};

/// A message up to this size is read, and its checksum compared, at once. A larger one is read as it is delivered.
const AT_ONCE: u64 = 64 * 1024;

/// Where everything of a message is.
pub(super) struct Record {
    id: QueueId,
    put: (Arc<dyn DiskFile>, Place),
    states: Option<(Arc<dyn DiskFile>, Place)>,
    due_instead: Option<u64>,
    held: bool,
}

impl FileStore {
    /// Returns where a message is. Its files are open from then on, so it can be read even if it is removed.
    pub(super) fn record(&self, id: &QueueId) -> Option<Record> {
        let index = self.index();
        let entry = index.get(id)?;
        let located = |place: Place| Some((index.segment(place.segment)?.file.clone(), place));
        Some(Record {
            id: id.clone(),
            put: located(entry.put)?,
            states: entry.states.and_then(located),
            due_instead: entry.due_instead,
            held: entry.held,
        })
    }
}

/// Reads messages for their leases. One that cannot be read is left out.
pub(super) fn read_all(records: Vec<(Record, u64)>, permits: &DiskPermits) -> Vec<Leased> {
    let read = records.into_iter().filter_map(|(record, token)| {
        let id = record.id.clone();
        match record.read(permits.clone()) {
            Ok((job, message)) => Some(Leased::new(job, message, token)),
            Err(error) => {
                tracing::error!(%error, %id, "a message of the queue cannot be read");
                None
            }
        }
    });
    read.collect()
}

impl Record {
    pub(super) fn read(self, permits: DiskPermits) -> io::Result<(Job, Spooled)> {
        let (file, place) = &self.put;
        let small = place.total() <= AT_ONCE;
        let (head, message) = match small.then(|| whole(file, *place)).transpose()?.flatten() {
            Some(read) => read,
            None => {
                let head = head(file, *place)?;
                let file: Arc<dyn ReadAt> = file.clone();
                let len = place.header.body_len;
                (head, Spooled::part_of(file, place.body_at(), len, permits))
            }
        };
        let mut job = codec::decode(self.id.clone(), &head).ok_or_else(damaged)?;
        if let Some((file, place)) = &self.states {
            let head = checked(file, *place)?;
            let head = head.get(usize::from(place.header.id_len)..);
            let states = codec::decode_states(head.unwrap_or_default()).ok_or_else(damaged)?;
            match states.len() == job.states.len() {
                true => job.states = states,
                false => return Err(damaged()),
            }
        }
        if let Some(due) = self.due_instead {
            let states = job.states.iter_mut();
            states.for_each(|state| state.due = state.due.min(due));
        }
        job.held = self.held;
        Ok((job, message))
    }
}

/// Reads a message into memory. `None` if there is no memory for it.
fn whole(file: &Arc<dyn DiskFile>, place: Place) -> io::Result<Option<(Vec<u8>, Spooled)>> {
    let Header {
        kind,
        id_len,
        head_len,
        body_len,
    } = place.header;
    let Ok(reserved) = MemoryBudget::shared().reserve(body_len) else {
        return Ok(None);
    };
    debug_assert_eq!(kind, Kind::Put);
    let parts = checked(file, place)?;
    let (head_at, body_at) = (usize::from(id_len), usize::from(id_len) + head_len as usize);
    let head = parts.get(head_at..body_at).ok_or_else(damaged)?.to_vec();
    let body = parts.get(body_at..).ok_or_else(damaged)?.to_vec();
    Ok(Some((head, Spooled::of_bytes(body.into(), reserved))))
}

fn head(file: &Arc<dyn DiskFile>, place: Place) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; place.header.head_len as usize];
    file.read_at(place.head_at(), &mut bytes)?;
    Ok(bytes)
}

/// Reads the id, the head and the body, and compares their checksum.
fn checked(file: &Arc<dyn DiskFile>, place: Place) -> io::Result<Vec<u8>> {
    let len = place.total().saturating_sub(Header::LEN as u64);
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_at(place.id_at(), &mut bytes)?;
    let sum = bytes.split_off(bytes.len().saturating_sub(Header::TRAILER));
    match crc32fast::hash(&bytes).to_le_bytes()[..] == sum[..] {
        true => Ok(bytes),
        false => Err(damaged()),
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the record is damaged")
}
