use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The address of one end of a connection.
///
/// A listener that is bound to `[::]` also accepts IPv4, and the system reports such an address as an IPv4-mapped IPv6 address.
/// The conversions return the IPv4 address instead, and the server does so for every connection, so that a client has one address
/// in logs, limits and lists, whatever the listener is bound to.
///
/// ```
/// use std::net::SocketAddr;
///
/// use smtpd_tower::net::PeerAddr;
///
/// let peer = PeerAddr::from(([192, 0, 2, 1], 4711));
/// assert_eq!(peer.to_string(), "192.0.2.1:4711");
/// assert_eq!(PeerAddr::from(SocketAddr::from(([192, 0, 2, 1], 4711))), peer);
/// let mapped: SocketAddr = "[::ffff:192.0.2.1]:4711".parse().unwrap();
/// assert_eq!(PeerAddr::from(mapped), peer);
/// assert!(PeerAddr::Unknown.ip().is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddr {
    /// An IP address and a port (TCP).
    Inet(SocketAddr),
    /// A Unix socket, with its path if it has one.
    Unix(Option<Arc<Path>>),
    /// Something else, such as a pipe in a test.
    Unknown,
}

impl PeerAddr {
    /// Creates the address of a Unix socket.
    pub fn unix(path: Option<impl Into<PathBuf>>) -> Self {
        Self::Unix(path.map(|path| path.into().into()))
    }

    /// Returns the IP address. An IPv4-mapped IPv6 address is returned as the IPv4 address.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Inet(addr) => Some(addr.ip().to_canonical()),
            _ => None,
        }
    }

    /// Returns whether this is the local machine: a loopback address, or no IP address at all.
    pub fn is_local(&self) -> bool {
        self.ip().is_none_or(|ip| ip.is_loopback())
    }

    /// Returns an IPv4-mapped IPv6 address as the IPv4 address, and others as they are.
    pub(crate) fn canonical(self) -> Self {
        match self {
            Self::Inet(addr) => addr.into(),
            other => other,
        }
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Inet(match addr.ip().to_canonical() {
            ip @ IpAddr::V4(_) => (ip, addr.port()).into(),
            // With its zone.
            IpAddr::V6(_) => addr,
        })
    }
}

impl From<SocketAddrV4> for PeerAddr {
    fn from(addr: SocketAddrV4) -> Self {
        SocketAddr::from(addr).into()
    }
}

impl From<SocketAddrV6> for PeerAddr {
    fn from(addr: SocketAddrV6) -> Self {
        SocketAddr::from(addr).into()
    }
}

/// Creates an address from an IP address and a port.
impl<I: Into<IpAddr>> From<(I, u16)> for PeerAddr {
    fn from(addr: (I, u16)) -> Self {
        SocketAddr::from(addr).into()
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) => addr.fmt(f),
            Self::Unix(Some(path)) => {
                write!(f, "unix:{}", path.display().to_string().escape_debug())
            }
            Self::Unix(None) => f.write_str("unix"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_client_of_a_dual_stack_listener_has_its_ipv4_address() {
        for (addr, shown) in [
            ("[::ffff:192.0.2.1]:25", "192.0.2.1:25"),
            ("192.0.2.1:25", "192.0.2.1:25"),
            ("[2001:db8::1]:25", "[2001:db8::1]:25"),
            ("[::1]:25", "[::1]:25"),
            ("[fe80::1%7]:25", "[fe80::1%7]:25"),
        ] {
            let addr: SocketAddr = addr.parse().unwrap();
            assert_eq!(PeerAddr::from(addr).to_string(), shown);
            assert_eq!(PeerAddr::Inet(addr).canonical().to_string(), shown);
        }
    }
}
