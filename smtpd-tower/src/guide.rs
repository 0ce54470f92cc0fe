//! Longer pages.

#[doc = include_str!("../docs/coming_from_go_smtpd.md")]
pub mod coming_from_go_smtpd {}

#[doc = include_str!("../docs/tower_with_smtp.md")]
pub mod tower_with_smtp {}

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
