//! Addresses and networks.
//!
//! | type | what it is |
//! |---|---|
//! | [`PeerAddr`] | one end of a connection: an IP address with a port, or a Unix socket |
//! | [`Cidr`] | a network, such as `192.0.2.0/24` |
//! | [`CidrSet`] | a set of networks |
//! | [`Prefixes`] | how many bits of an address distinguish clients |
//! | [`TrustedPeers`] | the proxies that may name the client |

mod cidr;
mod peer;
mod prefixes;
mod trusted;

pub use cidr::{Cidr, CidrError, CidrErrorKind, CidrSet};
pub use peer::PeerAddr;
pub use prefixes::{Prefixes, PrefixesError};
pub use trusted::TrustedPeers;
