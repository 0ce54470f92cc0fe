//! What a session may keep, and how long it may wait for a client that does not read its replies.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    invariants::{CLEAN_UP, LINGER},
    journal::{Call, Kind, Outcome, Pages},
    model::AFTER_REFUSAL,
    network::{LONGEST_POLL, Wires},
    shared::Shared,
    site::Site,
    swarm::Swarm,
};

/// What a session may keep of what its client sends: 256 KiB.
const MOST_KEPT: usize = 256 << 10;

/// What may be read at once beyond a limit.
const ONE_READ: usize = 64 << 10;

/// What a session reads and drops, so that its last reply is not lost.
const LINGER_BYTES: u64 = 1 << 20;

/// How many bytes of the replies a late client has to read per second.
const LEAST_RATE: u64 = 500;

impl Site {
    /// What the client has sent, and the server has read but done nothing with.
    pub fn keeps_too_much(&self, shared: &Shared) -> Option<String> {
        let wires = self.link.lock();
        if let Some((_, before)) = wires.shut {
            // What is read while the connection is closed is not kept, and has a limit too.
            let off = wires.up.read - before;
            let too_much = off > LINGER_BYTES + ONE_READ as u64;
            return too_much.then(|| format!("the server has read off {off} bytes"));
        }
        let read = self.client.passage.said(wires.up.read);
        drop(wires);
        let ahead = self.model.ahead(read);
        // Commands that follow a message lie behind it.
        let kept = ahead + self.kept_of_message(&shared.journal.lock(), read);
        let most = MOST_KEPT + ONE_READ + shared.swarm.router.unwrap_or(0);
        (kept > most)
            .then(|| format!("the server keeps {kept} bytes, of which {ahead} are read ahead"))
    }

    /// How much of the current message its slowest service has not read, if that may be much.
    fn kept_of_message(&self, pages: &Pages, read: u64) -> usize {
        let kept = |call: &Call| {
            let taken = match call.reader {
                // A service that collects has read everything.
                Some(reader) if reader.collects => return 0,
                reader => reader.unwrap_or_default().position,
            };
            if self.model.most_available(read) < taken + MOST_KEPT {
                return 0;
            }
            let available = self.model.available(&call.subject, read);
            available.map_or(0, |(len, _)| len.saturating_sub(taken))
        };
        let calls = pages.calls_of(self.link.id);
        let working = calls.filter(|call| {
            call.kind == Kind::Data && call.outcome == Outcome::Working && !call.keeps
        });
        working.map(kept).max().unwrap_or(0)
    }

    /// A client that does not read its replies is given up in time. Only a complete message is still delivered.
    pub fn waits_to_write(
        &self,
        pages: &Pages,
        swarm: &Swarm,
        shutdown: Option<Instant>,
    ) -> Option<String> {
        let wires = self.link.lock();
        let (since, before) = wires.unwritten?;
        let limit = Duration::from_millis(swarm.times.write?);
        let earned = Duration::from_millis((wires.down.sent - before) * 1000 / LEAST_RATE);
        let delivered = pages.idle_since(self.link.id, since)?;
        let waited = since.elapsed();
        // The reply about a shutdown has its time from then on.
        let since = shutdown.map_or(since, |began| began.max(since));
        let due = delivered.max(since + limit + earned);
        (due.elapsed() > CLEAN_UP + LINGER)
            .then(|| format!("a client that takes nothing is waited for, {waited:?} so far"))
    }

    /// How long a client with a greeting of 5yz is waited for. It need not have read the greeting.
    pub fn refused_until(&self, pages: &Pages) -> Option<Instant> {
        let refuses = |call: &&Call| {
            call.kind == Kind::Connect && matches!(call.outcome, Outcome::Replied(500..))
        };
        let answered = pages.calls_of(self.link.id).rfind(refuses);
        let unread = answered.and_then(|call| Some(call.ended_at? + AFTER_REFUSAL));
        self.model.refused_until.or(unread)
    }

    /// A session that cannot write ends within its time.
    pub fn lingers(&self) -> Option<String> {
        let (since, _) = self.link.lock().shut?;
        let age = since.elapsed();
        (age > LINGER + LONGEST_POLL).then(|| format!("a session lingers for {age:?}"))
    }
}

/// Whether the client has read so little of the replies for so long that the server may give up.
pub fn is_given_up(wires: &Wires, swarm: &Swarm) -> bool {
    let limit = Duration::from_millis(swarm.times.write.unwrap_or(u64::MAX));
    wires
        .unwritten
        .is_some_and(|(since, _)| since.elapsed() >= limit)
}
