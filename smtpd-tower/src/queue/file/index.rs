//! What is known of each message without the disk. It holds no text of a message but its id, so its size does not depend on the
//! number of recipients.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    disk::DiskFile,
    frame::{Kind, Place},
};
use crate::{queue::QueueError, session::QueueId};

#[derive(Default)]
pub(super) struct Index {
    entries: BTreeMap<QueueId, Entry>,
    /// When each message that is not held is due, or its lease ends, by priority. No set is empty.
    wanted: BTreeMap<Reverse<i8>, BTreeSet<(u64, QueueId)>>,
    segments: BTreeMap<u64, Segment>,
    /// How many leases there were.
    leases: u64,
    /// The bytes of all messages.
    bytes: u64,
    damaged: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) put: Place,
    pub(super) states: Option<Place>,
    pub(super) hold: Option<Place>,
    pub(super) created: u64,
    pub(super) due: u64,
    /// In place of what the states say.
    pub(super) due_instead: Option<u64>,
    pub(super) held: bool,
    pub(super) pending: u32,
    pub(super) priority: i8,
    /// It was put off until then, which only this process knows.
    not_before: u64,
    lease: Option<Lease>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    token: u64,
    until: u64,
}

pub(super) struct Segment {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) len: u64,
    /// The bytes of records that are needed.
    live: u64,
    /// A record in it cannot be read, so it is not copied.
    pub(super) is_stuck: bool,
}

impl Segment {
    pub(super) const fn new(file: Arc<dyn DiskFile>, len: u64) -> Self {
        Self {
            file,
            len,
            live: 0,
            is_stuck: false,
        }
    }
}

impl Entry {
    pub(super) const fn new(
        put: Place,
        created: u64,
        due: u64,
        pending: u32,
        priority: i8,
    ) -> Self {
        Self {
            put,
            states: None,
            hold: None,
            created,
            due,
            due_instead: None,
            held: false,
            pending,
            priority,
            not_before: 0,
            lease: None,
        }
    }

    fn wanted(&self) -> Option<u64> {
        match self.lease {
            _ if self.held => None,
            Some(lease) => Some(lease.until),
            None => Some(self.next_due().max(self.not_before)),
        }
    }

    pub(super) fn next_due(&self) -> u64 {
        self.due_instead.map_or(self.due, |due| due.min(self.due))
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        [Some(self.put), self.states, self.hold]
            .into_iter()
            .flatten()
    }

    pub(super) fn is_leased(&self, now: u64) -> bool {
        self.lease.is_some_and(|lease| lease.until > now)
    }
}

/// # Messages
impl Index {
    pub(super) fn get(&self, id: &QueueId) -> Option<&Entry> {
        self.entries.get(id)
    }

    pub(super) fn entries(&self) -> &BTreeMap<QueueId, Entry> {
        &self.entries
    }

    /// Adds a message, or notes where it was copied to.
    pub(super) fn put(&mut self, id: &QueueId, entry: Entry) {
        let put = entry.put;
        if self.entries.contains_key(id) {
            return self.replace(id, |old| old.put = put);
        }
        self.bytes += put.header.body_len;
        self.add_live(put);
        self.want(id, entry.priority, entry.wanted());
        self.entries.insert(id.clone(), entry);
    }

    pub(super) fn remove(&mut self, id: &QueueId) {
        self.replace(id, |_| {});
        if let Some(entry) = self.entries.remove(id) {
            self.bytes -= entry.put.header.body_len;
            entry.places().for_each(|place| self.drop_live(place));
            self.unwant(id, entry.priority, entry.wanted());
        }
    }

    fn want(&mut self, id: &QueueId, priority: i8, wanted: Option<u64>) {
        if let Some(wanted) = wanted {
            let class = self.wanted.entry(Reverse(priority)).or_default();
            class.insert((wanted, id.clone()));
        }
    }

    fn unwant(&mut self, id: &QueueId, priority: i8, wanted: Option<u64>) {
        if let Some(wanted) = wanted
            && let Some(class) = self.wanted.get_mut(&Reverse(priority))
        {
            class.remove(&(wanted, id.clone()));
            if class.is_empty() {
                self.wanted.remove(&Reverse(priority));
            }
        }
    }

    /// Notes the states of the recipients, and ends the lease.
    pub(super) fn set_states(&mut self, id: &QueueId, place: Place, due: u64, pending: u32) {
        self.replace(id, |entry| {
            entry.states = Some(place);
            entry.due = due;
            entry.due_instead = None;
            entry.not_before = 0;
            entry.pending = pending;
            entry.lease = None;
        });
    }

    pub(super) fn set_hold(&mut self, id: &QueueId, place: Place, held: bool, due: Option<u64>) {
        self.replace(id, |entry| {
            entry.hold = Some(place);
            entry.held = held;
            entry.due_instead = due;
            entry.not_before = 0;
        });
    }

    /// Notes where a record was copied to. Nothing else has changed.
    pub(super) fn moved(&mut self, id: &QueueId, place: Place) {
        self.replace(id, |entry| match place.header.kind {
            Kind::Put => entry.put = place,
            Kind::States => entry.states = Some(place),
            Kind::Hold => entry.hold = Some(place),
            Kind::Remove => {}
        });
    }

    /// Changes an entry, and what depends on it.
    fn replace(&mut self, id: &QueueId, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let before = entry.clone();
        change(entry);
        let after = entry.clone();
        if before.wanted() != after.wanted() {
            self.unwant(id, before.priority, before.wanted());
            self.want(id, after.priority, after.wanted());
        }
        before.places().for_each(|place| self.drop_live(place));
        after.places().for_each(|place| self.add_live(place));
    }

    fn add_live(&mut self, place: Place) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live += place.total();
        }
    }

    fn drop_live(&mut self, place: Place) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live -= place.total();
        }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn damaged(&self) -> u64 {
        self.damaged
    }

    pub(super) fn count_damaged(&mut self) {
        self.damaged += 1;
    }
}

/// # Leases
impl Index {
    /// Leases what is due. Returns the token of each lease.
    pub(super) fn lease(&mut self, now: u64, most: usize, until: u64) -> Vec<(QueueId, u64)> {
        let classes = self.wanted.values();
        let due = classes.flat_map(|class| class.iter().take_while(|(due, _)| *due <= now));
        let due: Vec<_> = due.take(most).map(|(_, id)| id.clone()).collect();
        let leased = due.into_iter().map(|id| {
            self.leases += 1;
            let token = self.leases;
            self.replace(&id, |entry| entry.lease = Some(Lease { token, until }));
            (id, token)
        });
        leased.collect()
    }

    /// Returns whether a lease is the last of its message.
    pub(super) fn check(&self, id: &QueueId, token: u64) -> Result<(), QueueError> {
        let lease = self.get(id).and_then(|entry| entry.lease);
        match lease.is_some_and(|lease| lease.token == token) {
            true => Ok(()),
            false => Err(QueueError::LeaseLost(id.clone())),
        }
    }

    /// Moves the deadline of a lease, or ends the lease.
    pub(super) fn renew(&mut self, id: &QueueId, token: u64, until: Option<u64>) {
        self.replace(id, |entry| {
            entry.lease = until.map(|until| Lease { token, until });
        });
    }

    /// Ends a lease. The message is due at a certain time, which is forgotten when the process ends.
    pub(super) fn postpone(&mut self, id: &QueueId, until: u64) {
        self.replace(id, |entry| {
            entry.lease = None;
            entry.not_before = until;
        });
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        let firsts = self.wanted.values().filter_map(BTreeSet::first);
        firsts.map(|(due, _)| *due).min()
    }
}

/// # Segments
impl Index {
    pub(super) fn add_segment(&mut self, number: u64, segment: Segment) {
        self.segments.insert(number, segment);
    }

    pub(super) fn last_segment(&self) -> Option<u64> {
        self.segments.last_key_value().map(|(number, _)| *number)
    }

    pub(super) fn segment(&self, number: u64) -> Option<&Segment> {
        self.segments.get(&number)
    }

    pub(super) fn segment_mut(&mut self, number: u64) -> Option<&mut Segment> {
        self.segments.get_mut(&number)
    }

    pub(super) fn remove_segment(&mut self, number: u64) {
        self.segments.remove(&number);
    }

    /// Returns the oldest segment, unless it is the one that is written.
    fn oldest(&self, written: Option<u64>) -> Option<(u64, &Segment)> {
        let (number, segment) = self.segments.first_key_value()?;
        (Some(*number) != written).then_some((*number, segment))
    }

    /// Returns the oldest segment if nothing in it is needed. Only the oldest is removed: a record in a later one may be all that
    /// says that a message in an earlier one is done.
    pub(super) fn dead(&self, written: Option<u64>) -> Option<u64> {
        let (number, segment) = self.oldest(written)?;
        (segment.live == 0).then_some(number)
    }

    /// Returns the oldest segment if most of what all of them hold is not needed.
    pub(super) fn sparse(&self, written: Option<u64>, segment_size: u64) -> Option<u64> {
        let (number, segment) = self.oldest(written)?;
        let len: u64 = self.segments.values().map(|segment| segment.len).sum();
        let live: u64 = self.segments.values().map(|segment| segment.live).sum();
        let is_sparse = len > 2 * live + 2 * segment_size;
        (is_sparse && !segment.is_stuck).then_some(number)
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.len).sum()
    }

    /// Returns messages that have a record in a segment, until their size exceeds a limit.
    pub(super) fn within(&self, segment: u64, limit: u64) -> Vec<QueueId> {
        let mut size = 0;
        let is_in = |entry: &Entry| entry.places().any(|place| place.segment == segment);
        let found = self.entries.iter().filter(|(_, entry)| is_in(entry));
        let found = found.take_while(|(_, entry)| {
            let fits = size < limit;
            size += entry.places().map(|place| place.total()).sum::<u64>();
            fits
        });
        found.map(|(id, _)| id.clone()).collect()
    }

    /// Panics if what is derived does not agree with the entries.
    #[cfg(test)]
    pub(super) fn verify(&self) {
        let wanted = self.entries.iter();
        let wanted = wanted.filter_map(|(id, entry)| {
            Some((Reverse(entry.priority), (entry.wanted()?, id.clone())))
        });
        let mut classes = BTreeMap::<_, BTreeSet<_>>::new();
        for (class, one) in wanted {
            classes.entry(class).or_default().insert(one);
        }
        assert!(classes == self.wanted);
        for (number, segment) in &self.segments {
            let places = self.entries.values().flat_map(Entry::places);
            let places = places.filter(|place| place.segment == *number);
            let live: u64 = places.map(|place| place.total()).sum();
            assert_eq!(live, segment.live, "segment {number}");
        }
        let bytes = self.entries.values().map(|entry| entry.put.header.body_len);
        assert_eq!(bytes.sum::<u64>(), self.bytes);
    }
}
