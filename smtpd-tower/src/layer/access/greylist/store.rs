use std::time::Duration;

use tower::BoxError;

use super::{GreylistKey, GreylistPolicy};

/// Remembers the attempts for a [`GreylistLayer`](super::GreylistLayer).
///
/// An async function of a key and a policy is a store. A type of your own names the future that it returns in `Check`; this can
/// be a boxed future:
///
/// ```
/// use std::{future::Future, pin::Pin, time::Duration};
///
/// use smtpd_tower::{
///     BoxError,
///     layer::{
///         GreylistKey, GreylistLayer, GreylistPolicy, GreylistStore,
///         GreylistVerdict,
///     },
/// };
///
/// struct Database;
///
/// impl Database {
///     async fn time_since_first_attempt(
///         _key: String,
///     ) -> Result<Duration, BoxError> {
///         Ok(Duration::from_secs(90)) // inserts the key if it is new or too old
///     }
/// }
///
/// impl GreylistStore for Database {
///     type Check =
///         Pin<Box<dyn Future<Output = Result<GreylistVerdict, BoxError>> + Send>>;
///
///     fn check(&self, key: GreylistKey, policy: GreylistPolicy) -> Self::Check {
///         Box::pin(async move {
///             let age =
///                 Self::time_since_first_attempt(key.to_string()).await?;
///             let retry_after = policy.delay().saturating_sub(age);
///             Ok(if retry_after.is_zero() {
///                 GreylistVerdict::Pass
///             } else {
///                 GreylistVerdict::Wait { retry_after }
///             })
///         })
///     }
/// }
///
/// async fn only_reports(
///     key: GreylistKey,
///     _: GreylistPolicy,
/// ) -> Result<GreylistVerdict, BoxError> {
///     println!("{key}");
///     Ok(GreylistVerdict::Pass)
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
    ///
    /// It is called for each recipient. A store that counts what a client has retried, to trust it, must count each message once:
    /// not more often than [`GreylistPolicy::trust_interval`] says. It must count by [`client`](GreylistKey::client) and
    /// [`network`](GreylistKey::network) together.
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
    Wait {
        /// The time until a retry passes.
        retry_after: Duration,
    },
}
