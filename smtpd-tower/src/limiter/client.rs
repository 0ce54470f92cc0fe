use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    net::{Cidr, Prefixes},
    session::Session,
};

/// What identifies a client in a limit: its IPv4 address, or the /64 of its IPv6 address.
///
/// An IPv6 host chooses freely among the 2^64 addresses of its link, so a limit for each address would be no limit. An
/// IPv4-mapped IPv6 address (`::ffff:192.0.2.1`, as a dual-stack socket reports it) counts as the IPv4 address, and so does one
/// of the well-known prefix for translation (`64:ff9b::192.0.2.1`, RFC 6052 section 2.1), behind which all of IPv4 would
/// otherwise be one client. All link-local clients (`fe80::/64`) share one key.
///
/// ```
/// use smtpd_tower::limiter::ClientKey;
///
/// let key = |ip: &str| ClientKey::new(ip.parse().unwrap());
///
/// assert_eq!(key("2001:db8::1"), key("2001:db8::2"));
/// assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
/// assert_eq!(key("64:ff9b::192.0.2.1"), key("192.0.2.1"));
/// assert_eq!(key("192.0.2.1").to_string(), "192.0.2.1");
/// assert_eq!(key("2001:db8::1").to_string(), "2001:db8::/64");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(Cidr);

impl ClientKey {
    /// Returns the key of a session's client, if it has an IP address.
    pub(crate) fn of_session(session: &Session, prefixes: Prefixes) -> Option<Self> {
        let ip = session.client_addr().ip()?;
        Some(Self::with_prefixes(ip, prefixes))
    }

    /// Returns the key of an address: an IPv4 address as a whole, an IPv6 address by its /64.
    #[must_use]
    pub fn new(ip: IpAddr) -> Self {
        Self::with_prefixes(ip, Prefixes::CLIENT)
    }

    /// Returns the key of an address by as many of its first bits as `prefixes` says.
    ///
    /// Keys of different prefix lengths are never equal, so use the same lengths for all keys of a limiter.
    ///
    /// ```
    /// use smtpd_tower::{limiter::ClientKey, net::Prefixes};
    ///
    /// // Providers that hand out a /48 to each customer.
    /// let key = ClientKey::with_prefixes(
    ///     "2001:db8:1:2::3".parse()?,
    ///     Prefixes::new(32, 48)?,
    /// );
    /// assert_eq!(key.to_string(), "2001:db8:1::/48");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_prefixes(ip: IpAddr, prefixes: Prefixes) -> Self {
        let ip = untranslated(ip.to_canonical());
        Self(Cidr::around(ip, prefixes.bits_of(ip)))
    }

    /// Returns the network that stands for the client.
    #[must_use]
    pub const fn network(self) -> Cidr {
        self.0
    }
}

/// Returns the IPv4 address that a translator has written as one of `64:ff9b::/96`, or the address as it is.
fn untranslated(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
                let [.., a, b, c, d] = v6.octets();
                Ipv4Addr::new(a, b, c, d).into()
            }
            _ => ip,
        },
        IpAddr::V4(_) => ip,
    }
}

impl From<IpAddr> for ClientKey {
    fn from(ip: IpAddr) -> Self {
        Self::new(ip)
    }
}

/// Shows the address alone if the key is a whole address, otherwise `network/bits`.
impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
            ("2001:db8::1", 32, 64, "2001:db8::/64"),
            ("2001:db8:1:2:3:4:5:6", 32, 48, "2001:db8:1::/48"),
            ("2001:db8::1", 32, 128, "2001:db8::1"),
            ("2001:db8::1", 32, 0, "::/0"),
            ("::1", 32, 64, "::/64"),
            ("::ffff:192.0.2.1", 32, 64, "192.0.2.1"),
            ("::ffff:192.0.2.1", 8, 128, "192.0.0.0/8"),
        ];
        for (ip, v4_bits, v6_bits, shown) in table {
            let prefixes = Prefixes::new(v4_bits, v6_bits).unwrap();
            let key = ClientKey::with_prefixes(ip.parse().unwrap(), prefixes);
            assert_eq!(key.to_string(), shown, "{ip} by {v4_bits}, {v6_bits}");
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
    fn all_of_ipv4_behind_a_translator_is_one_client() {
        assert_eq!(key("64:ff9b::192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("64:ff9b::192.0.2.1"), key("64:ff9b::192.0.2.2"));
        // Those that an operator chooses (RFC 8215) have no fixed place for the address.
        assert_eq!(key("64:ff9b:1::1"), key("64:ff9b:1::2"));
        assert_eq!(key("64:ff9b:0:0:1::1").to_string(), "64:ff9b::/64");
    }

    #[test]
    fn networks_of_different_length_are_different_keys() {
        let by = |bits| {
            let prefixes = Prefixes::new(bits, 64).unwrap();
            ClientKey::with_prefixes("10.0.0.0".parse().unwrap(), prefixes)
        };
        assert_ne!(by(8), by(16));
    }
}
