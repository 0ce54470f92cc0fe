//! Who the client is, where the peer is a proxy that speaks for it.

use std::task::Context;

use smtpd_core::XClient;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Driver;
#[cfg(feature = "proxy")]
use super::Stop;

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Driver<IO> {
    /// Whether the peer is a proxy that has to begin with a header.
    #[cfg(feature = "proxy")]
    pub(super) fn expects_proxy(&self) -> bool {
        let proxy = self.engine.proxy.as_ref();
        proxy.is_some_and(|proxy| proxy.trusts(self.session.peer()))
    }

    /// Reads the PROXY header.
    #[cfg(feature = "proxy")]
    pub(super) async fn read_proxy_header(&mut self) -> Result<(), Stop> {
        use smtpd_core::CloseReason;

        use crate::server::Stage;

        let Some(proxy) = &self.engine.proxy else {
            return Ok(());
        };
        let seat = &self.seat;
        let header = proxy.read_header(&mut self.wire.stream);
        let draining = std::future::poll_fn(|cx| seat.poll_stage(cx, Stage::Draining));
        let info = tokio::select! {
            biased;
            header = header => header.map_err(Stop::ProxyFailed)?,
            () = draining => return Err(Stop::Closed(CloseReason::Shutdown)),
        };
        self.session.proxied(info);
        Ok(())
    }

    /// Lets a trusted peer say for whom it speaks.
    pub(super) fn allow_claims(&mut self) {
        let peer = self.session.peer();
        let trusts = |peers: &Option<crate::TrustedPeers>| {
            peers.as_ref().is_some_and(|peers| peers.contains(peer))
        };
        if trusts(&self.engine.xclient_from) {
            self.connection.allow_xclient();
        }
        if trusts(&self.engine.xforward_from) {
            self.connection.allow_xforward();
        }
    }

    /// XCLIENT: the client is asked about as if it had connected itself.
    pub(super) fn xclient(&mut self, cx: &mut Context<'_>, client: XClient) {
        self.end_transaction();
        self.session.impersonated(client);
        self.connect(cx);
    }
}
