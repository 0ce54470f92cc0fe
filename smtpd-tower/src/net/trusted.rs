use std::sync::Arc;

use crate::net::{Cidr, CidrError, CidrSet, PeerAddr};

/// Peers that are trusted to name their clients: the proxies in front of a server.
///
/// An IPv4 peer is the same through a dual-stack socket. The unspecified address, which stands for a client that a proxy could
/// not name, is never trusted, not even by `0.0.0.0/0`. Peers on Unix sockets are trusted only after
/// [`with_unix_sockets`](Self::with_unix_sockets), and then every process that may open the socket is.
///
/// [The guide](crate::guide::listeners#behind-a-proxy) says what to list, and what follows from it.
///
/// ```
/// use smtpd_tower::net::{PeerAddr, TrustedPeers};
///
/// let proxies = TrustedPeers::parse(["10.0.0.0/8", "2001:db8::25"])?;
/// assert!(proxies.contains(&PeerAddr::from(([10, 1, 2, 3], 4711))));
/// assert!(!proxies.contains(&PeerAddr::from(([192, 0, 2, 1], 4711))));
///
/// let socket = PeerAddr::Unix(None);
/// assert!(
///     !proxies.contains(&socket) && proxies.with_unix_sockets().contains(&socket)
/// );
/// # Ok::<(), smtpd_tower::net::CidrError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct TrustedPeers {
    networks: Arc<CidrSet>,
    unix_sockets: bool,
}

impl TrustedPeers {
    /// Creates a set of the peers in these networks. The default set is empty.
    pub fn new(networks: impl IntoIterator<Item = Cidr>) -> Self {
        networks.into_iter().collect()
    }

    /// Like [`new`](Self::new), with networks as texts.
    ///
    /// # Errors
    ///
    /// Returns an error for the first text that is neither a network nor an address.
    pub fn parse<T: AsRef<str>>(networks: impl IntoIterator<Item = T>) -> Result<Self, CidrError> {
        networks
            .into_iter()
            .map(|text| text.as_ref().parse::<Cidr>())
            .collect()
    }

    /// Also trusts every peer on a Unix socket.
    #[must_use]
    pub fn with_unix_sockets(mut self) -> Self {
        self.unix_sockets = true;
        self
    }

    /// Returns whether that peer is trusted.
    pub fn contains(&self, peer: &PeerAddr) -> bool {
        match peer {
            PeerAddr::Unix(_) => self.unix_sockets,
            _ => peer
                .ip()
                .is_some_and(|ip| !ip.is_unspecified() && self.networks.contains(ip)),
        }
    }
}

impl FromIterator<Cidr> for TrustedPeers {
    fn from_iter<I: IntoIterator<Item = Cidr>>(networks: I) -> Self {
        Self {
            networks: Arc::new(networks.into_iter().collect()),
            unix_sockets: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_trusted_by_default() {
        let everybody = TrustedPeers::parse(["0.0.0.0/0", "::/0"]).unwrap();
        let mapped = ([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201], 4711);
        for (peer, is_inet) in [
            (PeerAddr::from(([127, 0, 0, 1], 1)), true),
            (PeerAddr::from(mapped), true),
            (PeerAddr::from(([0, 0, 0, 0], 0)), false),
            (PeerAddr::from(([0; 8], 0)), false),
            (PeerAddr::Unix(None), false),
            (PeerAddr::Unknown, false),
        ] {
            assert!(!TrustedPeers::default().contains(&peer), "{peer}");
            assert_eq!(everybody.contains(&peer), is_inet, "{peer}");
        }
        let v4 = TrustedPeers::parse(["192.0.2.0/24"]).unwrap();
        assert!(v4.contains(&PeerAddr::from(mapped)));
        assert!(TrustedPeers::parse(["192.0.2.0/33"]).is_err());
    }
}
