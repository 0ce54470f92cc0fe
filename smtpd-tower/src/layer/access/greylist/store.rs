use std::{num::NonZeroU32, time::Duration};

use tower::BoxError;

use super::GreylistKey;

/// Where a [`GreylistLayer`](super::GreylistLayer) remembers who has tried what.
///
/// An async function of a key and a policy is a store. A type of yours says in `Check` which future it returns; a boxed
/// one is fine:
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
///         Ok(90) // inserts the key where it is new or too old
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
    /// What [`check`](Self::check) returns. An error lets the mail pass or not, as the layer says.
    type Check: Future<Output = Result<GreylistVerdict, BoxError>> + Send + 'static;

    /// Takes note of an attempt, and tells whether it may pass. [`GreylistPolicy`] says what is to be obeyed.
    ///
    /// Several may be under way at once; of two first attempts at the same time none may pass.
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

/// The answer of a [`GreylistStore`]. Nothing will be added to it: an attempt passes or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GreylistVerdict {
    /// A retry in time, or one of somebody known.
    Pass,
    /// A first attempt, a retry too early, or one too late that counts as the first again.
    Wait,
}

/// When a retry is taken, and for how long it is remembered. The default is what RFC 6647 section 5 recommends.
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
    /// A minute of delay, a day for the retry, 36 days of memory; a client is trusted after its first retry in time.
    pub const fn new() -> Self {
        Self {
            delay: MINUTE,                   // RFC 6647 section 5, item 2
            window: DAY,                     // RFC 6647 section 5, item 2
            lifetime: LIFETIME, // RFC 6647 section 5, item 3: at least a week; 36 days bridge mail that comes monthly
            trust_after: NonZeroU32::new(1), // RFC 6647 section 5, item 1
        }
    }

    /// Puts off what comes earlier than that after the first attempt. More than a minute mostly delays good mail only
    /// (RFC 6647 section 5, item 2).
    #[must_use]
    pub const fn with_delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Takes a retry up to that time after the first attempt; a later one counts as the first. It has to be longer than
    /// the delay, or else nobody ever passes.
    #[must_use]
    pub const fn with_window(self, window: Duration) -> Self {
        Self { window, ..self }
    }

    /// Forgets those who have passed when nothing has come from them for that time.
    #[must_use]
    pub const fn with_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// Lets everything pass from the network of a client that has retried so many different messages in time; with
    /// `None`, every sender and recipient is put off for itself.
    #[must_use]
    pub const fn with_trust_after(self, messages: Option<NonZeroU32>) -> Self {
        Self {
            trust_after: messages,
            ..self
        }
    }

    /// What comes earlier than that after the first attempt has to wait.
    pub const fn delay(&self) -> Duration {
        self.delay
    }

    /// What comes later than that after the first attempt is a first attempt itself.
    pub const fn window(&self) -> Duration {
        self.window
    }

    /// How long those who have passed are remembered after their last mail.
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// How many messages a client has to retry in time to be trusted whatever it sends.
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
