use std::{num::NonZeroU32, time::Duration};

use tower::BoxError;

use super::GreylistKey;

/// Remembers the attempts for a [`GreylistLayer`](super::GreylistLayer).
///
/// An async function of a key and a policy is a store. A type of your own names the future that it returns in `Check`; this can
/// be a boxed future:
///
/// ```
/// use std::{future::Future, pin::Pin};
///
/// use smtpd_tower::{BoxError, layer::{GreylistKey, GreylistLayer, GreylistPolicy, GreylistStore, GreylistVerdict}};
///
/// struct Database;
///
/// impl Database {
///     async fn seconds_since_first_attempt(_key: String) -> Result<u64, BoxError> {
///         Ok(90) // inserts the key if it is new or too old
///     }
/// }
///
/// impl GreylistStore for Database {
///     type Check = Pin<Box<dyn Future<Output = Result<GreylistVerdict, BoxError>> + Send>>;
///
///     fn check(&self, key: GreylistKey, policy: GreylistPolicy) -> Self::Check {
///         Box::pin(async move {
///             let age = Self::seconds_since_first_attempt(key.to_string()).await?;
///             let waits = age < policy.delay().as_secs();
///             Ok(if waits { GreylistVerdict::Wait } else { GreylistVerdict::Pass })
///         })
///     }
/// }
///
/// async fn only_reports(key: GreylistKey, _: GreylistPolicy) -> Result<GreylistVerdict, BoxError> {
///     Ok(if key.sender().is_null() { GreylistVerdict::Wait } else { GreylistVerdict::Pass })
/// }
///
/// let layer = GreylistLayer::with_store(Database);
/// let by_function = GreylistLayer::with_store(only_reports);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a store for greylisting",
    note = "it must implement `GreylistStore`, or be an `async fn(GreylistKey, GreylistPolicy) -> Result<GreylistVerdict, BoxError>`"
)]
pub trait GreylistStore: Send + Sync + 'static {
    /// The future that [`check`](Self::check) returns. On an error, the mail passes or is deferred, depending on the layer.
    type Check: Future<Output = Result<GreylistVerdict, BoxError>> + Send + 'static;

    /// Records an attempt, and returns whether it may pass under `policy`.
    ///
    /// Calls may overlap. If two first attempts arrive at the same time, neither may pass.
    fn check(&self, key: GreylistKey, policy: GreylistPolicy) -> Self::Check;
}

impl<F, C> GreylistStore for F
where
    F: Fn(GreylistKey, GreylistPolicy) -> C + Send + Sync + 'static,
    C: Future<Output = Result<GreylistVerdict, BoxError>> + Send + 'static,
{
    type Check = C;

    fn check(&self, key: GreylistKey, policy: GreylistPolicy) -> C {
        self(key, policy)
    }
}

/// The result of a [`GreylistStore`]. This enum is exhaustive: an attempt passes or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GreylistVerdict {
    /// A retry in time, or a message of a known client.
    Pass,
    /// A first attempt, a retry that is too early, or one so late that it counts as the first again.
    Wait,
}

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

    /// Returns a policy that accepts everything from the network of a client that has retried this many different messages in
    /// time. With `None`, each sender and recipient is deferred separately.
    #[must_use]
    pub const fn with_trust_after(self, messages: Option<NonZeroU32>) -> Self {
        Self {
            trust_after: messages,
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
}

impl Default for GreylistPolicy {
    /// See [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const LIFETIME: Duration = Duration::from_secs(36 * 24 * 3600);
