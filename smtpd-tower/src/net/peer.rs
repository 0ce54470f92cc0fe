use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

/// One end of a connection.
///
/// ```
/// use smtpd_tower::PeerAddr;
///
/// let peer = PeerAddr::from(([192, 0, 2, 1], 4711));
/// assert_eq!(peer.to_string(), "192.0.2.1:4711");
/// assert!(PeerAddr::Unknown.ip().is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddr {
    /// TCP.
    Inet(SocketAddr),
    /// A Unix socket, by its path where it has one.
    Unix(Option<Arc<Path>>),
    /// Something else, such as a pipe in a test.
    Unknown,
}

impl PeerAddr {
    /// The Unix socket of that path.
    pub fn unix(path: Option<impl Into<PathBuf>>) -> Self {
        Self::Unix(path.map(|path| path.into().into()))
    }

    /// Its IP address, where it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            // What a dual-stack socket shows of an IPv4 client is the IPv4 address.
            Self::Inet(addr) => Some(addr.ip().to_canonical()),
            _ => None,
        }
    }

    /// Whether it is this machine: a loopback address, or no network at all.
    pub fn is_local(&self) -> bool {
        self.ip().is_none_or(|ip| ip.is_loopback())
    }
}

impl<A: Into<SocketAddr>> From<A> for PeerAddr {
    fn from(addr: A) -> Self {
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
