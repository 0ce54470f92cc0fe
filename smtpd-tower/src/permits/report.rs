//! Refused work, as it is logged.

use std::{mem, time::Duration};

use tokio::time::Instant;

/// Counts refusals, so that the log has a line now and then and not one each time: clients decide how often that is.
#[derive(Debug, Default)]
pub(super) struct RefusalReports {
    since_reported: u64,
    reported: Option<Instant>,
}

impl RefusalReports {
    /// The shortest time between two reports.
    const PERIOD: Duration = Duration::from_secs(60);

    /// Counts one. Returns how many there were since the last report, if the next one is due.
    pub(super) fn count(&mut self, now: Instant) -> Option<u64> {
        self.since_reported += 1;
        let is_recent = |reported: Instant| now.saturating_duration_since(reported) < Self::PERIOD;
        if self.reported.is_some_and(is_recent) {
            return None;
        }
        self.reported = Some(now);
        Some(mem::take(&mut self.since_reported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients that guess passwords would fill the log.
    #[test]
    fn refusals_are_reported_once_a_minute_and_none_is_forgotten() {
        let (start, mut reports) = (Instant::now(), RefusalReports::default());
        let mut count = |second| reports.count(start + Duration::from_secs(second));
        let reports = [0, 1, 59, 60, 61, 119, 130, 500].map(&mut count);
        let expected = [Some(1), None, None, Some(3), None, None, Some(3), Some(1)];
        assert_eq!(reports, expected);
    }
}
