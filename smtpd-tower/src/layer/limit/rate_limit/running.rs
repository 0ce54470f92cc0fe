use super::RateLimitLayer;
#[cfg(doc)]
use crate::limiter::{ClientKey, RateLimiter};
use crate::{
    layer::{AtLimit, FindKey},
    limiter::{Rate, Share, Usage},
};

/// # While it is running
///
/// Any clone of the layer does this for all that share its table. Ask about a [`ClientKey`] if the layer counts
/// [`per_ip`](RateLimitLayer::per_ip), about the name of a user, in any spelling, if it counts
/// [`per_identity`](RateLimitLayer::per_identity), and otherwise about a key as your function returns it.
///
/// ```
/// use smtpd_tower::{layer::RateLimitLayer, limiter::Rate};
///
/// let quota = RateLimitLayer::per_identity(Rate::per_hour(100)?);
/// let handle = quota.clone(); // Keep it beside the server.
///
/// println!("alice: {} of 100", handle.usage("alice").counted());
/// handle.reset("alice");
/// handle.set_rate(Rate::per_hour(200)?);
/// # Ok::<(), smtpd_tower::limiter::RateError>(())
/// ```
impl<F, W> RateLimitLayer<F, W> {
    /// Changes the rate, as [`RateLimiter::set_rate`] does.
    pub fn set_rate(&self, rate: Rate) {
        self.config.limiter.set_rate(rate);
    }

    /// Returns what `subject` has used of the layer's rate. The wider [network](RateLimitLayer::network) of a client is not a
    /// subject, because it has a multiple of that rate.
    pub fn usage<T>(&self, subject: T) -> Usage
    where
        F: FindKey<T>,
    {
        let key = self.key.find_key(subject);
        self.config.limiter.usage_any(key, Share::ONE)
    }

    /// Returns what `subject` has used of its own rate, as [`rate_by`](Self::rate_by) returns it.
    pub fn usage_at<T>(&self, subject: T, rate: Rate) -> Usage
    where
        F: FindKey<T>,
    {
        let key = self.key.find_key(subject);
        self.config.limiter.usage_any(key, Share::at(Some(rate)))
    }

    /// Forgets the counted events of `subject`.
    pub fn reset<T>(&self, subject: T)
    where
        F: FindKey<T>,
    {
        self.config.limiter.reset_any(self.key.find_key(subject));
    }

    /// Returns how many keys are remembered now, for metrics. The wider networks of clients count too.
    pub fn tracked(&self) -> usize {
        self.config.limiter.tracked()
    }

    /// Returns the `n` names that were refused most often, if they are [remembered](Self::watch_by).
    pub fn top(&self, n: usize) -> Vec<AtLimit> {
        let watch = self.config.watch.as_ref();
        watch.map(|watch| watch.top(n)).unwrap_or_default()
    }
}
