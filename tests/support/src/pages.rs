//! The pages of the repository and of the published crates, compiled as documentation tests here, where everything that they use
//! is a dependency.

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod repository {}

#[cfg(doctest)]
#[doc = include_str!("../../../smtpd-core/README.md")]
mod smtpd_core {}

#[cfg(doctest)]
#[doc = include_str!("../../../smtpd-tower/README.md")]
mod smtpd_tower {}
