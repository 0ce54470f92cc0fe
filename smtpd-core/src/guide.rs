//! Longer pages.

#[doc = include_str!("../docs/rfc.md")]
pub mod rfc {}
