use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::session::Session;

const V4_BITS: u8 = 32;
const V6_BITS: u8 = 128;

/// The prefix of one link, the rest being the host's own choice (RFC 4291 section 2.5.1).
const V6_LINK_BITS: u8 = 64;

/// What a client is counted as: its IPv4 address, or the /64 its IPv6 address lies in.
///
/// One IPv6 host chooses freely among the 2^64 addresses of its link, so a limit per
/// address would be no limit. An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`, what a
/// dual-stack socket reports) is the IPv4 address, so a client has one key
/// whichever socket it came through.
///
/// All link-local clients (`fe80::/64`) share one key.
///
/// ```
/// use smtpd_tower::limiter::ClientKey;
///
/// let key = |ip: &str| ClientKey::new(ip.parse().unwrap());
///
/// assert_eq!(key("2001:db8::1"), key("2001:db8::2"));
/// assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
/// assert_eq!(key("192.0.2.1").to_string(), "192.0.2.1");
/// assert_eq!(key("2001:db8::1").to_string(), "2001:db8::/64");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey {
    network: IpAddr,
    bits: u8,
}

impl ClientKey {
    /// How many bits of an IPv4 and of an IPv6 address a client is told by, where nothing else is set.
    pub(crate) const PREFIX: (u8, u8) = (V4_BITS, V6_LINK_BITS);

    /// The key of a session's client by so many bits, if that has an IP address.
    pub(crate) fn of_session(session: &Session, (v4_bits, v6_bits): (u8, u8)) -> Option<Self> {
        let ip = session.client_addr().ip()?;
        Some(Self::with_prefix(ip, v4_bits, v6_bits))
    }

    /// The key of an address: IPv4 whole, IPv6 by its /64.
    #[must_use]
    pub fn new(ip: IpAddr) -> Self {
        Self::with_prefix(ip, V4_BITS, V6_LINK_BITS)
    }

    /// The key of an address by its first `v4_bits` or `v6_bits` bits, whichever family it
    /// is of.
    ///
    /// More bits than an address has (32, 128) mean the whole address; 0 gives one key to
    /// the whole family. Keys of different prefix lengths are never equal, so one limiter
    /// should be asked with one pair of lengths.
    ///
    /// ```
    /// use smtpd_tower::limiter::ClientKey;
    ///
    /// // Providers that hand out a /48 to each customer.
    /// let key = ClientKey::with_prefix("2001:db8:1:2::3".parse()?, 32, 48);
    /// assert_eq!(key.to_string(), "2001:db8:1::/48");
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn with_prefix(ip: IpAddr, v4_bits: u8, v6_bits: u8) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let bits = v4_bits.min(V4_BITS);
                // A shift by all 32 bits overflows: the mask of /0 is empty.
                let mask = u32::MAX.checked_shl(u32::from(V4_BITS - bits)).unwrap_or(0);
                let network = Ipv4Addr::from_bits(ip.to_bits() & mask).into();
                Self { network, bits }
            }
            IpAddr::V6(ip) => {
                let bits = v6_bits.min(V6_BITS);
                let mask = u128::MAX
                    .checked_shl(u32::from(V6_BITS - bits))
                    .unwrap_or(0);
                let network = Ipv6Addr::from_bits(ip.to_bits() & mask).into();
                Self { network, bits }
            }
        }
    }

    /// The key of the network of so many bits that the client is in, or its own if that is wider.
    pub(crate) fn within(self, v4_bits: u8, v6_bits: u8) -> Self {
        Self::with_prefix(self.network, v4_bits.min(self.bits), v6_bits.min(self.bits))
    }

    fn is_whole_address(&self) -> bool {
        match self.network {
            IpAddr::V4(_) => self.bits == V4_BITS,
            IpAddr::V6(_) => self.bits == V6_BITS,
        }
    }
}

impl From<IpAddr> for ClientKey {
    fn from(ip: IpAddr) -> Self {
        Self::new(ip)
    }
}

/// The address alone when the key is a whole address, else `network/bits`.
impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole_address() {
            write!(f, "{}", self.network)
        } else {
            write!(f, "{}/{}", self.network, self.bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ip: &str) -> ClientKey {
        ClientKey::new(ip.parse().unwrap())
    }

    #[test]
    fn keys_are_shown_as_address_or_network() {
        let table = [
            ("192.0.2.1", 32, 64, "192.0.2.1"),
            ("192.0.2.1", 24, 64, "192.0.2.0/24"),
            ("192.0.2.255", 31, 64, "192.0.2.254/31"),
            ("192.0.2.1", 0, 64, "0.0.0.0/0"),
            ("192.0.2.1", 200, 64, "192.0.2.1"),
            ("2001:db8::1", 32, 64, "2001:db8::/64"),
            ("2001:db8:1:2:3:4:5:6", 32, 48, "2001:db8:1::/48"),
            ("2001:db8::1", 32, 128, "2001:db8::1"),
            ("2001:db8::1", 32, 255, "2001:db8::1"),
            ("2001:db8::1", 32, 0, "::/0"),
            ("::1", 32, 64, "::/64"),
            ("::ffff:192.0.2.1", 32, 64, "192.0.2.1"),
            ("::ffff:192.0.2.1", 8, 128, "192.0.0.0/8"),
        ];
        for (ip, v4_bits, v6_bits, shown) in table {
            let key = ClientKey::with_prefix(ip.parse().unwrap(), v4_bits, v6_bits);
            assert_eq!(key.to_string(), shown, "{ip} by {v4_bits}, {v6_bits}");
        }
    }

    #[test]
    fn a_client_is_within_wider_networks_only() {
        for (ip, v4_bits, v6_bits, shown) in [
            ("192.0.2.1", 16, 32, "192.0.0.0/16"),
            ("192.0.2.1", 32, 32, "192.0.2.1"),
            ("::ffff:192.0.2.1", 24, 48, "192.0.2.0/24"),
            ("2001:db8:1:2::3", 16, 32, "2001:db8::/32"),
            ("2001:db8:1:2::3", 24, 48, "2001:db8:1::/48"),
            ("2001:db8:1:2::3", 32, 128, "2001:db8:1:2::/64"),
        ] {
            let network = key(ip).within(v4_bits, v6_bits);
            assert_eq!(network.to_string(), shown, "{ip} by {v4_bits}, {v6_bits}");
        }
    }

    #[test]
    fn neighbours_in_a_64_share_a_key_and_strangers_do_not() {
        assert_eq!(
            key("2001:db8::1"),
            key("2001:db8:0:0:ffff:ffff:ffff:ffff"),
            "both ends of one /64"
        );
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn a_mapped_ipv4_address_is_the_ipv4_address() {
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("::ffff:192.0.2.1"), key("::ffff:192.0.2.2"));
    }

    #[test]
    fn networks_of_different_length_are_different_keys() {
        let by = |bits| ClientKey::with_prefix("10.0.0.0".parse().unwrap(), bits, 64);
        assert_ne!(by(8), by(16));
    }
}
