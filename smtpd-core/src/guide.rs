//! Longer pages.

#[cfg(feature = "client")]
#[cfg_attr(docsrs, doc(cfg(feature = "client")))]
#[doc = include_str!("../docs/client.md")]
pub mod client {}

#[doc = include_str!("../docs/driver.md")]
pub mod driver {}

#[doc = include_str!("../docs/rfc.md")]
pub mod rfc {}
