//! Who waits for whom, and since when.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::phase::Deadline;

/// How long the routes of a message may keep others waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience(Duration);

impl Patience {
    /// Not less, so that a timer always has something to wait for.
    const LEAST: Duration = Duration::from_millis(2);

    pub(super) fn new(limit: Duration) -> Self {
        Self(limit.max(Self::LEAST))
    }

    /// Returns how long the client waits for the routes.
    pub(super) const fn of_client(self) -> Duration {
        self.0
    }

    /// Returns how long routes wait for one that reads nothing: half as long, so that they have the other half.
    pub(super) fn of_routes(self) -> Duration {
        self.0 / 2
    }
}

/// Since when somebody waits for the readers of a message.
#[derive(Debug)]
pub(super) struct Pace {
    /// The client does: there is something to read, or the message has ended. `None` while the readers wait for the client.
    client: Option<Instant>,
    /// A reader does: there is no room for what it wants.
    reader: Option<Instant>,
}

impl Pace {
    /// The client waits from the beginning.
    pub(super) fn new() -> Self {
        Self {
            client: Some(Instant::now()),
            reader: None,
        }
    }

    /// Records that the readers wait for the client.
    pub(super) const fn client_goes_on(&mut self) {
        self.client = None;
    }

    /// Records that there is something for the readers.
    pub(super) fn client_waits(&mut self) {
        self.client.get_or_insert_with(Instant::now);
    }

    /// The readers that the client has waited for are gone, and the others have their own time.
    pub(super) const fn restart(&mut self, now: Instant) {
        self.client = Some(now);
    }

    /// Records that a reader waits for room.
    pub(super) fn reader_waits(&mut self) {
        self.reader.get_or_insert_with(Instant::now);
    }

    /// Records that none waits for room.
    pub(super) const fn readers_go_on(&mut self) {
        self.reader = None;
    }

    /// Returns when the client will have waited for too long.
    pub(super) fn due(&self, patience: Patience) -> Option<Instant> {
        self.client.map(|since| after(since, patience.of_client()))
    }

    pub(super) const fn is_reader_waiting(&self) -> bool {
        self.reader.is_some()
    }

    /// Returns when a reader that has moved at that time, and not since, will have kept another waiting for too long.
    pub(super) fn due_of(&self, moved: Option<Instant>, patience: Patience) -> Option<Instant> {
        let waiting = self.reader?;
        let since = moved.map_or(waiting, |moved| moved.max(waiting));
        Some(after(since, patience.of_routes()))
    }
}

/// When the answers that are there have to be given, so that no other replaces them.
#[derive(Clone, Debug, Default)]
pub(super) struct Late(Arc<Mutex<Option<Seen>>>);

/// A deadline as it was last seen, and when the answers have to be given because of it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    deadline: Instant,
    late: Instant,
}

impl Late {
    fn lock(&self) -> MutexGuard<'_, Option<Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the answers have to be given before this deadline. It is the same time until the deadline changes.
    pub(super) fn before(&self, deadline: Instant) -> Instant {
        let mut seen = self.lock();
        if let Some(seen) = seen.filter(|seen| seen.deadline == deadline) {
            return seen.late;
        }
        let now = Instant::now();
        let late = now + deadline.saturating_duration_since(now) / 10 * 9;
        seen.insert(Seen { deadline, late }).late
    }

    /// Returns the deadline of whoever has an answer yet to give: that of the whole message, or when the others have to be given.
    pub(super) fn deadline(&self, whole: Deadline) -> Deadline {
        let late = self.clone();
        Deadline::of_part(move || {
            let deadline = whole.instant()?;
            let seen = late.lock().filter(|seen| seen.deadline == deadline);
            Some(seen.map_or(deadline, |seen| seen.late))
        })
    }
}

/// Returns the time that is `limit` after `since`, or in the far future.
pub(super) fn after(since: Instant, limit: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365);
    since.checked_add(limit).unwrap_or_else(|| since + FAR)
}
