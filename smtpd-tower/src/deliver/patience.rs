use std::time::Duration;

use tokio::time::{Instant, timeout};

/// How long another program may keep the server waiting, in all.
#[derive(Debug)]
pub(super) struct Patience {
    left: Duration,
    limit: Duration,
}

/// It took longer than this.
#[derive(Debug)]
pub(super) struct Exhausted(pub(super) Duration);

impl Patience {
    pub(super) const fn new(limit: Duration) -> Self {
        Self { left: limit, limit }
    }

    /// Waits for something.
    pub(super) async fn within<F: Future>(&mut self, future: F) -> Result<F::Output, Exhausted> {
        let start = Instant::now();
        let result = timeout(self.left, future).await;
        self.left = self.left.saturating_sub(start.elapsed());
        result.map_err(|_| Exhausted(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_share_one_limit() {
        let mut patience = Patience::new(Duration::from_secs(10));
        let wait = |seconds| sleep(Duration::from_secs(seconds));
        assert!(patience.within(wait(6)).await.is_ok());
        wait(100).await;
        assert!(patience.within(wait(3)).await.is_ok());
        assert!(patience.within(wait(2)).await.is_err());
        assert!(patience.within(wait(1)).await.is_err());
    }
}
