//! The pace of a session: its time, and how much it does before other tasks run.

use std::{task::Context, time::Duration};

use smtpd_core::connection::Connection;
use tokio::time::Instant;

/// How many reads of up to 8 KiB a session does before other tasks run.
const READS: u32 = 32;

/// How many steps a session takes before other tasks run. Each may be a command or a chunk of a message, from a client that has
/// pipelined thousands of them.
const STEPS: u32 = 256;

/// After how many steps a session reads the clock again, because services may have taken long.
const LOOK: u32 = 32;

/// How far the session's time may lag behind the clock when it begins to wait.
const LAG: Duration = Duration::from_millis(1);

/// The time of a session, and what it has done since it was woken.
///
/// The clock is read once when the session is woken, and again when much time may have passed since: a session that serves many
/// commands in one poll would spend more time on the clock than on them.
pub(super) struct Pace {
    now: Instant,
    /// The number of reads from the client.
    reads: u32,
    /// The number of steps taken.
    steps: u32,
    /// The session continues as soon as other tasks have run.
    #[cfg(debug_assertions)]
    paused: bool,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            now: Instant::now(),
            reads: 0,
            steps: 0,
            #[cfg(debug_assertions)]
            paused: false,
        }
    }

    /// Records that the session was woken.
    pub(super) fn wake(&mut self) {
        *self = Self::new();
    }

    /// Reads the clock.
    pub(super) fn look(&mut self) {
        self.now = Instant::now();
    }

    /// Returns the time when the clock was last read. A limit of the engine's own starts at `Instant::now()` instead.
    pub(super) const fn now(&self) -> Instant {
        self.now
    }

    /// Counts a step. Returns whether to read the clock.
    pub(super) const fn step(&mut self) -> bool {
        self.steps += 1;
        self.steps.is_multiple_of(LOOK)
    }

    /// Returns whether enough steps were taken that other tasks have to run.
    pub(super) const fn has_done_enough(&self) -> bool {
        self.steps >= STEPS
    }

    /// Returns whether the session waits for nothing but its next poll.
    #[cfg(debug_assertions)]
    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Counts a read of `bytes` bytes. A long read counts as several.
    pub(super) const fn read(&mut self, bytes: usize) {
        self.reads += 1 + (bytes >> 13) as u32;
    }

    /// Reads the clock, because much time may have passed since it was last read. Returns whether more than [`LAG`] has.
    ///
    /// That time was spent on services and commands: it is not charged to the client.
    pub(super) fn catch_up(&mut self, connection: &mut Connection) -> bool {
        let (before, now) = (self.now, Instant::now());
        if now <= before + LAG {
            return false;
        }
        self.now = now;
        connection.handle_busy(before.into_std(), now.into_std());
        true
    }

    /// Schedules another poll of the session as soon as other tasks have run.
    pub(super) fn pause(&mut self, cx: &Context<'_>) {
        #[cfg(debug_assertions)]
        {
            self.paused = true;
        }
        cx.waker().wake_by_ref();
    }

    /// Returns whether enough was read from the client that other tasks have to run.
    pub(super) const fn has_read_enough(&self) -> bool {
        self.reads >= READS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many reads of this size are allowed before other tasks have to run.
    fn reads_of(bytes: usize) -> u32 {
        let mut pace = Pace::new();
        let mut reads = 0;
        while !pace.has_read_enough() {
            pace.read(bytes);
            reads += 1;
        }
        reads
    }

    #[test]
    fn short_reads_count_as_one_and_long_ones_as_several() {
        assert_eq!(reads_of(1), READS);
        assert_eq!(reads_of(8 * 1024 - 1), READS);
        assert_eq!(reads_of(64 * 1024), READS.div_ceil(9));
    }
}
