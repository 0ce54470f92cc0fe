use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use smtpd_core::address::Domain;

use super::siphash::SipHasher;
use crate::{
    limiter::ClientKey,
    net::Cidr,
    session::{ReverseName, Session},
};

/// What greylisting takes for one client: a network, or a domain whose hosts belong together (RFC 6647 section 5, item 5).
///
/// A message may be retried by any host of the same client. A large provider retries from many networks, so its domain is the
/// better key. What makes a client trusted counts only for its hosts in [one network](super::GreylistPolicy::with_trust_after).
/// [`GreylistLayer::client_by`] sets what a client is.
///
/// [`GreylistLayer::client_by`]: super::GreylistLayer::client_by
///
/// ```
/// use smtpd_tower::{layer::GreylistClient, limiter::ClientKey};
///
/// let network = GreylistClient::from(ClientKey::new("192.0.2.1".parse()?));
/// assert_eq!(network.to_string(), "192.0.2.1");
///
/// let domain = GreylistClient::domain(&"Example.COM".parse()?);
/// assert_eq!(domain.to_string(), "@example.com");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GreylistClient(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Network(Cidr),
    Domain(Box<str>),
}

impl GreylistClient {
    /// Returns the client that a domain stands for, such as the domain for which SPF has passed (RFC 7208).
    pub fn domain(domain: &Domain) -> Self {
        Self(Kind::Domain((*domain.canonical()).into()))
    }

    /// Returns the client by its confirmed host name ([`ReverseName::is_confirmed`]). Returns `None` without one.
    pub fn host(session: &Session) -> Option<Self> {
        let name = confirmed(session)?;
        Some(Self(Kind::Domain(
            name.as_str().to_ascii_lowercase().into(),
        )))
    }

    /// Returns the client by the organization that its confirmed host name ([`ReverseName::is_confirmed`]) belongs to: for
    /// `mx7.out.example.com`, this is `example.com`.
    ///
    /// Returns `None` without a confirmed name, and for names that a provider gives to the lines of its customers: they contain
    /// the address, or a word such as `dsl`, `dynamic` or `pool`. Their neighbors are other people.
    ///
    /// The customers of a hoster often have names below its domain, such as `vps-1.hoster.example`, and then they are one
    /// organization: one of them may retry what another has sent first, which gains them nothing.
    ///
    /// The organization is the last two labels of the name, or the last three if the second-to-last is a common one such as `co`
    /// or `ac` below a country. For exact results, use a public suffix list in a function of your own.
    pub fn organization(session: &Session) -> Option<Self> {
        let name = confirmed(session)?;
        let name = name.as_str().to_ascii_lowercase();
        let ip = session.client_addr().ip()?;
        if is_line(&name, ip) {
            return None;
        }
        Some(Self(Kind::Domain(organization_of(&name)?.into())))
    }

    pub(super) fn digest(&self, hasher: &mut SipHasher) {
        match &self.0 {
            Kind::Network(network) => {
                match network.network() {
                    IpAddr::V4(ip) => hasher.write(&[4, network.bits()]).write(&ip.octets()),
                    IpAddr::V6(ip) => hasher.write(&[6, network.bits()]).write(&ip.octets()),
                };
            }
            Kind::Domain(domain) => hasher.write(b"@").write_text(domain),
        }
    }
}

impl From<ClientKey> for GreylistClient {
    fn from(key: ClientKey) -> Self {
        Self(Kind::Network(key.network()))
    }
}

/// Shows the network, or `@` and the domain.
impl fmt::Display for GreylistClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Network(network) => network.fmt(f),
            // The owner of an address chooses its name, which may look like an address.
            Kind::Domain(domain) => write!(f, "@{domain}"),
        }
    }
}

/// Returns the confirmed name of the client.
pub(super) fn confirmed(session: &Session) -> Option<ReverseName> {
    session
        .get::<ReverseName>()
        .filter(ReverseName::is_confirmed)
}

/// Returns the domain, and those that it is below.
pub(super) fn suffixes(domain: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(domain), |domain| Some(domain.split_once('.')?.1))
}

/// Labels below which the domains of a country are registered.
const REGISTRIES: [&str; 24] = [
    "ac", "asn", "co", "com", "edu", "gen", "gob", "gouv", "gov", "govt", "gv", "id", "ltd", "me",
    "mil", "ne", "net", "nhs", "nom", "or", "org", "plc", "sch", "school",
];

fn organization_of(name: &str) -> Option<&str> {
    let mut labels = name.rsplit('.');
    let (top, second) = (labels.next()?, labels.next()?);
    let third = labels.next();
    let mut length = top.len() + 1 + second.len();
    if top.len() == 2 && REGISTRIES.contains(&second) {
        length += third.map_or(0, |third| third.len() + 1);
    }
    let organization = &name[name.len() - length..];
    organization
        .split('.')
        .all(|label| !label.is_empty())
        .then_some(organization)
}

/// Words in names of lines that customers of a provider have.
const LINES: [&str; 16] = [
    "adsl",
    "broadband",
    "cable",
    "catv",
    "dhcp",
    "dial",
    "dialin",
    "dialup",
    "dsl",
    "dyn",
    "dynamic",
    "dynip",
    "pool",
    "ppp",
    "pppoe",
    "vdsl",
];

fn is_line(name: &str, ip: IpAddr) -> bool {
    let mut words = name.split(|c: char| !c.is_ascii_alphabetic());
    words.any(|word| LINES.contains(&word))
        || match ip {
            IpAddr::V4(ip) => contains_v4(name, ip),
            IpAddr::V6(ip) => contains_v6(name, ip),
        }
}

/// Returns whether the name contains the address: three of its numbers, or all in hexadecimal or decimal digits. Two numbers
/// are too few, for the names of some large providers contain them.
fn contains_v4(name: &str, ip: Ipv4Addr) -> bool {
    let mut numbers = [false; 3];
    let [_, rest @ ..] = ip.octets();
    for number in name.split(|c: char| !c.is_ascii_digit()) {
        for (found, byte) in numbers.iter_mut().zip(rest) {
            *found |= number.parse() == Ok(byte);
        }
    }
    let has_word = |digits: &str| name.contains(digits);
    numbers == [true; 3]
        || has_long_word(name)
            && (has_word(&ip.octets().map(|byte| format!("{byte:03}")).concat())
                || has_word(&format!("{:08x}", ip.to_bits())))
}

/// Most names have none, so that nothing has to be formatted.
fn has_long_word(name: &str) -> bool {
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| word.len() >= 8 && word.bytes().any(|byte| byte.is_ascii_digit()))
}

/// Returns whether the name contains the address, whole or from its 64th bit on, with any or no separators.
fn contains_v6(name: &str, ip: Ipv6Addr) -> bool {
    let digits: String = name.chars().filter(char::is_ascii_hexdigit).collect();
    let host = ip.to_bits() as u64;
    name.contains(&ip.to_string().replace(':', "-")) || digits.contains(&format!("{host:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str, ip: &str) -> Option<String> {
        let ip: IpAddr = ip.parse().unwrap();
        let session = Session::from_peer((ip, 4711));
        session.insert(ReverseName::new(name).unwrap().with_confirmed(true));
        let host = GreylistClient::host(&session).unwrap().to_string();
        assert_eq!(host, format!("@{}", name.to_ascii_lowercase()));
        GreylistClient::organization(&session).map(|client| client.to_string())
    }

    #[test]
    fn hosts_of_one_organization_are_strangers_to_each_other() {
        for (name, ip, expected) in [
            ("mx.example.com", "192.0.2.1", "@example.com"),
            ("mail-lf1-f41.Google.com", "209.85.167.41", "@google.com"),
            ("mout.gmx.de", "192.0.2.1", "@gmx.de"),
            ("mx1.out.example.co.uk", "192.0.2.1", "@example.co.uk"),
            ("example.co.uk", "192.0.2.1", "@example.co.uk"),
            ("mx.co.com", "192.0.2.1", "@co.com"),
            (
                "a27-188.smtp-out.amazonses.com",
                "54.240.27.188",
                "@amazonses.com",
            ),
            ("mx.example.com", "2001:db8::1", "@example.com"),
            ("carpool.example.com", "192.0.2.1", "@example.com"),
        ] {
            assert_eq!(client(name, ip).as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn customers_of_one_provider_are_taken_for_one_client() {
        for (name, ip) in [
            ("192-0-2-1.isp.example", "192.0.2.1"),
            ("1.2.0.192.isp.example", "192.0.2.1"),
            ("host192000002001.isp.example", "192.0.2.1"),
            ("hc0000201.isp.example", "192.0.2.1"),
            ("p1-2.dsl.isp.example", "192.0.2.1"),
            ("x.pool-7.isp.example", "192.0.2.1"),
            ("2001-db8--1.isp.example", "2001:db8::1"),
            ("x0000000000000001.isp.example", "2001:db8::1"),
            ("localhost", "192.0.2.1"),
            (".com", "192.0.2.1"),
        ] {
            assert_eq!(client(name, ip), None, "{name}");
        }
    }

    #[test]
    fn a_name_that_nobody_has_confirmed_is_believed() {
        let session = Session::from_peer(([192, 0, 2, 1], 4711));
        assert_eq!(GreylistClient::host(&session), None);
        session.insert(ReverseName::new("mx.example.com").unwrap());
        assert_eq!(GreylistClient::host(&session), None);
        assert_eq!(GreylistClient::organization(&session), None);
    }
}
