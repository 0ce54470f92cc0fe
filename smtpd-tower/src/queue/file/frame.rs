//! The form of a segment: a header, then records one after the other.
//!
//! The header has a random marker, with which each record of the segment begins. So what stands in a message, which a client has
//! written, is never taken for a record, even if the place where one begins is lost.

use crate::session::QueueId;

/// The bytes with which a segment begins.
const FORMAT: [u8; 12] = *b"smtpdqueue1\n";

/// Tells the records of one segment from anything else.
pub(super) type Marker = [u8; 8];

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A job, and the bytes of its message.
    Put = 1,
    /// The states of all its recipients.
    States = 2,
    /// Whether it is held, and when it is due.
    Hold = 3,
    /// It is done.
    Remove = 4,
}

/// What stands before the parts of a record: its id, its head, its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) id_len: u8,
    pub(super) head_len: u32,
    pub(super) body_len: u64,
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) at: u64,
    pub(super) header: Header,
}

/// The size of the header of a segment.
pub(super) const START: u64 = 24;

impl Header {
    /// The size of a header.
    pub(super) const LEN: usize = 28;
    /// The size of the checksum after the body.
    pub(super) const TRAILER: usize = 4;

    /// The size of the record. `None` if there is no such size.
    pub(super) fn total(&self) -> Option<u64> {
        let parts = u64::from(self.id_len) + u64::from(self.head_len);
        self.body_len
            .checked_add(parts + (Self::LEN + Self::TRAILER) as u64)
    }

    pub(super) fn encode(&self, marker: Marker) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&marker);
        bytes[8] = self.kind as u8;
        bytes[9] = self.id_len;
        bytes[12..16].copy_from_slice(&self.head_len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.body_len.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..24]);
        bytes[24..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a header of the segment that has this marker.
    pub(super) fn decode(bytes: &[u8], marker: Marker) -> Option<Self> {
        let (fields, sum) = bytes.get(..Self::LEN)?.split_last_chunk::<4>()?;
        let rest = fields.strip_prefix(&marker)?;
        if crc32fast::hash(fields) != u32::from_le_bytes(*sum) {
            return None;
        }
        let kind = match rest.first()? {
            1 => Kind::Put,
            2 => Kind::States,
            3 => Kind::Hold,
            4 => Kind::Remove,
            _ => return None,
        };
        Some(Self {
            kind,
            id_len: *rest.get(1)?,
            head_len: u32::from_le_bytes(*rest.get(4..)?.first_chunk()?),
            body_len: u64::from_le_bytes(*rest.get(8..)?.first_chunk()?),
        })
    }
}

impl Place {
    /// The size of the record, which is known to exist.
    pub(super) fn total(&self) -> u64 {
        self.header.total().unwrap_or(0)
    }

    pub(super) fn id_at(&self) -> u64 {
        self.at + Header::LEN as u64
    }

    pub(super) fn head_at(&self) -> u64 {
        self.id_at() + u64::from(self.header.id_len)
    }

    pub(super) fn body_at(&self) -> u64 {
        self.head_at() + u64::from(self.header.head_len)
    }
}

/// A record without a body.
#[derive(Clone, Debug)]
pub(super) struct Small {
    pub(super) kind: Kind,
    pub(super) id: QueueId,
    pub(super) head: Vec<u8>,
}

impl Small {
    pub(super) const fn removal(id: QueueId) -> Self {
        Self {
            kind: Kind::Remove,
            id,
            head: Vec::new(),
        }
    }

    /// About how many bytes of memory it takes.
    pub(super) fn size(&self) -> usize {
        self.head.len() + size_of::<Self>()
    }

    /// Whether a message is held, and the time at which it is due in place of that of its states.
    pub(super) fn hold(id: QueueId, held: bool, due: Option<u64>) -> Self {
        let mut head = vec![u8::from(held)];
        head.extend_from_slice(&due.unwrap_or(u64::MAX).to_le_bytes());
        Self {
            kind: Kind::Hold,
            id,
            head,
        }
    }
}

/// Reads what [`Small::hold`] has written.
pub(super) fn decode_hold(head: &[u8]) -> Option<(bool, Option<u64>)> {
    let (held, due) = head.split_first()?;
    let due = u64::from_le_bytes(due.try_into().ok()?);
    Some((*held != 0, (due != u64::MAX).then_some(due)))
}

/// Returns the header of a segment.
pub(super) fn start(marker: Marker) -> [u8; START as usize] {
    let mut bytes = [0; START as usize];
    bytes[..12].copy_from_slice(&FORMAT);
    bytes[12..20].copy_from_slice(&marker);
    let sum = crc32fast::hash(&bytes[..20]);
    bytes[20..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Returns the marker of a segment that has this header.
pub(super) fn marker(start: &[u8]) -> Option<Marker> {
    let (fields, sum) = start.split_last_chunk()?;
    let is_sound = crc32fast::hash(fields) == u32::from_le_bytes(*sum);
    let marker = fields.strip_prefix(&FORMAT).filter(|_| is_sound)?;
    marker.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_any_bit_changed_is_none() {
        let marker = *b"\0marker\xff";
        let header = Header {
            kind: Kind::Put,
            id_len: 16,
            head_len: 300,
            body_len: 1 << 40,
        };
        let bytes = header.encode(marker);
        assert_eq!(Header::decode(&bytes, marker), Some(header));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&changed, marker), None, "bit {bit}");
        }
        assert_eq!(Header::decode(&bytes, *b"another!"), None);
        assert_eq!(Header::decode(&bytes[..27], marker), None);
        let most = Header {
            body_len: u64::MAX,
            ..header
        };
        assert_eq!(most.total(), None);
    }
}
