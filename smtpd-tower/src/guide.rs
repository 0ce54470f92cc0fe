//! Longer pages.

#[doc = include_str!("../docs/coming_from_go_smtpd.md")]
pub mod coming_from_go_smtpd {}

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
