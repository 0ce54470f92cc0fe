use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::Prefixes;

/// A network in CIDR notation, such as `192.0.2.0/24` or `2001:db8::/32`, or a single address (RFC 4632 section 3.1).
///
/// An IPv4-mapped IPv6 address is the IPv4 address, in the network as well as in the addresses compared with it. A network
/// contains no addresses of the other family: `::/0` is all of IPv6, and nothing of IPv4.
///
/// ```
/// use smtpd_tower::net::Cidr;
///
/// let network: Cidr = "192.0.2.0/24".parse()?;
/// assert!(network.contains([192, 0, 2, 77].into()));
/// assert!(network.contains("::ffff:192.0.2.77".parse().unwrap()));
/// assert!(!network.contains([192, 0, 3, 1].into()));
///
/// let error = "192.0.2.1/24".parse::<Cidr>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "`192.0.2.1/24` has bits set behind its prefix; the network is 192.0.2.0/24"
/// );
/// # Ok::<(), smtpd_tower::net::CidrError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Returns the network of `bits` bits that contains `network`. The bits after the prefix are cleared. Returns `None` if the
    /// prefix is longer than the address.
    pub fn new(network: IpAddr, bits: u8) -> Option<Self> {
        if bits > width(network) {
            return None;
        }
        // 96 bits make an address a mapped one; a shorter prefix contains more than IPv4.
        let (network, bits) = match network.to_canonical() {
            ip @ IpAddr::V4(_) if network.is_ipv6() && bits >= 96 => (ip, bits - 96),
            _ => (network, bits),
        };
        let network = match network {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !hosts_v4(bits)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !hosts_v6(bits)).into(),
        };
        Some(Self { network, bits })
    }

    /// Returns the network of that address, or the address alone if the prefix is longer than it.
    pub(crate) fn around(ip: IpAddr, bits: u8) -> Self {
        let ip = ip.to_canonical();
        Self::new(ip, bits).unwrap_or_else(|| ip.into())
    }

    /// Returns the network of as many bits as `prefixes` says that this one is in, or this one if it is wider.
    pub(crate) fn within(self, prefixes: Prefixes) -> Self {
        Self::around(self.network, prefixes.bits_of(self.network).min(self.bits))
    }

    /// Returns the first address.
    pub const fn network(&self) -> IpAddr {
        self.network
    }

    /// Returns the length of the prefix, in bits.
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Returns whether `ip` is in this network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                network.to_bits() == ip.to_bits() & !hosts_v4(self.bits)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                network.to_bits() == ip.to_bits() & !hosts_v6(self.bits)
            }
            _ => false,
        }
    }
}

/// Creates the network that contains only that address.
impl From<IpAddr> for Cidr {
    fn from(ip: IpAddr) -> Self {
        let network = ip.to_canonical();
        Self {
            network,
            bits: width(network),
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = |kind| CidrError {
            input: text.to_owned(),
            kind,
        };
        let (address, bits) = text
            .split_once('/')
            .map_or((text, None), |(address, bits)| (address, Some(bits)));
        let ip: IpAddr = address.parse().map_err(|_| error(CidrErrorKind::Address))?;
        let Some(bits) = bits else {
            return Ok(ip.into());
        };
        let network = decimal(bits)
            .and_then(|bits| Self::new(ip, bits))
            .ok_or_else(|| error(CidrErrorKind::Prefix { most: width(ip) }))?;
        if network.network != ip.to_canonical() {
            return Err(error(CidrErrorKind::HostBits { network }));
        }
        Ok(network)
    }
}

impl TryFrom<&str> for Cidr {
    type Error = CidrError;

    fn try_from(text: &str) -> Result<Self, CidrError> {
        text.parse()
    }
}

/// Shows a single address alone, otherwise `network/bits`.
impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == width(self.network) {
            self.network.fmt(f)
        } else {
            write!(f, "{}/{}", self.network, self.bits)
        }
    }
}

/// An error from parsing a [`Cidr`].
///
/// ```
/// use smtpd_tower::net::{Cidr, CidrErrorKind};
///
/// let error = "192.0.2.1/24".parse::<Cidr>().unwrap_err();
/// assert!(matches!(
///     error.kind(),
///     CidrErrorKind::HostBits { network } if network.to_string() == "192.0.2.0/24"
/// ));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrError {
    input: String,
    kind: CidrErrorKind,
}

/// What is wrong with a text that is not a [`Cidr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CidrErrorKind {
    /// The part before the slash is not an IP address.
    Address,
    /// The part after the slash is not a number, or exceeds the number of bits of the address.
    Prefix {
        /// The number of bits of the address.
        most: u8,
    },
    /// The address has bits set after the prefix, so it is unclear what was meant.
    HostBits {
        /// The network that contains it.
        network: Cidr,
    },
}

impl CidrError {
    /// Returns the text.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// Returns what is wrong with it.
    pub const fn kind(&self) -> CidrErrorKind {
        self.kind
    }
}

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ", self.input.escape_debug())?;
        match self.kind {
            CidrErrorKind::Address => f.write_str("does not begin with an IP address"),
            CidrErrorKind::Prefix { most } => {
                write!(f, "does not end with a prefix length of 0 to {most}")
            }
            CidrErrorKind::HostBits { network } => write!(
                f,
                "has bits set behind its prefix; the network is {network}"
            ),
        }
    }
}

impl Error for CidrError {}

/// A set of networks, of which there may be thousands: a lookup is a binary search.
///
/// ```
/// use smtpd_tower::net::CidrSet;
///
/// let networks = CidrSet::parse(["192.0.2.0/24", "2001:db8::/32"])?;
/// assert!(networks.contains([192, 0, 2, 1].into()));
/// assert!(!networks.contains([192, 0, 3, 1].into()));
///
/// let error = CidrSet::parse(["192.0.2.0/24", "192.0.2.0/42"]).unwrap_err();
/// assert_eq!(error.input(), "192.0.2.0/42");
/// # Ok::<(), smtpd_tower::net::CidrError>(())
/// ```
#[derive(Debug, Default)]
pub struct CidrSet {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl CidrSet {
    /// Parses networks in CIDR notation and single addresses.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first text that is neither a network nor an address.
    pub fn parse<T: AsRef<str>>(networks: impl IntoIterator<Item = T>) -> Result<Self, CidrError> {
        networks
            .into_iter()
            .map(|text| text.as_ref().parse::<Cidr>())
            .collect()
    }

    /// Returns whether `ip` is in one of the networks.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.contains(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.contains(ip.to_bits()),
        }
    }
}

impl FromIterator<Cidr> for CidrSet {
    fn from_iter<I: IntoIterator<Item = Cidr>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for Cidr { network, bits } in networks {
            match network {
                IpAddr::V4(ip) => v4.push((ip.to_bits(), ip.to_bits() | hosts_v4(bits))),
                IpAddr::V6(ip) => v6.push((ip.to_bits(), ip.to_bits() | hosts_v6(bits))),
            }
        }
        Self {
            v4: Ranges::new(v4),
            v6: Ranges::new(v6),
        }
    }
}

/// The first and last address of each range, in ascending order; no two overlap.
#[derive(Debug, Default)]
struct Ranges<T>(Box<[(T, T)]>);

impl<T: Ord + Copy> Ranges<T> {
    fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let overlap = next.0 <= kept.1;
            if overlap {
                kept.1 = kept.1.max(next.1);
            }
            overlap
        });
        Self(ranges.into())
    }

    fn contains(&self, value: T) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= value);
        after
            .checked_sub(1)
            .and_then(|before| self.0.get(before))
            .is_some_and(|(_, last)| value <= *last)
    }
}

const fn width(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Returns the bits that distinguish the hosts of a network. A shift by all bits overflows: after a whole address there are none.
fn hosts_v4(bits: u8) -> u32 {
    u32::MAX.checked_shr(bits.into()).unwrap_or(0)
}

fn hosts_v6(bits: u8) -> u128 {
    u128::MAX.checked_shr(bits.into()).unwrap_or(0)
}

/// Parses digits only: the number parser of the standard library would also accept a `+`.
fn decimal(text: &str) -> Option<u8> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_is_within_wider_networks_only() {
        let of_client = |ip: &str| {
            let ip: IpAddr = ip.parse().unwrap();
            Cidr::around(ip, Prefixes::CLIENT.bits_of(ip.to_canonical()))
        };
        for (ip, v4_bits, v6_bits, shown) in [
            ("192.0.2.1", 16, 32, "192.0.0.0/16"),
            ("192.0.2.1", 32, 32, "192.0.2.1"),
            ("::ffff:192.0.2.1", 24, 48, "192.0.2.0/24"),
            ("2001:db8:1:2::3", 16, 32, "2001:db8::/32"),
            ("2001:db8:1:2::3", 24, 48, "2001:db8:1::/48"),
            ("2001:db8:1:2::3", 32, 128, "2001:db8:1:2::/64"),
        ] {
            let network = of_client(ip).within(Prefixes::new(v4_bits, v6_bits).unwrap());
            assert_eq!(network.to_string(), shown, "{ip} by {v4_bits}, {v6_bits}");
        }
    }

    #[test]
    fn networks_hold_their_addresses_from_first_to_last() {
        let table = [
            ("192.0.2.0/24", "192.0.2.0", true),
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.1.255", false),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "192.0.2.1", false),
            ("::/0", "2001:db8::1", true),
            (
                "2001:db8::/32",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                true,
            ),
            ("2001:db8::/32", "2001:db9::", false),
            ("2001:db8::1", "2001:db8::1", true),
            ("2001:db8::1", "2001:db8::2", false),
            ("192.0.2.0/24", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.0/120", "192.0.2.1", true),
            ("::ffff:192.0.2.0/120", "192.0.3.1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("::ffff:0:0/96", "192.0.2.1", true),
            ("::ffff:0:0/96", "2001:db8::1", false),
        ];
        for (network, ip, expected) in table {
            let (network, ip) = (cidr(network), ip.parse().unwrap());
            assert_eq!(network.contains(ip), expected, "{network} {ip}");
            let set: CidrSet = [network].into_iter().collect();
            assert_eq!(set.contains(ip), expected, "set of {network}, {ip}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_a_reason() {
        use CidrErrorKind as Kind;
        let table = [
            ("", Kind::Address),
            ("example.org", Kind::Address),
            ("192.0.2.300", Kind::Address),
            ("192.0.2/24", Kind::Address),
            (" 192.0.2.1", Kind::Address),
            ("192.0.2.0/", Kind::Prefix { most: 32 }),
            ("192.0.2.0/33", Kind::Prefix { most: 32 }),
            ("192.0.2.0/+24", Kind::Prefix { most: 32 }),
            ("192.0.2.0/24/24", Kind::Prefix { most: 32 }),
            ("192.0.2.0/255.255.255.0", Kind::Prefix { most: 32 }),
            ("2001:db8::/129", Kind::Prefix { most: 128 }),
            (
                "192.0.2.1/24",
                Kind::HostBits {
                    network: cidr("192.0.2.0/24"),
                },
            ),
            (
                "2001:db8::1/32",
                Kind::HostBits {
                    network: cidr("2001:db8::/32"),
                },
            ),
        ];
        for (text, kind) in table {
            let error = text.parse::<Cidr>().unwrap_err();
            assert_eq!((error.kind(), error.input()), (kind, text));
        }
        let error = "192.0.2.0/33".parse::<Cidr>().unwrap_err();
        let shown = "`192.0.2.0/33` does not end with a prefix length of 0 to 32";
        assert_eq!(error.to_string(), shown);
    }

    #[test]
    fn shown_as_it_is_read() {
        for text in ["192.0.2.0/24", "192.0.2.1", "2001:db8::/32", "::1", "::/0"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        assert_eq!(cidr("::ffff:192.0.2.0/120").to_string(), "192.0.2.0/24");
        assert_eq!(Cidr::new([10, 1, 2, 3].into(), 8), Some(cidr("10.0.0.0/8")));
        assert_eq!(Cidr::new([10, 1, 2, 3].into(), 33), None);
    }

    #[test]
    fn a_set_agrees_with_its_networks_one_by_one() {
        // Multiples of an odd number spread over all prefixes; some networks are within others.
        let networks: Vec<_> = (0..200_u32)
            .filter_map(|i| {
                let ip = Ipv4Addr::from_bits(0x0a00_0000 | (i.wrapping_mul(0x9e37_79b1) >> 12));
                Cidr::new(ip.into(), 20 + (i % 13) as u8)
            })
            .collect();
        let set: CidrSet = networks.iter().copied().collect();
        let mut found = 0;
        for i in 0..20_000_u32 {
            let ip = Ipv4Addr::from_bits(0x0a00_0000 | (i.wrapping_mul(0x85eb_ca6b) >> 12)).into();
            let expected = networks.iter().any(|network| network.contains(ip));
            assert_eq!(set.contains(ip), expected, "{ip}");
            found += u32::from(expected);
        }
        assert!(0 < found && found < 20_000, "the table tells nothing");
        assert!(!CidrSet::from_iter([]).contains([10, 0, 0, 1].into()));
    }
}
