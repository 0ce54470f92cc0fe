//! The PROXY protocol of HAProxy, versions 1 and 2 (its specification, proxy-protocol.txt, defines it).
//!
//! [The guide](crate::guide::listeners#behind-a-proxy) says when a server needs it.

mod checksum;
mod header;
mod info;

use std::{io, time::Duration};

use tokio::io::AsyncRead;

pub use self::{
    header::ProxyHeaderError,
    info::{ProxyInfo, ProxyTls, ProxyVersion},
};
use crate::net::{PeerAddr, TrustedPeers};

/// Which peers must send a PROXY header, and how long to wait for it.
///
/// A **trusted** peer must send a header, of version 1 or 2, before anything else, even before TLS that begins with the first
/// byte. If it sends something else, too much, or nothing in time, the connection is closed without a reply, and a line is logged
/// at level DEBUG. From any **other** peer, a header is not expected: it is an unknown command, like anything else that is not
/// SMTP.
///
/// The addresses of the header become the session's [`client_addr`](crate::session::Session::client_addr) and
/// [`local_addr`](crate::session::Session::local_addr), so that all limits, layers, traces and logs are about the client;
/// [`peer_addr`](crate::session::Session::peer_addr) is still the proxy, and [`proxy`](crate::session::Session::proxy) returns
/// the whole header.
///
/// A header may be about a client without naming it: `PROXY UNKNOWN` in version 1, and no address or that of a Unix socket in
/// version 2. Then `client_addr` is `0.0.0.0:0`, as after `XCLIENT ADDR=[UNAVAILABLE]`: an address that belongs to nobody, is not
/// local, is in no trusted network, and counts as one client for limits. Only the command LOCAL of version 2, which a proxy sends
/// for its own health checks, keeps the addresses of the socket and the rights of the proxy. HAProxy also sends it for clients
/// that connect to a Unix socket of its own, so they have these rights too: configure it to send version 1 from such a listener.
///
/// The header is read in the session's own task, counts against [`Server::max_sessions`](crate::server::Server::max_sessions),
/// and not a byte after it is consumed.
///
/// ```
/// use smtpd_tower::{Pipeline, Server, net::TrustedPeers, proxy::ProxyProtocol};
///
/// let balancers = TrustedPeers::parse(["10.0.0.0/8", "fd00::/8"])?;
/// let server = Server::new("mx.example.org", Pipeline::new())
///     .proxy_protocol(ProxyProtocol::from_trusted(balancers));
/// # Ok::<(), smtpd_tower::net::CidrError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ProxyProtocol {
    trusted: TrustedPeers,
    limit: Duration,
}

impl ProxyProtocol {
    /// The default [`timeout`](Self::timeout).
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

    /// Expects headers from these peers.
    pub const fn from_trusted(peers: TrustedPeers) -> Self {
        Self {
            trusted: peers,
            limit: Self::DEFAULT_TIMEOUT,
        }
    }

    /// Sets how long a whole header may take, from the start of the connection. Default: 5 seconds.
    #[must_use]
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    pub(crate) fn trusts(&self, peer: &PeerAddr) -> bool {
        self.trusted.contains(peer)
    }

    pub(crate) async fn read_header<IO>(&self, io: &mut IO) -> io::Result<ProxyInfo>
    where
        IO: AsyncRead + Unpin,
    {
        header::read(io).await
    }

    pub(crate) const fn limit(&self) -> Duration {
        self.limit
    }
}
