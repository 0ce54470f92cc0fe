//! The only one who writes: it takes all operations that wait, and writes them together.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use super::{
    Shared,
    append::{Appender, Failure},
    change::{Change, Op},
    disk::{Disk, DiskFile},
    frame::{self, Marker, Place, START, Small},
    index::{Index, Segment},
};
use crate::{queue::QueueError, session::QueueId};

/// How long something may be written but not synced.
const LAZY: Duration = Duration::from_secs(1);
/// How many bytes may be written but not synced.
const MOST_UNSYNCED: usize = 4 << 20;

/// The segment that is written.
pub(super) struct Head {
    pub(super) number: u64,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) marker: Marker,
    pub(super) len: u64,
}

pub(super) struct Writer {
    pub(super) disk: Box<dyn Disk>,
    pub(super) shared: Arc<Shared>,
    pub(super) segment_size: u64,
    head: Option<Head>,
    /// The number of the next segment.
    next: u64,
    /// What was written, but not synced: if a sync fails, it is written again.
    unsynced: Vec<Small>,
    unsynced_since: Option<Instant>,
    unsynced_bytes: usize,
    /// What has to be written before anything else.
    owed: Vec<Small>,
    /// When a copy may be tried again after one has failed.
    pub(super) copy_after: Option<Instant>,
}

/// An operation and where its record is.
type Written = (Op, Place);

/// Operations that failed together.
struct Failed {
    error: QueueError,
    /// Those whose records may be in the segment.
    tried: Vec<Op>,
    others: Vec<Op>,
}

impl Failed {
    fn new(error: io::Error, tried: Vec<Op>, others: Vec<Op>) -> Self {
        let error = QueueError::io("write", error);
        Self {
            error,
            tried,
            others,
        }
    }
}

impl Writer {
    pub(super) fn new(disk: Box<dyn Disk>, shared: Arc<Shared>, segment_size: u64) -> Self {
        let next = shared.index().last_segment().map_or(1, |last| last + 1);
        Self {
            disk,
            shared,
            segment_size,
            head: None,
            next,
            unsynced: Vec::new(),
            unsynced_since: None,
            unsynced_bytes: 0,
            owed: Vec::new(),
            copy_after: None,
        }
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.shared.index()
    }

    /// Returns how long the sync of what was written can wait, if there is anything.
    pub(super) fn patience(&self) -> Option<Duration> {
        let since = self.unsynced_since?;
        Some(LAZY.saturating_sub(since.elapsed()))
    }

    /// Performs the operations together, and then removes what is not needed.
    pub(super) fn commit(&mut self, mut ops: Vec<Op>) {
        // Nobody waits any more, so the client will send the message again.
        ops.retain(|op| !(op.change.is_put() && op.answer.is_closed()));
        if !ops.is_empty() {
            #[cfg(feature = "metrics")]
            let start = Instant::now();
            match self.write(ops) {
                Ok(written) => self.apply(written),
                Err(failed) => self.fail(failed),
            }
            #[cfg(feature = "metrics")]
            if let Some(meters) = self.shared.meters.get() {
                meters.committed(start.elapsed());
                meters.messages(self.index().entries().len());
            }
        }
        if self.patience().is_some_and(|left| left.is_zero()) {
            self.sync_lazily();
        }
        self.tidy();
    }

    /// Syncs what was written. If that fails, it is written again with the next operation.
    pub(super) fn sync_lazily(&mut self) {
        if self.unsynced_since.is_some()
            && let Err(error) = self.sync()
        {
            // The next operation tries again.
            tracing::error!(%error, "the queue cannot sync its records");
        }
    }

    fn write(&mut self, ops: Vec<Op>) -> Result<Vec<Written>, Failed> {
        let mut appender = match self.appender() {
            Ok(appender) => appender,
            Err(error) => return Err(Failed::new(error, Vec::new(), ops)),
        };
        let (mut written, mut ids, mut small) = (Vec::new(), HashSet::new(), Vec::new());
        let mut ops = ops.into_iter();
        while let Some(mut op) = ops.next() {
            if let Err(error) = self.check(&mut op, &mut ids) {
                let _ = op.answer.send(Err(error));
                continue;
            }
            match append(&mut appender, &op, &mut small) {
                Ok(place) => written.push((op, place)),
                Err(Failure::Source(error)) => {
                    let _ = op
                        .answer
                        .send(Err(QueueError::io("read the message", error)));
                }
                Err(Failure::Segment(error)) => {
                    let error = self.undo(error);
                    let mut tried = ops_of(written);
                    tried.push(op);
                    return Err(Failed::new(error, tried, ops.collect()));
                }
            }
        }
        match self.finish(appender, small, &written) {
            Ok(()) => Ok(written),
            Err(error) => Err(Failed::new(error, ops_of(written), Vec::new())),
        }
    }

    /// Checks whether an operation is possible, and gives a new message an id that no other has.
    fn check(
        &self,
        Op { id, change, .. }: &mut Op,
        ids: &mut HashSet<QueueId>,
    ) -> Result<(), QueueError> {
        let index = self.index();
        match change {
            Change::Put { .. } => {
                while index.get(id).is_some() || !ids.insert(id.clone()) {
                    *id = QueueId::unique();
                }
                Ok(())
            }
            Change::States { token, .. } | Change::Remove { token: Some(token) } => {
                index.check(id, *token)
            }
            Change::Remove { token: None } | Change::Hold { .. } => match index.get(id) {
                Some(_) => Ok(()),
                None => Err(QueueError::NotFound(id.clone())),
            },
        }
    }

    /// Writes the end of what was appended, and syncs it if that has to be.
    fn finish(
        &mut self,
        appender: Appender,
        small: Vec<Small>,
        written: &[Written],
    ) -> io::Result<()> {
        match appender.finish() {
            Ok(len) => self.set_len(len),
            Err(error) => return Err(self.undo(error)),
        }
        let before = self.unsynced.len();
        self.unsynced_bytes += small.iter().map(Small::size).sum::<usize>();
        self.unsynced.extend(small);
        self.unsynced_since = self.unsynced_since.or_else(|| Some(Instant::now()));
        let must_sync = written.iter().any(|(op, _)| op.change.is_synced());
        if !must_sync && self.unsynced_bytes < MOST_UNSYNCED {
            return Ok(());
        }
        let synced = self.sync();
        if synced.is_err() {
            // Those of this group are reported as failed instead.
            self.owed.truncate(before);
        }
        synced
    }

    /// Syncs the segment. A sync that has failed says nothing about what a later one makes durable, so that segment is given up.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let synced = self.head.as_ref().map_or(Ok(()), |head| head.file.sync());
        match synced {
            Ok(()) => self.unsynced.clear(),
            Err(_) => self.give_up(),
        }
        self.unsynced_bytes = 0;
        self.unsynced_since = None;
        synced
    }

    /// Leaves the segment as it is. What was not synced in it is written again before anything else.
    fn give_up(&mut self) {
        self.head = None;
        let later = std::mem::replace(&mut self.owed, std::mem::take(&mut self.unsynced));
        self.owed.extend(later);
        self.unsynced_bytes = 0;
        self.unsynced_since = None;
    }

    /// Forgets what was appended. Returns the error.
    pub(super) fn undo(&mut self, error: io::Error) -> io::Error {
        let cut = self.head.as_ref().map(|head| head.file.set_len(head.len));
        if let Some(Err(_)) = cut {
            // What is there cannot be removed, so nothing may follow it.
            self.give_up();
        }
        error
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if let Some(head) = &mut self.head {
            head.len = len;
            if let Some(segment) = self.shared.index().segment_mut(head.number) {
                segment.len = len;
            }
        }
    }

    /// Returns an appender for a segment that has room, after what has to be written before.
    pub(super) fn appender(&mut self) -> io::Result<Appender> {
        let is_full = |head: &Head| head.len >= self.segment_size;
        if self.head.as_ref().is_some_and(is_full) {
            if self.unsynced_since.is_some() {
                self.sync()?;
            }
            self.head = None;
        }
        let mut appender = self.open_head()?;
        if !self.owed.is_empty() {
            let owed = std::mem::take(&mut self.owed);
            if let Err(error) = self.pay(appender, &owed) {
                self.owed.extend(owed);
                return Err(error);
            }
            appender = self.open_head()?;
        }
        Ok(appender)
    }

    /// Writes and syncs what is owed, so that it never grows while the disk fails.
    fn pay(&mut self, mut appender: Appender, owed: &[Small]) -> io::Result<()> {
        let places: io::Result<Vec<_>> = owed.iter().map(|one| appender.small(one)).collect();
        let written = places.and_then(|places| Ok((places, appender.finish()?)));
        let (places, len) = written.map_err(|error| self.undo(error))?;
        self.set_len(len);
        self.sync()?;
        let mut index = self.index();
        for (one, place) in owed.iter().zip(places) {
            index.moved(&one.id, place);
        }
        Ok(())
    }

    fn open_head(&mut self) -> io::Result<Appender> {
        let head = match self.head.take() {
            Some(head) => head,
            None => self.create()?,
        };
        let head = self.head.insert(head);
        let Head {
            number,
            file,
            marker,
            len,
        } = head;
        Ok(Appender::new(file.clone(), *number, *marker, *len))
    }

    /// Creates a segment.
    fn create(&mut self) -> io::Result<Head> {
        let mut marker = Marker::default();
        getrandom::fill(&mut marker).map_err(io::Error::other)?;
        let number = self.next;
        self.next += 1;
        let file = self.disk.create(number)?;
        let made = file.write_at(0, &frame::start(marker));
        let made = made.and_then(|()| file.sync());
        if let Err(error) = made.and_then(|()| self.disk.sync_dir()) {
            // It is empty, so nothing depends on whether this succeeds.
            let _ = self.disk.remove(number);
            return Err(error);
        }
        let segment = Segment::new(file.clone(), START);
        self.index().add_segment(number, segment);
        Ok(Head {
            number,
            file,
            marker,
            len: START,
        })
    }

    fn apply(&mut self, written: Vec<Written>) {
        let mut has_changed = false;
        for (op, place) in written {
            let Op { id, change, answer } = op;
            let is_put = change.is_put();
            let may_be_due = change.is_synced();
            change.apply(&id, place, &mut self.index());
            has_changed |= may_be_due;
            if answer.send(Ok(id.clone())).is_err() && is_put {
                // Nobody waits any more: the client will send the message again.
                self.index().remove(&id);
                self.owed.push(Small::removal(id));
            }
        }
        if has_changed {
            self.shared.changed.send_replace(());
        }
    }

    /// Reports a failure. A message that is done stays done, even if that cannot be written yet: otherwise it would be delivered
    /// again and again while the disk is full.
    fn fail(&mut self, failed: Failed) {
        let Failed {
            error,
            tried,
            others,
        } = failed;
        if self.head.is_none() {
            tried.iter().for_each(|op| self.revoke(op));
        }
        for op in tried.into_iter().chain(others) {
            let answer = match op.change {
                Change::Remove { token } => self.remove_later(&op.id, token, &error),
                _ => Err(error.clone()),
            };
            let _ = op.answer.send(answer.map(|()| op.id));
        }
    }

    /// Makes sure that what was reported as failed is not found when the queue is opened.
    fn revoke(&mut self, op: &Op) {
        let record = match op.change {
            Change::Put { .. } => Some(Small::removal(op.id.clone())),
            Change::Hold { .. } => {
                let index = self.index();
                let entry = index.get(&op.id);
                entry.map(|entry| Small::hold(op.id.clone(), entry.held, entry.due_instead))
            }
            Change::States { .. } | Change::Remove { .. } => None,
        };
        self.owed.extend(record);
    }

    /// Removes a message now, and on disk when that is possible again. If nobody has delivered it, that is an error nevertheless.
    fn remove_later(
        &mut self,
        id: &QueueId,
        token: Option<u64>,
        error: &QueueError,
    ) -> Result<(), QueueError> {
        let mut index = self.index();
        match token {
            Some(token) => index.check(id, token)?,
            None if index.get(id).is_none() => return Err(QueueError::NotFound(id.clone())),
            None => {}
        }
        index.remove(id);
        drop(index);
        self.owed.push(Small::removal(id.clone()));
        token.map(drop).ok_or_else(|| error.clone())
    }

    /// Writes and syncs all that is not, for the end.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if !self.owed.is_empty() {
            self.appender()?;
        }
        match self.unsynced_since {
            Some(_) => self.sync(),
            None => Ok(()),
        }
    }

    /// Returns the number of the segment that is written.
    pub(super) fn written(&self) -> Option<u64> {
        self.head.as_ref().map(|head| head.number)
    }
}

fn append(appender: &mut Appender, op: &Op, small: &mut Vec<Small>) -> Result<Place, Failure> {
    let record = match &op.change {
        Change::Put { head, message, .. } => return appender.message(&op.id, head, message),
        Change::States { head, .. } => Small {
            kind: frame::Kind::States,
            id: op.id.clone(),
            head: head.clone(),
        },
        Change::Remove { .. } => Small::removal(op.id.clone()),
        Change::Hold { held, due } => Small::hold(op.id.clone(), *held, *due),
    };
    let place = appender.small(&record).map_err(Failure::Segment)?;
    small.push(record);
    Ok(place)
}

/// The operations of what was written.
fn ops_of(written: Vec<Written>) -> Vec<Op> {
    written.into_iter().map(|(op, _)| op).collect()
}
