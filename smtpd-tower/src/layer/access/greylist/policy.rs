use std::{num::NonZeroU32, time::Duration};

/// When a retry is accepted, and how long it is remembered. The default is what RFC 6647 section 5 recommends.
///
/// ```
/// use std::{num::NonZeroU32, time::Duration};
///
/// use smtpd_tower::layer::{GreylistLayer, GreylistPolicy};
///
/// let policy = GreylistPolicy::new()
///     .with_delay(Duration::from_secs(300))
///     .with_trust_after(NonZeroU32::new(5));
/// let layer = GreylistLayer::new().policy(policy);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GreylistPolicy {
    delay: Duration,
    window: Duration,
    lifetime: Duration,
    trust_after: Option<NonZeroU32>,
    trust_interval: Duration,
}

impl GreylistPolicy {
    /// Returns the default policy: a delay of one minute, one day for the retry, 36 days of memory; a client is trusted after its
    /// first retry in time.
    pub const fn new() -> Self {
        Self {
            delay: MINUTE,                   // RFC 6647 section 5, item 2
            window: DAY,                     // RFC 6647 section 5, item 2
            lifetime: LIFETIME, // RFC 6647 section 5, item 3: at least a week; 36 days bridge mail that comes monthly
            trust_after: NonZeroU32::new(1), // RFC 6647 section 5, item 1
            trust_interval: HOUR,
        }
    }

    /// Returns a policy with another delay: attempts that come earlier after the first one are deferred. More than a minute
    /// usually delays only good mail (RFC 6647 section 5, item 2).
    #[must_use]
    pub const fn with_delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Returns a policy with another window: a retry passes up to this time after the first attempt; a later one counts as the
    /// first. It must be longer than the delay, otherwise nothing ever passes.
    #[must_use]
    pub const fn with_window(self, window: Duration) -> Self {
        Self { window, ..self }
    }

    /// Returns a policy with another lifetime: what has passed is forgotten if no mail has come for this time.
    #[must_use]
    pub const fn with_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// Returns a policy that accepts everything from a client that has retried this many messages in time. With `None`, each
    /// sender and recipient is deferred separately. Default: 1.
    ///
    /// A client that is known by its domain is trusted in one [network](super::GreylistLayer::prefixes) at a time, that from
    /// which it has retried: the hosts of a domain may belong to different people, such as the customers of a hoster. So a
    /// provider earns trust in each of its networks; [exempt its hosts](super::GreylistLayer::exempt_hosts) if that is too slow.
    ///
    /// A message counts once, not once for each of its recipients, because at most one counts in each
    /// [`trust_interval`](Self::trust_interval).
    #[must_use]
    pub const fn with_trust_after(self, messages: Option<NonZeroU32>) -> Self {
        Self {
            trust_after: messages,
            ..self
        }
    }

    /// Returns a policy with another interval within which at most one message of a client counts. Default: one hour.
    #[must_use]
    pub const fn with_trust_interval(self, trust_interval: Duration) -> Self {
        Self {
            trust_interval,
            ..self
        }
    }

    /// Returns the time after the first attempt before which a retry is deferred.
    pub const fn delay(&self) -> Duration {
        self.delay
    }

    /// Returns the time after the first attempt beyond which a retry counts as a first attempt itself.
    pub const fn window(&self) -> Duration {
        self.window
    }

    /// Returns how long what has passed is remembered after its last mail.
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Returns how many messages a client must retry in time before it is trusted.
    pub const fn trust_after(&self) -> Option<NonZeroU32> {
        self.trust_after
    }

    /// Returns the interval within which at most one message of a client counts towards [`trust_after`](Self::trust_after).
    pub const fn trust_interval(&self) -> Duration {
        self.trust_interval
    }
}

impl Default for GreylistPolicy {
    /// See [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const LIFETIME: Duration = Duration::from_secs(36 * 24 * 3600);
