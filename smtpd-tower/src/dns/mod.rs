//! What services and layers ask of the DNS.
//!
//! [`Dns`] is a trait, so that a service does not depend on a resolver: keep an `Arc<dyn Dns>`. [`FixedDns`] answers from a table,
//! for tests and for networks without DNS.
//!
//! | type | what it is |
//! |---|---|
//! | [`Dns`] | a resolver |
//! | [`Lookup`] | the future of a query |
//! | [`DnsError`] | why there is no answer |
//! | [`Mx`] | a host that receives the mail of a domain |
//! | [`FixedDns`] | a resolver with a table |

mod fixed;

use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::Pin,
};

pub use self::fixed::FixedDns;

/// The future of a query.
pub type Lookup<T> = Pin<Box<dyn Future<Output = Result<T, DnsError>> + Send>>;

/// A resolver.
///
/// Names are absolute, with or without the final dot: a resolver must not append a domain of its own. They are in US-ASCII, as
/// A-labels (RFC 5890). An answer has at least one record, otherwise it is an error. Aliases (CNAME) are followed.
///
/// A resolver has a timeout of its own, and answers [`DnsError::Failed`] when it is over. Whoever asks nevertheless waits no
/// longer than it can afford.
pub trait Dns: Send + Sync + 'static {
    /// Asks for the IPv4 addresses of a host (A).
    fn ipv4(&self, name: &str) -> Lookup<Vec<Ipv4Addr>>;

    /// Asks for the IPv6 addresses of a host (AAAA).
    fn ipv6(&self, name: &str) -> Lookup<Vec<Ipv6Addr>>;

    /// Asks for texts (TXT): one entry for each record, whose strings are joined (RFC 7208 section 3.3).
    fn txt(&self, name: &str) -> Lookup<Vec<Vec<u8>>>;

    /// Asks for the hosts that receive the mail of a domain (MX), in any order.
    fn mx(&self, name: &str) -> Lookup<Vec<Mx>>;

    /// Asks for the names of an address (PTR). The owner of the address chooses them, so they prove nothing.
    fn ptr(&self, ip: IpAddr) -> Lookup<Vec<String>>;
}

/// A host that receives the mail of a domain (RFC 5321 section 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mx {
    preference: u16,
    exchange: String,
}

impl Mx {
    /// Creates a record.
    pub fn new(preference: u16, exchange: impl Into<String>) -> Self {
        Self {
            preference,
            exchange: exchange.into(),
        }
    }

    /// Returns the preference. The host with the lowest is tried first.
    pub const fn preference(&self) -> u16 {
        self.preference
    }

    /// Returns the name of the host.
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// Returns whether the record states that the domain accepts no mail (RFC 7505 section 3).
    pub fn is_null(&self) -> bool {
        self.preference == 0 && matches!(self.exchange(), "" | ".")
    }
}

/// Why the DNS has no answer.
///
/// The difference matters: a list that cannot be asked has not said that an address is not listed, and SPF counts names without
/// records (RFC 7208 section 4.6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DnsError {
    /// The name does not exist (NXDOMAIN).
    NoSuchName,
    /// The name exists, but has no records of this type.
    NoRecords,
    /// The servers did not answer, or not usefully. The same query may succeed later.
    Failed,
}

impl DnsError {
    /// Returns whether there is an answer: that there are no such records.
    pub const fn is_negative_answer(self) -> bool {
        matches!(self, Self::NoSuchName | Self::NoRecords)
    }
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchName => "the name does not exist",
            Self::NoRecords => "the name has no such records",
            Self::Failed => "the DNS does not answer",
        })
    }
}

impl Error for DnsError {}
