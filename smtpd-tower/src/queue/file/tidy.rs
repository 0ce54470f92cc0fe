//! How segments go: the oldest one is removed when nothing in it is needed, and when most of what all of them hold is not needed,
//! what the oldest holds is copied to the end.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    append::{Appender, Failure},
    frame::{Header, Kind, Place, Small},
    index::Entry,
    writer::Writer,
};
use crate::session::QueueId;

/// How many bytes are copied between two groups of operations.
const AT_ONCE: u64 = 4 << 20;
/// How many bytes are read at once.
const CHUNK: u64 = 64 * 1024;
/// How long to wait after a copy has failed.
const PAUSE: Duration = Duration::from_secs(10);

impl Writer {
    pub(super) fn tidy(&mut self) {
        self.remove_dead();
        let may_copy = self.copy_after.is_none_or(|after| Instant::now() >= after);
        let sparse = self.index().sparse(self.written(), self.segment_size);
        let Some(number) = sparse.filter(|_| may_copy) else {
            return;
        };
        match self.copy(number) {
            Ok(()) => self.remove_dead(),
            Err(failure) => {
                self.copy_after = Some(Instant::now() + PAUSE);
                if let Failure::Source(_) = failure
                    && let Some(segment) = self.index().segment_mut(number)
                {
                    segment.is_stuck = true;
                }
                let error = self.undo(failure.into_inner());
                tracing::error!(%error, number, "the queue cannot copy a segment");
            }
        }
    }

    fn remove_dead(&self) {
        loop {
            let dead = self.index().dead(self.written());
            let Some(number) = dead else { return };
            // Durable before the next one is removed: it may say what in this one is done.
            let removed = match self.disk.remove(number) {
                // Only the sync has failed the last time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            };
            if let Err(error) = removed.and_then(|()| self.disk.sync_dir()) {
                tracing::error!(%error, number, "the queue cannot remove a segment");
                return;
            }
            self.index().remove_segment(number);
        }
    }

    /// Copies some of what a segment holds.
    fn copy(&mut self, number: u64) -> Result<(), Failure> {
        let entries: Vec<(QueueId, Entry)> = {
            let index = self.index();
            let ids = index.within(number, AT_ONCE).into_iter();
            ids.filter_map(|id| Some((id.clone(), index.get(&id)?.clone())))
                .collect()
        };
        let mut appender = self.appender().map_err(Failure::Segment)?;
        let mut moved = Vec::new();
        for (id, entry) in entries {
            for place in self.copy_entry(&mut appender, &id, &entry)? {
                moved.push((id.clone(), place));
            }
        }
        let len = appender.finish().map_err(Failure::Segment)?;
        self.set_len(len);
        self.sync().map_err(Failure::Segment)?;
        let mut index = self.index();
        for (id, place) in moved {
            index.moved(&id, place);
        }
        Ok(())
    }

    /// Copies all records of a message, in the order in which they count.
    fn copy_entry(
        &self,
        appender: &mut Appender,
        id: &QueueId,
        entry: &Entry,
    ) -> Result<Vec<Place>, Failure> {
        let mut places = Vec::new();
        for place in entry.places() {
            places.push(match place.header.kind {
                Kind::Hold => {
                    let hold = Small::hold(id.clone(), entry.held, entry.due_instead);
                    appender.small(&hold).map_err(Failure::Segment)?
                }
                _ => self.copy_record(appender, id, place)?,
            });
        }
        Ok(places)
    }

    fn copy_record(
        &self,
        appender: &mut Appender,
        id: &QueueId,
        place: Place,
    ) -> Result<Place, Failure> {
        let file = self
            .index()
            .segment(place.segment)
            .map(|one| one.file.clone());
        let missing = || Failure::Source(io::ErrorKind::NotFound.into());
        let file = file.ok_or_else(missing)?;
        let read = |at: u64, len: u64| {
            let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
            file.read_at(at, &mut bytes).map(|()| bytes)
        };
        let Header {
            head_len, body_len, ..
        } = place.header;
        let head = read(place.head_at(), u64::from(head_len)).map_err(Failure::Source)?;
        let sum = read(place.body_at() + body_len, 4).map_err(Failure::Source)?;
        let start = appender.end();
        let copy = appender.record(place.header.kind, id, &head, body_len, |at| {
            read(place.body_at() + at, CHUNK.min(body_len - at))
        })?;
        match appender.last_sum().to_le_bytes()[..] == sum[..] {
            true => Ok(copy),
            false => {
                appender.rewind(start);
                Err(Failure::Source(io::ErrorKind::InvalidData.into()))
            }
        }
    }
}
