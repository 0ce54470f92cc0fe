use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The address of one end of a connection.
///
/// ```
/// use std::net::SocketAddr;
///
/// use smtpd_tower::net::PeerAddr;
///
/// let peer = PeerAddr::from(([192, 0, 2, 1], 4711));
/// assert_eq!(peer.to_string(), "192.0.2.1:4711");
/// assert_eq!(PeerAddr::from(SocketAddr::from(([192, 0, 2, 1], 4711))), peer);
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
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Inet(addr)
    }
}

impl From<SocketAddrV4> for PeerAddr {
    fn from(addr: SocketAddrV4) -> Self {
        Self::Inet(addr.into())
    }
}

impl From<SocketAddrV6> for PeerAddr {
    fn from(addr: SocketAddrV6) -> Self {
        Self::Inet(addr.into())
    }
}

/// Creates an address from an IP address and a port.
impl<I: Into<IpAddr>> From<(I, u16)> for PeerAddr {
    fn from(addr: (I, u16)) -> Self {
        Self::Inet(addr.into())
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
