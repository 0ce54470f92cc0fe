//! Layers that limit counts, rates and sizes.

mod concurrency;
mod key;
mod max_recipients;
mod rate_limit;
mod sessions_per_ip;
mod size_limit;
mod slots;
mod tarpit;

pub use self::{
    concurrency::{Concurrency, ConcurrencyFuture, ConcurrencyLayer},
    key::{LimitKey, PerIdentity, PerIp, PerSession},
    max_recipients::MaxRecipientsLayer,
    rate_limit::RateLimitLayer,
    sessions_per_ip::SessionsPerIpLayer,
    size_limit::{SizeLimit, SizeLimitFuture, SizeLimitLayer},
    tarpit::{Tarpit, TarpitFuture, TarpitLayer},
};
