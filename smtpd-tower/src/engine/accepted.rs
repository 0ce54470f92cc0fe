//! A connection that was accepted, and what is known of it.

use std::sync::Arc;

use smtpd_core::{
    config::DriverConfig,
    connection::{Connection, TlsFacts},
};

use crate::{guard::Visit, net::PeerAddr, session::TlsInfo};

/// A connection that was accepted, and what is known of it.
pub(crate) struct Accepted<IO> {
    pub(crate) io: IO,
    pub(crate) peer: PeerAddr,
    pub(crate) local: PeerAddr,
    /// What TLS has negotiated, if the connection came within TLS.
    pub(crate) tls: Option<TlsInfo>,
    /// How the guard counts it, unless it does not.
    pub(crate) visit: Option<Box<Visit>>,
}

impl<IO> Accepted<IO> {
    /// Drops the peer's certificate, because the peer is a proxy and its certificate says nothing about the client.
    #[cfg(feature = "proxy")]
    pub(super) fn without_certificate(mut self) -> Self {
        self.tls = self.tls.map(TlsInfo::without_peer_certificates);
        self
    }

    /// Creates the protocol's side of the session. `implicit_tls` means that TLS starts before the greeting, unless the
    /// connection came within TLS.
    pub(super) fn connection(&self, config: Arc<DriverConfig>, implicit_tls: bool) -> Connection {
        let Some(tls) = &self.tls else {
            return match implicit_tls {
                true => Connection::with_tls(config),
                false => Connection::new(config),
            };
        };
        let mut facts = TlsFacts::default();
        facts.client_certificate = !tls.peer_certificates().is_empty();
        Connection::within_tls(config, facts)
    }
}
