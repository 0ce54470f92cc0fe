//! Longer pages.

#[doc = include_str!("../docs/driver.md")]
pub mod driver {}

#[doc = include_str!("../docs/rfc.md")]
pub mod rfc {}
