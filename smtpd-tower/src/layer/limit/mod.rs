//! Layers that limit counts, rates and sizes.

mod concurrency;
mod free_space;
mod key;
mod max_recipients;
mod rate_limit;
mod sessions_per_ip;
mod size_limit;
mod slots;
mod tarpit;
mod watch;

pub use self::{
    concurrency::{Concurrency, ConcurrencyFuture, ConcurrencyLayer},
    free_space::{FreeSpace, FreeSpaceLayer},
    key::{FindKey, LimitKey, PerIdentity, PerIp, PerRequest, PerSession},
    max_recipients::MaxRecipientsLayer,
    rate_limit::{
        Counted, RateLimit, RateLimitFuture, RateLimitLayer, Weigh, WeighKib, WeighOne,
        WeighRecipients,
    },
    sessions_per_ip::SessionsPerIpLayer,
    size_limit::{FixedSize, SizeLimit, SizeLimitFuture, SizeLimitLayer, SizeRule},
    tarpit::{Tarpit, TarpitFuture, TarpitLayer},
    watch::AtLimit,
};
