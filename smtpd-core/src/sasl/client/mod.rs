//! The client's side of the mechanisms of AUTH.

mod account;
mod exchange;

pub(crate) use account::Channel;
pub use account::{Account, AccountError};
pub(crate) use exchange::ClientExchange;

#[cfg(test)]
mod tests;
