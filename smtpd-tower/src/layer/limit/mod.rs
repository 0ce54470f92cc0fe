//! Layers that count.

mod concurrency;
mod max_recipients;
mod quota;
mod rate_limit;
mod sessions_per_ip;
mod size_limit;
mod slots;
mod tarpit;

pub use self::{
    concurrency::{Concurrency, ConcurrencyFuture, ConcurrencyLayer},
    max_recipients::MaxRecipientsLayer,
    quota::QuotaLayer,
    rate_limit::RateLimitLayer,
    sessions_per_ip::SessionsPerIpLayer,
    size_limit::{SizeLimit, SizeLimitFuture, SizeLimitLayer},
    tarpit::{Tarpit, TarpitFuture, TarpitLayer},
};
