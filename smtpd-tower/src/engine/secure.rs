//! TLS: the handshake, in the session's own task and with its own limit.

use std::io;

use smtpd_core::Connection;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{Driver, Stop, stream::Stream};
use crate::{server::Stage, tls::Secured};

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Driver<IO> {
    /// STARTTLS: the 220 leaves alone, then everything starts anew (RFC 3207 section 4).
    pub(super) async fn start_tls(&mut self) -> Result<(), Stop> {
        self.flush().await?;
        self.wire.input.clear();
        self.secure(Connection::handle_tls).await
    }

    /// Puts TLS around the stream, and lets the protocol begin anew. A handshake that fails ends the session: it never
    /// goes on in plaintext.
    pub(super) async fn secure(
        &mut self,
        restart: impl FnOnce(&mut Connection),
    ) -> Result<(), Stop> {
        let Some(tls) = &self.engine.tls else {
            return Err(Stop::TlsFailed(io::Error::other("no TLS configuration")));
        };
        let Stream::Plain(io) = std::mem::replace(&mut self.wire.stream, Stream::Gone) else {
            return Err(Stop::TlsFailed(io::ErrorKind::AlreadyExists.into()));
        };
        self.wire.park();
        let limit = self.engine.config.timeouts_ref().handshake;
        let seat = &self.seat;
        let handshake = timeout(limit, tls.accept(io));
        let ending = std::future::poll_fn(|cx| seat.poll_stage(cx, Stage::Ending));
        let result = tokio::select! {
            result = handshake => result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            () = ending => Err(io::Error::other("the server shuts down")),
        };
        let Secured {
            stream,
            info,
            bindings,
        } = result.map_err(Stop::TlsFailed)?;
        let certified = !info.peer_certificates().is_empty();
        self.session.secured(info);
        self.end_transaction();
        self.wire.stream = Stream::Tls(stream);
        restart(&mut self.connection);
        self.connection.set_channel_bindings(bindings);
        self.connection.set_client_certificate(certified);
        Ok(())
    }
}
