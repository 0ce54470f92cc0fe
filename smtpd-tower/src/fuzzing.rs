//! What the fuzz targets call and users cannot. It exists only where cargo-fuzz compiles this crate: perhaps for targets of
//! others, with any features.

use std::sync::Arc;

use smtpd_core::config::Protocol;

use crate::{
    net::PeerAddr,
    session::{ListenerFacts, Session},
};

/// Returns a session with a server that has these names.
pub fn session(hostname: &str, app_name: &str, peer: PeerAddr, protocol: Protocol) -> Session {
    let listener = ListenerFacts {
        hostname: hostname.to_owned(),
        app_name: app_name.to_owned(),
        ..Default::default()
    };
    Session::new(peer, PeerAddr::Unknown, Arc::new(listener), protocol)
}

/// Reads a PROXY header as a server does, off a connection.
///
/// # Errors
///
/// If what comes is not one, or ends too early.
#[cfg(feature = "proxy")]
pub async fn read_proxy_header<IO>(io: &mut IO) -> std::io::Result<crate::proxy::ProxyInfo>
where
    IO: tokio::io::AsyncRead + Unpin,
{
    let anyone = crate::proxy::ProxyProtocol::from_trusted(crate::net::TrustedPeers::default());
    anyone.read_header(io).await
}

/// PEM, DER and keys.
#[cfg(feature = "tls")]
pub mod tls {
    pub use crate::tls::fuzzing::*;
}
